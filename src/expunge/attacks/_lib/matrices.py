"""The matrices of a model's decoder blocks, as rows of weights that make one output each, for attacks on weights.

Embeddings, norms, biases and the output head are none of them: loaders that quantise leave those as they are.

Legend: O outputs, I inputs of a matrix; E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.data.text_encoder import TokenBatch
from expunge.errors import UsageError
from expunge.models.sites import watch_calls
from expunge.models.subject import Subject
from expunge.records.task import Example


@dataclass(frozen=True)
class Matrix:
    """One weight of a decoder block.

    Args:
        module: the layer it belongs to; None for a stack of experts or shards, which no single layer holds.
        weight: the parameter itself: (O, I), (I, O) when `inputs_first` (GPT-2's Conv1D), a stack (E, O, I), or a
            convolution (O, channels, height, width).
        adapter: whether it belongs to a PEFT adapter.
    """

    name: str
    module: nn.Module | None
    weight: Tensor
    inputs_first: bool = False
    adapter: bool = False

    @property
    def rows(self) -> Tensor:
        """The values with one row per output, shape (O, I), detached; a stack gives E * O rows."""
        weight = self.weight.detach()
        if weight.dim() == 4:
            return weight.flatten(1)
        return weight.T if self.inputs_first else weight.flatten(0, -2)

    @torch.no_grad()
    def write(self, rows: Tensor) -> None:
        """Put new values in place; shape as `rows`, any floating type."""
        self.weight.copy_(rows.T if self.inputs_first else rows.view(self.weight.shape))


def matrices(subject: Subject) -> list[Matrix]:
    """Every matrix inside the decoder blocks, a shared one once.

    Raises:
        UsageError: the weights are packed codes of a quantised model, or the blocks hold no matrix.
    """
    found, seen = [], set[int]()
    for matrix in _matrices(subject):
        if not matrix.weight.is_floating_point():
            raise UsageError("This model is quantised already.", f"{matrix.name} holds codes, not weights.",
                             "Load it in bfloat16 or float32.")
        if id(matrix.weight) not in seen:
            seen.add(id(matrix.weight))
            found.append(matrix)
    if not found:
        raise UsageError("The decoder blocks of this model hold no matrices.", "Attacks on weights need some.")
    return found


def _matrices(subject: Subject) -> Iterator[Matrix]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for place, block in subject.blocks.items():
        adapted: list[str] = []
        for inner, module in block.named_modules(prefix=place):
            if isinstance(module, BaseTunerLayer):
                adapted.append(f"{inner}.")
            adapter = any(inner.startswith(a) and not inner.startswith(f"{a}base_layer") for a in adapted)
            if isinstance(module, nn.Linear | nn.Conv2d | Conv1D):
                yield Matrix(f"{inner}.weight", module, module.weight, isinstance(module, Conv1D), adapter)
                continue
            for name, weight in module.named_parameters(recurse=False):
                if weight.dim() == 3 and "conv" not in inner.rpartition(".")[2]:
                    yield Matrix(f"{inner}.{name}", None, weight, adapter=adapter)


def merged_clone(subject: Subject) -> Subject:
    """A copy that may be changed, a PEFT adapter merged into its weights."""
    from peft import PeftModel

    copy = subject.clone()
    if isinstance(copy.model, PeftModel):
        copy.model = copy.model.merge_and_unload()
    return copy


def input_norms(subject: Subject, found: Sequence[Matrix], rows: Sequence[Example],
                batch_size: int = 8) -> list[Tensor]:
    """Root mean square of what enters each matrix where an answer token is predicted, shape (I,), float32.

    Raises:
        UsageError: a layer does not see every token, as an expert does not, or is not called as a layer.
    """
    hidden = UsageError("The inputs of this model's matrices cannot be compared.",
                        "Some layer is not shown every token, as in a mixture of experts.", "Use by='magnitude'.")
    sums: dict[nn.Module | None, Tensor] = {}
    count = 0
    batch: TokenBatch

    def note(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x, positions = args[0].detach().float(), batch.ids_BT.numel()
        if x.numel() % (positions * x.shape[-1]):
            raise hidden
        seen_XNI = x.reshape(-1, positions, x.shape[-1])[:, batch.flat_N]  # several when an ensemble runs stacked
        squares_I = seen_XNI.pow(2).mean(0).sum(0)
        sums[module] = sums[module] + squares_I if module in sums else squares_I

    with watch_calls([m.module for m in found if m.module is not None], note), subject.evaluating():
        for start in range(0, len(rows), batch_size):
            tokens = [subject.encoder.encode(row) for row in rows[start: start + batch_size]]
            batch = subject.collate(tokens)
            subject.answers(batch)
            count += len(batch.flat_N)
    if any(m.module not in sums for m in found):
        raise hidden
    return [(sums[m.module] / max(count, 1)).sqrt() for m in found]
