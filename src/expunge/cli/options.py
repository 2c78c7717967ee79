"""Command-line options made from the settings records, so that every option is written down once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, get_origin

import typer
from pydantic.fields import FieldInfo

from expunge.errors import UsageError
from expunge.records.settings import AuditSettings, LoopSettings, Settings, TaskOptions
from expunge.records.task import Task

INTERNAL = {"mixed_precision", "resamples"}
"""Fields that are no option of the command line."""


def options_of(record: type[Settings], only: Collection[str] = ()) -> list[inspect.Parameter]:
    """One keyword parameter per field: its flag, its help, its default, and the bounds that the parser can check."""
    options = []
    for name, field in record.model_fields.items():
        if name in INTERNAL or (only and name not in only):
            continue
        # The record knows the words of a choice, and says so as it says everything else.
        kind = str if get_origin(field.annotation) is Literal else field.annotation
        option = typer.Option("--" + name.replace("_", "-"), help=field.description,
                              min=_bound(field, "ge"), max=_bound(field, "le"))
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default,
                                       annotation=Annotated[kind, option]))
    return options


def _bound(field: FieldInfo, name: Literal["ge", "le"]) -> float | None:
    """The least or the largest value that is possible."""
    return next((getattr(m, name) for m in field.metadata if hasattr(m, name)), None)


def with_options(parameter: str, record: type[Settings], *only: str) -> Callable[[Callable[..., None]],
                                                                                 Callable[..., None]]:
    """Replace a command's parameter, which takes a record, by the record's options (those named, or all).

    Only options that were given are set in the record; the others are its defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        options = options_of(record, only)
        passed_on = "context" in own.parameters

        @functools.wraps(command)
        def run(**values: Any) -> None:
            context = values["context"] if passed_on else values.pop("context")
            given = {option.name: values.pop(option.name) for option in options}
            made = record(**{name: value for name, value in given.items() if _typed(context, name)})
            if isinstance(made, TaskOptions):  # before torch is imported, which takes seconds
                _check_files(made)
            values[parameter] = made
            command(**values)

        others = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.parameters.values()
                  if p.name not in (parameter, "context")]
        others.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
        run.__signature__ = own.replace(parameters=[*others, *options])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*others, *options)}
        return run

    return decorate


def _check_files(options: TaskOptions) -> None:
    from expunge.data.files import check_source

    for path in (options.forget, options.retain, options.holdout):
        if path is not None:
            check_source(path)


def _typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is None or source.name != "DEFAULT"


def load(options: TaskOptions, settings: LoopSettings | AuditSettings, default: Task | str | None = None) -> Task:
    """The task that the options name, cut and with the template asked for; `default` when they name none and no file.

    Raises:
        UsageError: neither a name nor a file was given.
    """
    from expunge.api import as_task
    from expunge.benchmarks.loading import task_names

    chosen: Task | str | None = options.task or (None if options.forget else default)
    if chosen is None and options.forget is None:
        raise UsageError("No task was given.", "A task says what must be forgotten.",
                         f"Give --forget FILE, or --task with a run folder or one of: {', '.join(task_names())}.")
    return as_task(chosen, settings, forget=options.forget, retain=options.retain, holdout=options.holdout,
                   mapping=options.map, data_dir=options.data_dir)
