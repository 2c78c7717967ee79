"""What the scores support, in sentences that carry their figures. Nothing here is a proof.

The outcome compares with the retrained model, on the untouched subject (attack None) first:

1. Directions. A score of the forget split with `higher_is = knows` is *above* (*below*) when its
   95 % interval lies wholly above (below) the retrained model's value. Above also needs a gap that
   matters: at least a tenth of the way from the retrained to the original model, where the original
   is known (and itself above: else the score cannot tell who knows). At least `MIN_ROWS` rows are
   needed, since a few rows give an interval without width.
   Without any retrained model a subject *retains* where it knows more of the forget rows than of the
   holdout rows and a membership attack tells the two apart; nothing then shows that it forgets.
2. `forget_quality` >= 0.05 and nothing above            -> forgets
   the same, but probability far below                   -> over-forgets: truth ratios set right answers
                                                            against wrong ones, so ruining both goes unseen
   `forget_quality` >= 0.05 but something above          -> undecided: the evidence disagrees
   `forget_quality` <  0.05 (or missing), something above -> retains
   `forget_quality` <  0.05, probability below, nothing above -> over-forgets
   anything else                                          -> undecided
3. If an attack brings out more than it does of its control (`records/leak.py`), the outcome is
   "retains" where the model left alone shows more too, else "suppresses": what can be brought back
   was not gone. The same holds for what is read off its inside (scores that need its weights).

Directions of the model left alone are tested at 95 % each without correction, so one of them may
cross by chance; attacks are corrected for their number.
"""

from __future__ import annotations

from collections.abc import Sequence

from expunge.judgement.directions import against, base, compare, figure, is_above, is_below
from expunge.judgement.leaks import MIN_ROWS, leaks
from expunge.judgement.threats import (
    DEEP,
    Outcome,
    attack_sentences,
    hidden_inside,
    shown_alone,
    threats,
    unscored,
    untried,
)
from expunge.records.score import AttackRecord, Score, Verdict

P_LIMIT = 0.05
FAR = 0.25
"""Far below the retrained model: the interval of the probability ends before this share of the retrained one's."""


def verdict(scores: Sequence[Score], attacks: Sequence[AttackRecord] = (), p_limit: float = P_LIMIT) -> Verdict:
    """Outcome, sentences, threats and gaps for one subject's scores, attacked ones included."""
    plain = [s for s in scores if s.attack is None and s.value is not None]
    alone, sentences = _outcome(plain, p_limit)
    overall = alone
    inside = hidden_inside(plain)
    if leaks(scores) or inside:
        overall = "retains" if shown_alone(plain) else "suppresses"
    if inside:
        sentences.append(f"Its inside holds more than the retrained model's: {against(inside)}.")
    sentences += attack_sentences(scores, attacks)
    for part in (_behaviour, _knowledge, _membership, _utility):
        sentences += part(plain)
    if overall != alone:
        sentences.insert(0, f"Without the attacks the scores say: {alone}.")
    return Verdict(outcome=overall, alone=None if overall == alone else alone, sentences=tuple(sentences),
                   not_tested=tuple(_gaps(scores, attacks)), threats=threats(scores, attacks, alone, overall))


def _outcome(plain: list[Score], p_limit: float) -> tuple[Outcome, list[str]]:
    quality = next((s for s in plain if base(s) == "forget_quality"), None)
    known = [s for s in plain if s.shows_knowledge and s.access not in DEEP]
    if quality is None and not any(s.controls.get("retrained") is not None for s in known):
        shown, told = shown_alone(plain), [s for s in plain if s.name.startswith("mia.") and s.n >= MIN_ROWS
                                           and s.interval is not None and s.interval[0] > 0.5]
        if shown and told:
            return "retains", [
                f"More is known of the forget set than of rows that were never trained on, by {against(shown)}, and it "
                f"looks more familiar to {len(told)} membership attack{'s' * (len(told) > 1)}. There is no retrained "
                "model, which alone could show that nothing is left."]
        if not known:
            return "undecided", ["No score of the model left alone was asked for, which attacks could add to."]
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
        ruined = [s for s in below if base(s) == "forget.probability" and s.interval is not None
                  and s.interval[1] < FAR * (s.controls.get("retrained") or 0.0)]
        outcome = "undecided" if above else "over-forgets" if ruined else "forgets"
        if ruined and not above:
            sentences.append(f"But the answers are far less likely than to the retrained model, by {against(ruined)}: "
                             "the model was pushed past it, which truth ratios do not notice.")
        if above:
            sentences.append("The evidence disagrees: the truth ratios look retrained, yet clearly more is "
                             f"known than by the retrained model: {against(above)}.")
    elif above:
        outcome = "retains"
        sentences.append(f"More of the forget set is left than in the retrained model, by {against(above)}.")
    elif quality is not None and any(base(s) == "forget.probability" for s in below):
        outcome = "over-forgets"
        sentences.append(f"The model was pushed past the retrained one, by {against(below)}; such a "
                         "gap is itself a trace of the forget set.")
    else:
        outcome = "undecided"
        sentences.append(
            "The average scores do not say in which direction it differs." if quality is not None else
            "Without forget_quality, no score here can show that the model looks retrained.")
    return outcome, sentences


