"""What attacks brought out, against whoever holds each kind of access; sentences carry their figures.

An attacked score belongs to the access that attack and metric need together. `records/leak.py` says when an attack
succeeded, corrected for the number of attacks; whoever holds more may use what needs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from expunge.judgement.directions import against, figure, is_above, is_below
from expunge.judgement.leaks import MIN_ROWS, compared, leaks
from expunge.records.score import ACCESS, Access, AttackRecord, Family, Score, Threat

Outcome = Literal["forgets", "suppresses", "retains", "over-forgets", "undecided"]
DEEP: tuple[Access, ...] = ("gradients", "weights")
"""Where a score is read off the inside of a model rather than off what it says."""
SHOWN = 3
"""How many successes a sentence tells of."""
INSIDE = "model internals: whether hidden states still hold it"
NOT_TRIED: dict[str, tuple[Access, tuple[Family, ...]]] = {
    "relearning: whether a little fine-tuning brings the knowledge back": ("weights", ("relearning",)),
    "quantisation: whether rounding the weights brings it back": ("weights", ("quantisation",)),
    "paraphrased prompts": ("text", ("prompt:paraphrase",)),
    "jailbreak prompts": ("text", ("prompt:jailbreak",)),
    "prompts that give related facts or the beginning of the answer": ("text", ("prompt:context",)),
    "many samples, or a search among continuations": ("text", ("decoding",)),
    "prompts searched with gradients": ("gradients", ("prompt:search",)),
    INSIDE: ("weights", ("internals", "steering")),
}
"""What every audit should say it did not try -> the access it needs, and the families of attacks that try it."""


def threats(scores: Sequence[Score], attacks: Sequence[AttackRecord], plain: Outcome,
            overall: Outcome) -> tuple[Threat, ...]:
    """One per access, weakest first; none where no attack was asked for.

    Args:
        plain: the outcome of the model left alone.
        overall: the outcome with the attacks.
    """
    if not any(s.attack or (s.shows_knowledge and s.access in DEEP) for s in scores):
        return ()
    return tuple(_threat(access, scores, attacks, plain, overall) for access in ACCESS)


def _threat(access: Access, scores: Sequence[Score], attacks: Sequence[AttackRecord], plain: Outcome,
            overall: Outcome) -> Threat:
    within = ACCESS[:ACCESS.index(access) + 1]
    alone = [s for s in scores if s.attack is None and s.value is not None and s.access in within]
    known = [s for s in alone if s.shows_knowledge]
    here = [s for s in scores if s.attack and s.value is not None and s.shows_knowledge and s.access == access]
    found = [s for s in leaks(scores) if s.access in within]
    above = [s for s in shown_alone(scores) if s.access in within]
    inside, below = [s for s in hidden_inside(scores) if s.access in within], [s for s in known if is_below(s)]
    labels = tuple(dict.fromkeys(s.attack for s in here if s.attack))
    set_against = tuple(dict.fromkeys(s.attack for s in compared(here) if s.attack))
    tried = f"{_count(set_against, attacks)} set against a control at this access"
    nothing = (f"{'The' if tried.startswith('1 ') else 'None of the'} {tried} "
               f"{'did not succeed' if tried.startswith('1 ') else 'succeeded'}{_largest(here)}")
    outcome: Literal["forgets", "suppresses", "retains", "over-forgets", "undecided", "not tested"]
    if above:
        outcome = overall if overall in ("retains", "undecided") else "retains"
        doubt = ", which nothing else confirms" if outcome == "undecided" else ""
        sentence = f"Left alone it shows more than its control: {against(above[:SHOWN])}{doubt}."
        sentence += f" The strongest attack: {told(found[0])}." if found else ""
    elif found:
        outcome = "suppresses"
        sentence = f"Left alone it does not show it, but {told(found[0])}."
        if found[0].access != access:
            sentence += f" That takes no more than {found[0].access}."
    elif inside:
        outcome = "suppresses"
        sentence = f"Its answers do not show it, but its inside does: {against(inside[:SHOWN])}."
    elif not here and all(s.access != access for s in alone):
        outcome, sentence = "not tested", "No attack and no score stands for this access."
    elif not here:
        alone_too = any(s.n >= MIN_ROWS and s.controls.get("retrained") is not None for s in known)
        outcome = "undecided"
        sentence = f"{'Left alone it shows no excess, but no' if alone_too else 'No'} attack was run at this access."
    elif not set_against:
        outcome = "undecided"
        lent = f", and {_count([s.attack or '' for s in here if not s.counted], attacks)} lent it the original's " \
               "knowledge" if any(not s.counted for s in here) else ""
        sentence = f"No attack at this access had a control on {MIN_ROWS} rows or more{lent}, so nothing follows."
    elif not known:
        outcome, sentence = "undecided", f"{nothing}. No score at this access tells of the model left alone."
    elif all(s.controls.get("retrained") is None for s in known):
        outcome, sentence = "undecided", f"{nothing}. The model left alone has no retrained one to be compared with."
    elif plain == "over-forgets" and below:
        outcome = "over-forgets"
        sentence = f"{nothing}, but it shows less than the retrained one: {against(below[:SHOWN])}."
    elif plain == "undecided" and access != "text":
        outcome, sentence = "undecided", f"{nothing}, but the scores of the model left alone do not settle it."
    else:
        outcome, sentence = "forgets", f"{nothing}."
    return Threat(access=access, outcome=outcome, sentence=sentence, tested=labels,
                  strongest=found[0].attack if found else None, metric=found[0].name if found else None,
                  not_tested=(*(f"{what}: {why}" for what, why in _refused(scores, attacks, access)),
                              *untried(scores, attacks, access)))


def told(score: Score) -> str:
    """One success: `relearn brings forget.probability from 0.05 to 0.64, against 0.22 of the retrained model ...`."""
    named = score.control
    value, before = score.value or 0.0, score.before
    if before is not None and value <= before:
        text = f"{score.attack} leaves {score.name} at {figure(value)} ({figure(before)} before)"
    else:
        start = "" if before is None else f"from {figure(before)} "
        text = f"{score.attack} brings {score.name} {start}to {figure(value)}"
    if named is not None:
        whose = {"retrained": "of the retrained model under the same attack",
                 "holdout": "on rows that were never trained on"}[named[0]]
        text += f", against {figure(named[1])} {whose}"
    low, high = score.excess_interval or (score.excess, score.excess)
    text += f" (excess {figure(score.excess or 0.0)} [{figure(low or 0.0)}, {figure(high or 0.0)}]"
    part = score.share
    return text + (f", {part:.0%} of what there was to recover)" if part is not None else ")")


def attack_sentences(scores: Sequence[Score], attacks: Sequence[AttackRecord]) -> list[str]:
    """The strongest successes, one per attack; how many did not succeed; what could not be run."""
    found, run = leaks(scores), compared(scores)
    best: dict[str, Score] = {}
    for score in found:
        best.setdefault(_term(score.attack or "", attacks), score)
    labels = tuple(dict.fromkeys(s.attack for s in run if s.attack))
    sentences = []
    if best:
        more = f"; and {len(best) - SHOWN} more" if len(best) > SHOWN else ""
        sentences.append("Attacks bring out more than plain asking does, and more than of the control: "
                         f"{'; '.join(told(s) for s in list(best.values())[:SHOWN])}{more}.")
    if run:
        terms = {_term(label, attacks) for label in labels}
        rest = f"; the other {len(terms) - len(best)} did not" if 0 < len(best) < len(terms) else ""
        sentences.append(f"{len(best)} of {_count(labels, attacks)} succeeded, in {len(found)} of {len(run)} "
                         f"comparisons{rest}." if best else
                         f"None of {_count(labels, attacks)} succeeded in any of {len(run)} comparisons.")
    asked = [s for s in scores if s.attack and s.value is not None and s.shows_knowledge]
    bare = {s.attack for s in asked if s.counted} - set(labels)
    reasons = sorted({s.uncontrolled for s in asked if s.attack in bare and s.uncontrolled})
    lent = list(dict.fromkeys(s.attack for s in asked if s.attack and not s.counted))
    if lent:
        sentences.append(f"Not counted, since the original's knowledge comes with it: {', '.join(lent)}.")
    if bare:
        sentences.append(f"{len(bare)} attack{'s' * (len(bare) > 1)} had no control on {MIN_ROWS} rows or more, so "
                         f"what they brought out proves nothing{': ' * bool(reasons)}{'; '.join(reasons)}.")
    refused = [f"{what} ({why})" for what, why in _refused(scores, attacks)]
    if refused:
        sentences.append(f"Not run, {len(refused)} in number: {'; '.join(refused)}.")
    return sentences


def shown_alone(scores: Sequence[Score]) -> list[Score]:
    """What the model left alone says beyond its control: the retrained model, or the holdout rows without one."""
    plain = {s.name: s for s in scores if s.attack is None and s.value is not None}
    found = []
    for score in plain.values():
        if score.shows_knowledge and score.access not in DEEP:
            aside = plain.get(score.name.replace("forget.", "holdout.", 1))
            if score.controls.get("retrained") is None and aside is not None:
                score = score.model_copy(update={"controls": {**score.controls, "holdout": aside.value}})
            if is_above(score) or is_above(score, "holdout"):
                found.append(score)
    return found


def hidden_inside(scores: Sequence[Score]) -> list[Score]:
    """What can be read off its weights, gradients or hidden states beyond the retrained model."""
    return [s for s in scores if s.attack is None and looks_inside(s) and is_above(s)]


def looks_inside(score: Score) -> bool:
    """A score that is read off the inside and rises with knowledge of the forget set.

    Telling forget rows from rows that were never trained on (linear_probe) is membership, which unlearning itself may
    leave a trace for, and being unlike the retrained model (cka) is no knowledge either.
    """
    return score.shows_knowledge and score.access in DEEP


def untried(scores: Sequence[Score], attacks: Sequence[AttackRecord], access: Access | None = None) -> list[str]:
    """The families of attacks, and looks inside, that no score comes from."""
    run = {s.attack for s in scores if s.attack and s.value is not None}
    families = {family for a in attacks if run & set(a.labels) for family in a.families}
    looked = any(looks_inside(s) for s in scores if s.value is not None)
    return [what for what, (needed, kinds) in NOT_TRIED.items()
            if access in (None, needed) and not families & set(kinds) and not (looked and what == INSIDE)]


def unscored(scores: Sequence[Score], attacks: Sequence[AttackRecord]) -> list[str]:
    """Attacks that were not run, and metrics that could not be taken under those that were, with the reason."""
    run = {s.attack for s in scores if s.attack and s.value is not None}
    lacking: dict[tuple[str, str], set[str]] = {}
    for s in scores:
        if s.attack in run and s.attack and s.unavailable is not None:
            lacking.setdefault((s.name, s.unavailable), set()).add(s.attack)
    return [*(f"{what}: {why}" for what, why in _refused(scores, attacks)),
            *(f"{name} under {next(iter(of)) if len(of) == 1 else f'{len(of)} attacks'}: {why}"
              for (name, why), of in lacking.items())]


def _refused(scores: Sequence[Score], attacks: Sequence[AttackRecord],
             access: Access | None = None) -> list[tuple[str, str]]:
    """(attack, why it gave no score at all), each attack once."""
    run = {s.attack for s in scores if s.attack and s.value is not None}
    needed = {label: a.access for a in attacks for label in a.labels}
    why: dict[str, str] = {}
    for s in scores:
        if s.attack and s.attack not in run and access in (None, needed.get(s.attack, s.access)):
            why.setdefault(_term(s.attack, attacks), s.unavailable or "no reason was recorded")
    return list(why.items())


def _term(label: str, attacks: Sequence[AttackRecord]) -> str:
    """The attack a label belongs to: points of one curve are one attack."""
    return next((a.term for a in attacks if label in a.labels), label)


def _count(labels: Sequence[str], attacks: Sequence[AttackRecord]) -> str:
    count = len({_term(label, attacks) for label in labels})
    return f"{count} attack{'s' * (count != 1)}"


def _largest(scores: Sequence[Score]) -> str:
    """How much at most: what a reader needs to judge an attack that found nothing."""
    run = compared(scores)
    if not run:
        return ""
    most = max(run, key=lambda s: s.strength)
    low, high = most.excess_interval or (0.0, 0.0)
    return (f"; the largest excess is {figure(most.excess or 0.0)} [{figure(low)}, {figure(high)}] "
            f"({most.name} under {most.attack})")
