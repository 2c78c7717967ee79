"""`expunge purge`: the rows of a run, what models said about them, and the cached copies of both are removed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from expunge.benchmarks.loading import remembered
from expunge.errors import DataError, MissingError, UsageError
from expunge.records.base import cache_root, read_json, read_jsonl
from expunge.records.purged import Purged
from expunge.records.run import RunFolder, RunRecord
from expunge.records.task import Task

ROWS = ("task.json", "observations", "examples.parquet", "examples.csv", "checkpoint", "made.json")
"""What holds rows, or answers to them, wherever it stands in the folder."""
HELD = {
    "model": "weights; what they still know is for an audit to say", "merged": "a copy of the weights in one piece",
    "base": "weights before unlearning: they know the rows", "stages": "weights between the stages",
    "record.json": "recipe, settings, fingerprints of the rows, times", "audit.json": "scores and verdict",
    "eval.json": "scores of standard benchmarks",
    "steps.jsonl": "losses of every step", "purged.json": "that it was purged"}
"""Name in a run folder -> what it holds, of what stays."""


def purge(run: str | Path, *, dry_run: bool = False) -> Purged:
    """Remove the rows of a run or an audit from its folder and from the cache, and write down that it was done.

    Removed are task.json, observations, values of single examples (they name entities), checkpoints and pages, also
    of audits and merged weights inside the folder; and
    every file of the observation cache with one of its rows. Weights, record, scores and losses stay.

    Args:
        dry_run: say what would go, and change nothing.

    Returns:
        What was removed and what is left; also in RUN/purged.json.

    Raises:
        MissingError: no run and no audit is there.
        UsageError: the run did not end, and needs its rows to go on.
    """
    root = Path(run)
    files = RunFolder(root)
    if not (files.record.is_file() or files.audit.is_file()):
        raise MissingError(f"{root} is neither a run nor an audit.", "It holds no record.json and no audit.json.",
                           "Name the folder that --out named.")
    if files.record.is_file() and (how := RunRecord.read(files.record).unfinished):
        raise UsageError(f"The run in {root} is unfinished: {how}.", "It needs its rows to go on.",
                         "Go on with --resume first, or remove the whole folder.")
    going = list(_going(root))
    cached = sorted({*_cached_by_key(root), *_cached_by_rows(root)})
    size = sum(_size(path) for path in (*going, *cached))
    shown = list(_showing_a_row(root))
    kept = [path.name for path in sorted(root.iterdir()) if path not in going]
    earlier = Purged.read(files.purged).removed if files.purged.exists() else ()
    made = Purged(removed=tuple(dict.fromkeys((*earlier, *(str(p.relative_to(root)) for p in going),
                                               *(f"{p.relative_to(root)}: its first row" for p in shown)))),
                  cached=len(cached), removed_bytes=size,
                  kept=tuple(f"{name}: {HELD[name]}" if name in HELD else f"{name}: not made by a run, look at it"
                             for name in kept if name != files.purged.name))
    if dry_run:
        return made
    made.write(files.purged)  # before anything goes: a kill in the middle must not leave a folder that looks whole
    for path in (*going, *cached):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for place in shown:
        record = RunRecord.read(place)
        assert record.prompt is not None
        record.model_copy(update={"prompt": record.prompt.without_row}).write(place)
    return made


def _showing_a_row(root: Path) -> Iterator[Path]:
    """Records that show the first row as the model read it."""
    for place in sorted(root.rglob("record.json")):
        prompt = RunRecord.read(place).prompt
        if prompt is not None and prompt.first_row:
            yield place


def _going(root: Path) -> Iterator[Path]:
    """Files and folders with rows, outermost ones only; never inside the folders of weights."""
    for path in sorted(root.iterdir()):
        if path.name in ROWS or path.suffix == ".html":
            yield path
        elif path.is_dir() and path.name not in ("model", "base"):
            yield from _going(path)


def _cached_by_key(root: Path) -> Iterator[Path]:
    """Files of the cache that the observations of the folder were taken from or copied to."""
    for source in root.rglob("observations/**/source.json"):
        try:
            found = read_json(source)
        except DataError:
            continue
        for key in (found.get("rows") or {}).values() if isinstance(found, dict) else ():
            place = cache_root() / "observations" / f"{key}.jsonl"
            if place.is_file():
                yield place


def _cached_by_rows(root: Path) -> Iterator[Path]:
    """Files of the cache with a row of the run, as other audits of the same rows left them."""
    task = remembered(root)
    if task is None:
        return
    known = set(_strings(task))
    for place in sorted((cache_root() / "observations").glob("*.jsonl")):
        try:
            if any(row.get(field) in known for row in read_jsonl(place) for field in ("text", "reference", "prompt")):
                yield place
        except DataError:
            continue


def _strings(task: Task) -> Iterator[str]:
    """Answers and prompts of the rows to forget, whole."""
    for row in (*task.forget, *task.probe_rows("forget")):
        yield row.answer
        yield from row.paraphrased_answers
        if row.prompt:
            yield row.prompt


def _size(path: Path) -> int:
    found = path.rglob("*") if path.is_dir() else [path]
    return sum(p.stat().st_size for p in found if p.is_file())
