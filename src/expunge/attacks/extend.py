"""Extraction: beam search for continuations of the answer's beginning."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from expunge import plugin
from expunge.attacks._lib.decoding import prompts_of
from expunge.attacks.base import Ask, Attack, AttackCard, AttackContext, View, rewriting
from expunge.attacks.prefix import opened
from expunge.metrics.text.units import starts
from expunge.models.language import CausalLM
from expunge.plugin import Property
from expunge.records.score import Access
from expunge.records.task import Example


class Extend(Attack):
    """Verbatim extraction: give the beginning of the answer and search its continuations with beams."""

    class Spec(plugin.Spec):
        share: float = Field(0.5, ge=0, lt=1, description=(
            "Share of the answer's words that is given; of its characters in scripts without spaces."))
        beams: int = Field(4, ge=1, description="Number of beams; 1 is greedy.")
        tries: int = Field(1, ge=1, description="Number of best continuations that count as answers.")

        @model_validator(mode="after")
        def _enough_beams(self) -> Extend.Spec:
            if self.tries > self.beams:
                raise ValueError(f"there are only {self.beams} beams for {self.tries} tries")
            return self

    card = AttackCard(
        name="extend", kind="attack", access="text", version=2,
        family="decoding", model_needs=frozenset({"generate", "prompt"}),
        summary="give the first part of the answer and search the likeliest continuations",
        paper="Carlini et al. 2022 (arXiv 2202.07646) for prefix and beam search; verbatim memorisation of MUSE "
              "(arXiv 2407.06460)",
        formula="argmax_y p(y | prompt, first words of the answer), by beam search",
        defaults="first half of the text (MUSE); 4 beams",
        asks=("forget.rouge_l", "forget.extracted", "forget.keyword"),
        deviations=("the given words are not scored",
                    "running text is always prompted with its first half, so share does not apply to it",
                    "beams are ranked by log p of the whole continuation, without length normalisation"),
        caution="The given words help any model to guess: only the excess over the control counts.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"share": 0.3, "beams": 2, "tries": 2}}, "only decoding changes"),
        Property("leaves_no_trace", {"options": {"share": 0, "beams": 1}}, "nothing given, greedy"),
        Property("beams_match_slow_twin", {"beams": 3}, "token by token, without caches and padding"),
        Property("recovers", {"from_": "refusing", "options": {"tries": 4}, "metric": "forget.extracted"},
                 "after the given words the old text continues"),
        Property("finds_nothing", {"options": {"tries": 4}, "metric": "forget.extracted"}, "no continuation is known"),
    )

    @property
    def access(self) -> Access:
        """Beams are ranked by their probability."""
        return "text" if self.spec.beams == 1 else "logits"

    def run(self, subject: CausalLM, context: AttackContext, ask: Ask) -> None:
        rows = rewriting(context, self._open)
        if self.spec.beams == 1:
            return ask(View(self.text(), subject, rows))
        search = BeamSearch(self.spec.beams, self.spec.tries)
        for rank in range(self.spec.tries):
            ask(View(self.text(), subject.decoded(partial(search.decode, rank)), rows, rank))

    def _open(self, row: Example) -> Example:
        words = round(self.spec.share * len(starts(row.answer)))
        return opened(row, "", words) if words else row

    def cost(self, context: AttackContext) -> str:
        return f"{self.spec.beams} beams per answer"


class BeamSearch:
    """Beam search for the `tries` best continuations; each prompt is searched once for all ranks."""

    def __init__(self, beams: int, tries: int) -> None:
        self._beams, self._tries = beams, tries
        self._known: dict[tuple[int, ...], Tensor] = {}

    def decode(self, rank: int, decode: Any, **options: Any) -> Tensor:
        """Prompts and their continuations of this rank, shape B T."""
        ids_BT, keys = options["input_ids"], prompts_of(options)
        if any(key not in self._known for key in keys):
            # Without a length penalty the score of a beam is its log-likelihood.
            out = decode(**options | {"num_beams": self._beams, "num_return_sequences": self._tries,
                                      "length_penalty": 0.0, "early_stopping": False})
            continuations = out[:, ids_BT.shape[1]:].unflatten(0, (len(ids_BT), self._tries))
            self._known |= dict(zip(keys, continuations, strict=True))
        chosen = [self._known[key][rank] for key in keys]
        return torch.cat([ids_BT, pad_sequence(chosen, batch_first=True, padding_value=options["pad_token_id"])], 1)
