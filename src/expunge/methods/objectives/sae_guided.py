"""SAE-guided unlearning: make the model take a known entity for one that it never met."""

from __future__ import annotations

import random
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib import recognition as lib
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.models.sparse_autoencoder import (
    SAE,
    SAEOptions,
    block_states,
    check_sae,
    fit_sae,
    load_sae,
    quality,
    unpacked,
)
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


def guidance(latents: Tensor, unknown: Tensor, known_F: Tensor, unit: Tensor, eta: float, margin: float) -> Tensor:
    """d(z, unknown) + eta relu(margin + d(z, unknown) - d(z, known)), shape ...; d: squared distance over `unit`."""
    to_unknown, to_known = ((latents - other).square().sum(-1) / unit for other in (unknown, known_F))
    return to_unknown + eta * (margin + to_unknown - to_known).relu()


class SAEGuided(Objective):
    """Move the state at the last token of an entity's name towards that of an invented one, away from known ones."""

    builds = True
    asks = ("unknown",)

    class Spec(SAEOptions, WeightedSpec):
        layer: int | None = Field(None, ge=0, description="Block whose output is read; the middle one by default.")
        eta: float = Field(1.0, ge=0, description="Weight of the push away from known entities; 0 leaves the pull.")
        margin: float = Field(1.0, ge=0, description="How much nearer to unknown than to known ends the push, in "
                                                     "squared distances between the two centres.")
        rows: int = Field(256, ge=1, description="Most retain rows that the centres are taken from.")
        alpha: float = Field(10.0, ge=0, description="Weight of its companion activation_match.")
        seed: int = Field(0, description="Seed of names and autoencoder.")

    card = Card(
        name="sae_guided", kind="objective", target="entity",
        summary="move entities away from known and towards unknown in the latents of an autoencoder",
        paper="Sparse-Autoencoder-Guided Internal Representation Unlearning for LLMs (arXiv 2509.15631)",
        formula="L = mean d(z, z_unknown) + eta relu(m + d(z, z_unknown) - d(z, mu_known)), z at entities' last tokens",
        defaults="ours: the middle block, 4 x width latents, TopK 16, eta 1, margin 1",
        needs=frozenset({"retain", "reference.hidden"}),
        model_needs=frozenset({"hidden", "logp", "weights"}),
        companions="activation_match + retain_nll + layers(all up to its block)",
        deviations=("uncertain: all of the loss but 'away from known, towards unknown in SAE latent space'; distance, "
                    "hinge, weights and block are reconstructed, and no official code is known",
                    "unknown entities are invented names; each forget entity has one, and its rows about that name are "
                    "the target: pulled to a common centre, the latents would lose their spread",
                    "a name counts wherever a row has it, in questions and answers; rows without it are passed over",
                    "an inactive latent that is wanted passes the gradient on to its pre-activation",
                    "latents are multiplied by the norms of their decoder rows, so that they have one unit",
                    "the autoencoder is the original's, and the model moves away from it: sae_explained in the log is "
                    "the variance at forget entities that it still explains; invented names drift as well"),
        memory="the autoencoder as trained here: 8 x (hidden size)^2 numbers",
    )
    space = {"alpha": ("log", 0.1, 1000.0), "margin": ("uniform", 0.0, 2.0)}
    must_show = (
        Property("reaches_inactive_latents", {}, "a wanted latent that is 0 gets a gradient, no other one does"),
        Property("autoencoder_stays", {}, "no gradient reaches it, and its fit to the original is known"),
        Property("leaves_no_mark", {}, "what is made before the first step is plain data and changes nothing"),
        Property("taken_for_unknown", {"forget": 0.3, "retain": 0.9, "beside": "ga"},
                 "a probe of other entities takes the target for unknown and the rest for known; after ga it does not"),
        Property("among_the_unknown", {}, "latents of the target lie as those of unknown entities do"),
        Property("forgets", {"options": {"layer": 0}, "lr": 6e-3, "steps": 60, "retain_rise": 0.1},
                 "forget answers are lost, retain answers stay"),
    )

    def __init__(self, spec: Any = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._sae: SAE | None = None
        self._figures: dict[str, float] = {}

    def block(self, depth: int) -> int:
        return depth // 2 if self.spec.layer is None else self.spec.layer

    def companions(self, depth: int) -> str:
        layer = self.block(depth)
        return f"activation_match(layer={layer}, weight={self.spec.alpha!r}) + retain_nll + layers(index='0-{layer}')"

    def problems(self, task: Task) -> list[ExpungeError]:
        if self.spec.sae is not None:
            try:
                check_sae(self.spec.sae)
            except ExpungeError as problem:
                return [problem]
        return [UsageError(f"No {side} row names its entity in its prompt.",
                           "sae_guided moves what the model holds at the last token of the entity's name.",
                           "Say which field holds the name, such as --map entity=subject.")
                for side, rows in (("forget", task.forget), ("retain", task.retain))
                if not any(map(lib.mentions, rows))]

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        return {"forget": example, "unknown": self._unknown(example, task)}

    def _unknown(self, example: Example, task: Task) -> Example:
        number = list(dict.fromkeys(row.entity for row in task.forget)).index(example.entity)
        return lib.renamed(example, lib.invented_names(number + 1, self.spec.seed)[-1])

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        spec, block = self.spec, self.block(len(subject.blocks))
        known = [row for row in task.retain if lib.mentions(row)][: spec.rows]
        other = [self._unknown(row, task) for row in task.forget]
        strange = lib.invented(known, lib.invented_names(len(known), spec.seed + 1))
        states_ND = block_states(subject, [*task.forget, *known, *other, *strange], block)
        sae = (fit_sae(states_ND, latents=spec.expansion * subject.width, k=spec.k, steps=spec.train, seed=spec.seed)
               if spec.sae is None else load_sae(spec.sae, subject.width, block))
        known_F, unknown_F = ((sae.encode(lib.entity_states(subject, rows, block)) * sae.scale_F).mean(0)
                              for rows in (known, strange))
        return {"sae": sae.packed(), "quality": quality(sae, states_ND)._asdict(), "known": known_F.tolist(),
                "unit": float((known_F - unknown_F).square().sum().clamp_min(1e-12)),
                "places": lib.paired_places(subject, task.forget, other)}

    def figures(self) -> dict[str, float]:
        return self._figures

    def named(self, batch: Batch) -> int:
        """How often the rows of a batch name their entity."""
        return sum(len(self.made["places"][0].get(row.id, ())) for row in batch.rows)

    def terms(self, step: Step) -> dict[str, Term]:
        if not getattr(self, "made", {}):
            raise ExpungeError("sae_guided has no autoencoder.", "It is made on the task's rows before the first step.")
        block, batch, other = self.block(len(step.subject.blocks)), step.batches["forget"], step.batches["unknown"]
        states_ND, row_N = lib.at_places(step.hidden("forget", block), batch, self.made["places"][0])
        unknown_ND, _ = lib.at_places(step.reference.hidden(other, block), other, self.made["places"][1])
        sae = self._sae = (self._sae or unpacked(self.made["sae"])).to(states_ND.device)
        wanted_NF = (sae.encode(unknown_ND.detach()) * sae.scale_F).detach()
        known_F = torch.tensor(self.made["known"], device=wanted_NF.device)
        loss_N = guidance(lib.guided_latents(sae, states_ND, wanted_NF), wanted_NF, known_F, self.made["unit"],
                             self.spec.eta, self.spec.margin)
        self._figures = {"sae_explained": quality(sae, states_ND.detach()).explained} if len(row_N) > 1 else {}
        return {"sae_guided": Term(loss_N.new_zeros(len(batch)).index_add(0, row_N, loss_N), self.named, "forget")}
