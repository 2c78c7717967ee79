"""What would settle an undecided verdict, in a sentence that says how many rows or which models."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.judgement.directions import base
from expunge.judgement.leaks import MIN_ROWS, doubt
from expunge.judgement.outcome import Decision
from expunge.judgement.power import HALF, holdout_rows, rows_for
from expunge.metrics.by_entity import ENOUGH
from expunge.records.score import Score

SETTLING = "What would settle it:"
ENTITY = "more rows of each entity, and a second retrained model (--retrained A --retrained B) where there is one only"
RETRAINED = "a model trained without the forget set (--retrained MODEL), which alone can show that nothing is left"


def settling(decision: Decision, scores: Sequence[Score], turned_down: bool = False) -> str | None:
    """The sentence; None for a verdict that is decided. Attacks that need more rows say so themselves.

    Args:
        turned_down: a retrained model was given that does not count.
    """
    if decision.outcome != "undecided":
        return None
    told = _alone(decision, scores)
    if turned_down and decision.alone.reason == "no retrained model":
        told = ("a retrained model that counts: one that was trained like the original, but without the forget rows "
                "(expunge train MODEL --split retain)")
    if decision.alarms:
        told = _alarm(decision.alarms[0])
    elif decision.suspects:
        told = ENTITY
    elif decision.untold:
        told = (f"{ENOUGH} entities or more in the rows that are asked under {', '.join(decision.untold)}: with fewer "
                "not even a recovery in full could count")
    if decision.unattacked and not decision.suspects:
        told = "an attack that has a control (--suite quick runs some)"
    return f"{SETTLING} {told}."


def _alarm(score: Score) -> str:
    """What would make an alarm a finding, or show that it is none."""
    match score.doubt or doubt(score):
        case "few entities":
            return f"forget rows about more entities: with {score.entities} under this attack no test can reach 0.05"
        case "lone control":
            return "a second retrained model (--retrained A --retrained B), which shows how much two of them differ"
        case "few controls":
            return ("a further retrained model (--retrained once for each), which shows more surely by how much two of "
                    "them differ")
        case "not primary":
            return (f"an audit of a model made with another seed, with a suite that declares {score.attack} (--suite "
                    f"\"scores,{score.attack}\" does)")
        case _:
            have = score.test.units if score.test else score.entities
            return (f"forget rows about more than {have} entities, or a second retrained model (--retrained A "
                    "--retrained B), which shows how much two of them differ")


def _alone(decision: Decision, scores: Sequence[Score]) -> str:
    match decision.alone.reason:
        case "no scores":
            return "a score of the forget set, such as forget.probability (--suite scores)"
        case "few rows":
            count = "more forget rows" if decision.power and decision.power.missed is not None else \
                f"{rows_for(HALF)} forget rows or more"
            return f"{count}, or attacks on them that succeed"
        case "disagrees" | "told apart":
            return "a second retrained model (--retrained A --retrained B), which shows how much two of them differ"
        case "entity" | "leak share":
            return ENTITY
        case "no quality":
            return f"forget_quality, which {_why_missing(scores)}"
        case "no direction":
            return "more forget rows, or a second retrained model, which shows how much two of them differ"
        case _:
            return _without_retrained(scores)


def _why_missing(scores: Sequence[Score]) -> str:
    why = next((s.unavailable for s in scores if base(s) == "forget_quality" and s.unavailable), None)
    if why and "wrong answers" in why:
        return ("takes wrong answers to the forget rows: add them to the file (field wrong_answers, or --map "
                "wrong_answers=COLUMN)")
    return f"could not be taken: {why}" if why else "the suite does not hold"


def _without_retrained(scores: Sequence[Score]) -> str:
    """Rows that the model never saw, if they could settle it, or a retrained model."""
    plain = [s for s in scores if s.attack is None and s.value is not None]
    rows = max((s.n for s in plain if s.name.startswith("forget.")), default=0)
    aside = max((s.n - rows * s.name.startswith("mia.") for s in plain if s.name.startswith(("holdout.", "mia."))),
                default=0)
    wanted = holdout_rows(rows, MIN_ROWS)
    if wanted is None or aside >= wanted[0]:
        small = f"; {rows} forget rows are too few to be told from others" if wanted is None else ""
        return RETRAINED + small
    count, share = wanted
    more = f"{count - aside} more" if aside else f"{count}"
    return (f"{RETRAINED}. Whether it retains, {more} rows of the same kind that it never saw settle too (--holdout "
            f"FILE): with {count}, a test with 80 % power notices a model that knows {share} of the {rows} forget rows")
