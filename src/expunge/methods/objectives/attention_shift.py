"""Attention shifting: on forget rows the model looks away from the words that carry content."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from expunge.methods._lib.attention_targets import Direction, map_divergence, marked, marks_of, shifted
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.training.step import Step, Term


class AttentionShift(Objective):
    """Learn the original's attention maps with the columns of content words held down."""

    class Spec(WeightedSpec):
        weight: float = Field(0.5, ge=0, description="Coefficient of this term (alpha); its companion has 1 - alpha.")
        suppress: float = Field(0.99, ge=0, lt=1, description="Share of the attention on content words that is taken "
                                                              "away, before rows are scaled to sum to 1 (lambda).")
        reinforce: float = Field(0.5, ge=0, description="Share that its companion adds on retain rows (mu).")
        kl: Direction = Field("forward", description="forward: KL(target || map); reverse: KL(map || target).")

    card = Card(
        name="attention_shift", kind="objective",
        summary="attention on content words of forget rows is held down, on retain rows raised",
        paper="Wisdom is Knowing What not to Say: Attention Shifting (AS), NeurIPS 2025 (arXiv 2510.17210)",
        formula="L = alpha mean_(l,h,i) KL(A'_i || A_i), A'_ij ~ A0_ij (1 - lambda [j carries content])  "
                "(+ (1 - alpha) the same on retain rows with 1 + mu)",
        defaults="lambda 0.99, content 60% of the tokens; lr 5e-4, batch 4 times 16, weight decay 0.01, clip 1, Adam "
                 "betas 0.9 and 0.98, adapters on Q and K: lora(targets=[\"q_proj\", \"k_proj\"]); mu and alpha are "
                 "ours",
        needs=frozenset({"reference.attention"}),
        model_needs=frozenset({"attention", "weights"}),
        memory="maps of all blocks and heads, twice, and for full weights a frozen copy of the model",
        deviations=("no code is stored and nothing was compared; the direction of the divergence, mu, and alpha, which "
                    "the paper changes along the run by a rule we do not know, are ours",
                    "content words are words of prompt and answer that are not in a list of English function words; "
                    "the paper tags parts of speech, or takes tokens that change the answer's entropy most",
                    "words of the template and special tokens are never marked, so a first token that draws attention "
                    "takes up what is freed",
                    "dropout is off while maps are computed; maps of a family with sinks of its own (GPT-OSS) sum to "
                    "less than 1 and are compared as they are",
                    "all weights train unless a scope is named; the paper trains adapters alone"),
    )
    builds = True
    space = {"suppress": ("uniform", 0.5, 0.99), "reinforce": ("uniform", 0.0, 2.0), "weight": ("uniform", 0.1, 0.9)}
    must_show = (
        Property("maps_are_distributions", {}, "maps are causal, rows sum to 1, and the model is left as it was"),
        Property("shifts_by_hand", {}, "targets keep the sums of rows, and take away what lambda says"),
        Property("marks_content", {}, "names, verbs and numbers of the row; no function word and nothing of the "
                                      "template"),
        Property("zero_gradient_at_start", {"options": {"suppress": 0.0, "reinforce": 0.0}},
                 "with nothing taken away and nothing added the gradient is 0"),
        Property("looks_away", {"steps": 60, "lr": 3e-3}, "most of the attention that the target takes away is gone"),
        Property("opposes_its_companion", {}, "the gradients of both sides point against each other at the start"),
    )

    def companions(self, depth: int) -> str:
        spec = self.spec
        return f"retain_attention(weight={max(1 - spec.weight, 0.0)!r}, reinforce={spec.reinforce!r}, kl={spec.kl!r})"

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        return marks_of(subject, task.forget)

    def terms(self, step: Step) -> dict[str, Term]:
        batch = step.batches["forget"]
        marked_BT = marked(self.made, batch.rows, batch.ids_BT.shape[1], batch.device)
        targets = [shifted(one, marked_BT, -self.spec.suppress) for one in step.reference.attention(batch)]
        moved_B = map_divergence(targets, step.attention("forget"), self.spec.kl)
        return {"attention_shift": Term(moved_B, "positions", "forget")}
