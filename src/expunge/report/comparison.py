"""Runs, audits and grids set against each other, group by group. Needs no torch and loads no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from expunge.errors import DataError, MissingError, UsageError, did_you_mean
from expunge.records.comparison import ComparedGroup, ComparedScore, Comparison, Difference, GroupValue
from expunge.records.examples import has_examples, read_examples
from expunge.records.grid import unfinished
from expunge.records.score import Score
from expunge.report.gather import Group, RunView, finite, gather, group
from expunge.report.noise import TEST, Measured, compared, merit, reflected, with_adjusted
from expunge.report.text import group_of

HEADLINES = ("forget_quality", "forget.probability", "forget.rouge_l", "privleak", "model_utility",
             "retain.probability")
"""What is compared when no scores are named, in this order, as far as the audits have it; all scores where they are no
more than these."""
Key = tuple[str, str | None]
"""Name of a score, and the attack under which it was taken."""


def compare(folders: str | Path | Sequence[str | Path], *, scores: str | Sequence[str] | None = None) -> Comparison:
    """Means and deviations over seeds, and which differences between groups of runs are beyond noise.

    Args:
        folders: folders of runs, audits or grids; a grid stands for its finished cells. Runs that differ in nothing
            but their seed are one group.
        scores: names such as forget.probability, under an attack forget.probability@ATTACK; "all" for every score
            without attack, "attacks" for every score under one. When left out, all scores without attack where there
            are few, else the headline scores; `left_out` names the others.

    Raises:
        MissingError: a folder is no run, audit or grid, or nothing was audited.
        UsageError: an unknown score.
        DataError: one seed stands twice in a group.
    """
    named = [Path(f) for f in ([folders] if isinstance(folders, str | Path) else folders)]
    views = gather(named)
    audited = [v for v in views if v.audit is not None]
    if not audited:
        raise MissingError("None of these runs has been audited, so there is nothing to compare.",
                           fix="Audit them first: expunge audit RUN")
    return comparison(group(audited), scores=scores, cautions=[*lacking(named), *cautions(views)])


def comparison(groups: Sequence[Group], *, scores: str | Sequence[str] | None = None,
               cautions: Sequence[str] = ()) -> Comparison:
    """The same of runs that are read already."""
    for one in groups:
        _check_seeds(one)
    known = _known(groups)
    read = {view.name: _rows(view) for g in groups for view in g.views}
    missing = {name: why for name, why in _unavailable(groups).items() if (name, None) not in known}
    chosen = _chosen(scores, known, missing)
    others = [key for key in known if key not in chosen]
    return Comparison(
        left_out=tuple(name for name, attack in others if attack is None),
        left_out_under_attack=sum(attack is not None for _, attack in others), unavailable=missing,
        groups=tuple(_described(g) for g in groups), test=TEST, cautions=tuple(cautions),
        scores=tuple(_compared(key, groups, read) for key in chosen))


def _check_seeds(one: Group) -> None:
    seeds = [v.seed for v in one.views if v.seed is not None]
    if twice := [s for s, count in Counter(seeds).items() if count > 1]:
        names = ", ".join(v.name for v in one.views if v.seed == twice[0])
        raise DataError(f"Seed {twice[0]} of {one.title!r} is given twice: {names}.", "It would weigh twice.",
                        "Leave one of these folders out.")


def _known(groups: Sequence[Group]) -> dict[Key, Score]:
    """Scores with a value in any of the audits, the first of each."""
    found: dict[Key, Score] = {}
    for view in (v for g in groups for v in g.views):
        for score in view.audit.scores if view.audit else ():
            if finite([score.value]):
                found.setdefault((score.name, score.attack), score)
    return found


def _unavailable(groups: Sequence[Group]) -> dict[str, str]:
    """Scores that an audit was asked for and could not take -> why."""
    return {score.name: score.unavailable for g in groups for v in g.views if v.audit for score in v.audit.scores
            if score.unavailable and score.attack is None}


def _chosen(asked: str | Sequence[str] | None, known: Mapping[Key, Score],
            unavailable: Mapping[str, str]) -> list[Key]:
    alone = [key for key in known if key[1] is None]
    if asked is None or not asked:
        first: list[Key] = [(name, None) for name in HEADLINES if (name, None) in known]
        return first if first and len(alone) > len(HEADLINES) else [*first, *(k for k in alone if k not in first)]
    names = _split(asked) if isinstance(asked, str) else list(asked)
    spelled = {name if attack is None else f"{name}@{attack}": (name, attack) for name, attack in known}
    found: dict[Key, None] = {}
    for name in names:
        if name in unavailable:
            raise UsageError(f"None of these audits has a value of {name}.", f"Not available: {unavailable[name]}",
                             "Leave it out, or audit again with what it needs.")
        if name not in (*spelled, "all", "attacks"):
            raise UsageError(f"These audits have no score called {name!r}.",
                             did_you_mean(name, [n for n in spelled if "@" in n] if "@" in name else
                                          [*(n for n, _ in alone), "all", "attacks"]))
        chosen = alone if name == "all" else [k for k in known if k[1] is not None] if name == "attacks" else [
            spelled[name]]
        found |= dict.fromkeys(chosen)
    return list(found)


def _split(text: str) -> list[str]:
    from expunge.terms import split_at_commas

    return split_at_commas(text)


def _described(one: Group) -> ComparedGroup:
    times = finite(v.record.timing.get("train_s") for v in one.views if v.record)
    return ComparedGroup(
        letter=one.letter, title=one.title, recipe=one.views[0].recipe, folders=tuple(v.name for v in one.views),
        seeds=tuple(v.seed for v in one.views), train_s=fmean(times) if times else None,
        verdicts=dict(Counter(v.audit.verdict.outcome for v in one.views if v.audit and v.audit.verdict)))


def _rows(view: RunView) -> dict[Key, tuple[dict[str, float], dict[str, str]]]:
    """Values and entities of the subject's rows by score; empty for audits of earlier versions."""
    found: dict[Key, tuple[dict[str, float], dict[str, str]]] = {}
    if view.folder is None or not has_examples(view.folder):
        return found
    for row in read_examples(view.folder):
        if row["model"] == "subject":
            values, entities = found.setdefault((row["score"], row["attack"] or None), ({}, {}))
            values[row["id"]], entities[row["id"]] = row["value"], row["entity"]
    return found


