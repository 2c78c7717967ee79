"""uds and its probe against the script of the authors: scores of rows, with its last block and without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from expunge.data.text_encoder import TokenBatch, collate
from expunge.metrics.uds import depth_scores
from expunge.models.language import CausalLM
from expunge.probes.depth import drops
from official.bed import Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "gnueaj/unlearning-depth-score"
COMMIT = "fc316398620f79a42d80bc8acc87128081aa01c5"
FILE = "compute_uds.py"
FACTS = (range(0, 2), range(3, 7), range(1, 5), range(0, 1))
"""Of each row, the tokens of its answer that spell the fact."""


class Words:
    """Their tokenizer, which knows the texts of the rows."""

    pad_token_id, eos_token_id, is_fast = 0, 0, False

    def __init__(self, ids: dict[str, list[int]]) -> None:
        self.ids = ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.ids[text]


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    full, unlearned, retrained = bed.original, bed.subject, Bed(seed + 7).original
    with torch.no_grad():  # both near the full model, as models of one origin are
        for one, other in ((unlearned, 0.5), (retrained, 0.8)):
            for mine, theirs in zip(one.model.parameters(), full.model.parameters(), strict=True):
                mine.copy_(theirs + other * (mine - theirs))
    batch = _likely(full, bed.batches["forget"])
    ids: dict[str, list[int]] = {}
    rows: list[dict[str, Any]] = []
    spans = []
    for n, (row, fact) in enumerate(zip(batch.rows, FACTS, strict=True)):
        answer = list(row.ids[row.prompt:])
        spelled = answer[fact.start: fact.stop]
        first = next(t for t in range(len(answer)) if answer[t: t + len(spelled)] == spelled)  # likeliest tokens recur
        spans.append(range(first, first + len(spelled)))
        ids |= {f"Question: q{n}\nAnswer: so": list(row.ids[: row.prompt]), f" a{n}": answer,
                f"e{n}": spelled, f" e{n}": spelled}
        rows.append({"idx": n, "question": f"q{n}", "prefix": "so", "entity": f"e{n}", "answer": f"so a{n}",
                     "full_output": ""})
    score = taken(code / FILE, "_run_s1_s2_side_by_side_logprob_batch", generate_baseline=lambda *a, **k: "",
                  tqdm=lambda some, **k: some)
    depth = len(full.blocks)
    retrained_drops, drop = (_drops(one, full, batch, spans) for one in (retrained, unlearned))
    for what, blocks, ours in (
            ("scores of rows, all blocks, last=normed", depth, [torch.cat([d[:, :-1], n[:, None]], 1)
                                                               for d, n in (drop, retrained_drops)]),
            ("scores of rows, all blocks but the last", depth - 1, [d[:, :-1] for d, _ in (drop, retrained_drops)])):
        theirs = score(retrained.model, unlearned.model, full.model, Words(ids), rows, list(range(blocks)),
                       batch_size=4)[0]
        mine = torch.tensor(depth_scores(*(side.numpy() for side in ours)))
        other = torch.tensor([torch.nan if row["uds"] is None else row["uds"] for row in theirs], dtype=torch.float64)
        assert torch.equal(mine.isnan(), other.isnan()), "other rows have a score"
        yield difference(what, Found(None, [mine.nan_to_num()]), Found(None, [other.nan_to_num()]))


def _likely(full: CausalLM, batch: TokenBatch) -> TokenBatch:
    """The rows with answers of the tokens that the full model finds likeliest, so that patches make it lose."""
    rows = []
    for row in batch.rows:
        ids = list(row.ids[: row.prompt])
        for _ in range(row.answer):
            with torch.no_grad():
                ids.append(int(full.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        rows.append(replace(row, ids=tuple(ids)))
    return collate(rows, full.encoder.pad_id)


def _drops(source: CausalLM, full: CausalLM, batch: TokenBatch,
           spans: Sequence[range]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        _, drop_BL, normed_B = drops(source, full, batch, spans)
    assert normed_B is not None
    return drop_BL, normed_B
