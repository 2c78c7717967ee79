"""The recipes that are tried, each with the options that are searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expunge.methods.recipe import parse

Space = Mapping[str, tuple[Any, ...]]
"""Option -> ("log", low, high) or ("choice", *values)."""
GENTLE, STRONG = 1 / 64, 1 / 2
"""Range of learning rates, as shares of the one that the model was trained with."""
UNKNOWN_RATE = ("log", 3e-6, 3e-4)
"""Where that is not known: from usual fine-tuning of large models to that of small ones."""
TEACHING = 1 / 4
"""Least learning rate of teaching damaged weights again, as such a share; at most it is that of the training."""
UNKNOWN_TEACHING = ("log", 2e-5, 1e-3)


@dataclass(frozen=True)
class OpenRecipe:
    """A recipe whose open options stand in braces. `lr` is the rate of unlearning, `teach` that of distilling."""

    name: str
    recipe: str
    space: Space = field(default_factory=dict)

    def filled(self, params: Mapping[str, Any]) -> str:
        """The recipe with these values."""
        return self.recipe.format(**{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in params.items()})


PORTFOLIO = (
    OpenRecipe("npo", "npo + retain_nll(weight={weight}) + adamw(lr={lr})", {"weight": ("choice", 1, 3)}),
    OpenRecipe("simnpo", "simnpo + retain_nll(weight={weight}) + adamw(lr={lr})", {"weight": ("choice", 1, 3)}),
    OpenRecipe("ce_u", "ce_u + retain_nll(weight={weight}) + adamw(lr={lr})", {"weight": ("choice", 1, 2)}),
    OpenRecipe("undial", "undial + retain_nll(weight={weight}) + adamw(lr={lr})", {"weight": ("choice", 1, 3)}),
    OpenRecipe("npo distilled", "npo + retain_nll(weight=3) + adamw(lr={lr}) >> shrink_perturb(alpha={alpha}, beta=0) "
               ">> distil(epochs={epochs}) + adamw(lr={teach})",
               {"teach": UNKNOWN_TEACHING, "alpha": ("choice", 0.3, 0.8, 0.5), "epochs": ("choice", 15, 4, 8)}),
    OpenRecipe("npo sam", "npo + retain_nll(weight={weight}) + sam + adamw(lr={lr})", {"weight": ("choice", 1, 3)}),
)


def space_of(entry: OpenRecipe, training_rate: float | None) -> dict[str, tuple[Any, ...]]:
    """Everything that is drawn for a recipe, `lr` among it."""
    if training_rate is None:
        return {"lr": UNKNOWN_RATE, **entry.space}
    teach = {"teach": ("log", training_rate * TEACHING, training_rate)} if "teach" in entry.space else {}
    return {"lr": ("log", training_rate * GENTLE, training_rate * STRONG), **entry.space, **teach}


def middle(space: Space) -> dict[str, Any]:
    """The first setting that is tried: the geometric middle of a range, the last of several values."""
    return {name: float(f"{(values[0] * values[1]) ** 0.5:.3g}") if kind == "log" else values[-1]
            for name, (kind, *values) in space.items()}


def check_portfolio(entries: tuple[OpenRecipe, ...], depth: int) -> None:
    """Raises UsageError where an entry is no recipe."""
    for entry in entries:
        parse(entry.filled(middle(space_of(entry, None))), depth)


__all__ = ["PORTFOLIO", "OpenRecipe", "check_portfolio", "middle", "space_of"]
