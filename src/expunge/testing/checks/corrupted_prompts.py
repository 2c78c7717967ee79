"""Promises of `eco`: what is corrupted, how, and by how much.

Legend: T tokens, D size of a vector.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from expunge.guards.base import PromptGuard
from expunge.guards.corruption import CORRUPTIONS, COUNTED, corrupt, search
from expunge.methods.run_context import RunContext
from expunge.models.decoding import left_padded
from expunge.records.settings import RunSettings

from ..support import batch_of, fresh, memoriser, small_task
from .base import check
from .prompt_guards import guarded, said, scored


@check(trains=True)
def strength_zero_is_the_target(plugin: type[PromptGuard]) -> None:
    """Bit for bit, in scores and words, while the detector fires."""
    rows = small_task().forget[:2]
    for options in ({"strength": 0.0}, {"corruption": "noise_first", "strength": 0.0, "dims": 64}):
        subject = guarded(plugin, **options)
        batch = batch_of(subject, rows)
        assert all(f.fired for f in subject.model.fires(batch.ids_BT, batch.attention_BT))
        assert torch.equal(scored(subject, rows), scored(memoriser(), rows))
        assert said(subject, rows, 4) == said(memoriser(), rows, 4)


@check(trains=True)
def corrupts_prompts_only(plugin: type[PromptGuard]) -> None:
    """The vectors that the second pass reads, for rows padded on the right (scoring) and on the left (decoding)."""
    subject, row = guarded(plugin), small_task().forget[0]
    model = subject.model
    encoded = [subject.encoder.encode(r) for r in (row, small_task().retain[0])]
    table = model.get_input_embeddings().weight
    before, seen = table.clone(), list[Any]()
    decoder = model.view.get_decoder()
    plain = decoder.forward

    def watched(**inputs: Any) -> Any:
        seen.append(inputs)
        return plain(**inputs)

    batch = batch_of(subject, [row, small_task().retain[0]])
    prompts = left_padded([r.ids[: r.prompt] for r in encoded], 0)
    decoder.forward = watched
    try:
        with subject.evaluating():
            for ids_BT, mask_BT in ((batch.ids_BT, batch.attention_BT), prompts):
                model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)
            said(subject, [row], 4)
    finally:
        del decoder.forward
    assert torch.equal(table, before)
    for (ids_BT, mask_BT), inputs in zip(((batch.ids_BT, batch.attention_BT), prompts), seen, strict=False):
        expected = table[ids_BT]
        columns = mask_BT[0].nonzero()[: encoded[0].prompt - 1, 0]
        other = torch.ones(ids_BT.shape, dtype=torch.bool)
        other[0, columns] = False
        assert torch.equal(inputs["inputs_embeds"][other], expected[other])
        assert bool((inputs["inputs_embeds"][0, columns] != expected[0, columns]).any(-1).all())
    later = seen[3:]  # one prefill, then tokens as they are
    assert later and all(inputs["input_ids"].shape[1] == 1 and "inputs_embeds" not in inputs for inputs in later)


def slow_twin(row: list[float], how: str, dims: int, strength: float) -> list[float]:
    """One token, without noise and orders."""
    size = len(row)
    ranked = {"zero_top": sorted(range(size), key=lambda d: -abs(row[d])),
              "flip_top": sorted(range(size), key=lambda d: -abs(row[d])),
              "subtract_top": sorted(range(size), key=lambda d: -row[d]),
              "add_least": sorted(range(size), key=lambda d: row[d])}
    chosen = set(ranked.get(how, list(range(size)))[:dims])
    change = {"zero": lambda x: 0.0, "flip": lambda x: -x, "add": lambda x: x + strength,
              "subtract": lambda x: x - strength}[how.split("_")[0]]
    return [change(x) if d in chosen else x for d, x in enumerate(row)]


@check
def corruptions_match_slow_twins(plugin: type[PromptGuard]) -> None:
    """Values by hand, noise by its dims and its size, orders by what they keep; the input stays as it is."""
    vectors_TD = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    before = vectors_TD.clone()
    for how in CORRUPTIONS:
        for dims in (0, 1, 5, 12, 20):
            found_TD = corrupt(vectors_TD, how, dims, 0.5, torch.Generator().manual_seed(1))
            assert torch.equal(vectors_TD, before)
            if how in ("reverse", "shuffle"):
                assert sorted(found_TD.tolist()) == sorted(vectors_TD.tolist()) and not torch.equal(found_TD, before)
            elif how.startswith("noise"):
                changed = (found_TD != vectors_TD).sum(1)
                assert changed.tolist() == [min(dims, 12)] * 7
                short_TD = corrupt(vectors_TD[:3], how, dims, 0.5, torch.Generator().manual_seed(1))
                assert torch.equal(short_TD, found_TD[:3]), "a longer prompt begins with the same noise"
            else:
                expected = [slow_twin(row, how, dims, 0.5) for row in vectors_TD.tolist()]
                torch.testing.assert_close(found_TD, torch.tensor(expected))
    wide_TD = corrupt(torch.zeros(400, 30), "noise_first", 30, 0.7, torch.Generator().manual_seed(2))
    assert float(wide_TD.std()) == pytest.approx(0.7, rel=0.05)


@check(trains=True)
def search_descends(plugin: type[PromptGuard]) -> None:
    """Steps on |b - 0.6| are the formula's and end near 0.6; in a model the best loss is far below the first."""
    found = search(lambda b: abs(b - 0.6), 0.1, rate=0.05, width=0.02, least=0.1, most=1.0, steps=30, enough=0.01)
    assert found.strengths[1] == pytest.approx(0.15) and found.losses[-1] < 0.011 and len(found.losses) < 13
    clipped = search(lambda b: b, 0.5, rate=10.0, width=0.1, least=0.1, most=1.0, steps=5, enough=0.0)
    assert clipped.strengths == (0.5, 0.1) and clipped.best == 1
    task = small_task().model_copy(update={"forget": small_task().forget[:4]})
    for how in ("zero_top", "noise_first"):
        options: dict[str, Any] = {"corruption": how, "steps": 2} | ({} if how in COUNTED else {"dims": 64})
        made = plugin(**options)
        figures = made.build(fresh(), task, RunContext(settings=RunSettings()))[1]
        losses = figures["search"]["losses"]
        assert min(losses) < 0.7 * losses[0] and all(map(math.isfinite, losses))
        assert figures["strength"] == figures["search"]["strengths"][losses.index(min(losses))]
