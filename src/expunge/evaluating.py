"""`expunge eval`: standard benchmarks through lm-eval (extra `eval`), on a run and beside it on its original.

An audit asks what is left of the forget set. This asks what else the model can still do, with tasks that others know.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge import processes
from expunge.console import Reporter, default_reporter
from expunge.errors import ExpungeError, MissingExtra, UsageError, did_you_mean, first_line
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.records.evaluation import Evaluation, Result
from expunge.records.run import RunRecord, environment
from expunge.runs import device


def evaluate(model: str | Path, tasks: Sequence[str], *, original: str | Path | None = None,
             include: Path | None = None, limit: int | None = None, batch_size: int = 8, seed: int = 0,
             out: Path | None = None, reporter: Reporter | None = None) -> Evaluation:
    """Scores of lm-eval tasks.

    Args:
        model: a run folder, model folder or hub name.
        tasks: names of lm-eval tasks or groups, such as arc_easy.
        original: beside it; of an unlearned run the model it started from.
        include: folder with task files (YAML) of your own.
        limit: rows of each task.
        out: file for the results; RUN/eval.json of a run by default, none for a plain model.

    Raises:
        MissingExtra: lm-eval is not installed.
        UsageError: there is no such task, or the model is no language model.
    """
    reporter = reporter or default_reporter()
    processes.refuse_several("An evaluation")
    harness = _harness()
    manager = harness["tasks"].TaskManager(include_path=str(include) if include else None)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown or not tasks:
        raise UsageError(f"lm-eval has no task called {unknown[0]!r}." if unknown else "No task was named.",
                         did_you_mean(unknown[0] if unknown else "", manager.all_tasks),
                         "Name tasks with --tasks, by commas; --include FOLDER adds task files of your own.")
    record = RunRecord.read(Path(model) / "record.json") if (Path(model) / "record.json").exists() else None
    if original is None and record is not None and record.kind == "forget":
        original = record.model
    places = {"subject": model} | ({"original": original} if original is not None else {})
    found: dict[str, dict[str, Any]] = {}
    prints: dict[str, str] = {}
    for role, place in places.items():
        subject = load_subject(place, device=device())
        if not isinstance(subject, CausalLM):
            raise UsageError(f"{place} is no language model, and lm-eval asks for text.")
        prints[role] = subject.fingerprint
        reporter.note(f"lm-eval asks the {role}: {', '.join(tasks)}")
        try:
            wrapped = harness["model"](pretrained=subject.model, tokenizer=subject.encoder.processor,
                                       batch_size=batch_size)
            found[role] = harness["evaluate"](
                model=wrapped, tasks=list(tasks), task_manager=manager, limit=limit, random_seed=seed,
                numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed, log_samples=False,
                bootstrap_iters=1000)
        except ExpungeError:
            raise
        except Exception as error:  # of a task's data set, mostly: many kinds
            raise UsageError(f"lm-eval could not ask {role} these tasks.", first_line(error),
                             "Its data sets come from the hub unless a task file names local ones.") from None
        del subject
    made = Evaluation(model=str(model), fingerprints=prints, tasks=tuple(tasks), limit=limit, seed=seed,
                      results=tuple(_results(found)), environment=environment() | {"lm_eval": harness["version"]})
    target = out if out is not None else Path(model) / "eval.json" if record else None
    if target is not None:
        made.write(target)
    return made


def _results(found: dict[str, dict[str, Any]]) -> list[Result]:
    """One per task and metric, the original's value beside the subject's."""
    made = []
    for task, values in found["subject"]["results"].items():
        beside = found.get("original", {}).get("results", {}).get(task, {})
        for key, value in values.items():
            metric, _, how = key.partition(",")
            if metric.endswith("_stderr") or metric == "sample_len" or not isinstance(value, int | float):
                continue
            error, other = values.get(f"{metric}_stderr,{how}"), beside.get(key)
            made.append(Result(task=task, metric=metric, filter=how, value=float(value),
                               error=float(error) if isinstance(error, int | float) else None,
                               original=float(other) if isinstance(other, int | float) else None))
    return made


def _harness() -> dict[str, Any]:
    """What is used of lm-eval; the only place that imports it."""
    try:
        package = importlib.import_module("lm_eval")
        return {"tasks": importlib.import_module("lm_eval.tasks"), "evaluate": package.simple_evaluate,
                "model": importlib.import_module("lm_eval.models.huggingface").HFLM,
                "version": str(getattr(package, "__version__", "unknown"))}
    except ImportError as error:
        raise MissingExtra("expunge eval needs lm-eval.", first_line(error), "pip install 'expunge[eval]'") from None
