"""What both sides are asked about: a tiny Llama in float64 with random weights, its original, and random rows.

Legend: B rows, T padded length, V vocabulary.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch, TokenRow, collate
from expunge.methods.base import Retain, TermPlugin
from expunge.models.language import CausalLM
from expunge.models.reference import LiveReference
from expunge.models.scope import Scope
from expunge.models.tiny import build_subject
from expunge.registry import load
from expunge.terms import parse_sum
from expunge.training.step import Step, WeightedTerm, reduce_terms, totals, weighted_sum

LEAST = 0.01
"""Of a loss that others are relative to: some are differences that happen to be near 0."""
VOCABULARY, UNSUPERVISED = 261, -100
"""All bytes and five special tokens; the label of what is not supervised."""
CONFIG = {"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
          "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
          "tie_word_embeddings": False}
LENGTHS: tuple[tuple[int, int], ...] = ((4, 3), (2, 9), (6, 5), (3, 1))
"""Prompt and answer tokens of the rows of a side."""
EQUAL: tuple[tuple[int, int], ...] = ((3, 6),) * 4
"""Rows without padding and with answers of equal length."""
WHOLE: tuple[tuple[int, int], ...] = ((1, 8),) * 4
"""Rows without padding of which every token but the first is supervised."""


@dataclass(frozen=True)
class Found:
    """What one side makes of the inputs: a loss, and its gradient (or new weights) by parameter."""

    loss: float | None
    gradient: Sequence[Tensor]


@dataclass(frozen=True)
class Difference:
    """How far ours is from theirs, relative to theirs.

    Attributes:
        loss: |ours - theirs| / |theirs|, the latter at least `LEAST`; None where only gradients or weights are
            compared.
        gradient: ||ours - theirs|| / ||theirs|| over all parameters.
    """

    what: str
    loss: float | None
    gradient: float


def difference(what: str, ours: Found, theirs: Found) -> Difference:
    mine, other = (torch.cat([p.detach().flatten().double() for p in found.gradient]) for found in (ours, theirs))
    assert float(other.norm()) > 0, f"{what}: their gradient is zero, so nothing is compared"
    loss = None if ours.loss is None or theirs.loss is None else relative(ours.loss, theirs.loss)
    return Difference(what, loss, float((mine - other).norm() / other.norm()))


def relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), LEAST)


class Bed:
    """Random inputs of one seed.

    Args:
        sides: names of sides with rows of their own.
        lengths: prompt and answer tokens of every row. Rows of equal length have no padding.
        last: the token that every row ends with; a random one when left out.
        config: what differs from `CONFIG`.
    """

    def __init__(self, seed: int, sides: Sequence[str] = ("forget", "retain"),
                 lengths: Sequence[tuple[int, int]] = LENGTHS, last: int | None = None, **config: Any) -> None:
        self.subject = _random_model(seed, config)
        self.original = _random_model(seed + 1000, config)
        for mine, other in zip(self.subject.model.parameters(), self.original.model.parameters(), strict=True):
            other.data = mine.data + 0.3 * (other.data - mine.data)  # near, as a reference is
        self._random = random.Random(seed)
        self.batches = {side: self.rows(side, lengths, last) for side in sides}

    @property
    def model(self) -> Any:
        """The Hugging Face model that is changed."""
        return self.subject.model

    @property
    def reference_model(self) -> Any:
        """The Hugging Face model of the original."""
        return self.original.model

    def rows(self, side: str, lengths: Sequence[tuple[int, int]] = LENGTHS, last: int | None = None) -> TokenBatch:
        """A batch of random tokens, no special ones among them but for `last`."""
        made = []
        for n, (prompt, answer) in enumerate(lengths):
            ids = [self._random.randrange(5, VOCABULARY) for _ in range(prompt + answer)]
            made.append(TokenRow(f"{side}-{n}", (*ids[:-1], ids[-1] if last is None else last), prompt, answer, 0))
        return collate(made, self.subject.encoder.pad_id)

    @property
    def inputs(self) -> dict[str, dict[str, Tensor]]:
        """Every side as Hugging Face models read it: input_ids, attention_mask and labels, shape B T."""
        return {side: as_inputs(batch) for side, batch in self.batches.items()}

    @property
    def triples(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """The same as (input_ids, labels, attention_mask), the order in TOFU's trainer and those made from it."""
        return {side: (x["input_ids"], x["labels"], x["attention_mask"]) for side, x in self.inputs.items()}

    @cached_property
    def _reference(self) -> LiveReference:
        return LiveReference(self.original, adapter=False)

    def step(self, batches: Mapping[str, TokenBatch] | None = None) -> Step:
        return Step(self.subject, batches or self.batches, self._reference)

    def ours(self, recipe: str, role: Any = None, made: Any = None) -> Found:
        """Loss and gradient of a sum of objectives and retain terms; companions are not added.

        Args:
            role: "forget" or "retain" alone.
            made: what a builder would have prepared.
        """
        terms = []
        for call in parse_sum(recipe)[0]:
            plugin = load(call.name)(**dict(call.options))
            assert isinstance(plugin, TermPlugin)
            if made is not None:
                plugin.made = made
            kind = "retain" if isinstance(plugin, Retain) else "forget"
            terms += [WeightedTerm(name, kind, plugin.spec.weight, term)  # type: ignore[attr-defined, arg-type]
                      for name, term in plugin.terms(self.step()).items()]
        loss = weighted_sum(terms, reduce_terms(terms, totals([self.batches])), role)
        assert loss is not None
        return self.of(loss)

    @property
    def named(self) -> dict[str, Any]:
        """The parameters of `model` by name."""
        return dict(self.model.named_parameters())

    @property
    def scope(self) -> Scope:
        """All parameters, in the order of `Found.gradient`."""
        return Scope(self.subject, tuple(self.named))

    def of(self, loss: Tensor) -> Found:
        """A loss and its gradient with respect to every parameter of `model`."""
        parameters = list(self.model.parameters())
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return Found(float(loss.detach()),
                     [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)])


class Movable:
    """A tensor, for code that moves it to a GPU."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def cuda(self) -> Tensor:
        return self.tensor


class Positions(torch.nn.Module):
    """A language model as a classifier of every position, for code that knows images: tokens -> logits B V T - 1."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor) -> Tensor:
        logits_BVT: Tensor = self.model(input_ids=ids_BT).logits[:, :-1].transpose(1, 2)
        return logits_BVT


def as_inputs(batch: TokenBatch) -> dict[str, Tensor]:
    """Rows as Hugging Face models read them; labels are -100 in the prompt and in the padding."""
    labels_BT = torch.full_like(batch.ids_BT, UNSUPERVISED)
    for b, row in enumerate(batch.rows):
        labels_BT[b, row.prompt: len(row.ids)] = batch.ids_BT[b, row.prompt: len(row.ids)]
    return {"input_ids": batch.ids_BT, "attention_mask": batch.attention_BT, "labels": labels_BT}


@cache
def _built(config: tuple[tuple[str, Any], ...]) -> CausalLM:
    """A model of this config and its tokenizer, to be copied."""
    return build_subject({**CONFIG, **dict(config)}, ["a few words"])


def _random_model(seed: int, config: Mapping[str, Any]) -> CausalLM:
    built = _built(tuple(config.items()))
    model = copy.deepcopy(built.model).double().eval()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return CausalLM(model, built.encoder, built.path)
