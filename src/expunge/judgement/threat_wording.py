"""The words of what attacks brought out; sentences carry their figures. What they say is decided in `threats.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from expunge.judgement.directions import against, compare, figure
from expunge.judgement.entities import known_entity, worded_entity, worded_suspect
from expunge.judgement.leaks import (
    DOUBTS,
    MIN_ROWS,
    alarms,
    compared,
    doubt,
    entities_for,
    leaks,
    lowering,
    too_few,
    tried,
    untold,
)
from expunge.judgement.threats import ThreatDecision, by_reason, folded, refused, term_of, untried
from expunge.judgement.utility import reference
from expunge.metrics.by_entity import ENOUGH
from expunge.needs import MODEL_NEEDS, ModelNeed
from expunge.records.score import AttackRecord, Score, Threat

SHOWN = 3
"""How many successes a sentence tells of."""


def worded_threat(found: ThreatDecision, scores: Sequence[Score], attacks: Sequence[AttackRecord],
                  offered: Iterable[ModelNeed] = MODEL_NEEDS) -> Threat:
    """The record of one decision, with its sentence."""
    best = found.found[0] if found.found else None
    few = few_rows([*found.attacked, *(s for s in scores if s.attack is None)], attacks)
    sentence = " ".join([_sentence(found, attacks, scores), *few])
    return Threat(access=found.access, outcome=found.outcome, sentence=sentence,
                  tested=found.tested, strongest=best.attack if best else None, metric=best.name if best else None,
                  not_tested=(*folded(refused(scores, attacks, found.access)),
                              *untried(scores, attacks, found.access, offered)))


def _sentence(found: ThreatDecision, attacks: Sequence[AttackRecord], scores: Sequence[Score]) -> str:
    tried = f"{_count(found.set_against, attacks)} set against a control at this access"
    one = tried.startswith("1 ")
    nothing = (f"{'The' if one else 'None of the'} {tried} {'did not succeed' if one else 'succeeded'}"
               f"{_largest(found.attacked)}")
    match found.reason:
        case "alone":
            unsure = ", which nothing else confirms" if found.outcome == "undecided" else ""
            strongest = f" The strongest attack: {told(found.found[0])}." if found.found else ""
            return f"Left alone it shows more than its control: {against(found.evidence[:SHOWN])}{unsure}.{strongest}"
        case "attack":
            best = found.found[0]
            less = f" That takes no more than {best.access}." if best.access != found.access else ""
            return f"Left alone it does not show it, but {told(best)}.{less}"
        case "inside":
            return f"Its answers do not show it, but its inside does: {against(found.evidence[:SHOWN])}."
        case "entity":
            return f"Left alone it does not show it. {worded_entity(found.evidence[0])}"
        case "alarm":
            return f"No attack succeeded, but one raises an alarm: {alarm(found.evidence[0])}."
        case "suspect":
            return f"No attack succeeded, but one raises an alarm. {worded_suspect(found.evidence[0], scores)}"
        case "untold":
            return (f"{nothing}, but {_named(untold(found.attacked))} could not have counted even if everything had "
                    "been recovered: there are too few entities.")
        case "nothing asked":
            return "No attack and no score stands for this access."
        case "no attack":
            alone = found.plain_excess_tested
            return f"{'Left alone it shows no excess, but no' if alone else 'No'} attack was run at this access."
        case "no control":
            informed = [s.attack or "" for s in found.attacked if not s.counted]
            also = f", and {_count(informed, attacks)} used the original's knowledge" if informed else ""
            return f"No attack at this access had a control on {MIN_ROWS} rows or more{also}, so nothing follows."
        case "lowered":
            lowered = [s.attack or "" for s in lowering(found.attacked)]
            return (f"The only attack{'s' * (len(set(lowered)) > 1)} at this access, {_named(lowered)}, makes even a "
                    "model that knows say less, which is no attempt.")
        case "no plain score":
            return f"{nothing}. No score at this access tells of the model left alone."
        case "no retrained model":
            return f"{nothing}. The model left alone has no retrained one to be compared with."
        case "ruined":
            return f"{nothing}, but it lost what it should keep: {lost(found.evidence)}."
        case "below":
            return f"{nothing}, but it shows less than the retrained one: {against(found.evidence[:SHOWN])}."
        case "few rows":
            return (f"{nothing}, but {found.rows} rows are too few: a model that still knows half of them would not be "
                    "noticed.")
        case "disagrees":
            return (f"{nothing}, but the evidence disagrees: the truth ratios look retrained, yet more is known than "
                    f"by the retrained model: {against(found.evidence[:SHOWN])}.")
        case "not primary":
            return f"{nothing}, but none was declared beforehand, so that it finds nothing does not count."
        case "share":
            share = found.evidence[0]
            return (f"{nothing}, but averages of answers can hide what probabilities show. "
                    f"{worded_entity(share) if known_entity([share]) else compare(share)}")
        case "unsettled":
            return f"{nothing}, but the scores of the model left alone do not settle it."
        case "nothing found":
            return f"{nothing}."


def lost(scores: Iterable[Score]) -> str:
    """What a model should keep and lost: `retain.probability (0.06, the original 0.93)`."""
    return ", ".join(f"{s.name} ({figure(s.value or 0.0)}, "
                     f"{'the original' if s.controls.get('original') is not None else 'the retrained model'} "
                     f"{figure(reference(s) or 0.0)})" for s in scores)


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


def alarm(score: Score) -> str:
    """One alarm: what came out, and why it does not count."""
    why = DOUBTS[score.doubt or doubt(score) or "chance"]
    return f"{told(score)}, which does not count, since {why}"


def limited(plain: Sequence[Score]) -> list[str]:
    """What a verdict on too few entities is about."""
    few = [s for s in plain if s.attack is None and s.shows_knowledge and 0 < s.entities < ENOUGH and s.n > s.entities]
    if not few:
        return []
    count, rows = min(s.entities for s in few), max(s.n for s in few)
    return [f"The {rows} forget rows are about {count} entit{'y' if count == 1 else 'ies'}, fewer than the {ENOUGH} "
            "that a test by entity takes. So rows are tested, and what is said holds for these rows only."]


def attack_sentences(scores: Sequence[Score], attacks: Sequence[AttackRecord]) -> list[str]:
    """The strongest successes, one per attack; how many did not succeed; what could not be run."""
    found, run = leaks(scores), compared(scores)
    best: dict[str, Score] = {}
    for score in found:
        best.setdefault(term_of(score.attack or "", attacks), score)
    labels = tuple(dict.fromkeys(s.attack for s in run if s.attack))
    sentences = []
    if best:
        more = f"; and {len(best) - SHOWN} more" if len(best) > SHOWN else ""
        sentences.append("Attacks bring out more than plain asking does, and more than of the control: "
                         f"{'; '.join(told(s) for s in list(best.values())[:SHOWN])}{more}.")
    if run:
        terms = {term_of(label, attacks) for label in labels}
        rest = f"; the other {len(terms) - len(best)} did not" if 0 < len(best) < len(terms) else ""
        sentences.append(f"{len(best)} of {_count(labels, attacks)} succeeded, in {len(found)} of {len(run)} "
                         f"comparisons{rest}." if best else
                         f"None of {_count(labels, attacks)} succeeded in any of {len(run)} comparisons.")
    if raised := [s for s in alarms(scores) if s.doubt != "few entities"][:1]:  # that is told below
        sentences.append(f"{'Another raises' if best else 'One raises'} an alarm: {alarm(raised[0])}.")
    by_rows = [s for s in run if s.test is not None and s.test.unit == "rows"]
    if by_rows and not limited(scores):
        count = min(s.entities for s in by_rows)
        beside = " beside attacks that ask about more" * (count >= ENOUGH)
        sentences.append(f"Tested by rows, since {count} entit{'y is' if count == 1 else 'ies are'} too few for a test "
                         f"by entity{beside}, so that what is said holds for these rows only: "
                         f"{_named([s.attack or '' for s in by_rows])}.")
    asked = [s for s in scores if s.attack and s.value is not None and s.shows_knowledge]
    bare = {s.attack for s in asked if s.counted} - set(labels) - {s.attack for s in (*lowering(scores),
                                                                                       *too_few(scores))}
    unsure = bare & {s.attack for s in asked if s.excess is not None and s.excess_interval is None}
    bare -= unsure
    reasons = sorted({s.uncontrolled for s in asked if s.attack in bare and s.uncontrolled})
    informed = list(dict.fromkeys(s.attack for s in asked if s.attack and not s.counted))
    if lowered := [s.attack or "" for s in lowering(scores) if s.attack not in labels]:
        sentences.append(f"No attempt, since even a model that knows says less under it: {_named(lowered)}.")
    if informed:
        sentences.append(f"Not counted, since they use the original's knowledge: {', '.join(informed)}.")
    if unsure:
        sentences.append(f"{len(unsure)} attack{'s have' if len(unsure) > 1 else ' has'} no interval, so what they "
                         "brought out proves nothing: ask for intervals with --resamples 1000.")
    if bare:
        sentences.append(f"{len(bare)} attack{'s' * (len(bare) > 1)} had no control on {MIN_ROWS} rows or more, so "
                         f"what they brought out proves nothing{': ' * bool(reasons)}{'; '.join(reasons)}.")
    sentences += [*asked_otherwise(attacks), *uncounted(scores, attacks)]
    not_run = refused(scores, attacks)
    if not_run:
        why = (f"{', '.join(of)} ({why})" for why, of in by_reason(not_run).items())
        sentences.append(f"Not run, {len(not_run)} in number: {'; '.join(why)}.")
    return sentences


def asked_otherwise(attacks: Sequence[AttackRecord]) -> list[str]:
    """How many rows were asked in made wordings, or in no other wording than their own."""
    found = []
    for attack in attacks:
        given, made, left = (attack.asked_as.get(way, 0) for way in ("given", "made", "left out"))
        if made or left:
            said = [f"{made} row{'s' * (made != 1)} in wordings that were made"] * bool(made)
            said += [f"{given} in wordings that were given"] * bool(given)
            rest = f"; {left} had no other wording and {'was' if left == 1 else 'were'} left out" * bool(left)
            found.append(f"{attack.term} asked {' and '.join(said) or 'no row'}{rest}.")
    return found


def uncounted(scores: Sequence[Score], attacks: Sequence[AttackRecord]) -> list[str]:
    """Attacks that only more rows or more entities would make count, and how many."""
    return [*few_rows(scores, attacks), *few_entities(scores)]


def few_rows(scores: Sequence[Score], attacks: Sequence[AttackRecord]) -> list[str]:
    """Attacks that do not count since too few rows were left to test them on, and how many forget rows they need."""
    counted = {term_of(s.attack or "", attacks) for s in compared(scores)}
    left = {term_of(s.attack or "", attacks): s.n for s in too_few(scores)}
    found = {term: n for term, n in left.items() if term not in counted}
    if not found:
        return []
    rows = max((s.n for s in scores if s.attack is None and s.shows_knowledge and s.value is not None), default=0)
    halved = any(a.splits_entities and a.term in found for a in attacks)
    named = ", ".join(f"{term} ({n} of {rows} rows{', as it learns from the others' * (n < rows and halved)})"
                      if rows else f"{term} ({n} rows)" for term, n in found.items())
    enough = max(-(-MIN_ROWS * max(rows, n) // max(n, 1)) for n in found.values())
    return [f"Not counted, since fewer than {MIN_ROWS} rows were left to test on: {named}. {enough} forget rows would "
            "do."]


def few_entities(scores: Sequence[Score]) -> list[str]:
    """The strongest attack that does not count in any score for the number of entities alone, and how many it needs."""
    won = {s.attack for s in leaks(scores)}
    found = [s for s in compared(scores) if s.attack not in won
             and (s.doubt or doubt(s, tried(scores))) == "few entities"]
    if not found:
        return []
    most = max(found, key=lambda s: s.strength)
    enough = entities_for(most, tried(scores))
    more = f" With {enough} that differ as little, it would count." if enough else ""
    return [f"Not counted, since it rests on {most.entities} entities: {told(most)}.{more}"]


def outcome_of(scores: Sequence[Score], attacks: Sequence[AttackRecord]) -> str:
    """How many attacks succeeded and which brought out most, or why the nearest one does not count; for one line."""
    run = sorted(compared(scores), key=lambda s: (s.succeeded, s.strength), reverse=True)
    if not run:
        asked, lowered = any(s.attack for s in scores), [s.attack or "" for s in lowering(scores)]
        if lowered:
            return f"Attacks: no attempt, since even a model that knows says less under it: {_named(lowered)}."
        if asked and all(s.value is None for s in scores if s.attack):
            reasons = by_reason(refused(scores, attacks))
            if not reasons:  # of a kind of model that no attack fits
                return "Attacks: none was run."
            counts = sorted(((len(names), why) for why, names in reasons.items()), key=lambda part: -part[0])
            count = sum(n for n, _ in counts)
            if len(counts) == 1:
                return f"Attacks: none of {count} was run since {counts[0][1]}."
            said = [f"{n} since {why}" for n, why in counts[:2]]
            said += [f"{rest} for other reasons (--verbose)"] if (rest := sum(n for n, _ in counts[2:])) else []
            return f"Attacks: none of {count} was run: {'; '.join(said)}."
        return f"Attacks: {f'none had a control on {MIN_ROWS} rows or more' if asked else 'none was run'}."
    terms = {term_of(s.attack or "", attacks): s.succeeded for s in reversed(run)}
    best, won = run[0], sum(terms.values())
    if won:
        return f"Attacks: {won} of {len(terms)} succeeded. Strongest ({best.access}): {told(best)}."
    low, high = best.excess_interval or (0.0, 0.0)
    why = DOUBTS[best.doubt or doubt(best, len(terms)) or "chance"]
    return (f"Attacks: none of {len(terms)} succeeded. The largest excess is {figure(best.excess or 0.0)} "
            f"[{figure(low)}, {figure(high)}] ({best.name} under {best.attack}); it does not count, since {why}.")


def _named(labels: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(labels))


def _count(labels: Sequence[str], attacks: Sequence[AttackRecord]) -> str:
    count = len({term_of(label, attacks) for label in labels})
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
