"""The model under test: whatever answers rows with a log-probability for each of their supervised units.

Legend: B rows, N supervised units (flat): answer tokens of a language model, the labels of an image classifier.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn

from expunge.data.encoder import Encoder
from expunge.errors import UsageError
from expunge.models import fast
from expunge.models.answers import Answers
from expunge.models.fast.linear import use_numpy_products
from expunge.models.sites import is_watched
from expunge.needs import OFFERS, ModelNeed
from expunge.records.task import Example

AnySubject: TypeAlias = Any
"""A `Subject`, of the class that gives what a plug-in's card needs: an override names that class."""


class Subject:
    """A model with the encoder that makes its rows. Guards and attacks return the same shape.

    Args:
        model: a Hugging Face model, or a PEFT model around one.
        encoder: how examples become rows.
        path: where the weights came from, for records.
    """

    modality: ClassVar[str]
    """What it reads: text or image."""
    has_weights: ClassVar[bool] = True
    """False of an endpoint, which only answers."""
    epochs_from_scratch: ClassVar[int] = 40
    """Epochs of training from new weights, unless the options say otherwise."""

    def __init__(self, model: Any, encoder: Encoder, path: str = "") -> None:
        if fast.enabled("numpy_products"):
            use_numpy_products(model)
        self.model = model
        self.encoder = encoder
        self.path = path

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  

    @property
    def bare(self) -> bool:
        """Whether the model has no hook. A hook that counts positions or rows would see others than it expects."""
        return not is_watched(self.model)

    @property
    def recomputes(self) -> bool:
        """Whether some block computes its activations again on the way back (gradient checkpointing)."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())

    @classmethod
    def offers(cls, config: Any) -> frozenset[ModelNeed]:
        """What a model of this config gives, of what cards may need."""
        return OFFERS[cls.modality]

    @property
    def offered(self) -> frozenset[ModelNeed]:
        """What this model gives, of what cards may need."""
        return self.offers(self.model.config)

    @property
    def outcomes(self) -> int:
        """How many outcomes its distributions have: tokens of the vocabulary, or classes."""
        raise NotImplementedError

    @property
    def embedding(self) -> nn.Module | None:
        """The table that turns tokens into vectors, where it reads tokens."""
        return None

    @property
    def head(self) -> nn.Module:
        """The layer that turns features into logits. Raises UsageError where it is not a module of its own."""
        raise NotImplementedError

    @property
    def adapted(self) -> str | list[str]:
        """The modules that an adapter for "all-linear" sits on, as peft wants them named."""
        return "all-linear"

    @property
    def adapter_task(self) -> str | None:
        """What peft calls its task; None where its wrapper need not know."""
        return None

    @cached_property
    def blocks(self) -> dict[str, nn.Module]:
        """The blocks of layers by module name, in order. Raises UsageError where they are not known."""
        if not self._blocks:
            raise UsageError("This model has no list of blocks.", "layers(...) and rmu need one.")
        return self._blocks

    @cached_property
    def _blocks(self) -> dict[str, nn.Module]:
        """Empty where they are not known."""
        return {}

    @property
    def width(self) -> int:
        """Size of the hidden states: learning rates go by it."""
        raise NotImplementedError

    def collate(self, rows: Sequence[Any]) -> Any:
        """One batch of these rows, on the model's device. Raises DataError for a row without a supervised unit."""
        return self.encoder.collate(rows).to(self.device)

    def answers(self, batch: Any) -> Answers:
        """What the model says at the supervised positions of a batch."""
        raise NotImplementedError

    def answers_of(self, batches: Mapping[str, Any]) -> dict[str, Answers]:
        """Answers of several sides, by side. A subclass may run them in one pass; the numbers are the same."""
        return {side: self.answers(batch) for side, batch in batches.items()}

    def answers_in_parts(self, rows: Sequence[Any],
                         chosen: Sequence[int]) -> Iterator[tuple[list[tuple[int, ...]], Answers]]:
        """The subject's answers at the supervised positions of the `chosen` rows, part by part.

        Yields the indices of all rows that each row of the answers is a part of, and those answers. The parts of a row
        come in order, and the last one is its own. Raises DataError where a row has no supervised unit.
        """
        for few in self.encoder.batches(rows, chosen):
            yield [(i,) for i in few], self.answers(self.collate([rows[i] for i in few]))

    def as_read(self, example: Example) -> list[Any]:
        """What identifies an example as this model reads it, with its other prompts and answers: JSON values."""
        return [self.encoder.encode(example).key]

    @property
    def decoding(self) -> dict[str, Any]:
        """Settings beside weights and config that decide what it says in its own words; empty where it says none."""
        return {}

    def check_room(self, examples: Sequence[Example], extra: int) -> None:
        """Raises UsageError when rows with `extra` more tokens are longer than the model's context."""

    def content_of(self, arguments: Mapping[str, Any]) -> tuple[Tensor | None, Any, bool]:
        """What the rows of a forward pass are, from the arguments of the module that holds the blocks.

        Returns:
            Integers of shape B T that two rows share only if they are equal (None where they cannot be had), a mask of
            padding, and whether activations have a column for each of the T.
        """
        return arguments.get("input_ids"), arguments.get("attention_mask"), True

    def train(self) -> None:
        """Training mode."""
        self.model.train()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Dropout off, gradients off; the former mode comes back."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if training:
                self.train()

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits over names and bytes of all weights, taken once."""
        return checksum(self.model.state_dict())

    @property
    def intact(self) -> bool:
        """Whether the weights are what they were when the fingerprint was taken."""
        return checksum(self.model.state_dict()) == self.fingerprint

    def clone(self) -> Self:
        """A copy whose weights may be changed; the encoder is shared."""
        return self.around(copy.deepcopy(self.model))

    def renamed(self) -> None:
        """To be called when the model was wrapped or unwrapped: its modules have other names now."""
        for known in ("blocks", "_blocks"):
            self.__dict__.pop(known, None)

    def around(self, model: Any) -> Self:
        """Another model of the same kind, with the same encoder."""
        return type(self)(model, self.encoder, self.path)

    def save(self, folder: Path) -> None:
        """Weights (safetensors) and encoder, loadable with plain transformers or PEFT."""
        self.model.save_pretrained(folder, safe_serialization=True)
        self.encoder.save(folder)


def checksum(tensors: dict[str, Tensor]) -> str:
    """First 16 hex digits of a SHA-256 over names, dtypes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        if tensor.numel():
            flat = tensor.view(-1)
            if flat.stride(0) != 1:  # a lone element may come with any stride
                flat = flat.new_empty(1).copy_(flat)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
