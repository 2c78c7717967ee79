"""What every plug-in carries: a card for people, a frozen spec for machines. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from expunge.errors import UsageError, did_you_mean

Kind = Literal[
    "objective", "retain", "combine", "perturb", "optimizer", "scope", "sampler", "edit", "guard", "exact", "preset",
    "probe", "metric", "attack",
]
RECIPE_KINDS: tuple[Kind, ...] = (
    "objective", "retain", "combine", "perturb", "optimizer", "scope", "sampler", "edit", "guard", "exact",
)
SOURCES: tuple[Kind, ...] = ("objective", "edit", "guard", "exact")
"""Kinds that can be the source of forgetting; a stage has one."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person should know before using a plug-in."""

    name: str
    kind: Kind
    summary: str
    """One line, for `expunge ls`."""
    paper: str = ""
    formula: str = ""
    """Maths as one line of text."""
    defaults: str = ""
    """Where the default values come from."""
    needs: frozenset[str] = frozenset()
    """Of: retain, refusals, paraphrases, wrong_answers, holdout, gradients, weights,
    reference.logp, reference.likeliest, reference.logits, reference.hidden, retrained, original."""
    conflicts: frozenset[str] = frozenset()
    """Names this one cannot be combined with, of any kind."""
    companions: str = ""
    """Terms it is published with; naming another of the same kind replaces one."""
    deviations: tuple[str, ...] = ()
    """Where we differ from the paper or its code, and why."""
    memory: str = ""
    """What it keeps beside weights, gradients and optimizer state, in multiples of what may move."""
    unbounded: bool = False
    """True when the loss has no lower bound, so only a threshold stops it."""


@dataclass(frozen=True)
class Property:
    """A statement a plug-in must satisfy, checked by the contract suite under `check`."""

    check: str
    args: dict[str, Any] = field(default_factory=dict)
    why: str = ""


class Spec(BaseModel):
    """Options of a plug-in: frozen, validated, documented by `Field(description=...)`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Plugin:
    """Base of every plug-in class. Subclasses set `card`, and `Spec` when they have options."""

    card: ClassVar[Card]
    Spec: ClassVar[type[Spec]] = Spec
    space: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Option -> ("log", low, high) | ("uniform", low, high) | ("choice", *values), for sweeps."""
    must_show: ClassVar[tuple[Property, ...]] = ()
    blocks_in: ClassVar[tuple[str, ...]] = ("layer", "layers")
    """Options that number decoder blocks, from 0."""

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        self.spec: Any = spec if spec is not None else self.parse(options)

    @classmethod
    def parse(cls, options: dict[str, Any]) -> BaseModel:
        """Validate options; an unknown or wrong one names itself and what would be right."""
        known = cls.Spec.model_fields
        for name in options:
            if name not in known:
                raise UsageError(
                    f"{cls.card.name} has no option {name!r}.",
                    did_you_mean(name, known) if known else f"{cls.card.name} takes no options.",
                    f"`expunge explain {cls.card.name}` shows them.",
                )
        try:
            return cls.Spec(**options)
        except ValidationError as error:
            first = error.errors()[0]
            option = ".".join(str(p) for p in first["loc"]) or "options"
            raise UsageError(
                f"{cls.card.name}({option}={first.get('input')!r}) is not possible: {first['msg']}.",
                (known[option].description or "") if option in known else "",
                f"`expunge explain {cls.card.name}` shows the options.",
            ) from None

    def text(self) -> str:
        """The term as one would type it, with every option that differs from its default."""
        changed = {
            k: v for k, v in self.spec.model_dump().items()
            if v != type(self.spec).model_fields[k].get_default(call_default_factory=True)
        }
        inside = ", ".join(f"{k}={v!r}" for k, v in changed.items())
        return f"{self.card.name}({inside})" if inside else self.card.name
