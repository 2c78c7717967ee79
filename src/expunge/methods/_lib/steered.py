"""Edits that add a vector to an MLP's output at forget prompts and nothing at others: STAMP and LUNAR.

Legend: K inputs of an MLP's output projection, D hidden size, N positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenRow, batches_by_length
from expunge.errors import ExpungeError
from expunge.methods._lib.fact_edit import no_generic_text
from expunge.methods._lib.key_value import Mentions
from expunge.methods._lib.least_squares import solve_edit
from expunge.methods._lib.output_projection import chosen_layers, mlp_out
from expunge.methods.base import Edit
from expunge.models.language import CausalLM
from expunge.models.load import float32_master
from expunge.models.sites import Site, read, stop_after
from expunge.models.slots import Slot
from expunge.records.task import Example, Task


def prompt_rows(subject: CausalLM, examples: Iterable[Example], at_entity: bool = False) -> list[TokenRow]:
    """What a model reads before it answers; of running text all of it.

    Args:
        at_entity: a prompt that names its entity ends with it.
    """
    found = []
    for example in examples:
        ids = subject.encoder.encode(example).ids if not example.prompt else tuple(subject.encoder.prompt(example))
        if at_entity and example.entity and example.entity in example.prompt:
            ids = ids[: Mentions.place(subject, example.entity, example) + 1]
        found.append(TokenRow(example.id, tuple(ids), len(ids) - 1, 1, 0))
    return found


def at_prompts(subject: CausalLM, block: int, slot: Slot, rows: Sequence[TokenRow], every: bool = False) -> Tensor:
    """The value of a slot at the last token of each row, or at every token; shape N by its width."""
    found: list[Tensor] = []
    with subject.evaluating():
        for chosen in batches_by_length(rows):
            batch = subject.collate([rows[i] for i in chosen]).to(subject.device)
            with read(subject, [Site(block, slot)]) as values, stop_after(subject, Site(block)):
                subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False)
            if every:
                found.append(values[0][-1][batch.attention_BT.bool()])
            else:
                ends_B = batch.attention_BT.sum(1) - 1
                found.append(values[0][-1][torch.arange(len(chosen), device=ends_B.device), ends_B])
    return torch.cat(found)


def steered(forget_NK: Tensor, shift_D: Tensor, retain_NK: Tensor, penalty: float, rank: int | None = None) -> Tensor:
    """The update dW, shape D K in float64: dW k = shift at the forget keys and 0 at the retain keys, least squares.

    Args:
        penalty: on large changes, in multiples of the keys' mean squared length.
        rank: of the keys' leading directions, to which the update is confined; None takes all.
    """
    keys_KN, others_KN = forget_NK.double().T, retain_NK.double().T
    both_KN = torch.cat([keys_KN, others_KN], 1)
    unit = float(both_KN.square().sum(0).mean())
    basis_KR = torch.eye(len(keys_KN), dtype=torch.float64, device=keys_KN.device)
    if rank is not None:
        basis_KR = torch.linalg.svd(both_KN, full_matrices=False).U[:, :rank]
    keys_RN, others_RN = basis_KR.T @ keys_KN, basis_KR.T @ others_KN
    wanted_DN = shift_D.double()[:, None].expand(-1, keys_RN.shape[1])
    found_DR = solve_edit(keys_RN, wanted_DN, penalty=penalty * max(unit, 1e-30), previous_KK=others_RN @ others_RN.T)
    return found_DR @ basis_KR.T


class SteeringEdit(Edit):
    """An edit of the MLP of one block, which the option `layer` names."""

    published: ClassVar[int]
    """The authors' block of 32."""

    def problems(self, task: Task) -> list[ExpungeError]:
        return no_generic_text(self.card.name, task)

    def layer(self, depth: int) -> int:
        """The block to edit. Raises UsageError for one the model does not have."""
        asked = [] if self.spec.layer is None else [self.spec.layer]
        return chosen_layers(self.card.name, asked, depth, (self.published,), 32)[0]

    def check_model(self, subject: CausalLM) -> None:
        mlp_out(subject, self.layer(len(subject.blocks)))

    def prepared(self, subject: CausalLM, task: Task) -> int:
        """The block to edit, of a model in float32 or wider. Raises what preflight would refuse."""
        for problem in self.problems(task):
            raise problem
        self.check_model(subject)
        float32_master(subject)
        return self.layer(len(subject.blocks))
