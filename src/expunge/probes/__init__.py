"""Probes: subject + examples -> observations. A probe runs the model once; many metrics read its rows."""
