"""Plug-ins, one file each, found by the registry."""
