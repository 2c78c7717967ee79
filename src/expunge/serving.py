"""The verb `serve`: a run or a model, with a guard where one is named, behind an endpoint until it is told to end."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from expunge import processes
from expunge.auditing import task_of
from expunge.benchmarks.loading import as_task
from expunge.console import Reporter, default_reporter
from expunge.errors import PreflightError, UsageError
from expunge.methods.base import Guard
from expunge.methods.recipe import parse
from expunge.methods.run_context import RunContext
from expunge.methods.teaching import is_guard
from expunge.models.checks import check_model
from expunge.models.language import CausalLM
from expunge.models.load import load_subject, made_by
from expunge.records.run import RunRecord
from expunge.records.serving import ServeSettings
from expunge.records.settings import RunSettings
from expunge.records.task import Task
from expunge.runs import device


@dataclass(frozen=True)
class Served:
    """A model that is ready to be served."""

    subject: CausalLM
    name: str
    guard: str


def guard_of(text: str) -> Guard:
    """The guard that a recipe names, and nothing else.

    Raises:
        UsageError: it names something else, or something beside it.
    """
    stages = parse(text)
    wrap = stages[0].wrap
    if len(stages) != 1 or not isinstance(wrap, Guard):
        raise UsageError(f"--guard {text!r} is not one guard.", "A server changes no weights.",
                         "Name one guard; `expunge ls guards` lists them. Anything else is done before, by `expunge "
                         "forget`.")
    return wrap


def prepared(model: str | Path, *, guard: str | None = None, task: Task | str | None = None,
             name: str | None = None, reporter: Reporter) -> Served:
    """Load what is to be served, and build its guard on the rows of the task, or of the run.

    Raises:
        UsageError: it is no language model, or a guard has no rows.
        PreflightError: the guard does not fit the model or the rows.
    """
    wrap = guard_of(guard) if guard else None
    config = check_model(model)
    made = Path(model) / "record.json"
    record = RunRecord.read(made) if made.exists() else None
    rows = task if task is not None else task_of(model) if wrap else None
    if wrap is not None and rows is None:
        raise UsageError(f"--guard {guard} needs rows to guard, and {model} remembers none.", "",
                         "Give --task NAME, or --forget FILE and --retain FILE.")
    template = record.settings.template if record else None
    subject: Any = load_subject(model, template=template, device=device())
    if not isinstance(subject, CausalLM):
        raise UsageError(f"{model} reads images, and an endpoint answers in words.", "",
                         "Name a run or a model that reads text.")
    words = f"{made_by(config)} (of the run)" if is_guard(made_by(config)) else ""
    if wrap is not None:
        known = as_task(rows, RunSettings())
        if problems := wrap.problems(known, config):
            raise PreflightError(problems)
        seed = record.seed if record else 0
        subject, _ = wrap.build(subject, known, RunContext(settings=RunSettings(seed=seed), announce=reporter.task))
        words = f"{wrap.text()} (built now)"
        reporter.close()
    return Served(subject, name or called(model), words)


def called(model: str | Path) -> str:
    """The name of a model for its clients: that of its folder, in letters that need no quotes."""
    return re.sub(r"[^\w.-]+", "-", Path(model).resolve().name if Path(model).exists() else str(model)) or "model"


def serve(model: str | Path, *, guard: str | None = None, task: Task | str | None = None,
          settings: ServeSettings | None = None, reporter: Reporter | None = None, log: TextIO | None = None,
          **options: Any) -> None:
    """Answer requests in the shape of OpenAI until interrupted; those that were taken are answered first.

    Args:
        model: a run folder, a model folder or a hub name.
        guard: a recipe of one guard, built now on the rows of `task` or of the run.
        task: rows for the guard.
        settings: options of the server; those given by name come before its own.
        reporter: where the address and what is served are shown.
        log: where a JSON line per request goes; stdout by default.
        options: fields of `ServeSettings`.

    Raises:
        MissingExtra: FastAPI or uvicorn is not installed.
        UsageError: the port cannot be used, or the key file is open to others.
    """
    from expunge.serve.keys import read_keys
    from expunge.serve.web import bound, served

    reporter = reporter or default_reporter()
    processes.refuse_several("A server")
    settings = ServeSettings.build(settings, **options)
    keys = read_keys(settings.api_key_file) if settings.api_key_file is not None else None
    broken = 0
    socket = bound(settings.host, settings.port)  # before the weights are read, which may take minutes
    try:
        from expunge.serve.service import Service

        made = prepared(model, guard=guard, task=task, name=settings.name, reporter=reporter)
        service = Service(made.subject, settings, name=made.name, guard=made.guard, keys=keys, log=log or sys.stdout)
        reporter.note(*screen(model, made, settings, len(keys) if keys is not None else None,
                              socket.getsockname()[1], service.logprobs))

        def stop() -> None:
            nonlocal broken
            broken = max(broken, service.open)  # before they are told so, after which none is open
            service.engine.stop()

        service.engine.start()
        served(service.app(), [socket], service.engine.drain, lambda: service.open, stop, settings.drain)
    finally:
        socket.close()
    reporter.note("Ended: every request that was taken has its answer." if not broken else
                  f"Ended with {broken} request{'s' * (broken > 1)} broken off: the {settings.drain:g} seconds of "
                  "--drain were over, or a second signal came.")


def screen(model: str | Path, made: Served, settings: ServeSettings, keys: int | None, port: int,
           logprobs: bool) -> Sequence[str]:
    """What is said at the start: it fits one screen."""
    count = sum(p.numel() for p in made.subject.model.parameters())
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{'127.0.0.1' if settings.host == '0.0.0.0' else host}:{port}/v1"
    header = '-H "Authorization: Bearer $EXPUNGE_API_KEY" ' if keys is not None else ""
    body = f'{{"model": "{made.name}", "messages": [{{"role": "user", "content": "Who are you?"}}], "max_tokens": 40}}'
    rate = f"{settings.rate} requests a minute and {'key' if keys else 'address'}" if settings.rate else "no rate limit"
    return (
        f"Serving {model} as {made.name!r} at {address}",
        f"Model: {count:,} parameters on {made.subject.device}, fingerprint {made.subject.fingerprint}.",
        f"Guard: {made.guard or 'none'}. Log-probabilities: {'told' if logprobs else 'not told'}.",
        f"Keys: {'none is asked for' if keys is None else f'{keys} of {settings.api_key_file}'}. Limits: {rate}, "
        f"{settings.max_prompt} tokens of prompt, {settings.max_tokens} new ones, {settings.queue} waiting.",
        "Logs: a JSON line per request on stdout, " + ("WITH prompts and answers." if settings.log_prompts else
                                                        "without prompts and answers."),
        "Try it:",
        f"  curl -s {address}/chat/completions {header}-H 'Content-Type: application/json' -d '{body}'",
        f"Audit it: expunge audit {address} --task T --suite quick --out DIR. Ctrl-C ends it.",
    )
