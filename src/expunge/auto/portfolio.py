"""The recipes that are tried, each with the options that are searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expunge.methods.recipe import parse

Space = Mapping[str, tuple[Any, ...]]
"""Option -> ("log", low, high), ("choice", *values), or ("passes", *shares of the passes of the training)."""
GENTLE, STRONG = 1 / 64, 1 / 2
"""Range of learning rates, as shares of the one that the model was trained with."""
UNKNOWN_RATE = ("log", 3e-6, 3e-4)
"""Where that is not known: from usual fine-tuning of large models to that of small ones."""
TEACHING, FASTER = 1 / 2, 2
"""Range of learning rates of teaching damaged weights again, as such shares."""
UNKNOWN_TEACHING = ("log", 2e-5, 1e-3)
UNKNOWN_PASSES = 10
"""Passes of the training where they are not known."""


@dataclass(frozen=True)
class OpenRecipe:
    """A recipe whose open options stand in braces. `lr` is the rate of unlearning, `teach` that of distilling."""

    name: str
    recipe: str
    space: Space = field(default_factory=dict)
    before: float = 0.0
    """Passes over all rows that its first stage takes, beside those of teaching."""

    def filled(self, params: Mapping[str, Any]) -> str:
        """The recipe with these values."""
        return self.recipe.format(**{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in params.items()})


RETEACHING: dict[str, tuple[Any, ...]] = {"teach": UNKNOWN_TEACHING, "alpha": ("choice", 0.6, 0.9, 0.8),
                                         "beta": ("choice", 0.3, 0.0)}

# The first few are tried in full, and later ones are stopped once these beat them.
PORTFOLIO = (
    OpenRecipe("npo", "npo + retain_nll(weight={weight}) + adamw(lr={lr})", {"weight": ("choice", 1, 3)}),
    OpenRecipe("ssd retaught", "ssd(alpha={alpha}, lambda_={lambda_}) >> distil(teacher='original', likeliest=1, "
               "epochs={epochs}) + adamw(lr={teach})",
               {"teach": UNKNOWN_TEACHING, "alpha": ("log", 0.5, 3.0), "lambda_": ("choice", 0.3, 0.1, 0.03),
                "epochs": ("passes", 0.05, 0.1, 0.2, 0.4)}, before=1.25),
    OpenRecipe("retaught", "shrink_perturb(alpha={alpha}, beta={beta}) >> distil(teacher='original', likeliest=1, "
               "epochs={epochs}) + adamw(lr={teach})", RETEACHING | {"epochs": ("passes", 0.1, 0.2, 0.3, 0.42)}),
    OpenRecipe("npo retaught", "npo + retain_nll(weight=3) + adamw(lr={lr}) >> shrink_perturb(alpha={alpha}, "
               "beta={beta}) >> distil(likeliest=1, epochs={epochs}) + adamw(lr={teach})",
               RETEACHING | {"epochs": ("passes", 0.05, 0.1, 0.2, 0.34)}),
    OpenRecipe("simnpo", "simnpo + retain_nll(weight={weight}) + adamw(lr={lr})", {"weight": ("choice", 1, 3)}),
    OpenRecipe("ce_u", "ce_u + retain_nll(weight={weight}) + adamw(lr={lr})", {"weight": ("choice", 1, 2)}),
    OpenRecipe("undial", "undial + retain_nll(weight={weight}) + adamw(lr={lr})", {"weight": ("choice", 1, 3)}),
    OpenRecipe("npo sam", "npo + retain_nll(weight={weight}) + sam + adamw(lr={lr})", {"weight": ("choice", 1, 3)}),
)


def space_of(entry: OpenRecipe, training_rate: float | None = None, passes: float | None = None,
             most: float = 1.0) -> dict[str, tuple[Any, ...]]:
    """Everything that is drawn for a recipe, `lr` among it.

    Args:
        training_rate: learning rate that the model was trained with, where that is known.
        passes: passes over the rows of that training.
        most: share of them that a recipe may take.
    """
    space: dict[str, tuple[Any, ...]] = {"lr": UNKNOWN_RATE, **entry.space}
    if "{lr}" not in entry.recipe:
        del space["lr"]
    known = {} if training_rate is None else {
        "lr": ("log", training_rate * GENTLE, training_rate * STRONG),
        "teach": ("log", training_rate * TEACHING, training_rate * FASTER)}
    space = {name: known.get(name, values) for name, values in space.items()}
    for name, (kind, *values) in space.items():
        if kind == "passes":
            known_passes = passes or UNKNOWN_PASSES
            room = int(most * known_passes - entry.before)
            # The limit itself is worth a trial: a retaught model is the better the longer it is taught.
            counts = {min(round(share * known_passes), room) for share in values}
            space[name] = ("choice", *sorted({max(count, 1) for count in counts}))
    return space


def middle(space: Space) -> dict[str, Any]:
    """The first setting that is tried: the geometric middle of a range, the last of several values."""
    return {name: float(f"{(values[0] * values[1]) ** 0.5:.3g}") if kind == "log" else values[-1]
            for name, (kind, *values) in space.items()}


def check_portfolio(entries: tuple[OpenRecipe, ...], depth: int) -> None:
    """Raises UsageError where an entry is no recipe."""
    for entry in entries:
        parse(entry.filled(middle(space_of(entry))), depth)


__all__ = ["PORTFOLIO", "OpenRecipe", "check_portfolio", "middle", "space_of"]
