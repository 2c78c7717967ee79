"""The options of the commands: one frozen record each, which checks itself and says what every option means.

The command line and the Python verbs build one, `record.json` stores it, `--resume` compares it, the loop reads it.
Fields with `exclude=True` are not stored under `settings`: they stand elsewhere in the record (seed, learning rate),
or change neither weights nor figures (how often a checkpoint is written).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, field_validator

from expunge.errors import UsageError, did_you_mean
from expunge.records.base import Record

TrainSplit = Literal["full", "retain"]
"""What a model is trained on: all rows of a task, or all but the forget rows."""

class Settings(Record):
    """Options of one command. Field descriptions are the help of the command line.

    Raises:
        UsageError: an option is unknown or its value is not possible; says which, why, and what is possible.
    """

    model_config = Record.model_config | {"allow_inf_nan": False}

    if not TYPE_CHECKING:  # the checker should see the fields
        def __init__(self, **options: Any) -> None:
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise self._refused(error) from None

    @classmethod
    def build(cls, settings: Self | None = None, **options: Any) -> Self:
        """`settings` (defaults when left out) with `options` in place of its own, checked together."""
        if settings is not None and not isinstance(settings, cls):
            raise UsageError(f"settings= takes a {cls.__name__}, not a {type(settings).__name__}.",
                             fix=f"Build one with expunge.{cls.__name__}(...), or give the options by name.")
        return cls(**(dict(settings or ()) | options))

    @classmethod
    def _refused(cls, error: ValidationError) -> UsageError:
        """The first mistake, as one message."""
        first = error.errors()[0]
        name, context = str(first["loc"][0]) if first["loc"] else "", first.get("ctx", {})
        option = "--" + name.replace("_", "-")
        if isinstance(context.get("error"), UsageError):
            return context["error"]
        if first["type"] == "extra_forbidden":
            return UsageError(f"There is no option {name!r}.", did_you_mean(name, cls.model_fields))
        about = cls.model_fields[name].description or "" if name in cls.model_fields else ""
        for limit, words in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")):
            if limit in context:
                return UsageError(f"{option} must be {words} {context[limit]:g}.", f"{option} is: {about}",
                                  f"Give a number {words} {context[limit]:g}.")
        if first["type"] == "literal_error":
            expected = str(context["expected"]).replace("'", "")
            return UsageError(f"{option} {first['input']!r} is not possible.", f"{option} is: {about}",
                              f"Choose {expected}.")
        return UsageError(f"{option} {first['input']!r} is not possible.", f"{option} is: {about}", f"{first['msg']}.")


TEMPLATE = "Plain prompt template with {prompt}, in place of the tokenizer's chat template."


def check_template(template: str | None) -> str | None:
    """The template. Raises UsageError when the prompt has no place in it."""
    if template is not None and "{prompt}" not in template:
        raise UsageError(f"--template {template!r} has no place for the prompt.",
                         fix='Write {prompt} where it goes, such as "Q: {prompt}\nA:".')
    return template


def check_limit(limit: int | None) -> int | None:
    """The limit. Raises UsageError when it leaves nothing."""
    if limit is not None and limit < 1:
        raise UsageError(f"A limit of {limit} rows leaves nothing.", "", "Give a limit of 1 or more.")
    return limit


Template = Annotated[str | None, AfterValidator(check_template), Field(description=TEMPLATE)]
MaxLength = Annotated[int | None, Field(ge=1, description="Cut rows at this many tokens.")]
Limit = Annotated[int | None, AfterValidator(check_limit),
                  Field(description="Keep N rows of every split, of all entities in turn.")]
Overlap = Literal["refuse", "drop", "keep"]
OnOverlap = Annotated[Overlap, Field(description="What to do with forget rows that stand in retain too: refuse, drop "
                                                 "(them from retain) or keep; so with holdout rows that models see.")]


class LoopSettings(Settings):
    """What training and unlearning have in common."""

    epochs: float | None = Field(None, gt=0, description="Passes over the rows.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps, in place of epochs.")
    lr: float | None = Field(None, ge=0, exclude=True, description="Peak learning rate.")
    batch_size: int = Field(8, ge=1, description="Rows of each side per micro-batch, over all processes together.")
    accumulate: int = Field(1, ge=1, description="Micro-batches per optimizer step.")
    max_length: MaxLength = None
    limit: Limit = None
    on_overlap: OnOverlap = "refuse"
    template: Template = None
    gradient_checkpointing: bool = Field(False, description="Compute activations twice rather than keep them: less "
                                                            "memory, more time.")
    eval_every: int | None = Field(None, ge=1, description="Steps between monitor readings.")
    seed: int = Field(0, exclude=True, description="One seed for everything random.")
    mixed_precision: str = Field("no", description="What the launcher asks for; not an option of expunge.")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of a loop with so many of them in an epoch: `steps`, or what `epochs` come to."""
        return self.steps or max(round((self.epochs or 1.0) * steps_per_epoch), 1)

    def steps_between_readings(self, total: int, steps_per_epoch: int) -> int:
        """Steps between two readings of the monitor: once an epoch unless `eval_every` says otherwise."""
        return self.eval_every or steps_per_epoch


