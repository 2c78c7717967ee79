"""Every property a card may promise, by name. A promise nobody can check fails the suite.

A check takes the plug-in class and the arguments of the property; it asserts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from expunge.plugin import Plugin

Check = Callable[..., None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """File a check under its own name."""
    assert function.__name__ not in CHECKS
    CHECKS[function.__name__] = function
    return function


def term(plugin: type[Plugin], options: dict[str, Any] | None = None) -> str:
    """The plug-in as typed in a recipe."""
    return plugin(**(options or {})).text()
