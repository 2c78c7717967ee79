"""What every plug-in carries: a card for people, a frozen spec for machines. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from expunge.errors import UsageError, did_you_mean
from expunge.needs import ModelNeed, Need

Kind = Literal[
    "objective", "preset", "retain", "combine", "perturb", "trim", "stop", "optimizer", "scope", "sampler", "edit",
    "sequential", "federated", "guard", "exact", "attack", "probe", "metric", "task",
]
Target = Literal["sample", "entity", "concept", "capability"]
Guarantee = Literal["exact", "certified", "empirical", "none"]


@dataclass(frozen=True)
class KindInfo:
    """What is known of a kind of plug-in."""

    plural: str
    folder: str
    """Below the package: one plug-in a file."""
    heading: str
    """What plug-ins of this kind do, in a few words."""
    method: bool = False
    """Whether a recipe may name it."""
    source: bool = False
    """Whether it can be the source of forgetting; a stage has one."""
    single: bool = False
    """Whether a stage has exactly one."""


KINDS: dict[Kind, KindInfo] = {
    "objective": KindInfo("objectives", "methods/objectives", "losses that make a model forget", True, source=True),
    "preset": KindInfo("presets", "methods/presets", "published combinations under their own names", True),
    "retain": KindInfo("retains", "methods/retain", "losses that keep the rest", True),
    "combine": KindInfo("combines", "methods/combine", "how forget and retain gradients become one update", True,
                        single=True),
    "perturb": KindInfo("perturbs", "methods/perturb", "changes of weights or activations while gradients are taken",
                        True),
    "trim": KindInfo("trims", "methods/trims", "which part of the change over a window of steps stays", True),
    "stop": KindInfo("stops", "methods/stops", "when forgetting is enough, row by row", True),
    "optimizer": KindInfo("optimizers", "methods/optimizers", "how a gradient becomes a step", True, single=True),
    "scope": KindInfo("scopes", "methods/scopes", "which parameters may move", True, single=True),
    "sampler": KindInfo("samplers", "methods/samplers", "which rows meet in a step", True, single=True),
    "sequential": KindInfo("sequentials", "sequential", "deletion requests served one after another on one model",
                           True, source=True),
    "federated": KindInfo("servers", "federated", "how a server makes one model of those that its clients train", True),
    "edit": KindInfo("edits", "methods/edits", "changes of the weights without a training loop", True, source=True),
    "guard": KindInfo("guards", "guards", "models that forget at inference, with their weights unchanged", True,
                      source=True),
    "exact": KindInfo("exacts", "exact", "training from which rows can be deleted exactly", True, source=True),
    "attack": KindInfo("attacks", "attacks", "ways to bring back what was forgotten"),
    "probe": KindInfo("probes", "probes", "what is read of a model, row by row"),
    "metric": KindInfo("metrics", "metrics", "scores with intervals, from what probes read"),
    "task": KindInfo("tasks", "benchmarks", "data sets with their splits"),
}
"""The one table of kinds: everything else that tells kinds apart reads it."""
METHODS: tuple[Kind, ...] = tuple(kind for kind, about in KINDS.items() if about.method)
"""What a recipe may name."""
RECIPE_KINDS: tuple[Kind, ...] = tuple(kind for kind in METHODS if kind != "preset")
"""What a stage is made of, once its presets are written out."""
SOURCES: tuple[Kind, ...] = tuple(kind for kind, about in KINDS.items() if about.source)
SINGLE: tuple[Kind, ...] = tuple(kind for kind, about in KINDS.items() if about.single)


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
    needs: frozenset[Need] = frozenset()
    """What the task must bring, the reference service hand out, or the audit be given; see `expunge.needs`."""
    model_needs: frozenset[ModelNeed] = frozenset()
    """What the model must offer; see `expunge.needs`."""
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
    target: Target | None = None
    """What it works on; see `expunge.taxonomy`. A literal, as the next two are; by its kind when left out."""
    guarantee: Guarantee | None = None
    access: str | None = None
    """One of `records.score.ACCESS`."""


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
    fixes: ClassVar[Mapping[ModelNeed, str]] = {}
    """Need -> what to do where a model lacks it, if another option of this plug-in helps. Others: `NEED_TEXTS`."""

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
            option = ".".join(str(p) for p in first["loc"])
            wrong = {option: first.get("input")} if option else options  # all of them where they do not go together
            given = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
            raise UsageError(
                f"{cls.card.name}({given}) is not possible: {first['msg'].removeprefix('Value error, ')}.",
                (known[option].description or "") if option in known else "",
                f"`expunge explain {cls.card.name}` shows the options.",
            ) from None

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        """What the model must offer; options may change it."""
        return self.card.model_needs

    def check_model(self, subject: Any) -> None:
        """Called before weights are loaded, on a model without them. Raises UsageError where it lacks a part that this
        plug-in works on, and the model's config does not tell (see `model_needs`)."""

    def text(self) -> str:
        """The term as one would type it, with every option that differs from its default."""
        changed = {
            k: v for k, v in self.spec.model_dump().items()
            if v != type(self.spec).model_fields[k].get_default(call_default_factory=True)
        }
        inside = ", ".join(f"{k}={v!r}" for k, v in changed.items())
        return f"{self.card.name}({inside})" if inside else self.card.name
