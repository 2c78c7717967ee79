"""Base classes of attacks: an attack changes a subject, its prompts or its decoding, and restores it afterwards.

An attack never scores itself. It calls `ask` with one `View` per strength and attempt, on which the audit runs
probes. The same attack with the same budget runs on the control: a retrained model or, without one, holdout rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, cast

from expunge.errors import UsageError
from expunge.models.subject import AnySubject, Subject
from expunge.needs import ModelNeed, Need
from expunge.plugin import Card, Plugin
from expunge.progress import Announce, silent
from expunge.records.score import ACCESS, Access, Family
from expunge.records.task import Example, Split, Task
from expunge.registry import load
from expunge.seeding import stream
from expunge.terms import parse_sum

Rows = Callable[[Split], Sequence[Example]]
"""Split -> the rows that probes observe."""


ASKS = ("forget.probability", "forget.rouge_l", "forget.keyword")
AND_RETAIN = (*ASKS, "retain.probability")
"""Metrics under an attack that may damage retained knowledge too."""


@dataclass(frozen=True, kw_only=True)
class AttackCard(Card):
    """A card that also states the attacker's access and the metrics under the attack."""

    access: Access
    """Access to the subject that the attacker needs."""
    family: Family
    """Kind of attack; an audit lists the families it has not tried."""
    asks: tuple[str, ...] = ASKS
    """Metrics computed under the attack."""
    splits_entities: bool = False
    """True when it learns from rows of half the entities and is tested on rows of the other half."""
    uses_original: bool = False
    """True when it uses knowledge of the original model, so that a recovered answer need not come from the subject."""
    version: int = 1
    """Increase when the same options have another effect, so that cached rows are not reused."""
    caution: str = ""
    """What a reader must consider before believing a recovery; shown in the report."""


