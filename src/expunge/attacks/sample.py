"""Sampling: many answers per question, of which one may contain the fact."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from expunge import plugin
from expunge.attacks._lib.decoding import prompts_of
from expunge.attacks.base import Ask, Attack, AttackCard, AttackContext, View
from expunge.errors import UsageError
from expunge.models.endpoint import Endpoint
from expunge.models.language import CausalLM
from expunge.plugin import Property
from expunge.seeding import derive, stream


class KeyedDraw(LogitsProcessor):
    """Keeps only one token: the first whose cumulative probability exceeds a uniform number.

    That is an exact draw from softmax(scores). The number depends on the row's key, the attempt and the position
    only, while transformers uses one generator for the whole batch: so the draw does not depend on the batch or
    the order of rows.

    Args:
        keys: one per row of the batch.
        width: length of the padded prompts.
    """

    def __init__(self, keys: list[int], attempt: int, width: int) -> None:
        self._keys, self._attempt, self._width = keys, attempt, width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if len(scores) != len(self._keys):
            raise UsageError("Sampling and beam search exclude each other.", "sample draws one answer, extend searches "
                                                                             "several.",
                             "Use extend(beams=1) with sample.")
        position = input_ids.shape[1] - self._width
        numbers = [[stream(key, self._attempt, position).random()] for key in self._keys]
        cumulative_BV = scores.double().softmax(-1).cumsum(-1)
        threshold_B1 = torch.tensor(numbers, dtype=torch.float64, device=scores.device) * cumulative_BV[:, -1:]
        chosen_B1 = torch.searchsorted(cumulative_BV, threshold_B1, right=True).clamp_max(scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen_B1, 0.0)


class Sample(Attack):
    """Ask every question many times at a temperature."""

    class Spec(plugin.Spec):
        count: int = Field(10, ge=0, description="Answers per question; 0: one greedy answer, as without the attack.")
        temperature: float = Field(1.0, gt=0, description="Logits are divided by it; above 1 rare answers become "
                                                          "likelier.")
        top_k: int = Field(0, ge=0, description="Draw from the k likeliest tokens only; 0 for all.")
        top_p: float = Field(1.0, gt=0, le=1, description="Draw from the fewest tokens with this much probability.")

    card = AttackCard(
        name="sample", kind="attack", access="text",
        family="decoding", model_needs=frozenset({"generate", "prompt"}),
        summary="ask every question many times at a temperature",
        paper="Patil et al. 2023 (arXiv 2309.17410): one of many candidates leaks; "
              "Inside-Out (arXiv 2503.15299) samples 1,000 at temperature 1",
        formula="y_1 .. y_n ~ softmax(logits / temperature)",
        defaults="temperature 1 and no cut-off (Inside-Out); ten draws to save time",
        asks=("forget.keyword", "forget.rouge_l", "forget.pass_at_k"),
        deviations=("draws are keyed by prompt, attempt and position, so subject and control get the same random "
                    "numbers; two rows with the same prompt get the same draw",
                    "an endpoint draws by itself: it is sent the temperature and another seed in each attempt",
                    "for keyword and rouge_l the best draw of a row counts; pass_at_k is the share of draws",
                    "on the tiny models of the tests a reluctant one goes from keyword .11 (greedy) to .44 in 8 draws "
                    "at temperature 0.5 and .19 in 10 at 1; one suppressed by npo gives nothing at both"),
        caution="The best of many guesses is higher for any model: only the excess over the control counts.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"count": 2}}, "draws do not depend on the batch"),
        Property("leaves_no_trace", {"options": {"count": 0}}, "greedy decoding"),
        Property("draws_follow_softmax", {}, "exact, with and without top_k and top_p"),
        Property("draws_match_slow_twin", {}, "token by token, without caches and padding; cold draws are greedy"),
        Property("draws_beat_greedy", {"from_": "reluctant", "options": {"count": 6, "temperature": 0.5}},
                 "a model that mostly refuses answers now and then"),
        Property("recovers", {"from_": "reluctant", "options": {"count": 8, "temperature": 0.5},
                              "metric": "forget.keyword"}, "the fact is still among the likely answers"),
        Property("finds_nothing", {"options": {"count": 6, "temperature": 0.5}, "metric": "forget.keyword"},
                 "a retrained model guesses"),
    )

    @property
    def asks(self) -> tuple[str, ...]:
        """Metrics computed under it, including whether any draw is right."""
        return (*self.card.asks, *((f"forget.pass_at_k(k={self.spec.count})",) if self.spec.count > 1 else ()))

    def run(self, subject: CausalLM, context: AttackContext, ask: Ask) -> None:
        if not self.spec.count:
            return ask(View(self.text(), subject, context.rows))
        for attempt in range(self.spec.count):
            ask(View(self.text(), self._drawing(subject, attempt, context.seed), context.rows, attempt))

    def _drawing(self, subject: Any, attempt: int, seed: int) -> Any:
        """The subject as it draws in one attempt; an endpoint draws by itself, with a seed for each."""
        if isinstance(subject, Endpoint):
            return subject.sampled(self.spec.temperature, self.spec.top_p, self.spec.top_k,
                                   derive(seed, "sample", attempt))
        return subject.decoded(partial(self._decode, attempt, seed))

    def _decode(self, attempt: int, seed: int, decode: Any, **options: Any) -> Tensor:
        spec, ids_BT = self.spec, options["input_ids"]
        keys = [derive(seed, "sample", *prompt) for prompt in prompts_of(options)]
        chosen: list[Any] = [TemperatureLogitsWarper(spec.temperature)]
        chosen += [TopKLogitsWarper(spec.top_k)] if spec.top_k else []
        chosen += [TopPLogitsWarper(spec.top_p)] if spec.top_p < 1 else []
        chosen.append(KeyedDraw(keys, attempt, ids_BT.shape[1]))
        # Last, after all other logits processors.
        options["logits_processor"] = LogitsProcessorList([*options.get("logits_processor", ()), *chosen])
        drawn_BT: Tensor = decode(**options)
        return drawn_BT

    def cost(self, context: AttackContext) -> str:
        return f"{max(self.spec.count, 1)} answers to every question"
