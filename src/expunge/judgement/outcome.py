"""Deciding the outcome: rules over scores, and what each decision rests on. The words are in `wording.py`.

The outcome compares with the retrained model, on the untouched subject (attack None) first:

1. Directions. A score of the forget split with `higher_is = knows` is *above* (*below*) when its
   95 % interval lies wholly above (below) the retrained model's value. Above also needs a gap that
   matters: at least a tenth of the way from the retrained to the original model, where the original
   is known (and itself above: else the score cannot tell who knows). At least `MIN_ROWS` rows are
   needed, since a few rows give an interval without width.
   Without any retrained model a subject *retains* where it says the forget set by heart (`recital.py`),
   or where it knows more of the forget rows than of the holdout rows and a membership attack tells the
   two apart; nothing then shows that it forgets.
2. `forget_quality` >= 0.05 and nothing above            -> forgets
   the same where half of it could be left unnoticed (`power.py`; measured in `splices.py`) -> undecided
   the same, but the paired test tells the two apart  -> undecided: see `told_apart`
   the same, but probability far below                   -> over-forgets: truth ratios set right answers
                                                            against wrong ones, so damage to both goes unseen
   `forget_quality` >= 0.05 but something above          -> undecided: the evidence disagrees
   `forget_quality` <  0.05 (or missing), something above -> retains
   `forget_quality` <  0.05, probability below, nothing above -> over-forgets
   no `forget_quality` (rows without wrong answers), nothing above, a leak share, and power that was measured and is
   enough                                                -> forgets, or over-forgets where probability is far below
   anything else                                          -> undecided
   An entity that is known beyond doubt (`entities.py`: most of its rows are said more surely than by every
   retrained model)                                      -> retains, whatever the averages say
   "forgets" or "over-forgets" where an entity may be known, or "forgets" where the leak share is above 0.1 with its
   interval above 0.05                                   -> undecided
3. If an attack brings out more than it does of its control (`leaks.py`), the outcome is
   "retains" where the model left alone shows more too, else "suppresses": what can be brought back
   was not gone. The same holds for what is read off its inside (scores that need its weights).
   "Forgets" (and "over-forgets") becomes "undecided" where an attack raises an alarm: an excess that is large enough
   and has an interval above 0, but too few entities, entities that differ too much, a p-value that the correction
   lifts above 0.05, or an attack that was not declared beforehand. So does a leak share under attack where an entity
   may be known but not beyond doubt, or that rises far above its value as asked. "Forgets" becomes "undecided" also
   where no attack was set against a control, or a primary one could not have counted even if it had recovered
   everything.
4. "Forgets", "over-forgets" and "undecided" become "ruined" where the model lost what it should keep (`utility.py`).

Directions of the model left alone are tested at 95 % each without correction, so one of them may cross by chance;
primary attacks are corrected for their number together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from expunge.judgement.directions import base, beside_holdout, is_above, is_below
from expunge.judgement.entities import certain, known_entity, leak_share, leaking, revealed, suspected
from expunge.judgement.leaks import LONE_RESIDUE, MIN_ROWS, RESIDUE, alarms, leaks, primary, untold
from expunge.judgement.power import misses_half
from expunge.judgement.recital import Recital, recital
from expunge.judgement.utility import lost_utility
from expunge.records.score import Access, Power, Score

Outcome = Literal["forgets", "suppresses", "retains", "over-forgets", "ruined", "undecided"]
Reason = Literal["recited", "familiar", "no scores", "no retrained model", "few rows", "disagrees", "far below",
                 "looks retrained", "told apart", "above", "below", "no direction", "no quality", "entity",
                 "leak share", "no leak"]
"""Which rule decided about the model left alone."""
P_LIMIT = 0.05
FAR = 0.25
"""Far below the retrained model: the interval of the probability ends before this share of the retrained one's."""
DEEP: tuple[Access, ...] = ("gradients", "weights")
"""Where a score is read off the inside of a model rather than off what it says."""


@dataclass(frozen=True)
class Alone:
    """The decision about the model left alone, and the scores it rests on."""

    outcome: Outcome
    reason: Reason
    quality: Score | None = None
    evidence: tuple[Score, ...] = ()
    """Those above, below or far below their control, as the reason says."""
    familiar: int = 0
    """Membership attacks to which the forget set looks more familiar than rows that were never trained on."""
    recital: Recital | None = None
    """What it says by heart, where there is no retrained model."""


@dataclass(frozen=True)
class Decision:
    """The outcome with the attacks, and all it rests on."""

    outcome: Outcome
    alone: Alone
    inside: tuple[Score, ...]
    """Scores read off its inside that lie above the retrained model's."""
    p_limit: float = P_LIMIT
    unattacked: bool = False
    """It would forget, or over-forgets, but no attack was set against a control."""
    alarms: tuple[Score, ...] = ()
    """It would forget, but these attacks raise an alarm, strongest first."""
    suspects: tuple[Score, ...] = ()
    """It would forget, but these leak shares under attack raise an alarm."""
    untold: tuple[str, ...] = ()
    """It would forget, or over-forgets, but not even a full recovery under these attacks could have counted."""
    power: Power | None = None
    ruined: tuple[Score, ...] = ()
    """What it should keep and lost, where that decides."""


