"""What must be forgotten, what must stay, and what was never seen."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field

from expunge.records.base import Record, fingerprint
from expunge.records.overview import Overview

Split = Literal["forget", "retain", "holdout", "neighbour", "utility"]
SPLITS: tuple[Split, ...] = ("forget", "retain", "holdout", "neighbour", "utility")


class Image(Record):
    """Pixels of 8 bits, one channel after the other and row by row, as base64."""

    channels: int
    height: int
    width: int
    data: str

    @classmethod
    def of(cls, pixels: bytes, channels: int, height: int, width: int) -> Self:
        return cls(channels=channels, height=height, width=width, data=base64.b64encode(pixels).decode())

    @property
    def pixels(self) -> bytes:
        return base64.b64decode(self.data)


class Example(Record):
    """One row. `prompt` is empty for running text, where every token of `answer` is supervised, and for images."""

    id: str
    prompt: str
    answer: str
    kind: Literal["qa", "completion", "messages", "text", "image"] = "qa"
    """How the row becomes tokens: qa and messages through a template, completion and text verbatim. Of an image the
    answer is the name of its class."""
    entity: str = ""
    """The person or thing that the row is about; several rows share one."""
    group: str = ""
    """A named part of its split, such as real_authors within utility."""
    messages: tuple[tuple[str, str], ...] = ()
    """(role, content) of every turn before the answer; only for kind messages."""
    paraphrased_prompts: tuple[str, ...] = ()
    paraphrased_answers: tuple[str, ...] = ()
    wrong_answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Multiple-choice options, the right one among them (equal to `short_answer`)."""
    short_answer: str = ""
    """The bare fact, for multiple choice and secret spans; a substring of `answer` or empty."""
    secrets: tuple[str, ...] = ()
    """Parts of `answer` that must go while the text around them stays, such as keys and addresses in code."""
    aliases: tuple[str, ...] = ()
    """Other bare facts that are right too, as where a person has several occupations."""
    links: tuple[str, ...] = ()
    """Ids of the rows this one follows from or shares its value with."""
    image: Image | None = None

    @property
    def asks(self) -> bool:
        """Whether it asks something that could be answered in another way; running text and completions do not."""
        return self.kind in ("qa", "messages", "image")

    def to_json(self) -> dict[str, Any]:
        """Without the fields that few rows have, where they are empty: other rows keep their fingerprints."""
        return {k: v for k, v in super().to_json().items() if v or k not in ("image", "secrets", "aliases")}


class Opened(Example):
    """A row whose reply is made to begin with `opening`, which is given like the prompt and never supervised."""

    opening: str = ""
    gap: str = " "
    """What stands between the opening and the rest: nothing where the answer was cut in a script without spaces."""


class RolledOut(Example):
    """A row whose answer a model has written before a step."""

    value: float = 0.0
    """What the objective that asked for it thinks of it, such as an advantage; its token row carries the same."""
    ended: bool = True
    """Whether the model ended its answer itself; otherwise no end token is supervised."""


class Task(Record):
    """Views of one unlearning problem. Every tuple may be empty except `forget`.

    `forget` and `retain` are what methods train on; `background` is what both twins were trained
    on; of all methods only `distil` reads it, elsewhere damage to it is collateral. An audit asks `probe_rows(split)`.
    """

    name: str
    forget: tuple[Example, ...]
    retain: tuple[Example, ...] = ()
    holdout: tuple[Example, ...] = ()
    neighbour: tuple[Example, ...] = ()
    utility: tuple[Example, ...] = ()
    background: tuple[Example, ...] = ()
    probes: dict[str, tuple[Example, ...]] = Field(default_factory=dict)
    """Rows an audit asks in place of a whole split (with their paraphrases and wrong answers)."""
    generation_tokens: int = 200
    """How many new tokens a generation probe may take."""
    group_tokens: dict[str, int] = Field(default_factory=dict)
    """The same for the rows of a group, where it differs; a longer text to be continued is cut at as many."""
    template: str | None = None
    """Plain prompt template with {prompt}; None takes the tokenizer's chat template or ours."""
    notes: tuple[str, ...] = ()
    """What the user should know of how the rows were read; the plan shows it, and the fingerprint leaves it out."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values; the fingerprint is computed anew."""
        made = super().model_copy(update=update, deep=deep)
        made.__dict__.pop("fingerprint", None)
        return made

    def overview(self) -> Overview:
        """Its sets, with a first row of each."""
        sets = [(name, self.split(name)) for name in SPLITS] + [("background", self.background)]
        return Overview(f"Task {self.name}", [("template", self.template)], ("set", "rows", "entities", "first row"), [
            (name, len(rows), len({r.entity for r in rows if r.entity}), f"{rows[0].prompt} {rows[0].answer}".strip())
            for name, rows in sets if rows])

    def split(self, name: Split) -> tuple[Example, ...]:
        rows: tuple[Example, ...] = getattr(self, name)
        return rows

    def probe_rows(self, name: Split) -> tuple[Example, ...]:
        """The rows an audit asks of a split; empty if the task has none."""
        return self.probes.get(name) or self.split(name)

    def training_rows(self, which: Literal["full", "retain"]) -> tuple[Example, ...]:
        """Rows the original (full) or its retrained twin (retain) is trained on."""
        rows = self.retain + self.background
        return rows + self.forget if which == "full" else rows

    def fingerprints(self) -> dict[str, str]:
        """Content hash per non-empty view; order matters, since samplers index by it."""
        views: dict[str, tuple[Example, ...]] = {s: self.split(s) for s in SPLITS}
        views["background"] = self.background
        views |= {f"probes.{name}": rows for name, rows in self.probes.items()}
        return {k: fingerprint([r.to_json() for r in rows]) for k, rows in views.items() if rows}

    @cached_property
    def fingerprint(self) -> str:
        # What tasks of earlier versions lack does not change their fingerprint.
        return fingerprint([self.fingerprints(), self.generation_tokens, self.template,
                            *([self.group_tokens] if self.group_tokens else [])])

    def rows(self) -> Iterator[Example]:
        """Every row of the task, those it is trained on first."""
        for rows in (self.retain, self.background, self.forget, self.holdout, *self.probes.values(), self.neighbour,
                     self.utility):
            yield from rows

    def texts(self) -> Iterator[str]:
        """Every string of the task, for training a tokenizer."""
        for rows in (self.retain, self.background, self.forget, self.holdout, *self.probes.values()):
            for row in rows:
                yield f"{row.prompt} {row.answer}".strip()
