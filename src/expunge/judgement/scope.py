"""What a verdict covers: which ways to test found something, raised an alarm, found nothing or were not tried."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from expunge.judgement.entities import revealed, suspected
from expunge.judgement.leaks import alarms, compared, could_count, leaks
from expunge.judgement.outcome import Decision, Reason, looks_inside
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
INPUTS = "plain inputs"
"""What a model that takes no questions is asked without any attack."""
DIFFERS: tuple[Reason, ...] = ("entity", "leak share", "told apart", "disagrees", "no direction")
"""Reasons why asking plainly does not settle it that are an alarm; for the others it tells nothing."""
EXPECTED = {family for _, families in NOT_TRIED.values() for family in families}
"""Families that an audit names when it did not try them."""


def scoped(decision: Decision, scores: Sequence[Score], attacks: Sequence[AttackRecord],
           offered: Iterable[ModelNeed] = MODEL_NEEDS) -> Coverage:
    """The scope of a decision.

    An attack that found nothing tests where it was set against a control and could have counted. One that makes even a
    model that knows say less tests nothing. Asking plainly found nothing only where that settles the model left alone.

    Args:
        offered: what the model offers; ways that its kind has no use for are not missed.
    """
    offers = frozenset(offered)
    found = _families({s.attack for s in (*leaks(scores), *revealed(scores))}, attacks)
    raised = _families({s.attack for s in (*alarms(scores), *suspected(scores))}, attacks)
    quiet = _families({s.attack for s in compared(scores) if could_count(s)}, attacks)
    plain = [s for s in scores if s.attack is None and s.value is not None and s.shows_knowledge]
    looked = any(looks_inside(s) and s.controls.get("retrained") is not None for s in plain)
    out, alarmed, silent, missed = list[str](), list[str](), list[str](), list[str]()
    if any(not looks_inside(s) for s in plain):
        asked = ASKED if "prompt" in offers else INPUTS
        if decision.outcome == "retains":
            out.append(asked)
        elif decision.alone.outcome != "undecided":
            silent.append(asked)
        elif decision.alone.reason in DIFFERS:
            alarmed.append(asked)
    for way, families in WAYS.items():
        if found & {*families} or (way == INSIDE and decision.inside):
            out.append(way)
        elif raised & {*families}:
            alarmed.append(way)
        elif quiet & {*families} or (way == INSIDE and looked):
            silent.append(way)
        elif EXPECTED & {*families} and not all(unmet(family_needs(f), offers) for f in families):
            missed.append(way)
    return Coverage(brought_out=tuple(out), alarmed=tuple(alarmed), silent=tuple(silent), untested=tuple(missed))


def _families(labels: set[str | None], attacks: Sequence[AttackRecord]) -> set[Family]:
    """Of the attacks that these labels belong to."""
    return {family for a in attacks if labels & {*a.labels} for family in a.families}
