"""Restoration: does a fact come back when latents of the original are put into the subject's states?

Legend: N positions (flat), D hidden size, F latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.sparse_autoencoder import SAE, SAEOptions, block_states, fit_sae, load_sae
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.depth import fact_tokens
from expunge.probes.latents import STRENGTHS, experts, observed
from expunge.probes.residual import answerable, heading, rounded
from expunge.records.base import fingerprint
from expunge.records.observation import Row
from expunge.records.task import Example, Task
from expunge.seeding import derive

_kept: dict[str, tuple[SAE, Tensor]] = {}
"""The autoencoder made last, with its expert latents: models of one audit share the original."""


class Restoration(Probe):
    """Log-prob of each fact while the subject runs on its states with latents of the original in them."""

    uses_original = True
    blocks_in = ("block",)

    class Spec(SAEOptions):
        block: int | None = Field(None, ge=0, description="Block whose output is written; by default at three "
                                                          "quarters of the depth, with at least one after it.")
        rows: int = Field(256, ge=1, description="Most forget rows, and retain rows, that it is trained on.")
        share: float = Field(0.25, gt=0, le=1, description="Share of the latents that are experts of the forget rows.")
        seed: int = Field(0, description="Seed of the autoencoder and of the random latents.")

    card = Card(
        name="restoration", kind="probe",
        summary="how likely a fact is with the original's autoencoder latents in the subject's states",
        paper="Suppression or Deletion: A Restoration-Based Analysis of Machine Unlearning (arXiv 2602.18505)",
        formula="h' = decode(z + a (z_original - z) on chosen latents) + (1 - a) (h - decode(z))",
        defaults="block at 9/12 of the depth and TopK 16 as published; 4 x width latents; 7 significant digits",
        needs=frozenset({"original"}),
        model_needs=frozenset({"hidden", "logp"}),
        deviations=("for language models: facts in place of classes, tokens in place of patches and the class token",
                    "latents are those of the autoencoder as it was trained, with bias and TopK; the authors' hook "
                    "mixes pre-activations without either",
                    "the authors also move the class token's own states; here all positions go through the "
                    "autoencoder but the first, which holds nothing of the row and stays the subject's own",
                    "all latents, experts of the forget rows, and as many random ones are put in; every row is treated "
                    "alike, with no look at its label",
                    "strengths are at most 1; the authors go to 10, where states are far from any the model knows",
                    "no retrained model of another initialisation can read the original's states: one of the same "
                    "initialisation is the stricter control"),
        memory="an autoencoder of 8 x (hidden size)^2 numbers, kept for the next model",
    )
    must_show = (
        Property("restoration_of_the_original", {}, "its own latents change nothing at strength 0 and little at 1"),
        Property("restoration_matches_slow_twin", {}, "one row with a plain hook and the autoencoder by hand"),
        Property("internals_ignore_padding_and_order", {}, "batch composition changes nothing"),
    )

    def chosen_block(self, depth: int) -> int:
        return max(min(3 * depth // 4, depth - 2), 0) if self.spec.block is None else self.spec.block

    def autoencoder(self, original: CausalLM, task: Task) -> tuple[SAE, Tensor]:
        """The autoencoder of the original and its experts of the forget rows, bool, shape F."""
        spec, block = self.spec, self.chosen_block(len(original.blocks))
        sides = [rows[: spec.rows] for rows in (task.forget, task.retain)]
        key = fingerprint([original.fingerprint, block, spec.model_dump(), [[r.to_json() for r in s] for s in sides]])
        if key not in _kept:
            forget_ND, retain_ND = (block_states(original, rows, block).to(original.device) if rows else
                                    torch.zeros(0, original.width, device=original.device) for rows in sides)
            sae = (load_sae(spec.sae, original.width, block).to(original.device) if spec.sae is not None else
                   fit_sae(torch.cat([forget_ND, retain_ND]), latents=spec.expansion * original.width, k=spec.k,
                           steps=spec.train, seed=spec.seed))
            _kept.clear()
            _kept[key] = sae, experts(forget_ND, retain_ND if len(retain_ND) else forget_ND, sae, spec.share)
        return _kept[key]

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        """Raises UsageError without an original, or if its architecture differs."""
        partner = self.require_original(partner)
        if (len(subject.blocks), subject.width) != (len(partner.blocks), partner.width):
            raise UsageError("restoration needs a subject and an original of one architecture.",
                             "The one cannot run on the hidden states of the other.")
        block, (sae, expert_F) = self.chosen_block(len(subject.blocks)), self.autoencoder(partner, task)
        draw = torch.Generator().manual_seed(derive(self.spec.seed, "random latents"))
        random_F = expert_F[torch.randperm(len(expert_F), generator=draw)]
        tokens = [subject.encoder.encode(e) for e in examples]
        usable = answerable(tokens)
        together = subject.pads_right and partner.pads_right
        rows: dict[int, dict[str, Any]] = {}
        with subject.evaluating(), partner.evaluating():
            for chosen in subject.encoder.batches(tokens, usable) if together else [[i] for i in usable]:
                batch = subject.collate([tokens[i] for i in chosen])
                spans = [fact_tokens(subject.encoder, tokens[i], examples[i].short_answer) for i in chosen]
                found = observed(subject, partner, batch, spans, block, sae, expert_F, random_F)
                for b, i in enumerate(chosen):
                    rows[i] = {**heading(examples[i]), "block": block, "tokens": len(spans[b]),
                               "strengths": list(STRENGTHS)}
                    rows[i] |= {name: rounded(values[b], 7) if values.dim() > 1 else rounded(values[b: b + 1], 7)[0]
                                for name, values in found.items()}
                if progress:
                    progress(len(chosen))
        return [rows[i] for i in usable]
