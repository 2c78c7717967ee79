"""What an audit asks, from a suite's name or a list of terms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from expunge.attacks.base import Attack, parse_attack
from expunge.audit.suites import PRIMARY, STANDARD, SUITES
from expunge.errors import UsageError, did_you_mean
from expunge.metrics.evaluate import parse_metric
from expunge.registry import entries
from expunge.terms import split_at_commas


@dataclass(frozen=True)
class Suite:
    """What an audit asks: metrics of the subject left alone, and attacks, which name their own metrics."""

    metrics: tuple[str, ...]
    attacks: tuple[Attack, ...] = ()
    named: frozenset[str] = frozenset()
    """Texts of the attacks that were asked for by name, not as part of a named suite."""
    declared: tuple[str, ...] | None = None
    """Texts of the primary attacks, where a named suite or an audit that is gone on with declares them."""

    @property
    def terms(self) -> tuple[str, ...]:
        return (*self.metrics, *(a.text() for a in self.attacks))

    @property
    def primary(self) -> tuple[str, ...]:
        """Attacks that are corrected together, and may say "suppresses" and "forgets"; others only raise an alarm.

        They are declared before anything is looked at: those of the named suites in a list, else all of the list. So
        attacks that are named beside a suite change nothing for those of the suite. No rule could let each of m lone
        attacks succeed at level a, whatever is added: it has m times the false alarms, or needs a / m of each, which
        few entities cannot reach.
        """
        asked = tuple(a.text() for a in self.attacks)
        return asked if self.declared is None else tuple(term for term in asked if term in self.declared)


def parse_suite(text: str) -> Suite:
    """A suite by name, or the terms of a comma-separated list (commas in brackets do not split).

    Raises:
        UsageError: an unknown name, with the nearest known ones.
    """
    parts = split_at_commas(text)
    found = _sorted([term for part in parts for term in SUITES.get(part, (part,))])
    named = _sorted([part for part in parts if part not in SUITES])
    declared = _sorted([term for part in parts for term in PRIMARY.get(part, ())])
    return replace(found, named=frozenset(attack.text() for attack in named.attacks),
                   declared=tuple(attack.text() for attack in declared.attacks) or None)


def suite_from_terms(terms: Sequence[str]) -> Suite:
    """The suite an audit records."""
    return _sorted(terms)


def _sorted(terms: Sequence[str]) -> Suite:
    metrics: dict[str, None] = {}
    attacks: dict[str, Attack] = {}
    for term in terms:
        if _kind(term) == "attack":
            made = parse_attack(term)
            attacks[made.text()] = made
        else:
            parse_metric(term)
            metrics[term] = None
    return Suite(tuple(metrics), tuple(attacks.values()))


def _kind(term: str) -> str:
    """attack or metric; a name that is neither says what there is."""
    name = re.split(r"[\s(+]", term, maxsplit=1)[0]
    entry = entries().get(name)
    if entry is not None and entry.kind == "attack":
        return "attack"
    if (entry is None or entry.kind != "metric") and "." not in name:
        if entry is not None:
            raise UsageError(f"{name} is a {entry.kind}, and an audit asks metrics and attacks.",
                             fix="`expunge ls attacks` and `expunge ls metrics` list them.")
        known = [*SUITES, *(e.name for e in entries().values() if e.kind == "attack"), *STANDARD]
        raise UsageError(f"There is no suite, metric or attack called {name!r}.", did_you_mean(name, known))
    return "metric"
