"""Weights to subjects: what every method trains and every probe asks."""
