"""Decoding from the original, amplified by the difference that unlearning made."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from expunge import plugin
from expunge.attacks.base import Ask, Attack, AttackCard, AttackContext, View
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.plugin import Property

LOWEST = -1e4
"""Log-probs are clamped to it, so that a token with probability 0 in one model only has a finite difference."""


def contrasted(post_BV: Tensor, pre_BV: Tensor, weight: float, gamma: float) -> Tensor:
    """log q = log p_post + weight (log p_pre - log p_post) where p_pre >= gamma max p_pre, else -inf; float64.

    Shapes B V, logits or log-probs in, log-probs out. `lerp` makes weight 0 and 1 exact.
    """
    post_BV, pre_BV = (x.double().log_softmax(-1).clamp_min(LOWEST) for x in (post_BV, pre_BV))
    q_BV = torch.lerp(post_BV, pre_BV, weight)
    if gamma:
        q_BV = q_BV.masked_fill(pre_BV < pre_BV.amax(-1, keepdim=True) + math.log(gamma), -torch.inf)
    return q_BV.log_softmax(-1)


class Guided(LogitsProcessor):
    """Runs the original, with its own cache, on the sequence that the subject decodes."""

    def __init__(self, original: CausalLM, attention_BT: Tensor, weight: float, gamma: float) -> None:
        self._original, self._attention_BT = original, attention_BT.to(original.device)
        self._weight, self._gamma = weight, gamma
        self._seen_BT: Tensor | None = None
        self._cache: Any = None
        model = original.model.get_base_model() if hasattr(original.model, "get_base_model") else original.model
        self._arguments = inspect.signature(model.forward).parameters

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        pre_BV = self._logits(input_ids.to(self._original.device)).to(scores.device)
        if pre_BV.shape != scores.shape:
            raise UsageError(f"The original has {pre_BV.shape[1]} tokens and this model {scores.shape[1]}.",
                             "Their distributions cannot be compared.")
        return contrasted(scores, pre_BV, self._weight, self._gamma)

    def _logits(self, ids_BT: Tensor) -> Tensor:
        """The original's logits of the next token, shape B V."""
        if self._seen_BT is None or not torch.equal(ids_BT[:, :-1], self._seen_BT):  # first step, or beams reordered
            self._cache = None
        prompt_BT = self._attention_BT.repeat_interleave(len(ids_BT) // len(self._attention_BT), 0)
        generated = ids_BT.shape[1] - prompt_BT.shape[1]
        attention_BT = torch.cat([prompt_BT, prompt_BT.new_ones(len(ids_BT), generated)], 1)
        new = ids_BT.shape[1] if self._cache is None else 1
        options = {"position_ids": (attention_BT.cumsum(1) - 1).clamp_min(0)[:, -new:], "logits_to_keep": 1}
        with self._original.evaluating():
            output = self._original.model(
                input_ids=ids_BT[:, -new:], attention_mask=attention_BT, past_key_values=self._cache, use_cache=True,
                **{k: v for k, v in options.items() if k in self._arguments})
        self._seen_BT, self._cache = ids_BT, output.past_key_values
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV


class Contrast(Attack):
    """Decode from the ratio of the distributions before and after unlearning."""

    class Spec(plugin.Spec):
        weight: float = Field(1.4, ge=0, description=(
            "0: the subject; 1: the original; above 1: the difference made by unlearning is amplified"))
        gamma: float = Field(1e-5, ge=0, le=1, description=(
            "Only tokens with at least this share of the original's highest probability; 0 for all."))

    card = AttackCard(
        name="contrast", kind="attack", access="logits", needs=frozenset({"original"}),
        family="decoding", model_needs=frozenset({"distribution", "generate", "prompt"}),
        summary="decode from the original, amplified by the change that unlearning made",
        paper="Unlearned but Not Forgotten (arXiv 2505.24379)",
        formula="argmax_v log p_post + w (log p_pre - log p_post), over v with p_pre(v) >= gamma max p_pre",
        defaults="weight 1.4 (Llama-2-7B; 2 for Phi-1.5), gamma 1e-5 (paper)",
        asks=("forget.rouge_l", "forget.keyword", "forget.extracted"),
        deviations=("their code keeps tokens within 5 nats of the best, which is gamma=0.0067",
                    "log-probs are clamped to at least -1e4, so that a token excluded by a guard counts finitely",
                    "with the half-trained original of the tests ROUGE-L is .32 at weight 1, .40 at 1.2, .36 at 1.4 "
                    "and .18 at 2: too large a weight is worse"),
        uses_original=True,
        caution="The attacker has the model from before unlearning, and a retrained model works as well: an excess "
                "near 0 is expected, and the value is the finding. Compare it with the original alone (weight=1), "
                "which is shown as a control: the difference is what releasing the unlearned model gives away.",
    )
    must_show = (
        Property("keeps_the_contract", {}, "the original is read only"),
        Property("leaves_no_trace", {"options": {"weight": 0, "gamma": 0}}, "the subject only"),
        Property("blends_two_models", {}, "weight 1 is the original, token for token; equal models stay equal"),
        Property("contrast_matches_slow_twin", {}, "token by token, without caches and padding"),
        Property("amplifies", {"weights": (1.2, 1.3)}, "more than from an original that only partly memorised"),
        Property("recovers", {"from_": "refusing", "options": {"weight": 0.5}, "metric": "forget.keyword"},
                 "at weight 0.5 a refusal yields where a retrained model keeps refusing"),
        Property("finds_nothing", {"metric": "forget.keyword"}, "retrained models all give the same"),
    )

    def run(self, subject: CausalLM, context: AttackContext, ask: Ask) -> None:
        original = context.require_original()
        if original.encoder.processor.get_vocab() != subject.encoder.processor.get_vocab():
            raise UsageError("The original has another tokenizer than this model.", "Their tokens cannot be compared.")
        ask(View(self.text(), subject.decoded(partial(self._decode, original)), context.rows))

    def _decode(self, original: CausalLM, decode: Any, **options: Any) -> Tensor:
        processor = Guided(original, options["attention_mask"], self.spec.weight, self.spec.gamma)
        options["logits_processor"] = LogitsProcessorList([processor, *options.get("logits_processor", ())])
        ids_BT: Tensor = decode(**options)
        return ids_BT

    def cost(self, context: AttackContext) -> str:
        return "every token from two models"
