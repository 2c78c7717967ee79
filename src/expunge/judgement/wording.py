"""The words of a verdict: sentences that carry their figures. What they say is decided in `outcome.py`."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

from expunge.judgement.directions import against, base, beside_holdout, compare, figure
from expunge.judgement.entities import worded_entity, worded_suspect
from expunge.judgement.leaks import MIN_ROWS
from expunge.judgement.outcome import Alone, Decision
from expunge.judgement.power import least_share, worded_power
from expunge.judgement.recital import ODDS, Recital
from expunge.judgement.threat_wording import lost
from expunge.metrics.recited import LEAST
from expunge.records.score import Power, Score

MEMBERSHIP = ("mia.", "linear_probe")
"""Whether forget rows can be told from rows that were never trained on, by the losses or by hidden states."""
BEHAVIOUR = ("forget.refusal", "forget.above_chance")
"""Told in one sentence rather than one each."""

ALONE = " That counts only beside a retrained model, or beside holdout rows (holdout.keyword)."
"""Facts may be common knowledge."""


def first_sentence(decision: Decision, scores: Sequence[Score] = ()) -> list[str]:
    """Where the attacks, or their absence, change what the scores say."""
    if decision.ruined:
        return [f"The model lost what it should keep: {lost(decision.ruined)}. Low scores of the forget set then show "
                "damage, not forgetting: a lower --lr, fewer steps or a retain term keep more."]
    if decision.alarms or decision.suspects:
        return ["Asked plainly the model looks like one that never saw the forget set, but an attack raises an alarm.",
                *(worded_suspect(s, scores) for s in decision.suspects[:1])]
    if decision.outcome == "over-forgets" and (decision.unattacked or decision.untold):
        why = "no attack was set against a control" if decision.unattacked else (
            f"{', '.join(decision.untold)} could not have counted even if everything had been recovered")
        return ["It says less than a model that never saw the forget set; whether something is left was not tested, "
                f"since {why}."]
    if decision.unattacked:
        return ["Asked plainly the model looks like one that never saw the forget set, but no attack was set against a "
                "control, and an attack may bring back what plain asking does not show."]
    if decision.untold:
        return ["Asked plainly the model looks like one that never saw the forget set, but "
                f"{', '.join(decision.untold)} could not have counted even if everything had been recovered."]
    alone = decision.alone.outcome
    return [f"Without the attacks the scores say: {alone}."] if decision.outcome != alone else []


def alone_sentences(decision: Decision) -> list[str]:
    """What decided about the model left alone."""
    alone = decision.alone
    first = [] if alone.quality is None else [_quality(alone.quality, decision.p_limit, decision.power)]
    first += [said] if (said := worded_power(decision.power)) else []
    return first + ([said] if (said := _reason(alone, decision.power)) else [])


def inside_sentences(decision: Decision) -> list[str]:
    """What can be read off its inside."""
    return [f"Its inside holds more than the retrained model's: {against(decision.inside)}."] if decision.inside else []


def figures(plain: list[Score]) -> list[str]:
    """Every score of the model left alone that a reader should see, whatever was decided."""
    return [sentence for part in (_behaviour, _knowledge, _membership, _utility) for sentence in part(plain)]


def _reason(alone: Alone, power: Power | None) -> str:
    match alone.reason:
        case "recited" | "familiar":
            said = [_by_heart(alone.recital)] if alone.recital is not None and alone.reason == "recited" else []
            if alone.familiar:
                beside = [s for s in alone.evidence if s.controls.get("chance") is None]
                more = f"More is known of the forget set than of rows that were never trained on, by {against(beside)}"
                said.append(f"{f'{more}, and it' if beside else 'It'} looks more familiar to "
                            f"{alone.familiar} membership attack{'s' * (alone.familiar > 1)}.")
            return " ".join([*said, "Only a retrained model that counts could show that nothing is left."])
        case "no scores":
            return "No score of the model left alone was asked for, which attacks could add to."
        case "no retrained model":
            heard = _some_by_heart(alone.recital)
            return (f"{heard}There is no comparison with a retrained model, so whether the forget set is gone cannot "
                    "be decided from these figures.")
        case "few rows":
            rows = alone.quality.n if alone.quality else 0
            if power is not None and power.missed is not None and rows >= MIN_ROWS:
                return "Half of the forget set or more could be missed, so nobody can say that it is gone."
            return (f"With {rows} rows a test of truth ratios does not notice a model that still knows half of them, "
                    "so it cannot say that the forget set is gone.")
        case "disagrees":
            return ("The evidence disagrees: the truth ratios look retrained, yet clearly more is known than by the "
                    f"retrained model: {against(alone.evidence)}.")
        case "told apart":
            return ("The published test takes the rows of the two models for independent ones. Paired by entity they "
                    "differ, by more than models that never saw the rows are taken to.")
        case "far below":
            return ("But the answers are far less likely than to the retrained model, by "
                    f"{against(alone.evidence)}: the model was pushed past it, which truth ratios do not notice.")
        case "entity":
            return worded_entity(alone.evidence[0])
        case "leak share":
            return ("The truth ratios look retrained, yet more rows are said more surely than by every retrained model "
                    f"than models differ by: {compare(alone.evidence[0])}")
        case "looks retrained":
            return ""
        case "no leak":
            share = alone.evidence[0]
            return (f"No more rows than chance explains are said more surely than by every retrained model: "
                    f"{compare(share)} There are no truth ratios to compare, since the rows have no wrong answers.")
        case "above":
            return f"More of the forget set is left than in the retrained model, by {against(alone.evidence)}."
        case "below":
            return (f"The model was pushed past the retrained one, by {against(alone.evidence)}; such a gap is itself "
                    "a trace of the forget set.")
        case "no direction":
            return "The truth ratios differ, and the average scores do not say in which direction."
        case "no quality":
            return "Without forget_quality, no score here can show that the model looks retrained."


def _by_heart(found: Recital) -> str:
    """How many answers it says word for word, and how unlikely that is."""
    by = (f"if it says rows that it never saw as often, that is {found.rate:.0%} of them" if found.rate > ODDS**LEAST
          else "if it guesses each such word with even odds")
    return (f"It says {found.recited} of {found.score.n} answers word for word, each with {LEAST} words or more that "
            f"neither the prompt nor the other answers hold. A model that never saw them does that with a chance of "
            f"{_bound(found.chance)} at most, {by}. The bound does not cover texts that are common knowledge.")


def _some_by_heart(found: Recital | None) -> str:
    """The same where it proves nothing."""
    if found is None or not found.recited:
        return ""
    return (f"It says {found.recited} of {found.score.n} answers word for word, which is too few to prove anything "
            "by itself. ")


def _bound(chance: float) -> str:
    """A power of ten, rounded up; beyond what anybody would believe the bound is not told."""
    return f"1 in 10^{min(12, floor(-log10(max(chance, 1e-300))))}"


def _quality(score: Score, p_limit: float, power: Power | None) -> str:
    p = score.value or 0.0
    text = f"Forget quality is p = {figure(p)} over {score.n} forget rows: the truth ratios "
    if p >= p_limit:
        text += f"could not be told from those of the retrained model (limit {p_limit:g})"
        if power is None or power.missed is None:
            text += f". A test of this size may miss a model that still knows {least_share(score.n):.0%} of the rows"
    else:
        text += f"differ from those of the retrained model (limit {p_limit:g})"
    floor = score.controls.get("retrained")
    if floor is not None and floor != 1:
        text += f"; other retrained models reach p = {figure(floor)} against the first"
    if score.paired is not None:
        paired = score.paired
        room = "" if paired.room is None else f", the original's is {figure(paired.room)}"
        text += (f". That is TOFU's published number; paired by {paired.unit}, {paired.units} of them, p = "
                 f"{figure(paired.p)} (distance {figure(paired.distance)}{room})")
    return text + "."


def _knowledge(plain: list[Score]) -> list[str]:
    named = {s.name: s for s in plain}
    told = [beside_holdout(s, named) for s in plain if s.name.startswith("forget.") and base(s) not in BEHAVIOUR]
    return [compare(s) + (f" {s.remark}." if s.remark else "")
            + ALONE * (base(s) == "forget.keyword" and s.controls.get("retrained") is None is s.controls.get("holdout"))
            for s in told]


def _behaviour(plain: list[Score]) -> list[str]:
    """Refusing, avoiding (below chance) and not knowing (at chance) are three different things."""
    named = {base(s): s for s in plain}
    words = {"forget.keyword": "answered with the right fact", "forget.refusal": "refused"}
    told = [(beside_holdout(named[name], named), text) for name, text in words.items() if name in named]
    found = []
    if "forget.refusal" in named:
        parts = [f"{s.value:.0%} of {s.n} {'forget questions ' * (i == 0)}are {text}"
                 + "".join(f" ({who} {c:.0%})" for who, c in s.controls.items()
                           if who in ("retrained", "holdout") and c is not None)
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
            (low, high), retrained = score.interval, score.controls.get("retrained")
            # Forget rows may be easier or harder than the others for any model: the retrained one knows by how much.
            null, than = (0.5, "than rows that were never trained on") if retrained is None else (
                retrained, "to this model than to the retrained one, beside holdout rows")
            meaning = (f"the forget rows still look more familiar {than}" if low > null else
                       f"the forget rows look less familiar {than}, which also gives them away" if high < null else
                       "this attack does not tell forget rows from rows that were never trained on"
                       if retrained is None else
                       "the forget rows look as familiar to this model as to the retrained one, beside holdout rows")
            end = " (0.5 = no difference)" if retrained is None else ""
            found.append(f"{compare(score)[:-1]}: {meaning}{end}.")
        elif base(score).startswith(MEMBERSHIP):
            few = f": fewer than {MIN_ROWS} rows, forget and other rows together, tell nothing" * (score.n < MIN_ROWS)
            found.append(f"{compare(score)[:-1]}{few}.")
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
