"""Path patching of attention heads: what a head adds to the residual stream, and what it does to two answers (PH3).

Source: arXiv 2402.18154. Legend: B rows, T padded length, D hidden size, K inputs of an attention's output projection,
L blocks, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.data.text_encoder import TokenBatch, TokenRow, batches_by_length
from expunge.methods._lib.attention_heads import attending, attention_out, columns, head_count, output_weight
from expunge.models.language import CausalLM
from expunge.models.sites import Site, read, substitute, watch_calls
from expunge.records.task import Example


@dataclass(frozen=True)
class ConflictPrompt:
    """A prompt in which two answers meet, and one like it about something else.

    Args:
        row: the prompt and the first token of the remembered answer.
        other: the same for the other row.
        tokens: first tokens of the remembered and of the stated answer.
    """

    row: TokenRow
    other: TokenRow
    tokens: tuple[int, int]


def first_token(subject: CausalLM, row: Example, answer: str) -> TokenRow:
    """The row with nothing of this answer but its first token."""
    return cut(subject.encoder.encode(row, answer=answer))


def cut(row: TokenRow) -> TokenRow:
    return TokenRow(row.id, row.ids[: row.prompt + 1], row.prompt, 1, 0)


def asked(subject: CausalLM, rows: Sequence[Example], others: Sequence[Example], context: str) -> list[ConflictPrompt]:
    """The rows with a stated wrong answer before the question, each beside one of the others that shares most tokens.

    Rows without a wrong answer that begins with another token are left out, and so are those without a row beside them.
    """
    def stated(row: Example) -> tuple[TokenRow, int] | None:
        answer = row.short_answer or row.answer
        own = first_token(subject, row, answer)
        for wrong in row.wrong_answers or tuple(o.short_answer or o.answer for o in others if o.answer != row.answer):
            token = first_token(subject, row, wrong).ids[-1]
            if token != own.ids[-1]:
                prompt = context.format(prompt=row.prompt, wrong=wrong.strip()) if context else row.prompt
                return cut(subject.encoder.encode(row, answer=answer, prompt=prompt)), token
        return None

    beside = [made for row in others if (made := stated(row)) is not None]
    found = []
    for made in map(stated, rows):
        if made is None:
            continue
        (row, token), own = made, set(made[0].ids)
        apart = [other for other, _ in beside if other.ids[-1] not in (row.ids[-1], token)]
        if apart:
            other = max(apart, key=lambda o: len(own & set(o.ids)) / len(own | set(o.ids)))
            found.append(ConflictPrompt(row, other, (row.ids[-1], token)))
    return found


def path_effects(subject: CausalLM, prompts: Sequence[ConflictPrompt]) -> Tensor:
    """P(answer) less P(answer) with what one head adds taken from the other prompt, mean over prompts; shape L H 2.

    All other heads and all MLPs keep what they give on the prompt: the direct path from the head to the logits. Blocks
    that do not attend have effect 0.
    """
    blocks, heads = attending(subject), head_count(subject)
    total_LH2 = torch.zeros(len(subject.blocks), heads, 2, dtype=torch.float64)
    with subject.evaluating():
        for part in batches_by_length([p.row for p in prompts]):
            few = [prompts[i] for i in part]
            tokens_B2 = torch.tensor([p.tokens for p in few], device=subject.device)
            batch = subject.collate([p.row for p in few])
            given, outputs = _watched(subject, batch, blocks)
            other = {block: torch.empty_like(value) for block, value in given.items()}
            for same in batches_by_length([p.other for p in few]):
                seen, _ = _watched(subject, subject.collate([few[i].other for i in same]), blocks)
                for block, value_BK in seen.items():
                    other[block][same] = value_BK
            before_B2 = _said(subject, batch, outputs, None, tokens_B2)
            for block in blocks:
                module = attention_out(subject, block)
                weight_DK = output_weight(module)
                for head in range(heads):
                    own = columns(subject, module, head)
                    change_BD = (other[block] - given[block])[:, own] @ weight_DK[:, own].T
                    after_B2 = _said(subject, batch, outputs, change_BD, tokens_B2)
                    total_LH2[block, head] += (before_B2 - after_B2).sum(0).cpu()
    return total_LH2 / max(len(prompts), 1)


def answered(subject: CausalLM, prompts: Sequence[ConflictPrompt]) -> tuple[float, float, float]:
    """Shares of prompts answered with the remembered answer, with the stated one, and with another; they sum to 1."""
    said = [0, 0, 0]
    with subject.evaluating():
        for part in batches_by_length([p.row for p in prompts]):
            top = subject.answers(subject.collate([prompts[i].row for i in part])).logits_NV.argmax(-1).tolist()
            for i, token in zip(part, top, strict=True):
                said[prompts[i].tokens.index(token) if token in prompts[i].tokens else 2] += 1
    count = max(len(prompts), 1)
    return said[0] / count, said[1] / count, (said[2] if prompts else 1) / count


def _watched(subject: CausalLM, batch: TokenBatch, blocks: Sequence[int]) -> tuple[dict[int, Tensor], list[Any]]:
    """What goes into each output projection where the answer begins, shape B K, and what every block gives; rows are
    equally long."""
    modules = {attention_out(subject, block): block for block in blocks}
    given: dict[int, Tensor] = {}

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given[modules[module]] = args[0][:, -2]

    sites = [Site(block) for block in range(len(subject.blocks))]
    with watch_calls(list(modules), see), read(subject, sites, lambda output: output, raw=True) as values:
        subject.answers(batch)
    return given, [kept[-1] for kept in values]


def _said(subject: CausalLM, batch: TokenBatch, outputs: Sequence[Any], change_BD: Tensor | None,
          tokens_B2: Tensor) -> Tensor:
    """Probability of both tokens, with a change to what the last block gives where the answer begins; shape B 2."""
    last = outputs[-1]
    states_BTD = (last[0] if isinstance(last, tuple) else last).clone()
    if change_BD is not None:
        states_BTD[:, -2] += change_BD.to(states_BTD)
    changed = (states_BTD, *last[1:]) if isinstance(last, tuple) else states_BTD
    with substitute(subject, [*outputs[:-1], changed]):
        logits_BV = subject.answers(batch).logits_NV
    return logits_BV.double().softmax(-1).gather(1, tokens_B2)