def _quality(score: Score, p_limit: float) -> str:
    p = score.value or 0.0
    text = f"Forget quality is p = {figure(p)} over {score.n} forget rows: the truth ratios "
    if p >= p_limit:
        # Smallest gap between two distributions of n rows each that reaches 5 %: 1.36 sqrt(2 / n).
        gap = min(1.0, 1.36 * (2 / max(score.n, 1)) ** 0.5)
        text += (f"could not be told from those of the retrained model (limit {p_limit:g}). A test of this "
                 f"size only notices distributions that are about {gap:.2f} apart or more")
    else:
        text += f"differ from those of the retrained model (limit {p_limit:g})"
    floor = score.controls.get("retrained")
    if floor is not None and floor != 1:
        text += f"; other retrained models reach p = {figure(floor)} against the first"
    return text + "."


def _knowledge(plain: list[Score]) -> list[str]:
    return [compare(s) for s in plain if s.name.startswith("forget.") and base(s) not in BEHAVIOUR]


MEMBERSHIP = ("mia.", "linear_probe")
"""Whether forget rows can be told from rows that were never trained on, by the losses or by hidden states."""
BEHAVIOUR = ("forget.refusal", "forget.above_chance")
"""Told in one sentence rather than one each."""


def _behaviour(plain: list[Score]) -> list[str]:
    """Refusing, avoiding (below chance) and not knowing (at chance) are three different things."""
    named = {base(s): s for s in plain}
    words = {"forget.keyword": "answered with the right fact", "forget.refusal": "refused"}
    told = [(named[name], text) for name, text in words.items() if name in named]
    found = []
    if "forget.refusal" in named:
        parts = [f"{s.value:.0%} of {s.n} {'forget questions ' * (i == 0)}are {text}"
                 + (f" (retrained {c:.0%})" if (c := s.controls.get("retrained")) is not None else "")
                 for i, (s, text) in enumerate(told)]
        found.append(", ".join(parts) + ".")
    lift, right = named.get("forget.above_chance"), named.get("forget.accuracy")
    if lift is not None and lift.value is not None and lift.interval is not None:
        low, high = lift.interval
        meaning = ("less often than a guess: it avoids the right one" if high < 0 else
                   "more often than a guess: it still recognises the right one" if low > 0 else
                   "which cannot be told from a guess: it does not know")
        retrained = lift.controls.get("retrained")
        if retrained is not None and low <= retrained <= high and not low <= 0 <= high:
            meaning += ", no more so than the retrained model"
        shares = (f"in {right.value:.0%} of {right.n} questions, a guess in {right.value - lift.value:.0%}"
                  if right is not None and right.value is not None else f"in {lift.n} questions")
        found.append(f"Among options it picks the right one {shares} (difference {figure(lift.value)} "
                     f"[{figure(low)}, {figure(high)}]): {meaning}.")
    return found


def _membership(plain: list[Score]) -> list[str]:
    found = []
    for score in plain:
        if base(score).startswith(MEMBERSHIP) and score.interval is not None and score.n >= MIN_ROWS:
            low, high = score.interval
            meaning = ("the forget rows still look more familiar than rows that were never trained on"
                       if low > 0.5 else
                       "the forget rows look less familiar than rows that were never trained on, which also "
                       "gives them away" if high < 0.5 else
                       "this attack does not tell forget rows from rows that were never trained on")
            retrained = score.controls.get("retrained")
            if retrained is not None and low <= retrained <= high and not low <= 0.5 <= high:
                meaning += ", but no more so than in the retrained model"
            found.append(f"{compare(score)[:-1]}: {meaning} (0.5 = no difference).")
        elif base(score).startswith(MEMBERSHIP):
            found.append(compare(score))
        elif base(score) == "privleak":
            found.append(f"{compare(score)[:-1]}, in per cent: -100 = the forget set is known by heart, "
                         "0 = as in the retrained model, above 0 = pushed past it.")
    return found


def _utility(plain: list[Score]) -> list[str]:
    asked = [s for s in plain if base(s) == "model_utility"]
    asked = asked or [s for s in plain if s.name.startswith("retain.") and s.higher_is == "knows"]
    asked += [s for s in plain if s.name.startswith("neighbour.") and s.higher_is == "knows"]
    found = []
    for score in asked:
        original = score.controls.get("original")
        share = f", {(score.value or 0.0) / original:.0%} of the original's" if original else ""
        if share and score.interval is not None and score.interval[1] < (original or 0.0):
            share += ", which is clearly less"
        found.append(f"{compare(score)[:-1]}{share}.")
    if not found:
        found.append("Nothing here says what the model still can do: no utility, retain or neighbour score.")
    return found


def _gaps(scores: Sequence[Score], attacks: Sequence[AttackRecord]) -> list[str]:
    found = [f"{s.name}: {s.unavailable}" for s in scores if s.attack is None and s.unavailable is not None]
    return [*found, *unscored(scores, attacks), *untried(scores, attacks)]
