"""How a check is declared. One table holds the checks of all kinds of plug-ins.

A check takes a plug-in class and asserts. Some are run where a card promises them (`must_show` names the check and its
arguments), the others on every plug-in of the kinds they declare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from expunge.plugin import Kind, Plugin, Property


@dataclass(frozen=True)
class Check:
    """One statement about a plug-in."""

    name: str
    run: Callable[..., None]
    """Takes the plug-in class, and the arguments of the promise by name."""
    trains: bool = False
    """Whether it trains a model, or attacks one that was trained: seconds rather than milliseconds."""
    kinds: frozenset[Kind] = frozenset()
    """The kinds on which it always runs; none for what a card has to promise."""

    @property
    def about(self) -> str:
        """What it asserts, in one line."""
        return (self.run.__doc__ or "").strip().splitlines()[0] if self.run.__doc__ else ""


CHECKS: dict[str, Check] = {}
"""Every check by name. A promise that is not here fails the suite."""


def check(function: Callable[..., None] | None = None, *, trains: bool = False) -> Any:
    """File a check that cards promise by its name."""
    def file(function: Callable[..., None]) -> Callable[..., None]:
        return _file(Check(function.__name__, function, trains))
    return file if function is None else file(function)


def invariant(*kinds: Kind, trains: bool = False) -> Callable[[Callable[[type[Any]], None]], Callable[..., None]]:
    """File a check that every plug-in of these kinds has to pass."""
    def file(function: Callable[[type[Any]], None]) -> Callable[..., None]:
        return _file(Check(function.__name__, function, trains, frozenset(kinds)))
    return file


def _file(check: Check) -> Callable[..., None]:
    assert check.name not in CHECKS, f"two checks are called {check.name}"
    CHECKS[check.name] = check
    return check.run


def promised(plugin: type[Plugin]) -> list[tuple[Property, Check]]:
    """What its card promises, with the check of it; `promises_are_checked` reports a promise without one."""
    return [(p, CHECKS[p.check]) for p in plugin.must_show if p.check in CHECKS]


def invariants(plugin: type[Plugin]) -> list[Check]:
    """What every plug-in of its kind has to pass."""
    return [check for check in CHECKS.values() if plugin.card.kind in check.kinds]


def term(plugin: type[Plugin], options: Mapping[str, Any] | None = None) -> str:
    """The plug-in as typed in a recipe."""
    return plugin(**dict(options or {})).text()
