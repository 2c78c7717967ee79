"""The command that made a run, from its record, so that it can be pasted: to go on with it, or to make it again."""

from __future__ import annotations

import shlex
from pathlib import Path

from expunge.errors import ExpungeError
from expunge.records.run import RunFolder, RunRecord
from expunge.registry import entries
from expunge.terms import parse_sum

NOT_TYPED = ("template", "mixed_precision", "seed", "lr", "split")
"""Settings that the rows hold, that a launcher gives, or that are written in their own way."""


def run_command(record: RunRecord, *, model: str | Path | None = None, rows: str | Path | None = None,
                out: str | Path = "RUN", resume: bool = False) -> str:
    """`expunge forget MODEL --task ROWS --method ... --out RUN` with every option that is not the default.

    Args:
        model, rows, out: how to call them; the recorded model, and the name of the task, when left out.
    """
    words = ["expunge", record.kind, str(model or record.model)]
    if rows is None and record.task.startswith("files:"):
        words += ["--forget", "FORGET_FILE", "--retain", "RETAIN_FILE"]
    else:
        words += ["--task", str(rows or record.task)]
    if record.kind == "forget" or record.recipe != "retain_nll":
        words += ["--method", record.recipe]
    split = getattr(record.settings, "split", None)
    words += ["--split", split] if split else []
    rate = rate_of(record)
    words += ["--lr", repr(rate)] if rate is not None else []
    for name, value in changed(record).items():
        words += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
    words += ["--seed", str(record.seed)] if record.seed else []
    return shlex.join([*words, "--out", str(out), *(["--resume"] if resume else [])])


def changed(record: RunRecord) -> dict[str, object]:
    """Options of the command that differ from their defaults."""
    fields = type(record.settings).model_fields
    stored = record.settings.to_json()
    return {name: value for name, value in stored.items()
            if name not in NOT_TYPED and value != fields[name].get_default(call_default_factory=True)}


def rate_of(record: RunRecord) -> float | None:
    """The learning rate of the stages with steps, where they share one and the recipe does not name it."""
    if "lr=" in record.recipe:
        return None
    try:
        steps = record.kind == "train" or all(any(entries()[c.name].kind in ("objective", "preset") for c in stage)
                                              for stage in parse_sum(record.recipe))
    except (ExpungeError, KeyError):  # a plug-in that is not here
        return None
    rates = {options["lr"] for stage in record.recipe_full.values() for options in stage.values()
             if isinstance(options, dict) and options.get("lr") is not None}
    return rates.pop() if steps and len(rates) == 1 else None


def resume_command(folder: Path, record: RunRecord) -> str:
    """What goes on with an unfinished run in its folder."""
    rows = folder if RunFolder(folder).rows.exists() else None
    return run_command(record, rows=rows, out=folder, resume=True)


def resume_grid(folder: Path) -> str:
    """What goes on with all cells of a grid that are not finished."""
    return f"expunge grid --out {shlex.quote(str(folder))} --resume"
