"""The seam of an attack: it tampers with a subject, its prompts or its decoding, has probes ask, and leaves no trace.

An attack never scores itself. It calls `ask` with one `View` per strength and attempt, and the same attack with
the same budget runs on the control: a retrained model, or, where there is none, the never-trained holdout rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
"""A split -> what is asked of it."""


ASKS = ("forget.probability", "forget.rouge_l", "forget.keyword")
AND_RETAIN = (*ASKS, "retain.probability")
"""What is taken under an attack that may cost the model what it should keep."""


@dataclass(frozen=True, kw_only=True)
class AttackCard(Card):
    """A card that also says what the attacker must hold and what is asked afterwards."""

    access: Access
    """What the attacker needs of the subject."""
    family: Family
    """What kind of attack it is: an audit names the families that it has not tried."""
    asks: tuple[str, ...] = ASKS
    """Metrics that are taken under the attack."""
    splits_entities: bool = False
    """True when it learns from rows of half the people and is tested on those of the other half."""
    uses_original: bool = False
    """True when it hands out knowledge of the original model: what it brings out need not be the subject's."""
    version: int = 1
    """Raise when the same options come to do something else, so that old rows are not taken for new ones."""
    caution: str = ""
    """What a reader must know before believing a recovery, for the report."""


@dataclass(frozen=True, kw_only=True)
class AttackContext:
    """What an attack stands on.

    Args:
        task: all rows; generation length.
        split: whose knowledge is attacked: forget, or holdout when the never-trained side is the control.
        rows: what is asked of a split, as earlier attacks of a sum left it; the task's own rows by default.
        original: loads the model before unlearning; None where the audit has none.
        seed: the same for the subject and its controls, so that they meet the same draws.
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
    def _known(self) -> frozenset[str]:
        """People (or rows that are about nobody) whose rows the attacker may learn from: every second one, drawn."""
        people = list(dict.fromkeys(r.entity or r.id for r in self.task.probe_rows(self.split)))
        stream(0, "halves", self.split).shuffle(people)  # not by seed: attack and test rows are the same in every audit
        return frozenset(people[: len(people) // 2])

    @property
    def learned(self) -> list[Example]:
        """Rows of the attacked split that the attacker holds, in their plain form.

        A row that follows from one of a tested person would tell of them, and is nobody's.
        """
        rows = self.task.probe_rows(self.split)
        tested = {r.id for r in rows if (r.entity or r.id) not in self._known}
        return [r for r in rows if (r.entity or r.id) in self._known and tested.isdisjoint(r.links)]

    def tested(self, split: Split) -> list[Example]:
        """What is asked when the attacker has learned: of the attacked split only the people they never saw."""
        found = self.rows(split)
        return [r for r in found if (r.entity or r.id) not in self._known] if split == self.split else list(found)

    def need_original(self) -> AnySubject:
        """The model before unlearning, loaded now; the audit checks beforehand that there is one."""
        if self.original is None:
            raise UsageError("This attack needs the original model.", fix="Give --original MODEL.")
        return self.original()


@dataclass(frozen=True)
class View:
    """What probes are handed: at one strength of an attack, in one of its attempts."""

    label: str
    """The attack as typed, at this strength."""
    subject: AnySubject
    rows: Rows
    attempt: int = 0
    """Attempts of one label count as one attack whose best attempt per row is taken, on the control too."""


Ask = Callable[[View], None]


class Attack(Plugin):
    """Base class. Override `run`; options that are a strength must do nothing at all, bit for bit, at 0."""

    card: ClassVar[AttackCard]

    def run(self, subject: AnySubject, context: AttackContext, ask: Ask) -> None:
        """Tamper, call `ask` for each strength and attempt, and restore `subject` even when something fails.

        `subject` is shared: change a `clone()`, or put back what was changed. Draw from `context.seed` only.
        """
        raise NotImplementedError

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all its views, weakest first, known before it runs."""
        return (self.text(),)

    @property
    def asks(self) -> tuple[str, ...]:
        """Metrics taken under it."""
        return self.card.asks

    @property
    def splits_entities(self) -> bool:
        """Whether it learns from some rows of the split and asks about others."""
        return self.card.splits_entities

    @property
    def needs(self) -> frozenset[Need]:
        """What the audit must have, such as `original`; an option may change it."""
        return self.card.needs

    @property
    def families(self) -> tuple[Family, ...]:
        """What kinds of attack it is, each once; an option may change it."""
        return (self.card.family,)

    @property
    def inputs(self) -> str:
        """Fingerprint of the files it reads, so that rows kept from other content are not taken for its own."""
        return ""

    @property
    def cards(self) -> tuple[AttackCard, ...]:
        """The cards of all its parts."""
        return (self.card,)

    @property
    def access(self) -> Access:
        """What it needs of the subject; an option may change it."""
        return self.card.access

    @property
    def uses_original(self) -> bool:
        """Whether any of its parts brings the original's knowledge along."""
        return any(card.uses_original for card in self.cards)

    def problem(self, context: AttackContext) -> str | None:
        """Why it cannot run on this context, whatever the subject; None when it can."""
        return None

    @property
    def identity(self) -> list[object]:
        """All its rows depend on besides the subject, the task and the seed: every option, and the version."""
        return [self.card.name, self.card.version, self.spec.model_dump(mode="json"), self.inputs]

    def cost(self, context: AttackContext) -> str:
        """What it will take, in words, for the announcement: steps, draws, searches."""
        return ""


