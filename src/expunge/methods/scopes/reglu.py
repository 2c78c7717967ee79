"""ReGLU: low-rank adapters that begin where forget outputs vary and retain outputs do not, and are kept off these.

Legend: O outputs of a layer, K directions of retain outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge import plugin
from expunge.errors import UsageError
from expunge.methods._lib.layer_outputs import begin_at, contrast, leading, outputs_of, overlap, second_moment
from expunge.methods.base import Rows, ScopePlugin
from expunge.methods.scopes.salun import rows_of
from expunge.models.adapter import add_adapter
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property

B = ".lora_B.default.weight"


@dataclass
class HeldScope(Scope):
    """A scope whose penalty keeps adapters away from directions of retain outputs."""

    strength: float = 0.0
    directions: dict[str, Tensor] = field(default_factory=dict)
    """Name of a matrix B -> P, shape O K."""

    def penalty(self) -> Tensor | None:
        if not self.strength:
            return None
        parts = [overlap(self.parameters[name], away) for name, away in self.directions.items()]
        return self.strength * torch.stack(parts).sum()


class ReGLU(ScopePlugin):
    """Train adapters on directions of forget outputs (RILA), under a penalty on those of retain outputs (ROL)."""

    class Spec(plugin.Spec):
        rank: int = Field(32, ge=1, description="Rank of each adapter; a layer with fewer outputs has fewer.")
        alpha: float | None = Field(None, gt=0, description="Scaling numerator; twice the rank if left out.")
        targets: str | list[str] = Field("all-linear", description='Names of linear layers; "all-linear": those of the '
                                                                   "decoder blocks.")
        dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
        balance: float = Field(0.7, ge=0, le=1, description="b: weight of retain outputs in the choice of directions.")
        penalty: float = Field(0.5, ge=0, description="Lambda: factor of the penalty; 0 is the initialisation alone.")
        directions: int = Field(128, ge=1, description="k: directions of retain outputs to stay away from; at most "
                                                       "half of a layer's outputs, and no more than rows.")
        rows: int = Field(256, ge=1, description="Rows of each side that the directions are read from, at most.")

    card = Card(
        name="reglu", kind="scope",
        summary="low-rank adapters on directions of forget outputs, kept away from those of retain outputs",
        paper="Representation-Guided Parameter-Efficient LLM Unlearning (ReGLU), 2026 (arXiv 2604.17396, ACL Findings)",
        formula="B = top r eigenvectors of (1 - b) C_F - b C_R, A = B^T W_0, W_0 := W_0 - s B A; "
                "L + lambda sum over layers ||B^T P||_F^2, P = top k eigenvectors of C_R",
        defaults="those of TOFU: rank 32, alpha 64, b 0.7, lambda 0.5, k 128, 256 rows, lr 1e-4, weight decay 0.01, 5 "
                 "epochs of 4 times 8 rows, one of them warm-up; WMDP-bio: b 0.5, dropout 0.05, lr 1e-5, 100 steps",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"sequence", "weights"}),
        conflicts=frozenset({"l1_sparse"}),
        memory="P of every layer, and a second model where a reference is needed: the base is not the original",
        deviations=("outputs are summed over the row's own positions; the authors' code adds those of padding",
                    "the adapter is merged when the run ends, since the base weights have changed: without them an "
                    "adapter alone would be another model",
                    "at most half of a layer's outputs are held, and a rank above its outputs is cut: of 128 held "
                    "directions in 128 none would be free; nor more directions than rows: others are arbitrary",
                    "the penalty is added to the combined gradient, so that no combiner projects it away, and before "
                    "clipping",
                    "second moments are not centred, as in the code; the paper calls them covariances",
                    "linear layers only: stacks of experts and convolutions stay as they are",
                    "any objective; the authors' inverted hinge loss is not offered"),
    )
    merged = True
    reads: ClassVar[tuple[str, ...]] = ("forget", "retain")
    space = {"balance": ("uniform", 0.3, 0.9), "penalty": ("log", 0.05, 5.0)}
    must_show = (
        Property("scope_keeps_bits", {}, "the base keeps the bits it has after the initialisation"),
        Property("starts_at_original", {}, "logits at step 0 are the original's, with other layouts of weights too"),
        Property("starts_orthonormal", {"balance": 0.7}, "B^T B = I, and no orthonormal matrix has a larger "
                                                         "trace(B^T C_delta B)"),
        Property("penalty_of_orthogonal_is_zero", {}, "and so is its gradient, where B has nothing in P"),
        Property("penalty_shrinks_overlap", {"penalty": 50.0}, "||B^T P|| falls under a large lambda"),
    )

    def apply(self, subject: Subject, rows: Rows | None = None) -> Scope:
        spec = self.spec
        sides = [rows_of("reglu", rows, (side,))[: spec.rows] for side in self.reads]
        targets = subject.adapted if spec.targets == "all-linear" else spec.targets
        scope = add_adapter(subject, rank=spec.rank, alpha=spec.alpha, targets=targets, dropout=spec.dropout)
        ups = [name for name in scope.names if name.endswith(B)]
        layers = {name: subject.model.get_submodule(name.removesuffix(B)) for name in ups}
        _check(layers)
        forget, retain = (outputs_of(subject, layers, side) for side in sides)
        directions = {}
        for name, layer in layers.items():
            forget_OO, retain_OO = second_moment(forget[name]), second_moment(retain[name])
            begin_at(layer, leading(contrast(forget_OO, retain_OO, spec.balance), spec.rank))
            count = max(min(spec.directions, len(retain_OO) // 2, len(sides[1])), 1)
            directions[name] = leading(retain_OO, count).to(scope.parameters[name])
        return HeldScope(subject, scope.names, strength=spec.penalty, directions=directions)


def _check(layers: dict[str, Any]) -> None:
    odd = [name for name, layer in layers.items()
           if not isinstance(layer.base_layer, nn.Linear | Conv1D) or hasattr(layer, "parameter_name")]
    if odd or not layers:
        raise UsageError("reglu reads the outputs of linear layers.", f"{odd[0].removesuffix(B)} is none." if odd else
                         "None is among the targets.", "Name linear layers with reglu(targets=...), or use lora.")
