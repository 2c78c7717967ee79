"""The figures of an audit in one line: what leaks as asked and under attack, what was lost, what would be missed."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.judgement.directions import base
from expunge.judgement.entities import LEAK, known_entity
from expunge.metrics.shares import MOST
from expunge.records.score import ACCESS, SMALL, Power, Score

KEPT_FIRST = ("model_utility", "retain.probability", "retain.accuracy")


def leak_line(scores: Sequence[Score], power: Power | None) -> str:
    """`Leak share 0.04 as asked (worst entity Ann: 6 of 20 rows), 0.90 under paraphrase (logits); ...`; empty where
    the leak share was not taken.

    Attacks stand in the order of access, the weakest first. Of each access the strongest attack is named, if it brings
    out more than those before it. The access is what the score needs: that of the attack, and probabilities.
    """
    plain = {base(s): s for s in scores if s.attack is None and s.value is not None}
    leak = plain.get(LEAK)
    if leak is None:
        return ""
    beside = "" if leak.controls.get("retrained") is not None else " (beside holdout rows)"
    parts = [f"{leak.value:.2f} as asked{beside}{_worst(leak)}", *_attacked(scores, leak.value or 0.0)]
    said = [f"Leak share {', '.join(parts)}"]
    if (lost := plain.get("over_forget_share")) is not None:
        said.append(f"over-forgotten {lost.value:.2f}")
    kept = next((plain[name] for name in KEPT_FIRST if name in plain and plain[name].controls.get("original")), None)
    if kept is not None:
        said.append(f"utility {(kept.value or 0.0) / (kept.controls['original'] or 1.0):.2f} of the original's")
    return "; ".join([*said, *_missed(power)]) + "."


def _worst(leak: Score) -> str:
    return "" if leak.worst is None or not leak.worst.share else (
        f" (worst entity {leak.worst.entity}: {round(leak.worst.share * leak.worst.rows)} of {leak.worst.rows} rows)")


ROUNDED = 0.005
"""A difference that two decimals do not show."""


def _attacked(scores: Sequence[Score], asked: float) -> list[str]:
    """An attack that learns from some entities is tested on the rows of others, so each is set beside its own rows."""
    under = [s for s in scores if s.attack is not None and base(s) == LEAK and s.value is not None and s.counted]
    found, most = dict[str | None, str](), 0.0
    for access in ACCESS:
        here = [s for s in under if s.access == access]
        best = max(here, key=_rise, default=None)
        if best is not None and _rise(best) > most + SMALL:
            most = _rise(best)
            found[best.attack] = f"{best.value:.2f} under {best.attack} ({access})"
    # One entity of many raises no share.
    known = next((s for s in under if s.worst is not None and s.worst.share > MOST), None)
    if known is not None and not found and known_entity(scores) is None:
        found[known.attack] = f"{known.value:.2f} under {known.attack} ({known.access}){_worst(known)}"
    if found or not under:
        return list(found.values())
    most_known = max(under, key=lambda s: s.value or 0.0)
    if (most_known.value or 0.0) - asked < ROUNDED:
        return ["no more under attack"]
    return [f"not clearly more under attack ({most_known.value:.2f} at most, {most_known.attack})"]


def _rise(score: Score) -> float:
    return (score.value or 0.0) - (score.before or 0.0)


def _missed(power: Power | None) -> list[str]:
    if power is None or power.missed is None:
        return []
    one = "entity" if power.unit == "entities" else "row"
    return [f"would miss up to {power.missed} of {power.entities} known {power.unit}" if power.missed else
            f"would notice a single known {one} of {power.entities}"]
