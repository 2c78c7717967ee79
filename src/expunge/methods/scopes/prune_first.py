"""Prune first: set the smallest weights to zero, keep them there, and let only the others move."""

from __future__ import annotations

import torch
from pydantic import Field

from expunge import plugin
from expunge.methods._lib.importance import largest
from expunge.methods.base import Rows, ScopePlugin
from expunge.methods.scopes.salun import masked_scope
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property


class PruneFirst(ScopePlugin):
    """One-shot magnitude pruning before the first step; pruned weights stay exactly zero."""

    class Spec(plugin.Spec):
        sparsity: float = Field(0.5, ge=0, lt=1, description="Share of the weight matrices' elements that is set to "
                                                             "zero, all matrices together; 0 prunes nothing.")

    card = Card(
        name="prune_first", kind="scope",
        summary="set the smallest weights to zero before the first step; they stay zero",
        paper="Jia et al. 2023, Model Sparsity Can Simplify Machine Unlearning (arXiv 2304.04934)",
        formula="w <- w * m, m = 1 for the largest |w| of all matrices together; w moves only where m = 1",
        defaults="0.95 of a ResNet's convolutions in the paper, retrained after pruning; 0.5 here, where nothing is "
                 "retrained first",
        model_needs=frozenset({"weights"}),
        deviations=("embeddings, the output head, norms and biases are not pruned: the authors prune convolutions",
                    "no rewinding and no retraining between pruning and unlearning: put a stage of distil or a longer "
                    "retain term behind it",
                    "the original that a reference holds is the pruned model, as the authors unlearn the sparse one",
                    "iterative pruning and SynFlow are not offered"),
    )
    space = {"sparsity": ("uniform", 0.1, 0.9)}
    must_show = (
        Property("scope_keeps_bits", {}, "nothing outside the mask moves under AdamW with weight decay"),
        Property("pruned_stays_zero", {"sparsity": 0.4}, "the smallest share is zero before and after training, all "
                                                         "else starts with its own bits"),
        Property("same_as_scope", {"options": {"sparsity": 0.0}, "other": "all"}, "sparsity 0 is the plain method"),
    )

    def apply(self, subject: Subject, rows: Rows | None = None) -> Scope:
        named = dict(subject.model.named_parameters())
        kept = [m for m in subject.model.modules() if isinstance(m, torch.nn.Embedding)] + _head(subject)
        ends = {id(p) for module in kept for p in module.parameters()}
        chosen = {n: p for n, p in named.items() if p.dim() > 1 and id(p) not in ends}
        if self.spec.sparsity == 0 or not chosen:
            return Scope(subject, tuple(named))
        masks = largest({n: p.detach().abs() for n, p in chosen.items()}, 1 - self.spec.sparsity)
        with torch.no_grad():
            for name, mask in masks.items():
                named[name].mul_(mask)
        free = {n: torch.ones_like(p, dtype=torch.bool) for n, p in named.items() if n not in masks}
        return masked_scope(subject, {n: masks.get(n, free.get(n)) for n in named})  # type: ignore[misc]


def _head(subject: Subject) -> list[torch.nn.Module]:
    found = getattr(subject.model, "get_output_embeddings", lambda: None)()
    return [found] if isinstance(found, torch.nn.Module) else []
