"""Null space: MLP output projections may change only along inputs that retain rows hardly use.

Legend: K inputs of an MLP's output projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from expunge import plugin
from expunge.methods._lib.output_projection import inputs_of, mlp_out
from expunge.methods._lib.tracing import best_window, effects
from expunge.methods.base import Rows, ScopePlugin
from expunge.methods.scopes.salun import rows_of
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.plugin import Card, Property

EMPTY = 1e-10
"""Share of the largest eigenvalue that counts as 0 in float64."""


def open_directions(moment_KK: Tensor, relaxation: float) -> Tensor | None:
    """Eigenvectors of a second moment with a value of at most `relaxation` times the largest, as columns; None: all."""
    if relaxation >= 1:
        return None
    values_K, vectors_KK = torch.linalg.eigh(moment_KK.double())
    return vectors_KK[:, values_K <= max(relaxation, EMPTY) * values_K[-1]]


@dataclass
class ProjectedScope(Scope):
    """A scope that projects, after every step, what weights have moved by since the start."""

    bases: dict[str, tuple[Tensor, bool]] = field(default_factory=dict)
    """Name -> orthonormal open input directions as columns, and whether the weight is stored input by output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._start = {name: self.parameters[name].detach().clone() for name in self.bases}

    @torch.no_grad()
    def enforce(self) -> None:
        super().enforce()
        for name, (basis_KJ, turned) in self.bases.items():
            start = self._start[name].double()
            moved = self.parameters[name].double() - start
            moved = basis_KJ @ (basis_KJ.T @ moved) if turned else moved @ basis_KJ @ basis_KJ.T
            self.parameters[name].copy_(start + moved)


class NullSpace(ScopePlugin):
    """The output projections of the MLPs that hold the forget facts, projected off what retain rows give them."""

    class Spec(plugin.Spec):
        layers: list[int] | None = Field(None, min_length=1, description=(
            "Blocks that may change; found by causal tracing on forget rows if left out."))
        width: int = Field(3, ge=1, description="Blocks in a row that tracing chooses.")
        relaxation: float = Field(0.01, ge=0, le=1, description="Share of the largest eigenvalue of retain inputs up "
                                                                "to which a direction is open; 0 opens the exact null "
                                                                "space, 1 everything.")
        noise: float = Field(3.0, gt=0, description="Noise on embeddings while tracing, in standard deviations.")
        rows: int = Field(256, ge=1, description="Most rows of each side that are read.")

    card = Card(
        name="null_space", kind="scope",
        summary="MLP output projections of traced blocks, only along inputs that retain rows hardly use",
        paper="KUDA (arXiv 2602.19275); null space of inputs: AlphaEdit (arXiv 2410.02355); tracing: arXiv 2202.05262",
        formula="W <- W0 + (W - W0) Q Q^T, Q = eigenvectors of E[k k^T] on retain rows with s <= relaxation * s_max",
        defaults="three blocks, relaxation 0.01, noise 3: ours, the paper's are not known",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"hidden", "logp", "weights"}),
        memory="a square matrix of the MLP's inner size for every block that may change, in float64",
        deviations=("the whole move since the start is projected, so that neither Adam's scaling nor weight decay "
                    "leaves the space",
                    "the relaxation is a threshold on eigenvalues; the paper's form is not known",
                    "tracing hides the whole prompt, not the subject alone: rows of any kind can be traced",
                    "no code is stored: nothing was compared"),
    )
    reads: ClassVar[tuple[str, ...]] = ("forget", "retain")
    space = {"relaxation": ("log", 1e-4, 0.3)}
    must_show = (
        Property("scope_keeps_bits", {"options": {"layers": [1]}}, "all that is not named keeps its bits"),
        Property("gives_retain_inputs_nothing", {}, "after steps of AdamW with weight decay the move gives nothing on "
                                                    "retain inputs to 1e-5, with either layout of weights"),
        Property("relaxed_fully_is_free", {}, "relaxation 1 trains the same weights to the same bits as without"),
        Property("traces_planted_block", {}, "the window of a model that learned in one block holds that block"),
    )

    def check_model(self, subject: CausalLM) -> None:
        for block in self.spec.layers or range(len(subject.blocks)):
            mlp_out(subject, block)

    def apply(self, subject: CausalLM, rows: Rows | None = None) -> Scope:
        spec = self.spec
        self.check_model(subject)
        blocks = spec.layers
        if blocks is None:
            traced: Any = rows_of("null_space", rows, ("forget",))[: spec.rows]
            blocks = list(best_window(effects(subject, traced, spec.noise), spec.width))
        found = {block: mlp_out(subject, block) for block in blocks}
        names = tuple(f"{name}.weight" for name, _ in found.values())
        if spec.relaxation >= 1:
            return Scope(subject, names)
        moments = _moments(subject, list(found), rows_of("null_space", rows, ("retain",))[: spec.rows])
        bases = {}
        for block, (name, module) in found.items():
            basis_KJ = open_directions(moments[block], spec.relaxation)
            assert basis_KJ is not None
            bases[f"{name}.weight"] = (basis_KJ, not isinstance(module, nn.Linear))
        return ProjectedScope(subject, names, bases=bases)


def _moments(subject: CausalLM, blocks: list[int], rows: Sequence[Any]) -> dict[int, Tensor]:
    """Mean of k k^T over the real positions of rows, not centred, in float64; block -> K K."""
    sums: dict[int, Tensor] = {}
    count = 0
    with subject.evaluating():
        for part in subject.encoder.batches(rows):
            batch = subject.collate([rows[i] for i in part])
            for block, keys_BTK in inputs_of(subject, blocks, batch).items():
                keys_NK = keys_BTK[batch.attention_BT.bool()].double()
                sums[block] = sums.get(block, 0) + keys_NK.T @ keys_NK
            count += batch.count("positions")
    return {block: total / max(count, 1) for block, total in sums.items()}
