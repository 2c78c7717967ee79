"""A number that can be argued with: value, interval, orientation, controls, or why it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from expunge.errors import MissingError
from expunge.records.base import Record
from expunge.records.coverage import ChecklistItem, Coverage, FolderPlace
from expunge.records.examples import frame, read_examples
from expunge.records.overview import Overview
from expunge.records.prompt import PromptFormat
from expunge.records.requirement import Checked, check
from expunge.records.settings import AuditSettings

if TYPE_CHECKING:
    import pandas

Orientation = Literal["knows", "forgot", "neutral"]
Access = Literal["text", "logits", "gradients", "weights"]
ACCESS: tuple[Access, ...] = ("text", "logits", "gradients", "weights")
"""Threat models: an attacker with one kind of access also has those before it."""
Family = Literal["relearning", "quantisation", "pruning", "noise", "merging", "steering", "internals", "decoding",
                 "prompt:paraphrase", "prompt:jailbreak", "prompt:context", "prompt:search", "membership"]
"""What kind of attack it is; those on prompts share their first word."""
SMALL = 0.05
"""Room between original and control below which a share of it says nothing, and an excess too small to matter."""
MIN_ROWS = 10
"""A few rows give an interval without width."""
AUDIT_SCHEMA = "expunge.audit/1"


class WorstEntity(Record):
    """The entity of which most rows are said beyond every control, the surest of several; else the largest share."""

    entity: str
    share: float
    rows: int
    """Its rows, of which `share` lie beyond the controls."""
    entities: int
    """How many entities it was chosen from: those with rows enough."""
    chance: float
    """That a model which never saw the forget set has such an entity, corrected for their number."""
    control: float | None = None
    """The same largest share of a retrained model set against the other ones; None where there is one only."""
    exact: bool = True
    """Whether the margin was calibrated on enough rows."""


class EntityTest(Record):
    """Whether an attack brought out more than of its control: exact or random flips and permutations, one-sided."""

    p: float
    """Of this comparison by itself: how often models that could be exchanged by entity differ by so much."""
    p_joint: float | None = None
    """Corrected for all comparisons of the attacks declared beforehand; None for other attacks."""
    p_gain: float | None = None
    """The same as `p` for the gain."""
    p_least: float
    """The p-value if every unit had been recovered in full, corrected too. Above 0.05 nothing could count."""
    unit: Literal["entities", "rows"] = "entities"
    """Rows where there are too few entities: what is said then holds of these rows only."""
    units: int
    """How many, on the side with fewer."""
    row_interval: tuple[float, float] | None = None
    """95 % of the excess over rows of the same entities: above 0 it is an alarm, although the entities differ."""


class PairedDistance(Record):
    """Whether two models answer the same rows differently: entities are swapped between them, two-sided."""

    distance: float
    """The largest gap between the two distributions, 0 to 1: the statistic of Kolmogorov and Smirnov."""
    p: float
    """How often swapping the two models entity by entity gives so large a gap."""
    room: float | None = None
    """The gap between the original and the retrained model."""
    floor: float | None = None
    """The largest gap between a further retrained model and the first."""
    unit: Literal["entities", "rows"] = "entities"
    """Rows where there are too few entities for the test."""
    units: int


class Score(Record):
    """One metric of one subject. `value` is None exactly when `unavailable` says why."""

    name: str
    """`<split>.<metric>`, or `<metric>` when it spans splits."""
    attack: str | None = None
    """What was done before it was taken, to the subject and to its control alike; None = nothing."""
    value: float | None
    interval: tuple[float, float] | None = None
    """95 %: Student's t over entities; of rows, where there are fewer than 5 entities or each row is its own."""
    n: int = 0
    """How many examples the value rests on."""
    higher_is: Orientation = "neutral"
    ideal: float | Literal["reference"] | None = None
    """What perfect forgetting shows: a number, or the value of the retrained reference."""
    range: tuple[float, float] | None = None
    access: Access = "logits"
    controls: dict[str, float | None] = Field(default_factory=dict)
    """The same metric on `original` and `retrained` (mean over several retrained models). Under an attack:
    `original` is the original left alone, `retrained` went through the same attack, and `holdout` is the subject
    itself attacked on rows that it never saw, where there is no retrained model."""
    before: float | None = None
    """The subject on the same rows without the attack."""
    control_before: float | None = None
    """The control on the same rows without the attack: what asking it plainly would have given."""
    excess: float | None = None
    """Under an attack: value minus control, what the attack got beyond what it gets where nothing is to be had."""
    excess_interval: tuple[float, float] | None = None
    """95 % of it, clustered by entity (Student's t); by row where there are fewer than 5 entities."""
    gain: float | None = None
    """Under an attack: value minus before, less what the control gained, if it gained: what the attack brought out
    that asking plainly does not."""
    gain_interval: tuple[float, float] | None = None
    """95 % of it, likewise."""
    entities: int = 0
    """How many entities it rests on, on the side with fewer (under an attack, the excess). A row without one is its
    own; 0 where that is not known."""
    test: EntityTest | None = None
    """Of the excess; None without a control, and in audits of earlier versions."""
    paired: PairedDistance | None = None
    """Of forget_quality, whose published p-value takes the rows of the two models for independent ones."""
    floor: float | None = None
    """The excess of a second retrained model over the first: what two models that never knew differ by."""
    spread: float | None = None
    """What further retrained models exceed the first by in this metric under the primary attacks, times Student's t."""
    original_attacked: float | None = None
    """The original under an attack on prompts or decoding. Much less than when left alone: it is no attempt."""
    recovered: float | None = None
    """(value - before) / (original - before), the share of the way back; None where nothing was lost."""
    uncontrolled: str | None = None
    """Why an attacked score has nothing to be compared with."""
    counted: bool = True
    """False under an attack that brings the original's knowledge along: the verdict leaves it out."""
    attempts: int = 1
    """Tries per row, of which the best counts; the control had as many."""
    unavailable: str | None = None
    remark: str | None = None
    """How the value came about, where that is not what the name says: rows left out, characters in place of words."""
    by_layer: dict[str, tuple[tuple[int, float], ...]] = Field(default_factory=dict)
    """Model (`unlearned`, `original`, `retrained`) -> (layer, value), where the value chooses a layer or is a mean."""
    worst: WorstEntity | None = None
    """The worst entity of a share of rows; None for other scores, and where entities have too few rows each."""
    doubt: str | None = None
    """Under an attack: the first condition of a success that is not met, in a word or two; empty for a success. None
    where it was set against no control on enough rows. Decided in `judgement.leaks` when the audit is made."""

    @property
    def succeeded(self) -> bool:
        """Whether the attack brought out more than it does of its control, and than asking plainly does."""
        return self.doubt == ""

    @property
    def shows_knowledge(self) -> bool:
        """A score of the forget set that rises with knowledge; those of other splits are utility."""
        return self.name.startswith("forget.") and self.higher_is == "knows"

    @property
    def control(self) -> tuple[str, float] | None:
        """What it is compared with: the same attack on the retrained model, or on rows that were never trained on."""
        known = ((name, self.controls.get(name)) for name in ("retrained", "holdout"))
        return next(((name, value) for name, value in known if value is not None), None)

    @property
    def room(self) -> float | None:
        """What there was to recover: from the control to the original left alone."""
        original, beside = self.controls.get("original"), self.control
        return None if original is None or beside is None else original - beside[1]

    @property
    def share(self) -> float | None:
        """Excess as a share of what there was to recover; None where the control is about as good as the original,
        as under attacks that lend it the original's outputs."""
        return None if self.excess is None or self.room is None or self.room <= SMALL else self.excess / self.room

    @property
    def strength(self) -> float:
        """What attacks are ranked by: the share, or the bare excess where there is none."""
        return self.share if self.share is not None else self.excess or 0.0


