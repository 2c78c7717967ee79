"""Requests to delete, one after the other: `expunge.requests.add`, `run`, `check` and `status`."""

from expunge.requests.verbs import add, check, run, status

__all__ = ["add", "check", "run", "status"]
