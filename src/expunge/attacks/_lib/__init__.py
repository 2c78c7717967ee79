"""Helpers that several attacks share. No plug-in lives here."""
