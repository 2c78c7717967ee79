"""What an audit says of a trial, as shares of the way from "never seen" (0) to "as before unlearning" (1).

"Never seen" is the retrained model where there is one, as in the rehearsal. A deployer has none: the model's own
answers to holdout rows, which it never saw, stand for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.errors import UsageError
from expunge.metrics.by_entity import entity_means
from expunge.metrics.risk_bound import upper_bound
from expunge.records.examples import ExampleScore, read_examples
from expunge.records.score import SMALL, Access, Audit, Score

FORGET, HOLDOUT, RETAIN = "forget.probability", "holdout.probability", "retain.probability"
PLAIN = (FORGET, HOLDOUT, RETAIN)
TEXT = ("prefix(words=3)", "paraphrase")
ROUNDS: dict[Access, tuple[tuple[str, ...], ...]] = {
    "text": (PLAIN, TEXT, ("sample(count=8)",)),
    "logits": (PLAIN, TEXT, ("sample(count=8)",)),
    "gradients": (PLAIN, TEXT, ("soft_prompt(steps=24, rows=32)",)),
    "weights": (PLAIN, (*TEXT, "quantise"), ("relearn(steps=16)",)),
}
"""Access -> what is asked in each round, the cheapest first; who can be no finalist any more is not asked the rest."""
SHORT = 4.0
"""What a share of utility below the limit weighs against a share of the forget set that is left."""


@dataclass(frozen=True)
class TrialReadings:
    """What is left, and what was kept."""

    residues: dict[str, float]
    """Condition ("" as asked, else the label of an attack) -> share of the way back, from below 0 to above 1."""
    kept: float | None
    """Mean probability of the retain rows as a share of the original's."""
    risks: tuple[float, ...]
    """Of each forget entity: the same share in its worst condition, cut to [0, 1]."""
    losses: tuple[float, ...]
    """Of each retain row: the probability that it lost, 0 where it gained."""

    def score(self, utility: float) -> float:
        """What trials are ranked by, lower is better: the largest residue, and what utility is short of the limit."""
        return max(self.residues.values(), default=1.0) + SHORT * max(0.0, utility - (self.kept or 0.0))

    def bounds(self, confidence: float) -> tuple[float, float]:
        """Upper bounds of the mean risk of an entity and of the mean loss of a retain row, both at once.

        They hold for a setting that was named beforehand; they are not corrected for the choice among many.
        """
        each = of_both(confidence)
        return upper_bound(self.risks, each), upper_bound(self.losses, each)


def of_both(confidence: float) -> float:
    """Confidence of each of two bounds that hold together with `confidence`."""
    return 1 - (1 - confidence) / 2


def readings(audit: Audit, folder: Path) -> TrialReadings:
    """Read an audit and its table of examples.

    Raises:
        UsageError: the model did not know the forget rows, or there is nothing to compare with.
    """
    plain = {s.name: s for s in audit.scores if s.attack is None}
    forget, before, never = _references(plain)
    room = before - never
    if room <= SMALL:
        raise UsageError(f"The model says the forget rows with probability {before:.2f}, and rows that it never saw "
                         f"with {never:.2f}.", "There is nothing to forget, or it is asked in another form than it was "
                         "trained in.", "Look at the rows as the model reads them: expunge forget ... --dry-run.")
    # Answers below those of a model that never saw the rows are a trace as well.
    residues = {"": abs(forget - never) / room}
    levels = {"": (never, room)}
    for score in audit.scores:
        if score.attack and score.name == FORGET and score.control and score.excess is not None and score.counted:
            room_under = score.room if score.room and score.room > SMALL else room
            residues[score.attack] = score.excess / room_under
            levels[score.attack] = (score.control[1], room_under)
    rows = read_examples(folder)
    risks: dict[str, float] = {}
    for label, (level, span) in levels.items():
        mine = _values(rows, FORGET, "subject", label)
        for entity, mean in entity_means(mine, {r["id"]: r["entity"] for r in rows}).items():
            risks[entity] = max(risks.get(entity, 0.0), min(max((mean - level) / span, 0.0), 1.0))
    kept, original = plain.get(RETAIN), _values(rows, RETAIN, "original")
    now = _values(rows, RETAIN, "subject")
    top = kept.controls.get("original") if kept else None
    return TrialReadings(residues, kept.value / top if kept and kept.value is not None and top else None,
                    tuple(risks.values()),
                    tuple(min(max(p - now[key], 0.0), 1.0) for key, p in original.items() if key in now))


def _references(plain: dict[str, Score]) -> tuple[float, float, float]:
    """Probability of the forget rows now, before, and where they were never seen."""
    forget = plain.get(FORGET)
    if forget is None or forget.value is None or (before := forget.controls.get("original")) is None:
        raise UsageError("The probability of the forget rows is not known.", "The audit has no such score.",
                         "Give rows with answers.")
    never = forget.controls.get("retrained")
    if never is None:
        aside = plain.get(HOLDOUT)
        never = aside.value if aside is not None else None
    if never is None:
        raise UsageError("Nothing shows how rows are answered that the model never saw.",
                         "There are no holdout rows.", "Give --holdout FILE.")
    return forget.value, before, never


def _values(rows: Sequence[ExampleScore], score: str, model: str, attack: str = "") -> dict[str, float]:
    return {r["id"]: r["value"] for r in rows
            if r["score"] == score and r["model"] == model and r["attack"] == attack}


__all__ = ["ROUNDS", "TrialReadings", "of_both", "readings"]
