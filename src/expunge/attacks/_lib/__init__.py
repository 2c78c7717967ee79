"""Helpers that several attacks share. This folder holds no plug-ins."""
