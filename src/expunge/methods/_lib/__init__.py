"""Formulas that several methods share. This folder holds no plug-ins."""
