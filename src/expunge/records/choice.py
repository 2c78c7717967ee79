"""How `--method auto` chose a recipe: every trial with its cost, the rehearsal, and what the choice rests on."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from expunge.errors import UsageError
from expunge.records.base import Record
from expunge.records.overview import Overview
from expunge.records.score import Access
from expunge.records.settings import Settings
from expunge.records.sweep import unbeaten

AUTO = "auto"
"""What stands in the place of a recipe."""
CHOICE_SCHEMA = "expunge.choice/1"
RETRAINING = "x-retrain"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(budget: str, retraining: float | None) -> float:
    """Seconds of a budget such as 90s, 20m, 1.5h or 0.3x-retrain.

    Args:
        retraining: seconds that training without the forget set would take, where that is known.

    Raises:
        UsageError: it is none of these, or retraining is the unit and its time is not known.
    """
    found = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*(s|m|h|{RETRAINING})\s*", budget)
    amount = float(found.group(1)) if found else 0.0
    if not found or amount <= 0:
        raise UsageError(f"--budget {budget!r} is no amount of time.", "It is the time that the whole search may take.",
                         f"Give 20m, 90s, 1.5h, or 0.5{RETRAINING} for half of the time that retraining would take.")
    if found.group(2) != RETRAINING:
        return amount * _UNITS[found.group(2)]
    if retraining is None:
        raise UsageError(f"How long retraining would take is not known, so --budget {budget} has no length.",
                         "It is read off the record of a training, and `expunge train` did not make this model.",
                         "Give the budget as time, such as 20m.")
    return amount * retraining


def _readable(budget: str) -> str:
    seconds_of(budget, 1.0)
    return budget


class AutoSettings(Settings):
    """Options of `expunge forget --method auto`."""

    against: Access = Field("weights", description="With --method auto: the access of the attacker it must hold "
                                                   "against: text, logits, gradients or weights.")
    utility: float = Field(0.97, gt=0, le=1, description="With --method auto: share of the probability of the retain "
                                                         "rows to keep.")
    risk: float = Field(0.3, gt=0, lt=1, description="With --method auto: largest upper bound of what is left of the "
                                                     "forget set, 0 as never seen, 1 as before.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="With --method auto: confidence of both upper bounds.")
    cost: float | None = Field(None, gt=0, description="With --method auto: most that the recipe may cost, as a share "
                                                       "of retraining; any cost if left out.")
    budget: Annotated[str, AfterValidator(_readable)] = Field(
        "20m", description="With --method auto: time of the whole search: 20m, 90s, 1h, or 0.5x-retrain.")


class AutoTrial(Record):
    """One setting of one recipe, run on the real rows."""

    number: int
    name: str
    """Of the entry of the portfolio."""
    params: dict[str, float | int | str]
    recipe: str
    """With every drawn value in it."""
    epochs: float
    residues: dict[str, float] = Field(default_factory=dict)
    """What is left of the forget set by condition ("" as asked, else an attack), 0 as holdout rows, 1 as before."""
    kept: float | None = None
    """Probability of the retain rows as a share of the original's."""
    risk_bound: float | None = None
    """Upper confidence bound of what is left, over entities, in the worst condition; None for a stopped trial."""
    loss_bound: float | None = None
    """Upper confidence bound of the probability that retain rows lost, over rows."""
    train_s: float = 0.0
    total_s: float = 0.0
    cost: float | None = None
    """Positions that gradients were taken at, as a share of those of retraining, where these are known."""
    reports: tuple[float, ...] = ()
    """The score after each round of questions; lower is better."""
    fingerprint: str = ""
    """Of the weights, which the recipe must give again."""
    stopped: bool = False
    """It could be no finalist any more after the last of `reports`."""
    failed: str = ""

    @property
    def score(self) -> float | None:
        """What trials are ranked by; None where it was stopped or failed."""
        return None if self.stopped or self.failed or not self.reports else self.reports[-1]

    @property
    def worst(self) -> tuple[str, float]:
        """The condition in which most is left, and how much."""
        name = max(self.residues, key=lambda n: self.residues[n], default="")
        return name, self.residues.get(name, 0.0)


class Rehearsed(Record):
    """A recipe on entities of which it is known how a model answers that never saw them."""

    number: int
    """Of the trial."""
    outcome: str
    """The verdict beside the model that was never taught them."""
    worst: str = ""
    residue: float = 0.0
    kept: float | None = None
    seconds: float = 0.0


class Choice(Record):
    """RUN/auto/choice.json."""

    FILE: ClassVar[str] = "choice.json"
    schema_: str = Field(CHOICE_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    settings: AutoSettings
    run_settings: dict[str, Any]
    portfolio: dict[str, str]
    """Name -> recipe with its open options."""
    model_fingerprint: str
    task: str
    task_fingerprint: str
    seed: int
    environment: dict[str, Any]
    budget_s: float
    retraining_s: float | None = None
    """Seconds of training the original, less the share of the forget rows."""
    spent_s: float = 0.0
    rehearsal: dict[str, Any] = Field(default_factory=dict)
    """How the scratch copy was taught, or why there is none."""
    trials: tuple[AutoTrial, ...] = ()
    rehearsed: tuple[Rehearsed, ...] = ()
    chosen: int | None = None
    """Number of the chosen trial."""
    within_limits: bool = False
    """Whether both upper bounds of the chosen trial meet the limits."""
    reason: str = ""
    """Why it was chosen, in a sentence."""
    ended: Literal["", "budget", "trials"] = ""
    """Why no more trials were made."""

    @property
    def complete(self) -> tuple[AutoTrial, ...]:
        """Trials that went through every round, the best first."""
        return tuple(sorted((t for t in self.trials if t.score is not None), key=lambda t: (t.score or 0.0, t.number)))

    @property
    def pick(self) -> AutoTrial | None:
        return next((t for t in self.trials if t.number == self.chosen), None)

    @property
    def predicted(self) -> str:
        """The verdict of the chosen recipe in the rehearsal; empty without one."""
        return next((r.outcome for r in self.rehearsed if r.number == self.chosen), "")

    def front(self) -> tuple[AutoTrial, ...]:
        """Complete trials that no other beats in both what is left and what is kept."""
        return tuple(unbeaten(self.complete, lambda t: (-t.worst[1], t.kept or 0.0)))

    def overview(self) -> Overview:
        """What was tried and chosen."""
        pick = self.pick
        return Overview("Choice of a recipe", [
            ("chosen", pick.recipe if pick else "none"), ("why", self.reason), ("predicted verdict", self.predicted),
            ("seconds", f"{self.spent_s:.0f} of {self.budget_s:.0f}")],
            ("trial", "recipe", "left", "under", "kept", "train s"),
            [(str(t.number), t.recipe, f"{t.worst[1]:.2f}", t.worst[0] or "as asked",
              "" if t.kept is None else f"{t.kept:.3f}", f"{t.train_s:.0f}") for t in self.front()])