class TrainSettings(LoopSettings):
    """Options of `expunge train`."""

    checkpoint_every: ClassVar[int] = 50
    """Steps between checkpoints."""
    split: TrainSplit = Field("full", description="full, or retain for the retrained twin.")
    epochs: float | None = Field(None, gt=0, description="Passes over the rows; 5 when fine-tuning, 40 from scratch "
                                                            "(8 of an image classifier).")
    lr: float | None = Field(None, ge=0, exclude=True, description="Peak learning rate; 1e-5 when fine-tuning, 2e-3 "
                                                                   "from scratch.")
    batch_size: int = Field(16, ge=1, description="Rows per micro-batch, over all processes together.")
    eval_every: int | None = Field(None, ge=1, exclude=True, description="Steps between monitor readings; an eighth "
                                                                         "of all steps by default.")

    def steps_between_readings(self, total: int, steps_per_epoch: int) -> int:
        """An eighth of all steps unless `eval_every` says otherwise."""
        return self.eval_every or max(total // 8, 1)


class RunSettings(LoopSettings):
    """Options of `expunge forget`."""

    epochs: float = Field(10, gt=0, description="Passes over the forget rows.")
    eval_every: int | None = Field(None, ge=1, description="Steps between monitor readings; once an epoch by default.")
    keep: Literal["best", "last"] = Field("best", description="best (by the stated rule) or last.")
    utility_floor: float = Field(0.9, ge=0, le=1, description="Share of the starting utility to hold.")
    forget_target: float | None = Field(None, ge=0, le=1, description="Forget probability to aim at; that of holdout "
                                                                      "rows when left out.")
    stop_at_target: bool = Field(False, description="Stop once forget rows are at the target.")
    stop_at_floor: bool = Field(False, description="Stop below the utility floor.")
    checkpoint_every: int = Field(50, ge=1, exclude=True, description="Steps between checkpoints.")


class AuditSettings(Settings):
    """Options of `expunge audit`."""

    suite: str | None = Field(None, description="scores (no attack), quick, standard, full, or metrics, attacks and "
                                                "suites, by commas; the task's own by default.")
    seed: int = Field(0, description="One seed for everything random.")
    limit: Limit = None
    on_overlap: OnOverlap = "refuse"
    max_length: MaxLength = None
    template: Template = None
    resamples: int = Field(1000, ge=0, description="Bootstrap draws per interval; 0 computes none.")

    @field_validator("suite", mode="before")
    @classmethod
    def _joined(cls, value: str | Sequence[str] | None) -> str | None:
        """A list of names is joined by commas."""
        return value if value is None or isinstance(value, str) else ",".join(value)


class TaskOptions(Settings):
    """Which rows a command works on: a named task, or files."""

    task: str | None = Field(None, description="A named task (`expunge ls tasks`); or give files.")
    forget: Path | None = Field(None, description="Rows to forget: a file, a folder, or hub:owner/name@revision.")
    retain: Path | None = Field(None, description="File of rows to keep.")
    holdout: Path | None = Field(None, description="File of rows no model was trained on.")
    map: str | None = Field(None, description="Other field names: question=q,answer=a; inside others: "
                                              "question=data[].q.")
    data_dir: Path | None = Field(None, description="Folder of local TOFU files (or EXPUNGE_DATA).")


Verb = TypeVar("Verb", bound=Callable[..., Any])


def documented(record: type[Settings]) -> Callable[[Verb], Verb]:
    """Show the fields of a settings record, with their defaults, as keyword arguments of a verb that takes them as
    `**options`: in its signature, which notebooks complete, and at the end of its docstring."""

    def decorate(verb: Verb) -> Verb:
        own = inspect.signature(verb)
        named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        fields = {name: field for name, field in record.model_fields.items() if name not in own.parameters}
        options = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default,
                                     annotation=field.annotation) for name, field in fields.items()]
        verb.__signature__ = own.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
        lines = [f"        {name}: {field.description}" for name, field in fields.items() if field.description]
        verb.__doc__ = "\n".join([(verb.__doc__ or "").rstrip(), "", "    Options:", *lines, "    "])
        return verb

    return decorate
