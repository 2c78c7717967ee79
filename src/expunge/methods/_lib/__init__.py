"""Formulas that several methods share. No plug-in lives here."""
