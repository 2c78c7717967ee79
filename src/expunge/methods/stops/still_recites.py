"""A row counts as long as the model completes it, looked at anew in every epoch (ICU)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.methods.base import Stop
from expunge.metrics.text.rouge import rouge
from expunge.metrics.text.units import starts, units
from expunge.models.subject import AnySubject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task


def share_run(one: str, other: str, length: int) -> bool:
    """Whether both texts have so many words in a row in common; of a shorter `other` all of it."""
    mine, theirs = units(one), units(other)
    size = min(length, len(theirs))
    runs = {mine[i: i + size] for i in range(len(mine) - size + 1)}
    return any(theirs[i: i + size] in runs for i in range(len(theirs) - size + 1))


class StillRecites(Stop):
    """A forget row counts while the greedy continuation of its beginning is like the rest of it."""

    class Spec(plugin.Spec):
        given: float = Field(0.5, ge=0, lt=1, description="Share of the answer's tokens that is given with the prompt.")
        rouge: float = Field(0.3, ge=0, le=1, description="Below this ROUGE-L F1 with the rest, a row is done.")
        run: int = Field(4, ge=1, description="Without so many words in a row of the rest, a row is done.")
        max_new_tokens: int = Field(50, ge=1, description="Most tokens that are compared.")

    card = Card(
        name="still_recites", kind="stop",
        summary="forget a row only as long as the model completes it, looked at in every epoch",
        paper="Learn while Unlearn: An Iterative Unlearning Framework for Generative Language Models (ICU) "
              "(arXiv 2407.20271), its iterative refinement",
        formula="w_r = [ROUGE-L(completion, rest) >= f and they share a run of n words], at the end of each epoch",
        defaults="F1 0.3; 50 tokens after the 150 before them (the authors' script)",
        model_needs=frozenset({"generate", "prompt", "sequence"}),
        deviations=("ROUGE-L F1 in place of BERTScore F1, which lies above 0.3 for nearly any two texts",
                    "a run of 4 words in place of BLEU below 0.01, which is what BLEU without smoothing amounts to",
                    "greedy decoding; the authors search with two beams",
                    "an epoch ends when every row was drawn since the last look; rows are looked at before the first "
                    "step too. A row that comes back counts again",
                    "thresholds on MA and EL over all rows, which end the authors' run, are left out"),
    )
    must_show = (
        Property("keeps_what_is_recited", {}, "a model that knows its rows keeps them all, one that does not none"),
        Property("looks_once_an_epoch", {}, "flags change when every row was drawn, may come back, and are kept when "
                                            "a run is resumed"),
        Property("spares_what_is_lost", {"recipe": "ga", "steps": 40, "lr": 1e-3}, "no row is recited at the end, and "
                 "the weights have moved less than without it"),
    )

    def __init__(self, spec: Any = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._rows: list[tuple[str, tuple[int, ...], str]] = []
        self._active: dict[str, bool] = {}
        self._seen: set[str] = set()

    def begin(self, subject: AnySubject, task: Task, rows: Sequence[Example]) -> None:
        encoder, self._rows = subject.encoder, []
        for example in rows:
            row = encoder.encode(example)
            cut = row.prompt + int(self.spec.given * row.answer)
            rest = row.ids[cut: row.prompt + row.answer][: self.spec.max_new_tokens]
            self._rows.append((example.id, row.ids[:cut], encoder.processor.decode(rest, skip_special_tokens=True)))

    def before_step(self, subject: AnySubject) -> None:
        if self._active and self._seen < self._active.keys():
            return
        said = subject.generate([ids for _, ids, _ in self._rows], self.spec.max_new_tokens)
        self._active = {key: self.recites(text, rest)
                        for (key, _, rest), (text, _) in zip(self._rows, said, strict=True)}
        self._seen = set()

    def recites(self, said: str, rest: str) -> bool:
        """Whether a continuation, up to the length of the rest, is like it; a rest without a word is always done."""
        words, length = starts(said), len(starts(rest))
        said = said[: words[length]] if len(words) > length else said
        score = rouge(rest, said, "rougeL", "f1")
        return score is not None and score >= self.spec.rouge and share_run(said, rest, self.spec.run)

    def weights(self, ids: Sequence[str], losses_B: Tensor) -> Tensor:
        self._seen |= set(ids)
        return torch.tensor([float(self._active.get(key, True)) for key in ids], device=losses_B.device)

    def figures(self) -> dict[str, float]:
        return {"still_forgetting": sum(self._active.values()) / len(self._active)} if self._active else {}

    def state(self) -> dict[str, Any]:
        return {"active": dict(self._active), "seen": sorted(self._seen)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._active, self._seen = dict(state["active"]), set(state["seen"])
