"""Metrics: pure functions from observations to scores. They load no model and import no torch."""
