"""Run folders on a benchmark: their scores are computed again, compared with what they say, and set in one table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from expunge.audit.store import source_of
from expunge.auditing import score_again
from expunge.benchmarks.loading import load_task, parse_task
from expunge.console import Reporter
from expunge.data.duplicates import row_key
from expunge.errors import DataError, UsageError
from expunge.models.pairs import UNSEEN
from expunge.records.bench import Bench, BenchCell, BenchRow, BenchTable
from expunge.records.grid import Grid, cells_of
from expunge.records.score import Audit, Score
from expunge.records.task import Task
from expunge.report.bench import made
from expunge.report.comparison import cautions, lacking
from expunge.report.gather import RunView, gather, group

TOLERANCE = 1e-9
"""Relative difference up to which two scores are the same."""


def table_of(task: Task, folders: Sequence[Path], *, data_dir: Path | None, reporter: Reporter) -> BenchTable:
    """The table of run folders, each scored again.

    Raises:
        DataError: stored scores are not those of the observations, or the rows are others.
    """
    tried: dict[str, int] = {}
    runs: list[Path] = []
    for folder in folders:
        if (folder / Bench.FILE).is_file():
            tried |= _trials(folder)
            folder = folder / "runs"
        runs += cells_of(folder)
    views = gather(runs)
    tick = reporter.task("runs scored again", len(views))
    sound = []
    for view in views:
        sound.append(_scored_again(view, task))
        tick(1, view.name)
    reporter.close()
    places = {ref.path for v in sound if v.audit for ref in v.audit.retrained}
    pairs = dict.fromkeys(name for place in sorted(places) if (name := Path(place).parent.name) in UNSEEN)
    said = [note for name in pairs if (note := unseen_note(name, task, data_dir))]
    missing = [f / "runs" if (f / Bench.FILE).is_file() else f for f in folders]
    return made(task.name, group(sound), published=published_rows(task.name), trials=tried,
                cautions=[*said, *lacking(missing), *_failed(folders), *cautions(sound)])


def _trials(folder: Path) -> dict[str, int]:
    """Recipe -> how many trials a benchmark says that it was chosen from; 0 where its folder holds none of them."""
    plan, grid = Bench.read(folder), folder / "trials"
    cells = Grid.read(grid).cells if (grid / Grid.FILE).is_file() else ()
    there = {cell.method for cell in cells if (grid / cell.folder / Audit.FILE).is_file() or cell.status == "failed"}
    return {c.recipe: c.tried if c.tried == 1 or c.recipe in there else 0 for c in plan.chosen}


def _failed(folders: Iterable[Path]) -> list[str]:
    """Methods of benchmarks of which no trial came to an end."""
    plans = [Bench.read(f) for f in folders if (f / Bench.FILE).is_file()]
    return [f"{c.method} has no row: {c.failed}" for plan in plans for c in plan.chosen if c.failed]


def _scored_again(view: RunView, task: Task) -> RunView:
    """The same view with the scores of its observations.

    Raises:
        DataError: it is no audited run on these rows, or what it says of itself is not what its observations say.
    """
    folder, stored = view.folder, view.audit
    if folder is None or stored is None or view.record is None:
        raise DataError(f"{view.name} is not a run with its audit.", "A table is made from runs and their audits.",
                        "Give run folders that were audited: expunge audit RUN.")
    if stored.task_fingerprint != task.fingerprint:
        raise DataError(f"{view.name} was audited on other rows than those of {task.name}.",
                        f"Its task is {stored.task}; the fingerprints of the rows differ.",
                        "Leave it out, or audit it on this task.")
    if stored.original and stored.original.fingerprint != view.record.model_fingerprint:
        raise DataError(f"The run of {view.name} did not start from the original of its audit.",
                        f"It started from weights {view.record.model_fingerprint}; the audit's original is "
                        f"{stored.original.fingerprint}.",
                        "Audit the run against the model that it started from: expunge audit RUN --overwrite.")
    if strangers := _not_of_their_models(stored, folder / "observations"):
        raise DataError(f"The observations in {view.name} are not those of the model that its audit names: "
                        f"{', '.join(strangers)}.", "Their fingerprints differ.",
                        "Audit the run again: expunge audit RUN --overwrite.")
    again = score_again(folder)
    if differs := _differing(stored, again):
        more = f" So do {len(differs) - 1} more." if len(differs) > 1 else ""
        raise DataError(f"The scores in {view.name} are not those of its observations.", f"{differs[0]}{more}",
                        "They were edited, or another version of expunge made them. Audit the run again, or leave it "
                        "out.")
    return replace(view, audit=again)


def _not_of_their_models(stored: Audit, observations: Path) -> list[str]:
    """Which of subject, original and retrained models have rows of another model: excess and leaks rest on all."""
    source = source_of(observations / "subject")
    found = ["subject"] * ((source.get("subject"), source.get("task")) != (stored.subject.fingerprint,
                                                                            stored.task_fingerprint))
    beside = {"original": stored.original} if stored.original else {}
    beside |= {"retrained" if i == 0 else f"retrained{i + 1}": ref for i, ref in enumerate(stored.retrained)}
    return found + [role for role, ref in beside.items() if any((observations / role).glob("*.jsonl"))
                    and source_of(observations / role).get("subject") != ref.fingerprint]


def _differing(stored: Audit, again: Audit) -> list[str]:
    """A sentence for each score whose value, interval or excess is another, and for the verdict."""
    fresh = {(s.name, s.attack): s for s in again.scores}
    known = {(s.name, s.attack): s for s in stored.scores}
    said = [f"{name}{f'@{attack}' if attack else ''} is stored as {_told(before)}; its observations give {_told(now)}."
            for name, attack in dict.fromkeys((*known, *fresh))
            if not _alike(before := known.get((name, attack)), now := fresh.get((name, attack)))]
    outcomes = [a.verdict.outcome if a.verdict else "none" for a in (stored, again)]
    return said + [f"The verdict is stored as {outcomes[0]} and its observations give {outcomes[1]}."] * (
        outcomes[0] != outcomes[1])


def _told(score: Score | None) -> str:
    if score is None:
        return "nothing"
    return f"{score.value}" + (f" with excess {score.excess}" if score.excess is not None else "")


def _alike(before: Score | None, now: Score | None) -> bool:
    def numbers(score: Score) -> list[float | None]:
        return [score.value, score.excess, *(score.interval or ()), *(score.excess_interval or ()),
                *(score.controls[name] for name in sorted(score.controls))]

    def same(one: float | None, other: float | None) -> bool:
        if one is None or other is None or math.isnan(one):
            return str(one) == str(other)
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=0.0)

    if before is None or now is None or before.succeeded != now.succeeded:
        return False
    one, other = numbers(before), numbers(now)
    return len(one) == len(other) and all(map(same, one, other))


def published_rows(name: str) -> list[BenchRow]:
    """What the card of a task gives of others, a row for each model, method and source."""
    plugin, _ = parse_task(name)
    base, rows = name.partition("(")[0], dict[tuple[str, str, str], dict[str, BenchCell]]()
    for one in plugin.card.published:
        if one.task == base:
            rows.setdefault((one.subject, one.model, one.source), {})[one.score] = BenchCell(value=one.value)
    return [BenchRow(kind="published", title=subject, about=f"{model}; {source}", scores=scores)
            for (subject, model, source), scores in rows.items()]


def unseen_note(name: str, task: Task, data_dir: Path | None) -> str:
    """What the retrained models of a pair have not seen, where that is more than the forget rows of the task.

    Raises:
        UsageError: they were trained on forget rows, so they are no control.
    """
    base = UNSEEN[name]
    other = load_task(base, data_dir=data_dir)
    unseen = {row_key(row) for row in other.forget}
    known = sum(row_key(row) not in unseen for row in task.forget)
    if known:
        raise UsageError(f"The retrained models of {name} were trained on {known} of the {len(task.forget)} forget "
                         f"rows of {task.name}.", f"They were trained without {base} alone: here they are no control.",
                         f"Take a part of {base}, or other models.")
    more = sum(row_key(row) in unseen for row in task.retain)
    if not more:
        return ""
    return (f"The retrained models of {name} were trained without all {len(unseen)} rows of {base}. The "
            f"{len(task.forget)} forget rows of {task.name} are among them, so they are a control for what is "
            f"forgotten. {more} retain rows of this task are among them too: methods may train on these, and the "
            f"control never saw them. It is not the model that training without {task.name} alone would give.")

