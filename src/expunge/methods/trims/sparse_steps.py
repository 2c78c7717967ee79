"""Multi-step sparse updates: of what a window of steps changed, only a share of the entries stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from expunge.methods._lib.trimming import Mode, Trim, TrimSpec, staying_over
from expunge.plugin import Card, Property


class SparseSteps(Trim):
    """Dense steps, trimmed now and then: what one row brought is spread thin and goes, what many rows bring stays."""

    class Spec(TrimSpec):
        share: float = Field(0.1, gt=0, le=1, description="Share of the entries that stay; 1 trims nothing.")
        mode: Mode = Field("keep_top", description="Which stay: the largest, all but the largest, or random ones.")

    card = Card(
        name="sparse_steps", kind="trim",
        summary="of the change over a window of steps only a share of the entries stays",
        paper="Sun et al. 2024, Learning and Unlearning of Fabricated Knowledge in Language Models (arXiv 2410.21750)",
        formula="D = w_(t+n) - w_t; w_(t+n) <- w_t + m * D, m = 1 on the share of a tensor's entries with the largest "
                "|D|",
        defaults="a tenth stays, after 20 steps; the paper's share and window are not known here",
        companions="npo",
        memory="1: the weights at the start of the window",
        deviations=("written from the abstract and a later paper of the authors; no code is public, and nothing was "
                    "compared",
                    "whether the paper keeps or drops the largest entries, and which share, is not known here: modes",
                    "by the paper an injected fact all but returns to its probability before; on small models it loses "
                    "nine tenths of what it gained and stays above it",
                    "a recipe that names no source of forgetting takes npo; `expunge train` has none",
                    "the optimizer's moments still hold what was dropped, unless moments says otherwise",
                    "embeddings and norms are trimmed too; a scope such as layers leaves them out. Tied embeddings are "
                    "one tensor",
                    "weights are read, and the best kept, at ends of windows only; in between they are untrimmed"),
    )
    space: ClassVar = {"share": ("log", 0.05, 1.0), "window": ("choice", 1, 5, 20, 40),
                       "mode": ("choice", "keep_top", "drop_top", "random")}
    must_show = (
        Property("does_nothing", {"options": {"share": 1.0}}, "share 1 is the run without it, bit for bit"),
        Property("trims_to_share", {}, "the share of entries that moved is exact in every tensor, and the others have "
                                       "their very bits"),
        Property("treats_moments", {}, "moments are kept, dropped with the change, or 0"),
        Property("trims_when_resumed", {}, "interrupted within a window and resumed, it ends in the same weights"),
        Property("memory_of_an_injection", {"kept": (0.0, 0.2)}, "a row injected for one window is mostly gone, "
                                                                "and those around it are learned no worse"),
    )

    @property
    def idle(self) -> bool:
        return bool(self.spec.share == 1)

    def stays(self, changes: Sequence[Tensor], seed: int) -> list[Tensor]:
        return staying_over(changes, self.spec.share, self.spec.mode, self.spec.over, seed)
