"""REMIND: the loss of a text and the losses of slightly changed copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from expunge import plugin
from expunge.data.text_encoder import TokenRow
from expunge.models.answers import per_row
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.residual import answerable, heading, rounded, text_mask
from expunge.records.observation import Row
from expunge.records.task import Example, Task
from expunge.seeding import stream

Nearest = Mapping[int, Sequence[int]]


def special_ids(subject: CausalLM) -> set[int]:
    processor = subject.encoder.processor
    added = getattr(processor, "added_tokens_decoder", {})
    return set(processor.all_special_ids) | {i for i, token in added.items() if token.special}


@torch.no_grad()
def nearest(subject: CausalLM, ids: Sequence[int], count: int) -> dict[int, list[int]]:
    """The `count` tokens nearest to each id by cosine of input embeddings; neither itself nor a special token."""
    table_VD = torch.nn.functional.normalize(subject.model.get_input_embeddings().weight.float(), dim=-1)
    excluded = special_ids(subject) | set(range(len(subject.encoder.processor), len(table_VD)))
    excluded_M = torch.tensor(sorted(i for i in excluded if i < len(table_VD)), dtype=torch.long,
                              device=table_VD.device)
    neighbours: dict[int, list[int]] = {}
    for start in range(0, len(ids), 256):
        part = torch.tensor(ids[start: start + 256], device=table_VD.device)
        cosine_UV = table_VD[part] @ table_VD.T
        cosine_UV[:, excluded_M] = -torch.inf
        cosine_UV.scatter_(1, part[:, None], -torch.inf)
        neighbours |= dict(zip(part.tolist(), cosine_UV.topk(count, dim=-1).indices.tolist(), strict=True))
    return neighbours


def changed(row: TokenRow, places: Sequence[int], near: Nearest, *, count: int, share: float, reach: int,
            seed: int) -> list[tuple[TokenRow, int]]:
    """`count` changed copies of a row, each with its strength j: every position in `places` is replaced by its j-th
    nearest token with probability `share`, at least one is. They depend on the row, the table and the seed only."""
    random, copies = stream(seed, "landscape", row.id), []
    for k in range(count):
        draws, strength = [random.random() for _ in places], 1 + k % reach
        ids = list(row.ids)
        for t, draw in zip(places, draws, strict=True):
            if draw < share or draw == min(draws):
                ids[t] = near[ids[t]][strength - 1]
        copies.append((replace(row, ids=tuple(ids)), strength))
    return copies


class Landscape(Probe):
    """Losses of a text and of K copies in which some tokens are replaced by similar ones."""

    class Spec(plugin.Spec):
        neighbours: int = Field(10, ge=1, description="Changed copies per example (K).")
        share: float = Field(0.3, gt=0, le=1, description="Probability that a token is replaced (p).")
        reach: int = Field(5, ge=1, le=50, description="Strengths j = 1 .. reach, used in turn.")
        replace: Literal["text", "answer", "prompt"] = Field("text", description=(
            "text: tokens of prompt and answer; answer or prompt: of one of them."))
        seed: int = Field(0, description="Seed of the positions that are replaced.")

    uses_original = True
    original_optional = True
    card = Card(
        name="landscape", kind="probe",
        summary="losses of a text and of slightly changed copies",
        paper="REMIND, arXiv 2511.04228",
        formula="l_0 = L(x), l_k = L(x with tokens replaced by their j-th nearest neighbour)",
        defaults="K = 10, p = 0.3, j = 1 .. 5: the paper describes their size but gives no values",
        model_needs=frozenset({"logp", "prompt", "weights"}),
        deviations=(
            "Neighbours come from the original's embedding table, the same for all models; without an original "
            "from the model's own, and the rows then hold `table: own`.",
            "Loss is over the answer's tokens, given the (changed) prompt. At least one token is replaced.",
            "The loss of texts never seen rises too if they share a known pattern: on the test bed by 1.9 nats, "
            "against 3.5 for memorised texts.",
        ),
    )
    must_show = (
        Property("same_neighbours_for_every_model", {}, "the same changed texts for all models, whatever their tables"),
        Property("landscape_matches_slow_twin", {}, "losses one text at a time; special tokens kept"),
        Property("internals_ignore_padding_and_order", {}, "batch composition changes nothing"),
        Property("memorised_text_sits_in_a_sharp_minimum", {}, "large gap when memorised, small when never seen"),
    )

    def count(self, examples: Sequence[Example]) -> int:
        return len(examples) * (1 + int(self.spec.neighbours))

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        tokens = [subject.encoder.encode(e) for e in examples]
        special, spec = special_ids(subject), self.spec
        places = {i: [t for t in _span(tokens[i], spec.replace) if tokens[i].ids[t] not in special]
                  for i in answerable(tokens)}
        usable = [i for i, positions in places.items() if positions]
        near = nearest(partner or subject, sorted({tokens[i].ids[t] for i in usable for t in places[i]}), spec.reach)
        rows: list[TokenRow] = []
        strengths: dict[int, list[int]] = {}
        for i in usable:
            copies = changed(tokens[i], places[i], near, count=spec.neighbours, share=spec.share, reach=spec.reach,
                             seed=spec.seed)
            rows += [tokens[i], *(copy for copy, _ in copies)]
            strengths[i] = [strength for _, strength in copies]
        losses = _losses(subject, rows, progress)
        width = 1 + spec.neighbours
        return [{**heading(examples[i]), "table": "own" if partner is None else "original", "l0": losses[n * width],
                 "losses": losses[n * width + 1: (n + 1) * width], "strengths": strengths[i]}
                for n, i in enumerate(usable)]


def _span(row: TokenRow, which: str) -> range:
    start = row.prompt if which == "answer" else 0
    return range(start, row.prompt if which == "prompt" else row.prompt + row.answer)


def _losses(subject: CausalLM, rows: Sequence[TokenRow], progress: Progress | None) -> list[float]:
    """Mean -log p of the answer's tokens of every row."""
    losses = [0.0] * len(rows)
    with subject.evaluating():
        for chosen in subject.encoder.batches(rows):
            batch = subject.collate([rows[i] for i in chosen])
            text_N = text_mask(batch)
            answers = subject.answers(batch)
            loss_B = -answers.per_row(answers.logp_N.where(text_N, 0.0)) / per_row(text_N.float(), batch)
            for i, value in zip(chosen, rounded(loss_B, 7), strict=True):
                losses[i] = value
            if progress:
                progress(len(chosen))
    return losses
