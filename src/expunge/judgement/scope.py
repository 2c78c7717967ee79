"""What a verdict covers: in what ways the model was tested, what brought something out, what nobody tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from expunge.judgement.entities import revealed
from expunge.judgement.leaks import compared, leaks, untold
from expunge.judgement.outcome import Decision, looks_inside
from expunge.judgement.threats import NOT_TRIED, family_needs
from expunge.needs import MODEL_NEEDS, ModelNeed, unmet
from expunge.records.coverage import ASKED, Coverage
from expunge.records.score import AttackRecord, Family, Score

INSIDE = "hidden states"
WAYS: dict[str, tuple[Family, ...]] = {
    "hints": ("prompt:context",), "paraphrases": ("prompt:paraphrase",), "jailbreaks": ("prompt:jailbreak",),
    "many samples": ("decoding",), "searched prompts": ("prompt:search",), "relearning": ("relearning",),
    "rounding": ("quantisation",), "pruning": ("pruning",), "merging": ("merging",), "noise": ("noise",),
    INSIDE: ("internals", "steering")}
"""A way to test, in a word or two -> the families of attacks that do it, those of least access first."""
EXPECTED = {family for _, families in NOT_TRIED.values() for family in families}
"""Families that an audit names when it did not try them."""


def scoped(decision: Decision, scores: Sequence[Score], attacks: Sequence[AttackRecord],
           offered: Iterable[ModelNeed] = MODEL_NEEDS) -> Coverage:
    """The scope of a decision.

    An attack tests where it was set against a control and could have counted. One that makes even a model that knows
    say less tests nothing.

    Args:
        offered: what the model offers; ways that its kind has no use for are not missed.
    """
    offers = frozenset(offered)
    tried = _families({s.attack for s in compared(scores)} - {*untold(scores)}, attacks)
    found = _families({s.attack for s in (*leaks(scores), *revealed(scores))}, attacks)
    plain = [s for s in scores if s.attack is None and s.value is not None and s.shows_knowledge]
    ways = [ASKED] * any(not looks_inside(s) for s in plain)
    out = [ASKED] * (decision.outcome == "retains")
    looked = any(looks_inside(s) and s.controls.get("retrained") is not None for s in plain)
    missed: list[str] = []
    for way, families in WAYS.items():
        if tried & {*families} or (way == INSIDE and looked):
            ways.append(way)
        elif EXPECTED & {*families} and not all(unmet(family_needs(f), offers) for f in families):
            missed.append(way)
        if found & {*families} or (way == INSIDE and decision.inside):
            out.append(way)
    return Coverage(brought_out=tuple(out), silent=tuple(way for way in ways if way not in out), untested=tuple(missed))


def _families(labels: set[str | None], attacks: Sequence[AttackRecord]) -> set[Family]:
    """Of the attacks that these labels belong to."""
    return {family for a in attacks if labels & {*a.labels} for family in a.families}
