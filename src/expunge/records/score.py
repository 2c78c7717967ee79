"""A number that can be argued with: value, interval, orientation, controls, or why it is missing."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from expunge.records.base import Record

Orientation = Literal["knows", "forgot", "neutral"]
Access = Literal["text", "logits", "gradients", "weights"]
AUDIT_SCHEMA = "expunge.audit/1"


class Score(Record):
    """One metric of one subject. `value` is None exactly when `unavailable` says why."""

    name: str
    """`<split>.<metric>`, or `<metric>` when it spans splits."""
    attack: str | None = None
    value: float | None
    interval: tuple[float, float] | None = None
    """95 % bootstrap percentile interval over examples."""
    n: int = 0
    """How many examples the value rests on."""
    higher_is: Orientation = "neutral"
    ideal: float | Literal["reference"] | None = None
    """What perfect forgetting shows: a number, or the value of the retrained reference."""
    range: tuple[float, float] | None = None
    access: Access = "logits"
    controls: dict[str, float | None] = Field(default_factory=dict)
    """The same metric on `original` and `retrained` (mean over several retrained models)."""
    unavailable: str | None = None


class Verdict(Record):
    """What the scores support, in words. `outcome` compares with the retrained model."""

    outcome: Literal["forgets", "over-forgets", "retains", "undecided"]
    sentences: tuple[str, ...]
    """Each a full sentence with the figures it rests on."""
    not_tested: tuple[str, ...] = ()


class SubjectRef(Record):
    """Which weights were looked at."""

    path: str
    fingerprint: str


class Audit(Record):
    """DIR/audit.json."""

    schema_: str = Field(AUDIT_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    task: str
    task_fingerprint: str
    subject: SubjectRef
    original: SubjectRef | None = None
    retrained: tuple[SubjectRef, ...] = ()
    suite: tuple[str, ...]
    """The metric terms, as typed."""
    scores: tuple[Score, ...]
    verdict: Verdict | None = None
    seed: int = 0
    environment: dict[str, Any] = Field(default_factory=dict)
    timing: dict[str, float] = Field(default_factory=dict)
    run: str | None = None
    """Path of the run record this audit belongs to, relative to the audit's folder."""

    def score(self, name: str, attack: str | None = None) -> Score | None:
        return next((s for s in self.scores if s.name == name and s.attack == attack), None)
