"""Ignore-top-k: of what a window of steps changed, the largest entries go back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from expunge.methods._lib.trimming import Trim, TrimSpec, staying_over
from expunge.plugin import Card, Property


class IgnoreK(Trim):
    """By the paper, a new text is remembered without its largest changes, and spreads to unrelated texts with them."""

    class Spec(TrimSpec):
        k: float = Field(0.08, ge=0, lt=1, description="Share of the entries that goes back; 0 is the plain update.")

    card = Card(
        name="ignore_k", kind="trim",
        summary="the largest entries of the change over a window of steps go back (ignore-top-k)",
        paper="Sun et al. 2025, How new data permeates LLM knowledge and how to dilute it, ICLR 2025 "
              "(arXiv 2504.09522)",
        formula="D = w_(t+n) - w_t; w_(t+n) <- w_t + m * D, m = 0 on the share k of a tensor's entries with the "
                "largest |D|",
        defaults="k 8 % and 20 steps, those of the paper's insertions while tuning (40 in continued pre-training)",
        companions="npo",
        memory="1: the weights at the start of the window",
        deviations=("written from a summary; no code is public, and nothing was compared",
                    "whether the paper ranks within tensors or over the model is not known here: over",
                    "the paper trims while a text is learned; here it trims any run, so that of forgetting too",
                    "that the spread to other contexts falls was not found on small models: `expunge study outlandish`",
                    "a recipe that names no source of forgetting takes npo; `expunge train` has none",
                    "the optimizer's moments still hold what was dropped, unless moments says otherwise",
                    "weights are read, and the best kept, at ends of windows only; in between they are untrimmed"),
    )
    space: ClassVar = {"k": ("uniform", 0.0, 0.5), "window": ("choice", 1, 5, 20, 40)}
    must_show = (
        Property("does_nothing", {"options": {"k": 0.0}}, "k 0 is the run without it, bit for bit"),
        Property("trims_to_share", {}, "the share of entries that moved is exact in every tensor, and the others have "
                                       "their very bits"),
        Property("treats_moments", {}, "moments are kept, dropped with the change, or 0"),
        Property("trims_when_resumed", {}, "interrupted within a window and resumed, it ends in the same weights"),
        Property("equals_dropping_the_top", {}, "it is sparse_steps(mode='drop_top') with share 1 - k"),
        Property("memory_of_an_injection", {"kept": (0.5, 1.1)}, "a row injected for one window is remembered, and the "
                                                                "rows around it are learned no worse"),
    )

    @property
    def idle(self) -> bool:
        return bool(self.spec.k == 0)

    def stays(self, changes: Sequence[Tensor], seed: int) -> list[Tensor]:
        return staying_over(changes, 1 - self.spec.k, "drop_top", self.spec.over, seed)
