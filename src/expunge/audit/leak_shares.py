"""Leak shares of an audit under its attacks, and the rows that count, for the table of single examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from expunge.attacks.base import Attack
from expunge.audit.attacks import AttackResult
from expunge.judgement.entities import LEAK
from expunge.metrics.attacked import AttackEvidence
from expunge.metrics.base import Evidence, NotAvailable
from expunge.metrics.evaluate import parse_metric
from expunge.metrics.leak_attacked import compared_under, share_under
from expunge.metrics.leak_share import LeakShare
from expunge.records.examples import ExampleScore
from expunge.records.score import Score
from expunge.records.task import Split

Attempted = Callable[[Attack, str, Split], AttackResult]
"""(attack, model, split) -> what came of it."""


def attacked_shares(attacks: Iterable[Attack], attempted: Attempted, plain: Evidence, roles: Sequence[str],
                    terms: Iterable[str]) -> tuple[Score, ...]:
    """One score for each attack and strength under which probabilities of answers were asked.

    Args:
        roles: subject, original and the retrained models that count, as in the audit.
        terms: metrics of the audit; without `leak_share` among them there is none under attack.
    """
    return tuple(share_under(case) for case in _cases(attacks, attempted, plain, roles, terms))


def share_examples(attacks: Iterable[Attack], attempted: Attempted, plain: Evidence, roles: Sequence[str],
                   terms: Sequence[str]) -> Iterator[ExampleScore]:
    """Whether each row counts in a share, as 1 or 0: of every model left alone, and of those under attack."""
    entities, given = plain.subject.entities("forget"), [role for role in roles if role.startswith("retrained")]
    called = {f"retrained{i + 1 if i else ''}": role for i, role in enumerate(given)}

    def rows(name: str, attack: str, model: str, found: Mapping[str, bool]) -> Iterator[ExampleScore]:
        for key, value in found.items():
            yield {"score": name, "attack": attack, "model": called.get(model, model), "split": "forget", "id": key,
                   "entity": entities.get(key, key), "value": float(value)}

    for metric in {m.card.name: m for m, _ in map(parse_metric, terms) if isinstance(m, LeakShare)}.values():
        try:
            for model, found in metric.flags(plain).items():
                yield from rows(metric.card.name, "", model, found)
        except NotAvailable:
            continue
    for case in _cases(attacks, attempted, plain, roles, terms):
        try:
            for model, beyond in compared_under(case).items():
                yield from rows(LEAK, case.label, model, beyond.over)
        except NotAvailable:
            continue


def _cases(attacks: Iterable[Attack], attempted: Attempted, plain: Evidence, roles: Sequence[str],
           terms: Iterable[str]) -> Iterator[AttackEvidence]:
    """The evidence under each attack and strength that asked for probabilities; a label on two curves once."""
    if LEAK not in terms:
        return
    seen: set[str] = set()
    for attack in attacks:
        results = {role: attempted(attack, role, "forget") for role in roles if role != "original"}
        controls, beside = [r for r in results if r != "subject"], attempted(attack, "subject", "holdout").found
        for label in attack.labels:
            mine = results["subject"].found.get(label)
            if mine is None or label in seen or not mine.rows("likelihood", "forget"):
                continue
            seen.add(label)
            answered = [i for i, role in enumerate(controls) if label in results[role].found]
            under = replace(plain, subject=mine, original=None,
                            retrained=tuple(results[controls[i]].found[label] for i in answered))
            alone = replace(plain, retrained=tuple(plain.retrained[i] for i in answered))
            yield AttackEvidence(label, attack.access, under, alone, not attack.uses_original, beside.get(label),
                                 uncontrolled=next((results[role].why for role in controls if results[role].why), None))