def _compared(key: Key, groups: Sequence[Group], read: Mapping[str, Mapping[Key, Any]]) -> ComparedScore:
    scores = {g.letter: {i if v.seed is None else v.seed: (s, v) for i, v in enumerate(g.views)
                         if v.audit and (s := v.audit.score(*key)) and finite([s.value])} for g in groups}
    members = {letter: {seed: Measured(float(s.value or 0.0), *read[v.name].get(key, ({}, {})))
                        for seed, (s, v) in runs.items()} for letter, runs in scores.items() if runs}
    first = next(s for runs in scores.values() for s, _ in runs.values())
    original, retrained = (_mean(s.controls.get(role) for runs in scores.values() for s, _ in runs.values())
                           for role in ("original", "retrained"))
    aim, target = _aim(first, retrained)
    values = {letter: _value([m.value for m in runs.values()]) for letter, runs in members.items()}
    pairs = with_adjusted([compared(a, b, members[a], members[b]) for a, b in combinations(members, 2)])
    best, level = _best(aim, target, members, pairs)
    return ComparedScore(name=key[0], attack=key[1], aim=aim, target=target, original=original, retrained=retrained,
                         values=values, best=best, level_with_best=level, differences=tuple(pairs))


def _value(values: Sequence[float]) -> GroupValue:
    return GroupValue(mean=fmean(values), deviation=stdev(values) if len(values) > 1 else None, values=tuple(values))


def _mean(values: Iterable[float | None]) -> float | None:
    known = finite(values)
    return fmean(known) if known else None


def _aim(score: Score, retrained: float | None) -> tuple[Any, float | None]:
    """Of what should stay, the most; of the forget set, what is nearest to a model that never saw it."""
    if score.attack is None and group_of(score) == "utility":
        return ("higher", None) if score.higher_is == "knows" else (None, None)
    target = retrained if score.ideal == "reference" or score.attack else score.ideal
    return (None, None) if target is None else ("nearest", float(target))


def _best(aim: Any, target: float | None, members: Mapping[str, Mapping[int, Measured]],
          pairs: Sequence[Difference]) -> tuple[str | None, tuple[str, ...]]:
    """The group with the best mean over the seeds that all groups have, and those that are not told from it.

    Another group is told from the best where their difference is beyond noise, and so is that of their distances to
    the target: on its two sides groups may differ and be equally far from it.
    """
    common = set.intersection(*map(set, members.values())) if members else set()
    if aim is None or not common:
        return None, ()
    far = {letter: reflected({s: runs[s] for s in common}, target) for letter, runs in members.items()}
    best = min(far, key=lambda letter: fmean(m.value for m in far[letter].values()))
    distances = with_adjusted([merit(d.first, d.second, members[d.first], members[d.second], target) for d in pairs])
    told = set()
    for values, distance in zip(pairs, distances, strict=True):
        nearer = distance.first if (distance.difference or 0) < 0 else distance.second
        if values.beyond_noise and distance.beyond_noise and nearer == best:
            told |= {values.first, values.second}
    return best, tuple(letter for letter in members if letter != best and letter not in told)


def lacking(folders: Sequence[Path]) -> list[str]:
    """What grids among the folders have no scores of."""
    return [said for folder in folders if (said := unfinished(folder))]


def cautions(views: Sequence[RunView]) -> list[str]:
    """Differences between the runs that make their numbers hard to compare."""
    found = []
    for label, values in (
        ("tasks", {v.task for v in views}), ("starting models", {v.model for v in views if v.record}),
    ):
        if len(values) > 1:
            found.append(f"The runs have different {label}: {', '.join(sorted(values))}.")
    starts = {v.record.model_fingerprint for v in views if v.record}
    if len(starts) > 1 and len({v.model for v in views if v.record}) == 1:
        found.append("The runs start from models of one name with different weights (their fingerprints differ).")
    audits = [v.audit for v in views if v.audit]
    if len({a.task_fingerprint for a in audits}) > 1:
        found.append("The audits asked different rows (their task fingerprints differ).")
    if len({tuple(r.fingerprint for r in a.retrained) for a in audits}) > 1:
        found.append("The audits did not use the same retrained models.")
    bare = [v.name for v in views if not v.audit]
    if bare:
        found.append(f"Not audited, so without scores: {', '.join(bare)}.")
    return found