class Threat(Record):
    """What the evidence supports against an attacker with one kind of access, and with all below it."""

    access: Access
    outcome: Literal["forgets", "suppresses", "retains", "over-forgets", "ruined", "undecided", "not tested"]
    sentence: str
    strongest: str | None = None
    """The attack that recovered most beyond its control; None when none did."""
    metric: str | None = None
    """The score in which it did."""
    tested: tuple[str, ...] = ()
    """Labels of the attacks run at this access."""
    not_tested: tuple[str, ...] = ()


class Power(Record):
    """What the verdict of the model left alone would miss, measured on rows of the original put into a control."""

    entities: int
    """Entities of the forget set; rows where each is its own."""
    missed: int | None
    """The largest number of them that could be known in full and go unnoticed in more than one of five cases. None
    where the verdict would not even call the control "forgets"."""
    unit: Literal["entities", "rows"] = "entities"
    control: str
    """The retrained model into which the rows were put: retrained2, or retrained where there is one only."""


class Verdict(Record):
    """What the scores support, in words. `outcome` compares with the retrained model."""

    outcome: Literal["forgets", "suppresses", "over-forgets", "ruined", "retains", "undecided"]
    alone: Literal["forgets", "over-forgets", "ruined", "retains", "undecided"] | None = None
    """What the scores without any attack say; None where there is no difference to tell of."""
    sentences: tuple[str, ...]
    """Each a full sentence with the figures it rests on."""
    scope: Coverage = Coverage()
    """Empty in audits of earlier versions."""
    not_tested: tuple[str, ...] = ()
    threats: tuple[Threat, ...] = ()
    """One per kind of access, weakest first; empty where the audit ran no attack."""
    leak: str = ""
    """What leaks as asked and under attack, is lost and would be missed, in one line; empty without the leak share."""
    power: Power | None = None
    """None without an original and a retrained model, and in audits of earlier versions."""


