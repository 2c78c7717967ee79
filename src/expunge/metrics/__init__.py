"""Observations in, scores out. Pure functions of rows: no model, no torch."""
