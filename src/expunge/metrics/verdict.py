"""What the scores support, in sentences that carry their figures. Nothing here is a proof.

The outcome compares with the retrained model, on the untouched subject (attack None) first:

1. Directions. A score of the forget split with `higher_is = knows` is *above* (*below*) when its
   95 % interval lies wholly above (below) the retrained model's value. Above also needs a gap that
   matters: at least a tenth of the way from the retrained to the original model, where the original
   is known. At least `MIN_ROWS` rows are needed, since a few rows give an interval without width.
2. `forget_quality` >= 0.05 and nothing above            -> forgets
   `forget_quality` >= 0.05 but something above          -> undecided: the evidence disagrees
   `forget_quality` <  0.05 (or missing), something above -> retains
   `forget_quality` <  0.05, probability below, nothing above -> over-forgets
   anything else                                          -> undecided
3. If something is above under an attack that the retrained model also went through, "forgets"
   and "over-forgets" become "retains": what can be brought back was not gone.

Several directions are tested at 95 % each without correction, so one of them may cross by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from expunge.records.score import Score, Verdict

Outcome = Literal["forgets", "over-forgets", "retains", "undecided"]
P_LIMIT = 0.05
MIN_ROWS = 10
RESIDUE = 0.1
"""Share of the gap between original and retrained that must be left to count as above."""
NOT_TRIED: dict[str, tuple[str, ...]] = {
    "relearning: whether a little fine-tuning brings the knowledge back": ("relearn",),
    "quantisation: whether rounding the weights brings it back": ("quant",),
    "paraphrased prompts": ("paraphras",),
    "jailbreak prompts": ("jailbreak", "prefix", "suffix"),
    "model internals: whether hidden states still hold it": ("internal", "latent", "lens", "steer"),
}
"""What every audit should say it did not try -> words that show in an attack's name if it did."""


def verdict(scores: Sequence[Score], p_limit: float = P_LIMIT) -> Verdict:
    """Outcome, sentences and gaps for one subject's scores, attacked ones included."""
    plain = [s for s in scores if s.attack is None and s.value is not None]
    attacked = [s for s in scores if s.attack is not None and s.value is not None]
    outcome, sentences = _outcome(plain, attacked, p_limit)
    for part in (_knowledge, _membership, _utility):
        sentences += part(plain)
    sentences += [_compare(s, f"Under {s.attack}, ") for s in attacked if _shows_knowledge(s)]
    return Verdict(outcome=outcome, sentences=tuple(sentences), not_tested=tuple(_gaps(scores)))


def _outcome(plain: list[Score], attacked: list[Score], p_limit: float) -> tuple[Outcome, list[str]]:
    quality = next((s for s in plain if _base(s) == "forget_quality"), None)
    known = [s for s in plain if _shows_knowledge(s)]
    if quality is None and not any(_control(s, "retrained") is not None for s in known):
        return "undecided", [
            "There is no comparison with a retrained model, so whether the forget set is gone cannot be "
            "decided; the figures below only say how the model differs from its references."
        ]
    outcome: Outcome
    above, below = [s for s in known if is_above(s)], [s for s in known if is_below(s)]
    sentences = [] if quality is None else [_quality(quality, p_limit)]
    if quality is not None and quality.n < MIN_ROWS:
        outcome = "undecided"
        sentences.append(f"With {quality.n} rows that test cannot decide anything.")
    elif quality is not None and (quality.value or 0.0) >= p_limit:
        outcome = "undecided" if above else "forgets"
        if above:
            sentences.append("The evidence disagrees: the truth ratios look retrained, yet clearly more is "
                             f"known than by the retrained model: {_against(above)}.")
    elif above:
        outcome = "retains"
        sentences.append(f"More of the forget set is left than in the retrained model, by {_against(above)}.")
    elif quality is not None and any(_base(s) == "forget.probability" for s in below):
        outcome = "over-forgets"
        sentences.append(f"The model was pushed past the retrained one, by {_against(below)}; such a "
                         "gap is itself a trace of the forget set.")
    else:
        outcome = "undecided"
        sentences.append(
            "The average scores do not say in which direction it differs." if quality is not None else
            "Without forget_quality, no score here can show that the model looks retrained.")
    leaks = [s for s in attacked if _shows_knowledge(s) and is_above(s)]
    if leaks:
        sentences.append(f"Attacks bring out more than they do of the retrained model: {_against(leaks)}.")
        outcome = "retains" if outcome in ("forgets", "over-forgets") else outcome
    return outcome, sentences


def is_above(score: Score) -> bool:
    """More than the retrained model shows, beyond the interval and by a gap that matters."""
    retrained, original = _control(score, "retrained"), _control(score, "original")
    if score.interval is None or score.value is None or retrained is None or score.n < MIN_ROWS:
        return False
    enough = original is None or score.value - retrained >= RESIDUE * (original - retrained)
    return score.interval[0] > retrained and enough


