"""`expunge purge`: the rows of a run, what models said about them, and the cached copies of both are removed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from expunge.errors import DataError, MissingError, UsageError
from expunge.guards.store import empty, said_of, stores
from expunge.records.base import cache_root, read_json, read_jsonl
from expunge.records.grid import Grid
from expunge.records.purged import WEIGHTS, Purged, with_rows
from expunge.records.run import RunFolder, RunRecord
from expunge.records.score import Audit
from expunge.records.task import Example, Task

HELD = {
    "model": "weights; what they still know is for an audit to say", "merged": "a copy of the weights in one piece",
    "base": "weights before unlearning: they know the rows", "stages": "weights between the stages",
    "record.json": "recipe, settings, fingerprints of the rows, times", "audit.json": "scores and verdict",
    "eval.json": "scores of standard benchmarks", "grid.json": "what the cells are, and their scores",
    "grid.csv": "scores of the cells", "ledger.json": "hashes of the rows that training saw, and their ids: a short "
                                                      "row can be guessed from its hash, so keep it private",
    "auto": "trials of the search for the recipe: settings and scores, no rows",
    "steps.jsonl": "losses of every step", "purged.json": "that it was purged"}
"""Name in a run folder -> what it holds, of what stays."""
TEXTS = ("text", "reference", "prompt")
LAST = ("task.json", "source.json")
"""What leads to the cached copies: it goes last, so that a purge that was killed can be done again."""


def purge(run: str | Path, *, dry_run: bool = False, guards: bool = False) -> Purged:
    """Remove the rows of a run, an audit or a grid from its folder and from the cache, and write down that it was done.

    Removed are task.json, observations, values of single examples (they name entities), checkpoints and pages, also
    of cells, audits and merged weights inside the folder; the first row, notes and warnings in records; and every file
    of the observation cache with one of the rows. Weights, record, scores and losses stay.

    Args:
        dry_run: say what would go, and change nothing.
        guards: also empty the stores of guards in the folder. Their models do not load any more: without what a guard
            holds they would answer as if unguarded.

    Returns:
        What was removed, by this and earlier purges, and what is left; also in RUN/purged.json.

    Raises:
        MissingError: no run, no audit and no grid is there.
        UsageError: the run, or a cell, did not end, and needs its rows to go on.
    """
    root = Path(run)
    if not root.is_dir():
        raise MissingError(f"There is no folder {root}.", fix="Name the folder that --out named.")
    files = RunFolder(root)
    is_grid = (root / Grid.FILE).is_file()
    if not (files.record.is_file() or files.audit.is_file() or is_grid):
        raise MissingError(f"{root} is neither a run nor an audit nor a grid.",
                           "It holds no record.json, no audit.json and no grid.json.",
                           "Name the folder that --out named.")
    cells = [root / cell.folder for cell in Grid.read(root).cells if (root / cell.folder).is_dir()] if is_grid else []
    _check_ended((root, *cells))
    going = list(with_rows(root))
    cached = sorted({*_cached_by_key(root), *_cached_by_rows(root)})
    emptied = [place for place in stores(root) if guards and said_of(place)]
    sizes = sum(map(_size, cached)), sum(map(_size, (*going, *emptied)))
    shown = [*_quoting(root, RunRecord), *_quoting(root, Audit)]
    earlier = Purged.read(files.purged) if files.purged.exists() else Purged()
    removed = (*(str(p.relative_to(root)) for p in going),
               *(f"{p.relative_to(root)}: its first row, notes, warnings and names" for p in shown),
               *(f"{p.relative_to(root)}: what the guard held" for p in emptied))
    marked = Purged(removed=tuple(dict.fromkeys((*earlier.removed, *removed))), cached=earlier.cached,
                    removed_bytes=earlier.removed_bytes, found=len(removed) + len(cached),
                    kept=tuple(_kept(root, going, emptied)))
    halfway = marked.model_copy(update={"cached": earlier.cached + len(cached),
                                        "removed_bytes": earlier.removed_bytes + sizes[0]})
    made = halfway.model_copy(update={"removed_bytes": halfway.removed_bytes + sizes[1]})
    if dry_run:
        return made
    for cell in cells:
        inside = [name.removeprefix(f"{cell.name}/") for name in marked.removed if name.startswith(f"{cell.name}/")]
        Purged(removed=tuple(inside)).write(RunFolder(cell).purged)
    marked.write(files.purged)  # before anything goes: a kill in the middle must not leave a folder that looks whole
    for path in cached:
        path.unlink(missing_ok=True)
    halfway.write(files.purged)
    for place in shown:
        _unquote(place)
    for place in emptied:
        empty(place)
    _remove(going)
    made.write(files.purged)
    return made


def bases_with_rows(run: str | Path) -> list[Path]:
    """Folders elsewhere on this disk of the models that the runs in a folder began from, and that still hold rows."""
    root = Path(run).resolve()
    places = {Path(RunRecord.read(place).model).resolve() for place in sorted(root.rglob(RunRecord.FILE))}
    bases = {place.parent if place.name in WEIGHTS else place for place in places}
    return [base for base in sorted(bases) if base != root and root not in base.parents
            and RunFolder(base).record.is_file() and any(with_rows(base))]


def _check_ended(folders: Iterable[Path]) -> None:
    for folder in folders:
        place = RunFolder(folder).record
        if place.is_file() and (how := RunRecord.read(place).unfinished):
            raise UsageError(f"The run in {folder} is unfinished: {how}.", "It needs its rows to go on.",
                             "Go on with --resume first, or remove the whole folder.")


def _kept(root: Path, going: Iterable[Path], emptied: Sequence[Path] = ()) -> Iterator[str]:
    """What stays in the folder, each with what it holds; files with hashes or ids of rows, and the stores of guards,
    also further inside."""
    gone = set(going)
    for path in sorted(root.iterdir()):
        if path in gone or path.name == "purged.json":
            continue
        if path.is_dir() and (RunFolder(path).record.is_file() or RunFolder(path).audit.is_file()):
            said = HELD.get(path.name, "a run or an audit: weights, record and scores")
        else:
            said = HELD.get(path.name, "not made by a run, look at it")
        yield f"{path.name}: {said}"
    yield from (f"{path.relative_to(root)}: {HELD['ledger.json']}" for path in sorted(root.rglob("ledger.json")))
    for path in stores(root):
        if path not in emptied and (said := said_of(path)):
            yield (f"{path.relative_to(root)}: {said}; the guard needs it. --guards empties it, and its model then "
                   "does not load")
    for path in sorted(root.rglob("record.json")):
        record = RunRecord.read(path)
        if any(part.get("deleted") for part in (record.best, *(stage.get("best") or {} for stage in record.stages))):
            yield f"{path.relative_to(root)}: also the ids of the rows that were deleted from the ledger"


def _quoting(root: Path, kind: type[RunRecord] | type[Audit]) -> Iterator[Path]:
    """Records that show the first row as the model read it, whose notes and warnings may quote a row, or that name an
    entity."""
    for place in sorted(root.rglob(kind.FILE)):
        record = kind.read(place)
        if record != _unquoted(record):
            yield place


def _unquote(place: Path) -> None:
    _unquoted((RunRecord if place.name == RunRecord.FILE else Audit).read(place)).write(place)


def _unquoted(record: RunRecord | Audit) -> RunRecord | Audit:
    """Without rows as the model read them, and without names of entities."""
    found = record.nameless if isinstance(record, Audit) else record
    return found if found.prompt is None else found.model_copy(update={"prompt": found.prompt.purged})


def _remove(going: Iterable[Path]) -> None:
    """Every file, those that lead to the cached copies last; then the folders that they were in."""
    going = list(going)
    folders = [path for path in going if path.is_dir() and not path.is_symlink()]
    inside = [path for folder in folders for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    found = [*(path for path in going if path not in folders), *inside]
    for path in sorted(found, key=lambda path: path.name in LAST):
        path.unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder)


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
    """Files of the cache with a row of the folder, as other audits of the same rows left them.

    Probes of hidden states and gradients keep no text: their rows are known by id and entity. A file of other rows
    with the same id and entity goes too; that costs time and no figure.
    """
    rows = [row for place in sorted(root.rglob("task.json")) for row in _forgotten(Task.read(place))]
    texts = {said for row in rows for said in (row.answer, *row.paraphrased_answers, row.prompt) if said}
    known = {(row.id, row.entity) for row in rows}
    for place in sorted((cache_root() / "observations").glob("*.jsonl")) if rows else ():
        try:
            if any((row.get("id"), row.get("entity")) in known or any(row.get(field) in texts for field in TEXTS)
                   for row in read_jsonl(place)):
                yield place
        except DataError:
            continue


def _forgotten(task: Task) -> Iterator[Example]:
    yield from (*task.forget, *task.probe_rows("forget"))


def _size(path: Path) -> int:
    found = path.rglob("*") if path.is_dir() else [path]
    return sum(p.stat().st_size for p in found if p.is_file())