@dataclass(frozen=True, kw_only=True)
class AttackContext:
    """The inputs of an attack.

    Args:
        task: all rows and the generation length.
        split: the attacked split: forget, or holdout when the never-trained rows are the control.
        rows: split -> observed rows, as changed by earlier attacks of a sum; the task's own rows by default.
        original: loads the model before unlearning; None if the audit has none.
        seed: the same for the subject and its controls, so that both get the same random draws.
    """

    task: Task
    split: Split = "forget"
    rows: Rows
    original: Callable[[], Subject] | None = None
    seed: int = 0
    announce: Announce = silent

    @classmethod
    def of(cls, task: Task, **options: object) -> AttackContext:
        return cls(task=task, rows=task.probe_rows, **options)  # type: ignore[arg-type]

    @cached_property
    def _learned_entities(self) -> frozenset[str]:
        """Entities (or ids of rows without one) whose rows the attacker may learn from: a random half."""
        entities = list(dict.fromkeys(r.entity or r.id for r in self.task.probe_rows(self.split)))
        stream(0, "halves", self.split).shuffle(entities)  # not by seed: every audit has the same split
        return frozenset(entities[: len(entities) // 2])

    @property
    def learned(self) -> list[Example]:
        """Rows of the attacked split that the attacker holds, in their plain form.

        Rows linked to a row of a tested entity are excluded, since they would reveal it.
        """
        rows = self.task.probe_rows(self.split)
        tested = {r.id for r in rows if (r.entity or r.id) not in self._learned_entities}
        return [r for r in rows if (r.entity or r.id) in self._learned_entities and tested.isdisjoint(r.links)]

    def tested(self, split: Split) -> list[Example]:
        """Rows observed after learning: in the attacked split only those about entities not learned from."""
        rows = list(self.rows(split))
        if split != self.split:
            return rows
        return [r for r in rows if (r.entity or r.id) not in self._learned_entities]

    def require_original(self) -> AnySubject:
        """Loads the model before unlearning; the audit checks beforehand that there is one."""
        if self.original is None:
            raise UsageError("This attack needs the original model.", fix="Give --original MODEL.")
        return self.original()


@dataclass(frozen=True)
class View:
    """What probes observe: the subject and rows at one strength and in one attempt of an attack."""

    label: str
    """Text of the attack at this strength."""
    subject: AnySubject
    rows: Rows
    attempt: int = 0
    """Attempts with one label are one attack; the best attempt per row counts, on the control too."""


Ask = Callable[[View], None]


class Attack(Plugin):
    """Base class. Override `run`. With strength 0 an attack must change nothing, bit for bit."""

    card: ClassVar[AttackCard]

    def run(self, subject: AnySubject, context: AttackContext, ask: Ask) -> None:
        """Apply the attack, call `ask` for each strength and attempt, and restore `subject`, also after an exception.

        `subject` is shared: change a `clone()`, or undo every change. Draw random numbers from `context.seed` only.
        """
        raise NotImplementedError

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all its views, weakest first, known before it runs."""
        return (self.text(),)

    @property
    def asks(self) -> tuple[str, ...]:
        """Metrics computed under it."""
        return self.card.asks

    @property
    def splits_entities(self) -> bool:
        """Whether it learns from rows of half the entities and is tested on the other half."""
        return self.card.splits_entities

    @property
    def needs(self) -> frozenset[Need]:
        """What the audit must provide, such as `original`; may depend on options."""
        return self.card.needs

    @property
    def families(self) -> tuple[Family, ...]:
        """Families of the attack, without duplicates; may depend on options."""
        return (self.card.family,)

    @property
    def asks_only(self) -> bool:
        """Whether it changes nothing but prompts and decoding. Then the original is asked too, to see whether the
        attack takes from a model that knows."""
        return not self.uses_original and all(f.startswith(("prompt:", "decoding")) for f in self.families)

    @property
    def inputs(self) -> str:
        """Fingerprint of the files it reads, so that rows cached for other content are not reused."""
        return ""

    @property
    def cards(self) -> tuple[AttackCard, ...]:
        """The cards of all its parts."""
        return (self.card,)

    @property
    def access(self) -> Access:
        """Access to the subject that it needs; may depend on options."""
        return self.card.access

    @property
    def uses_original(self) -> bool:
        """Whether one of its parts uses knowledge of the original model."""
        return any(card.uses_original for card in self.cards)

    def problem(self, context: AttackContext) -> str | None:
        """Why it cannot run in this context with any subject; None if it can."""
        return None

    def asked_as(self, context: AttackContext, asked: Collection[str]) -> Mapping[str, int]:
        """How many rows were asked in which way, for attacks that have several, such as given and made wordings.

        Args:
            asked: ids of the rows that have observations.
        """
        return {}

    @property
    def identity(self) -> list[object]:
        """What its rows depend on besides subject, task and seed: all options and the version."""
        return [self.card.name, self.card.version, self.spec.model_dump(mode="json"), self.inputs]

    def cost(self, context: AttackContext) -> str:
        """Cost in words for the announcement: steps, draws, searches."""
        return ""


class Curve(Attack):
    """An attack in `steps` that can also be observed at the earlier steps `at`, labelled as shorter attacks.

    Its Spec has both options.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        beyond = [n for n in self.spec.at if n > self.spec.steps]
        if beyond:
            raise UsageError(f"{self.card.name} cannot be observed at step {beyond[0]}: it has {self.spec.steps} "
                             f"steps.",
                             fix=f"Write {self.card.name}(steps={max(beyond)}).")

    @property
    def points(self) -> list[int]:
        """The steps after which it is observed, in order."""
        return sorted({*(n for n in self.spec.at if n < self.spec.steps), self.spec.steps})

    def label(self, steps: int) -> str:
        """Label of the attack with this number of steps."""
        return type(self)(self.spec.model_copy(update={"steps": steps, "at": []})).text()

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(self.label, self.points))


class Sum(Attack):
    """Several attacks combined: each acts on the result of the one before. Prompt and decoding attacks come last."""

    def __init__(self, parts: Sequence[Attack]) -> None:
        self.parts = tuple(parts)

    def run(self, subject: AnySubject, context: AttackContext, ask: Ask) -> None:
        numbers: dict[tuple[int, ...], int] = {}  # attempts of all parts -> attempt of the sum

        def apply_next(labels: tuple[str, ...], attempts: tuple[int, ...], view: View) -> None:
            labels, attempts = (*labels, view.label), (*attempts, view.attempt)
            if len(labels) == len(self.parts):
                number = numbers.setdefault(attempts, len(numbers))
                return ask(replace(view, label=" + ".join(labels), attempt=number))
            part, inner = self.parts[len(labels)], replace(context, rows=view.rows)
            part.run(view.subject, inner, partial(apply_next, labels, attempts))

        self.parts[0].run(subject, context, partial(apply_next, (), ()))

    @property
    def labels(self) -> tuple[str, ...]:
        labels = [""]
        for part in self.parts:
            labels = [f"{before} + {label}" if before else label for before in labels for label in part.labels]
        return tuple(labels)

    @property
    def asks(self) -> tuple[str, ...]:
        """Metrics common to all parts."""
        first, *others = [p.asks for p in self.parts]
        return tuple(a for a in first if all(a in o for o in others))

    @property
    def splits_entities(self) -> bool:
        return any(p.splits_entities for p in self.parts)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset[Need]().union(*(p.needs for p in self.parts))

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        return frozenset[ModelNeed]().union(*(p.model_needs for p in self.parts))

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(dict.fromkeys(family for p in self.parts for family in p.families))

    @property
    def cards(self) -> tuple[AttackCard, ...]:
        return tuple(card for p in self.parts for card in p.cards)

    @property
    def access(self) -> Access:
        """The largest access that a part needs."""
        return max((p.access for p in self.parts), key=ACCESS.index)

    @property
    def inputs(self) -> str:
        return "".join(p.inputs for p in self.parts)

    def text(self) -> str:
        return " + ".join(p.text() for p in self.parts)

    def problem(self, context: AttackContext) -> str | None:
        return next((p for p in (part.problem(context) for part in self.parts) if p), None)

    @property
    def identity(self) -> list[object]:
        return [p.identity for p in self.parts]

    def cost(self, context: AttackContext) -> str:
        return ", then ".join(filter(None, (p.cost(context) for p in self.parts)))


def parse_attack(text: str) -> Attack:
    """`relearn(steps=20) + prefix` as one attack; raises UsageError with the nearest known name."""
    stages = parse_sum(text)
    if len(stages) != 1:
        raise UsageError(f"{text!r} is not an attack.", "Attacks are joined by +; they have no stages.")
    parts = [cast(type[Attack], load(call.name, "attack"))(**dict(call.options)) for call in stages[0]]
    return parts[0] if len(parts) == 1 else Sum(parts)


def rewriting(context: AttackContext, rewrite: Callable[[Example], Example]) -> Rows:
    """The rows of every split, each rewritten, except running text, which has no prompt."""
    return partial(_rewritten, context.rows, rewrite)


def _rewritten(rows: Rows, rewrite: Callable[[Example], Example], split: Split) -> list[Example]:
    return [rewrite(r) if r.kind != "text" else r for r in rows(split)]