class AttackRecord(Record):
    """An attack of this audit."""

    term: str
    labels: tuple[str, ...]
    """One per strength; scores name them."""
    access: Access
    families: tuple[Family, ...] = ()
    splits_entities: bool
    """It learned from rows of half the entities and was tested on those of the other half."""
    summary: str
    caution: str = ""
    asked_as: dict[str, int] = Field(default_factory=dict)
    """Forget rows with a prompt by wording: `given`, `made`, or `left out`; of attacks that ask in other wordings."""
    failed: str | None = None
    """Why it gave no score although it was begun; None where it ran, or could not be begun."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_names(cls, data: Any) -> Any:
        """Audits of earlier versions call `splits_entities` `halves`."""
        if isinstance(data, dict) and "halves" in data:
            data = {("splits_entities" if key == "halves" else key): value for key, value in data.items()}
        return data


class SubjectRef(Record):
    """Which weights were looked at."""

    path: str
    fingerprint: str
    reads: str = "text"
    """What it reads: text or images."""
    offered: tuple[str, ...] | None = None
    """What the model offered of what plug-ins may need (`needs.ModelNeed`); None in audits of earlier versions."""
    tokens: str = ""
    """Fingerprint of the forget and retain rows as this model reads them; empty in audits of earlier versions."""


class ControlCheck(Record):
    """Whether a retrained model can be what it is called."""

    role: str
    """Its folder below observations/."""
    path: str
    problem: str | None = None
    """Why nothing rests on it, with the figure; None for a control that counts."""


class Audit(Record):
    """DIR/audit.json."""

    FILE: ClassVar[str] = "audit.json"
    _folder: FolderPlace = PrivateAttr(default_factory=FolderPlace)

    schema_: str = Field(AUDIT_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    task: str
    task_fingerprint: str
    subject: SubjectRef
    original: SubjectRef | None = None
    retrained: tuple[SubjectRef, ...] = ()
    controls: tuple[ControlCheck, ...] = ()
    """One for each retrained model: those with a problem took no part in scores and verdict."""
    suite: tuple[str, ...]
    """The metric terms, as typed."""
    scores: tuple[Score, ...]
    verdict: Verdict | None = None
    attacks: tuple[AttackRecord, ...] = ()
    primary: tuple[str, ...] = ()
    """Attacks whose comparisons are corrected together (`audit.suites.PRIMARY`); empty in audits made earlier."""
    settings: AuditSettings | None = None
    """Options of the command, as they were carried out; None in audits of earlier versions."""
    seed: int = 0
    resamples: int = 1000
    """Bootstrap draws behind every interval."""
    environment: dict[str, Any] = Field(default_factory=dict)
    timing: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """How far the figures can be trusted: what a reader must know before reading them."""
    broken: tuple[str, ...] = ()
    """Those of the notes that say that the model's answers are no language any more. A condition on the verdict then
    fails, unless it ends with "even if broken"."""
    prompt: PromptFormat | None = None
    """How the subject was asked, without a row; None in audits of earlier versions."""
    checklist: tuple[ChecklistItem, ...] = ()
    """What was tested and what was not, question by question; empty in audits of earlier versions."""
    run: str | None = None
    """Path of the run record this audit belongs to, relative to the audit's folder."""
    created: str = ""
    """When it was made; empty in audits of earlier versions."""

    def score(self, name: str, attack: str | None = None) -> Score | None:
        return next((s for s in self.scores if s.name == name and s.attack == attack), None)

    def check(self, *conditions: str) -> tuple[Checked, ...]:
        """Whether conditions hold, such as "verdict=forgets" or "forget.keyword@relearn.excess<=0.05".

        Raises:
            UsageError: one cannot be read, or names what this audit does not have.
        """
        return check(self, conditions)

    def overview(self) -> Overview:
        """The verdict, and every score without attack beside its references."""
        plain = [s for s in self.scores if s.attack is None]
        tried = {s.attack for s in self.scores if s.attack}
        won = {s.attack for s in self.scores if s.succeeded}
        said = self.verdict
        return Overview(f"Audit of {self.subject.path} on {self.task}", [
            ("verdict", said and f"{said.outcome}. {said.sentences[0] if said.sentences else ''}"),
            ("by access", said and ", ".join(f"{t.access} {t.outcome}" for t in said.threats)),
            ("attacks", (tried and f"{len(won)} of {len(tried)} succeeded") or None)],
            ("score", "value", "95 % interval", "original", "retrained"),
            [(s.name, s.value, s.interval, s.controls.get("original"), s.controls.get("retrained"))
             for s in plain if s.value is not None])

    @property
    def nameless(self) -> Self:
        """The same without the names of the worst entities, in scores and sentences."""
        names = {s.worst.entity for s in self.scores if s.worst is not None}
        if not names:
            return self

        def hidden(text: str) -> str:
            for name in names:
                for form in ("rows about {} are", "worst entity {}:"):
                    text = text.replace(form.format(name), form.format("[name]"))
            return text

        scores = [s if s.worst is None else
                  s.model_copy(update={"worst": s.worst.model_copy(update={"entity": "[name]"})}) for s in self.scores]
        said = self.verdict and self.verdict.model_copy(update={
            "sentences": tuple(map(hidden, self.verdict.sentences)), "leak": hidden(self.verdict.leak),
            "threats": tuple(t.model_copy(update={"sentence": hidden(t.sentence)}) for t in self.verdict.threats)})
        return self.model_copy(update={"scores": tuple(scores), "verdict": said})

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The audit in a folder, or in a file."""
        found = super().read(path)
        found._folder.path = Path(path) if Path(path).is_dir() else Path(path).parent
        return found

    def write(self, path: Path) -> None:
        super().write(path)
        self._folder.path = path.parent

    def examples(self) -> pandas.DataFrame:
        """Every value of every single example, of every model and attack: columns `score`, `attack` (empty for none),
        `model`, `split`, `id`, `entity` and `value`. It is also stored beside audit.json.

        Raises:
            MissingError: the audit lies in no folder, or its folder has no such table.
            MissingExtra: pandas is not installed.
        """
        if self._folder.path is None:
            raise MissingError("This audit lies in no folder, so its examples are not known.",
                               fix="Read it with Audit.read(FOLDER).")
        return frame(read_examples(self._folder.path))
