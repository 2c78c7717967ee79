"""Federated learning and unlearning: one file per server rule, found by the registry."""
