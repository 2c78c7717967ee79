"""Rules of output folders: what may be written to, what may be replaced, and which run may go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from expunge.errors import DataError, UsageError
from expunge.records.base import Record, canonical, read_json
from expunge.records.run import RunFolder, RunRecord


def refuse_output(out: Path, *, resume: bool, overwrite: bool, reads: Sequence[str | Path] = ()) -> None:
    """Say so when the folder cannot be used, before anything is loaded; an existing one names three ways on.

    `reads` are models the command works from: a folder that holds one of them is never replaced.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if overwrite or resume:
            done = "overwritten" if overwrite else "gone on with"
            for path in reads:
                if Path(path).exists() and Path(path).resolve().is_relative_to(out.resolve()):
                    raise UsageError(f"{out} holds {path}, which this command reads, so it is not {done}.",
                                     "Nothing was changed.", "Use another --out.")
            if not (out.is_dir() and _written_by_expunge(out)):
                raise UsageError(f"{out} was not written by expunge, so it is not {done}.",
                                 "Nothing was changed.", "Use another --out.")
        else:
            raise UsageError(f"The output folder {out} already exists.", "Nothing was changed.",
                             "Go on with --resume, choose another --out, or replace it with --overwrite.")


def prepare_output(out: Path, *, resume: bool, overwrite: bool, reads: Sequence[str | Path] = ()) -> None:
    """Make the folder, empty unless a run goes on in it. Raises what `refuse_output` raises."""
    refuse_output(out, resume=resume, overwrite=overwrite, reads=reads)
    if overwrite and out.is_dir() and any(out.iterdir()):
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"Cannot write to {out}.", str(error.strerror), "Choose another --out.") from None


def _written_by_expunge(out: Path) -> bool:
    """Whether a folder is that of a run, an audit, a sweep, a grid, a benchmark, a study or shadows."""
    for name in ("record.json", "audit.json", "sweep.json", "grid.json", "bench.json", "table.json", "shadows.json",
                 "study.json"):
        if (out / name).is_file():
            try:
                data = read_json(out / name)
            except DataError:
                return False
            return isinstance(data, dict) and str(data.get("schema", "")).startswith("expunge.")
    # An audit, or a search for a recipe, that was interrupted.
    return any(out.glob("observations/*/source.json")) or (out / "auto" / "choice.json").is_file()


def is_purged(out: Path) -> bool:
    """Whether `expunge purge` removed the rows of a folder."""
    return RunFolder(out).purged.exists()


def check_resumable(previous: RunRecord, fresh: RunRecord) -> None:
    """A resumed run must be the same run: recipe, settings, rows, model and seed."""
    check_same("The run in this folder was", previous, fresh,
               ("recipe_full", "settings", "task_fingerprints", "model_fingerprint", "seed"))
    if previous.prompt and fresh.prompt and previous.prompt.encoder != fresh.prompt.encoder:
        raise UsageError("The run in this folder was made with another tokenizer or chat template.",
                         f"It put rows in {previous.prompt.format}; the model's folder has changed since.",
                         "Choose another --out.")


def check_same(what: str, previous: Record, fresh: Record, fields: Sequence[str]) -> None:
    """Two records of one kind hold the same in these fields.

    Raises:
        UsageError: "<what> made with other options or inputs.", with the fields that differ.
    """
    before, now = previous.to_json(), fresh.to_json()
    changed = [line for name in fields for line in _differences(name, before[name], now[name])]
    if changed:
        raise UsageError(f"{what} made with other options or inputs.",
                         "\n".join(changed[:5] + ["..."] * (len(changed) > 5)),
                         "Repeat the original command with --resume, or choose another --out.")


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    """One line per value that is not the same, named by its path in the record."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences(f"{name}.{key}", before.get(key), now.get(key))
    elif canonical(before) != canonical(now):
        yield f"{name} was {canonical(before)[:120]} and is now {canonical(now)[:120]}."
