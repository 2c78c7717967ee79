"""KLUE: only the MLP neurons that hold the forget facts may change, not those that merely say their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge import plugin
from expunge.data.text_encoder import TokenRow
from expunge.methods._lib.importance import largest
from expunge.methods._lib.output_projection import mlp_out
from expunge.methods.base import Rows, ScopePlugin
from expunge.methods.scopes.salun import masked_scope, rows_of
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.models.sites import Site, read
from expunge.models.slots import place_of
from expunge.plugin import Card, Property


def attributions(subject: CausalLM, rows: Sequence[TokenRow]) -> dict[int, Tensor]:
    """sum over rows and tokens of h dP/dh for every neuron of every block, P the mean token probability; K each."""
    blocks = range(len(subject.blocks))
    asked = [p.requires_grad for p in subject.model.parameters()]
    found = {block: torch.zeros(0) for block in blocks}
    try:
        subject.model.requires_grad_(True)
        sites = [Site(block, "mlp_hidden") for block in blocks]
        with subject.evaluating(), torch.enable_grad(), read(subject, sites) as values:
            for row in rows:
                answers = subject.answers(subject.collate([row]))
                chance = answers.row_means(answers.logp_N).exp().sum()
                hidden = [kept[-1] for kept in values]
                for block, h, slope in zip(blocks, hidden, torch.autograd.grad(chance, hidden), strict=True):
                    share_K = (h.detach() * slope).flatten(0, -2).sum(0).double()
                    found[block] = share_K + (found[block] if found[block].numel() else 0)
    finally:
        for p, before in zip(subject.model.parameters(), asked, strict=True):
            p.requires_grad_(before)
    return found


def elsewhere(rows: Sequence[TokenRow], count: int) -> list[TokenRow]:
    """Every answer behind the prompts of the `count` rows that follow: what says it without knowing the fact."""
    made = []
    for i, row in enumerate(rows):
        for k in range(1, min(count, len(rows) - 1) + 1):
            other = rows[(i + k) % len(rows)]
            made.append(TokenRow(f"{row.id} after {other.id}", (*other.ids[: other.prompt], *row.ids[row.prompt:]),
                                 other.prompt, row.answer, row.end))
    return made


class KLUE(ScopePlugin):
    """Knowledge-localised unlearning: neurons by attribution, less what they give to the same answer elsewhere."""

    class Spec(plugin.Spec):
        share: float = Field(0.05, gt=0, le=1, description="Share of all MLP neurons that may change.")
        alpha: float = Field(1.0, ge=0, description="Weight of the attribution for the same answers in other contexts.")
        contexts: int = Field(2, ge=0, description="Other contexts per row: prompts of other forget rows.")

    card = Card(
        name="klue", kind="scope",
        summary="only MLP neurons that hold the forget facts may change, not those that say the answers anywhere",
        paper="FaithUn: Toward Faithful Forgetting by Investigating the Interconnectedness of Knowledge, EMNLP 2025 "
              "(arXiv 2502.19207)",
        formula="top share of A_i(q, a) - alpha mean_n A_i(q'_n, a), A_i = h_i dP(a | q) / dh_i",
        defaults="5 % of the neurons; alpha, contexts and pooling are ours",
        model_needs=frozenset({"blocks", "hidden", "logp", "sequence", "weights"}),
        deviations=("nothing was compared: the repository holds data only. How attributions are pooled, alpha and "
                    "the share are uncertain; here they are summed over tokens and rows",
                    "P is the mean token probability, which keeps long answers from vanishing",
                    "mismatched contexts are prompts of other forget rows; with one row there are none",
                    "that rows once forgotten no longer count is left to a stop, such as holdout_level"),
    )
    reads: ClassVar[tuple[str, ...]] = ("forget",)
    space = {"share": ("log", 0.005, 0.5), "alpha": ("uniform", 0.0, 2.0)}
    must_show = (
        Property("scope_keeps_bits", {}, "weights of all other neurons keep their bits under AdamW with decay"),
        Property("finds_planted_units", {}, "the planted neuron of a fact is the first, and only its weights move"),
    )

    def check_model(self, subject: CausalLM) -> None:
        for block in range(len(subject.blocks)):
            mlp_out(subject, block)

    def apply(self, subject: CausalLM, rows: Rows | None = None) -> Scope:
        self.check_model(subject)
        forget = [row for row in rows_of("klue", rows, self.reads) if isinstance(row, TokenRow)]
        found, beside = attributions(subject, forget), elsewhere(forget, self.spec.contexts)
        if beside and self.spec.alpha:
            # A sum over `contexts` times as many rows, so that both are per row.
            weight = self.spec.alpha * len(forget) / len(beside)
            found = {block: found[block] - weight * other for block, other in attributions(subject, beside).items()}
        least = min(float(values_K.min()) for values_K in found.values())
        chosen = largest({str(block): (values_K - least).float() for block, values_K in found.items()}, self.spec.share)
        masks: dict[str, Tensor] = {}
        for block, mask_K in chosen.items():
            masks |= unit_masks(subject, int(block), mask_K)
        return masked_scope(subject, masks)


def unit_masks(subject: CausalLM, block: int, mask_K: Tensor) -> dict[str, Tensor]:
    """Masks of the weights that lead into some neurons of a block's MLP and out of them, by parameter name."""
    out, prefix = mlp_out(subject, block)[1], place_of(subject, "mlp", block).name
    found: dict[str, Tensor] = {}
    for name, layer in place_of(subject, "mlp", block).module.named_modules():
        if not isinstance(layer, nn.Linear | Conv1D):
            continue
        weight, turned = layer.weight, isinstance(layer, Conv1D)
        assert isinstance(weight, Tensor)
        rows_K = mask_K if layer is out else mask_K.repeat((weight.T if turned else weight).shape[0] // len(mask_K))
        across = (layer is out) != turned  # neurons are columns of the weight as it is kept
        found[f"{prefix}.{name}.weight"] = (rows_K[None, :] if across else rows_K[:, None]).expand(weight.shape).clone()
        if layer is not out and layer.bias is not None:
            found[f"{prefix}.{name}.bias"] = rows_K.clone()
    return found
