"""PH3: find the attention heads that bring a remembered answer by path patching, and prune them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.attention_heads import attending, attention_out, prune
from expunge.methods._lib.fact_edit import no_generic_text
from expunge.methods._lib.head_paths import ConflictPrompt, answered, asked, first_token, path_effects
from expunge.methods.base import Edit
from expunge.models.language import CausalLM
from expunge.models.load import float32_master
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task

LIMIT = 64
"""Most rows of each side that are patched."""
NOISE = 1e-6
"""Of the largest effect: less is rounding."""


class PH3(Edit):
    """Zero the heads whose direct path to the logits carries the forgotten answers."""

    class Spec(plugin.Spec):
        count: int = Field(1, ge=0, description="Heads that are pruned (K); 0 changes nothing.")
        heads: Literal["memory", "context"] = Field("memory", description=(
            "memory: those that bring the remembered answer; context: those that bring one stated before the question"))
        context: str = Field("{prompt} {wrong}.\n{prompt}", description=(
            "How a wrong answer is stated before the question; empty asks the question alone."))
        shared: float = Field(0.5, ge=0, le=1, description=(
            "A head is left if its effect on retain rows, times spare, is more than this share of that on forget rows"))
        spare: float = Field(1.0, ge=0, description="How much a head's effect on retain rows counts against it; 0 is "
                                                    "the paper's ranking, which does not know of them.")

    card = Card(
        name="ph3", kind="edit",
        summary="find the attention heads that bring the forgotten answers by path patching, and prune them",
        paper="Cutting Off the Head Ends the Conflict (PH3), Findings of ACL 2024 (arXiv 2402.18154)",
        formula="S(h) = P(a) - P(a | h's output taken from another prompt); prune the K heads of largest "
                "S_mem - S_ctx, less spare times that of retain rows",
        defaults="one head: ours, the paper chooses K on a development set",
        needs=frozenset({"questions", "retain"}),
        model_needs=frozenset({"attention", "distribution", "hidden", "prompt", "sequence", "weights"}),
        deviations=("written from the paper's abstract and notes on it: its normalisation, K and whether MLPs are "
                    "frozen are not known to us, nothing was compared",
                    "the direct path alone: other heads and all MLPs keep what they give on the prompt",
                    "the paper prunes at inference; here the columns of the output projection are zero for good",
                    "effects on retain rows are subtracted (spare), since heads found for one topic serve others too",
                    "a head's output comes from the prompt of another row that shares most tokens; answers are "
                    "compared by their first token",
                    "heads are ablated to zero, which is harsher than to their mean",
                    "where a family norms what attention gives before it is added (Gemma 2 and 3, OLMo 2), a head's "
                    "effect is measured without that norm",
                    "a fact that an MLP holds has no head of its own, and then nothing is pruned: a head that "
                    "brings retained answers as well is left, which is ours"),
    )
    space = {"count": ("choice", 1, 2, 4, 8), "spare": ("uniform", 0.0, 2.0)}
    must_show = (
        Property("keeps_everything", {"options": {"count": 0}}, "no head pruned changes no weight"),
        Property("finds_planted_head", {}, "the head that holds a fact is found, and only its columns change"),
        Property("removes_head_fact", {"most": 21}, "its fact is gone, all others stay"),
        Property("leaves_shared_heads", {}, "no head holds the fact of an MLP: the one that moves all facts is left"),
        Property("patches_nothing_onto_itself", {}, "where both prompts are the same, every score is 0"),
        Property("masks_like_columns", {}, "zero columns and a zeroed input of the projection give equal logits"),
        Property("turns_conflicts", {}, "without memory heads answers come from the context, and the other way round; "
                                        "random heads change little"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        try:
            asks = not self.spec.context or "?" in self.spec.context.format(prompt="?", wrong="")
        except (AttributeError, KeyError, IndexError, ValueError):
            asks = False
        if not asks:
            return [UsageError(f"ph3(context={self.spec.context!r}) is no template.",
                               "It has to hold {prompt}, and may hold {wrong}.", "Leave it out, or write another.")]
        return no_generic_text("ph3", task)

    def check_model(self, subject: CausalLM) -> None:
        for block in attending(subject):
            attention_out(subject, block)

    def prompts(self, subject: CausalLM, rows: tuple[Example, ...], task: Task) -> list[ConflictPrompt]:
        """Those of the rows that the model answers without a context; all, where it answers none."""
        rows = tuple(row for row in rows if row.prompt)
        with subject.evaluating():
            known = [row for row in rows if _answers(subject, row)]
        return asked(subject, (known or rows)[:LIMIT], task.retain[: 4 * LIMIT], self.spec.context)

    def found(self, subject: CausalLM, forget: list[ConflictPrompt],
              retain: list[ConflictPrompt]) -> list[tuple[int, int]]:
        """(block, head) of the heads to prune, the strongest first."""
        own_LH = self._score(path_effects(subject, forget))
        kept_LH = self.spec.spare * self._score(path_effects(subject, retain)) if self.spec.spare else 0 * own_LH
        least = NOISE * float(own_LH.abs().max())
        score_LH = (own_LH - kept_LH).where((own_LH > least) & (kept_LH <= self.spec.shared * own_LH), -torch.inf)
        best = score_LH.flatten().topk(min(self.spec.count, score_LH.numel()))
        return [divmod(int(at), score_LH.shape[1]) for score, at in zip(*best, strict=True) if score > -torch.inf]

    def _score(self, effects_LH2: Tensor) -> Tensor:
        """S_mem - S_ctx, or the other way round; shape L H."""
        score_LH = effects_LH2[..., 0] - effects_LH2[..., 1]
        return score_LH if self.spec.heads == "memory" else -score_LH

    @torch.no_grad()
    def apply(self, subject: CausalLM, task: Task, seed: int) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        self.check_model(subject)
        if not self.spec.count:
            return {"edit": "ph3", "heads": []}
        float32_master(subject)
        forget, retain = (self.prompts(subject, rows, task) for rows in (task.forget, task.retain))
        if not forget:
            raise UsageError("ph3 has no prompt to compare heads on.", "No forget row has a wrong answer, and a retain "
                             "row beside it, whose first tokens are others than that of its answer.",
                             "Give the forget rows wrong answers (--map wrong_answers=FIELD).")
        found, before = self.found(subject, forget, retain), answered(subject, forget)
        prune(subject, found)
        return {"edit": "ph3", "heads": [list(place) for place in found], "prompts": len(forget),
                "from_memory": [before[0], answered(subject, forget)[0]]}


def _answers(subject: CausalLM, row: Example) -> bool:
    """Whether the likeliest first token is that of the answer."""
    asked_row = first_token(subject, row, row.short_answer or row.answer)
    return int(subject.answers(subject.collate([asked_row])).logits_NV[0].argmax()) == asked_row.ids[-1]
