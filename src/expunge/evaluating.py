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
from expunge.errors import ExpungeError, MissingExtra, UsageError, did_you_mean, first_line, install_line
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.records.evaluation import Evaluation, Result
from expunge.records.run import RunRecord, environment
from expunge.runs import device


def evaluate(model: str | Path, tasks: Sequence[str], *, original: str | Path | None = None,
             include: Path | None = None, limit: int | None = None, batch_size: int = 8, seed: int = 0,
             out: Path | None = None, overwrite: bool = False, reporter: Reporter | None = None) -> Evaluation:
    """Scores of lm-eval tasks.

    Args:
        model: a run folder, model folder or hub name.
        tasks: names of lm-eval tasks or groups, such as arc_easy.
        original: beside it; of an unlearned run the model it started from.
        include: folder with task files (YAML) of your own.
        limit: rows of each task.
        out: file for the results; RUN/eval.json of a run by default, none for a plain model. Results of other tasks
            that it holds already stay.
        overwrite: drop what it holds, also where it was asked of other models or in another way.

    Raises:
        MissingExtra: lm-eval is not installed.
        UsageError: there is no such task, the model is no language model, or the file holds results of other models,
            another limit, seed or version of lm-eval.
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
    target = out if out is not None else Path(model) / "eval.json" if record else None
    before = Evaluation.read(target) if target is not None and target.exists() and not overwrite else None
    if before is not None:
        _check_before(before, target, limit=limit, seed=seed, lm_eval=harness["version"])
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
        except Exception as error:  # of a task's data set or of its code: many kinds
            raise UsageError(f"lm-eval could not ask the {role} these tasks.", first_line(error),
                             OF_THE_HUB if _is_of_the_hub(error) else "") from None
        del subject
    if before is not None:
        _check_before(before, target, fingerprints=prints)
    made = Evaluation(model=str(model), fingerprints=prints, tasks=tuple(tasks), limit=limit, seed=seed,
                      results=tuple(_results(found)), environment=environment() | {"lm_eval": harness["version"]})
    made = made if before is None else _merged(before, made)
    if target is not None:
        made.write(target)
    return made


OF_THE_HUB = "Its data sets come from the hub unless a task file names local ones."


def _is_of_the_hub(error: Exception) -> bool:
    """Whether a data set or the connection is at fault: every such error of the hub's clients, or a file."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(packages & {"datasets", "huggingface_hub", "httpx", "requests"})


def _check_before(before: Evaluation, target: Path | None, **now: Any) -> None:
    """Results in one file are of the same models, asked in the same way."""
    then = {**before.to_json(), "lm_eval": before.environment.get("lm_eval")}
    words = {"fingerprints": "other models", "lm_eval": "another version of lm-eval"}
    differ = [words.get(name, f"another {name}") for name, value in now.items() if then[name] != value]
    if differ:
        raise UsageError(f"{target} holds results with {' and '.join(differ)}.", "Nothing was changed.",
                         "Give another --out, or replace them with --overwrite.")


def _merged(before: Evaluation, made: Evaluation) -> Evaluation:
    """Both; of a task that both have the later results."""
    asked = {result.task for result in made.results}
    kept = tuple(result for result in before.results if result.task not in asked)
    return made.model_copy(update={"tasks": tuple(dict.fromkeys((*before.tasks, *made.tasks))),
                                   "results": (*kept, *made.results)})


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
        raise MissingExtra("expunge eval needs lm-eval.", first_line(error),
                           f"Install it with: {install_line('eval')}.") from None
