"""`expunge merge`: the adapter of a run folded into the weights it sits on, as a run folder of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from expunge import processes
from expunge.console import Reporter, default_reporter
from expunge.errors import UsageError
from expunge.models.load import load_subject, made_by, read_config, resolve
from expunge.models.places import check_place
from expunge.models.subject import Subject
from expunge.output import prepare_output, refuse_output
from expunge.records.run import RunFolder, RunRecord
from expunge.runs import merge_adapter
from expunge.saving import save_run


def merge(run: str | Path, *, out: str | Path | None = None, overwrite: bool = False,
          reporter: Reporter | None = None) -> Path:
    """Whole weights out of an adapter and its base: plain `AutoModelForCausalLM` loads them, and no base is needed.

    Args:
        run: a run whose recipe had the scope lora.
        out: the folder to make; RUN/merged by default. It is a run folder: it holds the record and the rows as well.
        overwrite: replace `out`, if it is a folder of expunge's.
        reporter: where progress is shown.

    Returns:
        `out`. The weights are in out/model, in the precision of the base, rounded up or down at random.

    Raises:
        UsageError: there is nothing to merge.
    """
    reporter, run = reporter or default_reporter(), Path(run)
    processes.refuse_several("Merging")
    place = RunFolder(run)
    check_place(run, hub=False)
    config = read_config(run)
    adapter = Path(resolve(run)) / "adapter_config.json"
    if not adapter.exists():
        maker = made_by(config)
        raise UsageError(
            f"{run} holds no adapter, so there is nothing to merge.",
            f"It is a model made by {maker}, whose parts stay apart." if maker else
            "Its weights are whole already: they load without a base.",
            "Use them as they are. Only a run with lora(...) in its recipe leaves an adapter.")
    if not place.record.is_file():
        raise UsageError(f"{run} is no run folder.", "It holds no record.json.", "Name the folder that --out named.")
    target = RunFolder(Path(out) if out is not None else run / "merged")
    refuse_output(target.root, resume=False, overwrite=overwrite, reads=[run])
    base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    subject: Subject = load_subject(run)
    dtype = next(p.dtype for name, p in subject.model.named_parameters() if "lora_" not in name)
    merge_adapter(subject)
    record = RunRecord.read(place.record)
    prepare_output(target.root, resume=False, overwrite=overwrite, reads=[run])
    save_run(subject, target.model, dtype, record)
    if place.rows.exists():
        shutil.copyfile(place.rows, target.rows)
    record.write(target.record)
    reporter.note(f"The adapter of {run} and its base are one model now, in {target.model}. "
                  f"The base, {base}, is unchanged.")
    return target.root
