"""Exact unlearning: training after which a deletion can be proved. One file per method, found by the registry."""