def is_below(score: Score) -> bool:
    """Less than the retrained model shows, beyond the interval."""
    retrained = _control(score, "retrained")
    return (score.interval is not None and retrained is not None and score.n >= MIN_ROWS
            and score.interval[1] < retrained)


def _quality(score: Score, p_limit: float) -> str:
    p = score.value or 0.0
    text = f"Forget quality is p = {_figure(p)} over {score.n} forget rows: the truth ratios "
    if p >= p_limit:
        # Smallest gap between two distributions of n rows each that reaches 5 %: 1.36 sqrt(2 / n).
        gap = min(1.0, 1.36 * (2 / max(score.n, 1)) ** 0.5)
        text += (f"could not be told from those of the retrained model (limit {p_limit:g}). A test of this "
                 f"size only notices distributions that are about {gap:.2f} apart or more")
    else:
        text += f"differ from those of the retrained model (limit {p_limit:g})"
    floor = _control(score, "retrained")
    if floor is not None and floor != 1:
        text += f"; other retrained models reach p = {_figure(floor)} against the first"
    return text + "."


def _knowledge(plain: list[Score]) -> list[str]:
    return [_compare(s) for s in plain if s.name.startswith("forget.")]


def _membership(plain: list[Score]) -> list[str]:
    found = []
    for score in plain:
        if score.name.startswith("mia.") and score.interval is not None and score.n >= MIN_ROWS:
            low, high = score.interval
            meaning = ("the forget rows still look more familiar than rows that were never trained on"
                       if low > 0.5 else
                       "the forget rows look less familiar than rows that were never trained on, which also "
                       "gives them away" if high < 0.5 else
                       "this attack does not tell forget rows from rows that were never trained on")
            retrained = _control(score, "retrained")
            if retrained is not None and low <= retrained <= high and not low <= 0.5 <= high:
                meaning += ", but no more so than in the retrained model"
            found.append(f"{_compare(score)[:-1]}: {meaning} (0.5 = no difference).")
        elif score.name.startswith("mia."):
            found.append(_compare(score))
        elif _base(score) == "privleak":
            found.append(f"{_compare(score)[:-1]}, in per cent: -100 = the forget set is known by heart, "
                         "0 = as in the retrained model, above 0 = pushed past it.")
    return found


def _utility(plain: list[Score]) -> list[str]:
    asked = [s for s in plain if _base(s) == "model_utility"]
    asked = asked or [s for s in plain if s.name.startswith("retain.") and s.higher_is == "knows"]
    asked += [s for s in plain if s.name.startswith("neighbour.") and s.higher_is == "knows"]
    found = []
    for score in asked:
        original = _control(score, "original")
        share = f", {(score.value or 0.0) / original:.0%} of the original's" if original else ""
        if share and score.interval is not None and score.interval[1] < (original or 0.0):
            share += ", which is clearly less"
        found.append(f"{_compare(score)[:-1]}{share}.")
    if not found:
        found.append("Nothing here says what the model still can do: no utility, retain or neighbour score.")
    return found


def _compare(score: Score, before: str = "") -> str:
    """`forget.probability is 0.3 [0.28, 0.32], n = 400 (original 0.9, retrained 0.1).`"""
    span = f" [{', '.join(_figure(v) for v in score.interval)}]" if score.interval else ""
    known = [f"{k} {_figure(v)}" for k, v in score.controls.items() if v is not None]
    controls = f" ({', '.join(known)})" if known else ""
    return f"{before}{score.name} is {_figure(score.value or 0.0)}{span}, n = {score.n}{controls}."


def _gaps(scores: Sequence[Score]) -> list[str]:
    found = []
    for s in scores:
        if s.unavailable is not None:
            found.append(f"{s.name}{f' under {s.attack}' if s.attack else ''}: {s.unavailable}")
    tried = " ".join(s.attack for s in scores if s.attack and s.value is not None).lower()
    return found + [what for what, words in NOT_TRIED.items() if not any(word in tried for word in words)]


def _shows_knowledge(score: Score) -> bool:
    return score.name.startswith("forget.") and score.higher_is == "knows"


def _base(score: Score) -> str:
    return score.name.partition("(")[0]


def _control(score: Score, which: str) -> float | None:
    return score.controls.get(which)


def _against(scores: Iterable[Score]) -> str:
    """`forget.probability (0.8 against 0.2)`, joined by commas; empty for none."""
    return ", ".join(
        f"{s.name}{f' under {s.attack}' if s.attack else ''} "
        f"({_figure(s.value or 0.0)} against {_figure(_control(s, 'retrained') or 0.0)})" for s in scores
    )


def _figure(value: float) -> str:
    return f"{value:.3g}"