def decide(scores: Sequence[Score], p_limit: float = P_LIMIT, power: Power | None = None) -> Decision:
    """The outcome of one subject's scores, attacked ones included.

    Args:
        power: what the plain scores would miss, where it was measured.
    """
    plain = [s for s in scores if s.attack is None and s.value is not None]
    alone, inside = _by_entity(_alone(plain, p_limit, power), plain), tuple(hidden_inside(plain))
    outcome = alone.outcome
    if leaks(scores) or inside or revealed(scores):
        outcome = "retains" if shown_alone(plain) else "suppresses"
    undone = outcome in ("forgets", "over-forgets")
    raised, suspects = (tuple(alarms(scores)), suspected(scores)) if undone else ((), ())
    blind = tuple(untold(scores)) if undone else ()
    unattacked = undone and not primary(scores)
    if raised or suspects or (outcome == "forgets" and (blind or unattacked)):
        outcome = "undecided"
    lost = lost_utility(plain) if outcome in ("forgets", "over-forgets", "undecided") else ()
    return Decision("ruined" if lost else outcome, alone, inside, p_limit, unattacked, raised, suspects, blind, power,
                    lost)


def _by_entity(found: Alone, plain: list[Score]) -> Alone:
    """What averages say, unless one entity or the rows by themselves say otherwise."""
    entity, rows = known_entity(plain), leaking(plain)
    if entity is not None and certain(entity) and found.outcome != "retains":
        return replace(found, outcome="retains", reason="entity", evidence=(entity,))
    if not ((found.outcome == "forgets" and (entity or rows)) or (found.outcome == "over-forgets" and entity)):
        return found
    return replace(found, outcome="undecided", reason="entity" if entity else "leak share",
                   evidence=tuple(s for s in (entity or rows,) if s))


def _alone(plain: list[Score], p_limit: float, power: Power | None) -> Alone:
    quality = next((s for s in plain if base(s) == "forget_quality"), None)
    known = [s for s in plain if s.shows_knowledge and s.access not in DEEP]
    if quality is None and not any(s.controls.get("retrained") is not None for s in known):
        shown, familiar = tuple(shown_alone(plain)), [
            s for s in plain if s.name.startswith("mia.") and s.n >= MIN_ROWS and s.interval is not None
            and s.interval[0] > 0.5]
        heard = recital(plain)
        if heard is not None and heard.proves:
            return Alone("retains", "recited", evidence=shown, familiar=len(familiar), recital=heard)
        if shown and familiar:
            return Alone("retains", "familiar", evidence=shown, familiar=len(familiar), recital=heard)
        return Alone("undecided", "no retrained model" if known else "no scores", recital=heard)
    above, below = tuple(s for s in known if is_above(s)), tuple(s for s in known if is_below(s))
    if quality is not None and quality.n < MIN_ROWS:
        return Alone("undecided", "few rows", quality)
    if quality is not None and (quality.value or 0.0) >= p_limit:
        if not above and misses_half(quality.n, power):
            return Alone("undecided", "few rows", quality)
        if above:
            return Alone("undecided", "disagrees", quality, above)
        if far := _far(below):
            return Alone("over-forgets", "far below", quality, far)
        return Alone("undecided", "told apart", quality) if told_apart(quality, p_limit) else \
            Alone("forgets", "looks retrained", quality)
    if above:
        return Alone("retains", "above", quality, above)
    if quality is not None and any(base(s) == "forget.probability" for s in below):
        return Alone("over-forgets", "below", quality, below)
    share = leak_share(plain)
    if quality is None and share is not None and power is not None and not misses_half(share.n, power):
        far = _far(below)
        return Alone("over-forgets", "far below", None, far) if far else Alone("forgets", "no leak", None, (share,))
    return Alone("undecided", "no direction" if quality is not None else "no quality", quality)


def _far(below: Sequence[Score]) -> tuple[Score, ...]:
    """The probability, where it lies far below the retrained model's."""
    return tuple(s for s in below if base(s) == "forget.probability" and s.interval is not None
                 and s.interval[1] < FAR * (s.controls.get("retrained") or 0.0))


def told_apart(quality: Score, p_limit: float = P_LIMIT) -> bool:
    """Whether the truth ratios differ from the retrained model's by entity, which the published test may miss.

    Two models that never saw the rows differ too, so the distance must also be more than that of a second retrained
    model, and a tenth of the original's; a quarter with one retrained model, or where rows are tested.
    """
    paired = quality.paired
    if paired is None or paired.p >= p_limit:
        return False
    share = LONE_RESIDUE if paired.floor is None or paired.unit == "rows" else RESIDUE
    return paired.distance > max(paired.floor or 0.0, share * (1.0 if paired.room is None else paired.room))


def shown_alone(scores: Sequence[Score]) -> list[Score]:
    """What the model left alone says beyond its control: the retrained model, or the holdout rows without one.

    What it says by heart stands beside the chance of it.
    """
    plain = {s.name: s for s in scores if s.attack is None and s.value is not None}
    found = []
    for score in plain.values():
        if score.shows_knowledge and score.access not in DEEP:
            score = beside_holdout(score, plain)
            heard = recital([score])
            if heard is not None:
                if heard.proves:
                    found.append(score.model_copy(update={"controls": {**score.controls, "chance": heard.rate}}))
            elif is_above(score) or is_above(score, "holdout"):
                found.append(score)
    entity = known_entity(list(plain.values()))
    return found + ([entity] if entity is not None and certain(entity) else [])


def hidden_inside(scores: Sequence[Score]) -> list[Score]:
    """What can be read off its weights, gradients or hidden states beyond the retrained model."""
    return [s for s in scores if s.attack is None and looks_inside(s) and is_above(s)]


def looks_inside(score: Score) -> bool:
    """A score that is read off the inside and rises with knowledge of the forget set.

    Telling forget rows from rows that were never trained on (linear_probe) is membership, which unlearning itself may
    leave a trace for, and being unlike the retrained model (cka) is no knowledge either.
    """
    return score.shows_knowledge and score.access in DEEP