class Curve(Attack):
    """An attack in `steps` that may be asked along the way, `at` earlier ones: points are labelled as shorter attacks.

    Its spec has both options.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        beyond = [n for n in self.spec.at if n > self.spec.steps]
        if beyond:
            raise UsageError(f"{self.card.name} is to be asked after {beyond[0]} steps, and takes {self.spec.steps}.",
                             fix=f"Write {self.card.name}(steps={max(beyond)}).")

    @property
    def points(self) -> list[int]:
        """Numbers of steps after which it is asked, in order."""
        return sorted({*(n for n in self.spec.at if n < self.spec.steps), self.spec.steps})

    def label(self, steps: int) -> str:
        """What the attack is called that ends after so many steps."""
        return type(self)(self.spec.model_copy(update={"steps": steps, "at": []})).text()

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(map(self.label, self.points))


class Sum(Attack):
    """Several attacks at once: each works on what the one before left. Prompt and decoding attacks come last."""

    def __init__(self, parts: Sequence[Attack]) -> None:
        self.parts = tuple(parts)

    def run(self, subject: AnySubject, context: AttackContext, ask: Ask) -> None:
        numbers: dict[tuple[int, ...], int] = {}  # attempts of all parts -> attempt of the sum

        def onwards(labels: tuple[str, ...], attempts: tuple[int, ...], view: View) -> None:
            labels, attempts = (*labels, view.label), (*attempts, view.attempt)
            if len(labels) == len(self.parts):
                number = numbers.setdefault(attempts, len(numbers))
                return ask(replace(view, label=" + ".join(labels), attempt=number))
            part, beneath = self.parts[len(labels)], replace(context, rows=view.rows)
            part.run(view.subject, beneath, partial(onwards, labels, attempts))

        self.parts[0].run(subject, context, partial(onwards, (), ()))

    @property
    def labels(self) -> tuple[str, ...]:
        found = [""]
        for part in self.parts:
            found = [f"{before} + {label}" if before else label for before in found for label in part.labels]
        return tuple(found)

    @property
    def asks(self) -> tuple[str, ...]:
        """What every part asks."""
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
        """The most that any of its parts needs."""
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
    """The rows of every split, each rewritten; running text has no prompt and stays as it is."""
    return partial(_rewritten, context.rows, rewrite)


def _rewritten(rows: Rows, rewrite: Callable[[Example], Example], split: Split) -> list[Example]:
    return [rewrite(r) if r.kind != "text" else r for r in rows(split)]
