"""Shrink and perturb: pull the weights towards zero, or towards fresh random ones, for a student to be taught again."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods.base import Edit
from expunge.methods.scopes.embedding import names_within
from expunge.models.load import float32_master
from expunge.models.slots import place_of
from expunge.models.subject import Subject
from expunge.needs import ModelNeed
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.seeding import derive


def xavier_uniform(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A draw of U(-b, b), b = sqrt(6 / (fan in + fan out)), on the CPU in float32.

    A stack of matrices (three dimensions, such as experts) has the fans of one; a kernel of a convolution (four) those
    of all its positions.
    """
    rows, columns = (shape[0], shape[1]) if len(shape) != 3 else (shape[1], shape[2])
    positions = torch.Size(shape[2:]).numel() if len(shape) > 3 else 1
    bound = (6 / ((rows + columns) * positions)) ** 0.5
    return (2 * torch.rand(shape, generator=generator) - 1) * bound


class ShrinkPerturb(Edit):
    """Move every weight matrix a share of the way to fresh random weights; norms and biases keep their bits."""

    damages = True

    class Spec(plugin.Spec):
        alpha: float = Field(0.6, ge=0, le=1, description="Share of the old weights that is taken away; 0 changes "
                                                          "nothing, 1 leaves random weights of scale beta.")
        beta: float = Field(0.1, ge=0, le=1, description="Scale of the random weights as a share of a fresh "
                                                         "initialisation; 0 only shrinks.")
        where: Literal["all", "blocks", "mlp", "attention"] = Field(
            "all", description="Matrices that change: all, those of the blocks without embeddings and head, or only "
                               "the MLPs or the attention of every block.")

    card = Card(
        name="shrink_perturb", kind="edit", target="capability",
        summary="shrink the weights and add noise, so that a student can be distilled anew (UNDO)",
        paper="Lee et al. 2025, Distillation Robustifies Unlearning (arXiv 2506.06278); Ash and Adams 2020, On "
              "Warm-Starting Neural Network Training (arXiv 1910.08475)",
        formula="W <- (1 - alpha) W + alpha * beta * N, N Xavier uniform, for every W of two or more dimensions",
        defaults="alpha 0.6 (0.1 to 0.8 in the paper, 0.25 for WMDP), beta 0.1 (0 for WMDP)",
        model_needs=frozenset({"weights", "blocks"}),
        deviations=("norm gains and biases keep their values: the authors' code shrinks them towards 0, which is "
                    "neutral where the gain is 1 + w, as in the Gemma models of the paper, and scales every block "
                    "down where it is w, as in Llama",
                    "a tied head is changed once; convolutions and stacks of experts, which the authors refuse, are "
                    "drawn with their own fans",
                    "noise is drawn from the run's seed; the authors' code ignores its seed",
                    "where= is ours"),
    )
    space = {"alpha": ("uniform", 0.1, 0.8), "beta": ("choice", 0.0, 0.01, 0.05, 0.1)}
    must_show = (
        Property("keeps_everything", {"options": {"alpha": 0.0}}, "alpha 0 is the teacher, bit for bit"),
        Property("moves_towards_noise", {}, "its definition, matrix by matrix; norms keep their bits, a tied head "
                                            "moves once, and beta 0 only shrinks"),
        Property("forgets_where_it_came_from", {}, "alpha 1 leaves the same matrices whatever they were before"),
        Property("edits_only", {"options": {"where": "mlp"}, "part": "mlp."}, "only the MLPs change"),
        Property("edit_forgets", {"rise": 2.0}, "the answers are lost, all of them: a student has to be taught"),
    )

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        return self.card.model_needs | ({"hidden"} if self.spec.where in ("mlp", "attention") else frozenset())

    def names(self, subject: Subject) -> set[str]:
        """The parameters that change, each under one name."""
        where, model = self.spec.where, subject.model
        matrices = {name for name, p in model.named_parameters() if p.dim() > 1 and p.is_floating_point()}
        if where == "all":
            return matrices
        modules = list(subject.blocks.values())
        if where != "blocks":
            modules = [place_of(subject, where, number).module for number in range(len(modules))]
        return matrices & {name for module in modules for name in names_within(subject, module)}

    def apply(self, subject: Subject, task: Task, seed: int) -> dict[str, Any]:
        float32_master(subject)
        alpha, chosen = self.spec.alpha, self.names(subject)
        moved = size = 0.0
        with torch.no_grad():
            for name, weight in subject.model.named_parameters():
                size += float(weight.pow(2).sum())
                if name not in chosen or alpha == 0:
                    continue
                generator = torch.Generator().manual_seed(derive(seed, "shrink_perturb", name))
                noise = xavier_uniform(weight.shape, generator).to(weight.device)
                moved += float((alpha * (self.spec.beta * noise - weight)).pow(2).sum())
                weight.mul_(1 - alpha).add_(noise, alpha=alpha * self.spec.beta)
        return {"edit": "shrink_perturb", "positions": 0, "alpha": alpha, "change": (moved / size) ** 0.5,
                "matrices": len(chosen)}
