"""Stopping rule, choice of the kept checkpoint, and alarms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from expunge.records.base import Record


class StopRule(Record):
    """Thresholds on the monitor's readings every `eval_every` steps.

    `forget` and `utility` are mean length-normalised answer probabilities (0 to 1) on a sample of
    forget rows and of retain rows.
    """

    forget_target: float | None = None
    """Forget probability at which forgetting is complete: that of holdout rows, if the task has them."""
    stop_at_target: bool = False
    """Stop as soon as `forget` is at or below the target."""
    utility_floor: float = Field(0.9, ge=0, le=1)
    """Share of the starting utility that a kept checkpoint must have."""
    stop_at_floor: bool = False
    """Stop as soon as utility is below the floor."""
    forget_ceiling: float | None = None
    """Stop once the mean forget loss (nats per token) exceeds this; set for unbounded objectives."""
    keep: Literal["best", "last"] = "best"

    def lacks_utility(self, kept: Mapping[str, float], start: Mapping[str, float]) -> bool:
        """Whether a kept checkpoint is below the utility floor, since none was above it."""
        return {"utility"} <= {*kept} & {*start} and kept["utility"] < self.utility_floor * start["utility"]

    def describe(self, kept: Mapping[str, float] | None = None, start: Mapping[str, float] | None = None) -> str:
        """The keeping rule in one sentence, for the record and the page; with readings, the one that decided."""
        if self.keep == "last":
            return "the last step is kept"
        if self.lacks_utility(kept or {}, start or {}):
            return f"highest utility: no checkpoint had {self.utility_floor:.0%} of the starting utility"
        aim = "lowest forget probability" if self.forget_target is None else (
            f"forget probability closest to {self.forget_target:.3g}, the level of rows never trained on")
        return f"{aim} among checkpoints with at least {self.utility_floor:.0%} of the starting utility"

    def reason_to_stop(self, now: Mapping[str, float], start: Mapping[str, float]) -> str | None:
        """Reason to stop after this reading, or None."""
        if self.forget_ceiling is not None and now["forget_loss"] > self.forget_ceiling:
            return f"forget loss {now['forget_loss']:.2f} passed the ceiling {self.forget_ceiling:.2f}"
        if self.stop_at_floor and now["utility"] < self.utility_floor * start["utility"]:
            return f"utility {now['utility']:.3f} fell below {self.utility_floor:.0%} of {start['utility']:.3f}"
        if self.stop_at_target and self.forget_target is not None and now["forget"] <= self.forget_target:
            return f"forget probability {now['forget']:.3f} reached the target {self.forget_target:.3f}"
        return None

    def better(self, now: Mapping[str, float], best: Mapping[str, float] | None,
               start: Mapping[str, float]) -> bool:
        """Whether `now` should replace `best` as the kept checkpoint."""
        if best is None or self.keep == "last":
            return True
        floor = self.utility_floor * start["utility"]
        fit_now, fit_best = now["utility"] >= floor, best["utility"] >= floor
        if fit_now != fit_best:
            return fit_now
        if not fit_now:
            return now["utility"] > best["utility"]
        return self._distance(now) < self._distance(best)

    def _distance(self, seen: Mapping[str, float]) -> float:
        return seen["forget"] if self.forget_target is None else abs(seen["forget"] - self.forget_target)


def alarms(now: Mapping[str, float], start: Mapping[str, float], moved: float, done: float,
           forgets: bool) -> list[str]:
    """Warnings that the user should see early.

    Args:
        now, start: monitor readings.
        moved: mean absolute relative movement of a sample of the trainable weights.
        done: share of the planned steps that has run.
        forgets: False for plain training, where a falling forget loss is no failure.
    """
    raised = []
    if done >= 0.25 and moved < 1e-6:
        raised.append(f"Almost no weight has moved (mean relative change {moved:.1e}): "
                      "the learning rate may be too small for these weights.")
    if forgets and done >= 0.5 and start["forget"] - now["forget"] < 0.01 * start["forget"]:
        raised.append(f"Forget probability has hardly moved ({start['forget']:.3f} to {now['forget']:.3f}): "
                      "try a larger learning rate or more steps.")
    if now["utility"] < 0.5 * start["utility"]:
        raised.append(f"Utility collapsed ({start['utility']:.3f} to {now['utility']:.3f}): "
                      "try a smaller learning rate or a stronger retain term.")
    return raised
