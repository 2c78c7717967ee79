"""Promises of attention shifting.

Legend: B rows, H heads, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.methods._lib.attention_targets import FUNCTION_WORDS, WORD, map_divergence, marked, shifted
from expunge.methods.base import Objective
from expunge.models.language import CausalLM

from ..support import batch_of, cosine, fresh, gradient, hooks, made, memoriser, moved, small_task, trained
from .base import check, term


def maps_of(subject: CausalLM) -> list[Tensor]:
    with torch.no_grad():
        return subject.attention(batch_of(subject, small_task().forget))


@check
def maps_are_distributions(plugin: type[Objective]) -> None:
    """Causal, rows sum to 1, 0 at padding; the same for a row alone; the way of computing and the mode come back."""
    subject = fresh()
    batch = batch_of(subject, small_task().forget)
    real_BT = batch.attention_BT.bool()
    assert not bool(real_BT.all())
    way = subject.model.config._attn_implementation
    subject.model.train()
    maps = subject.attention(batch)
    assert subject.model.training and subject.model.config._attn_implementation == way and not hooks(subject)
    assert len(maps) == len(subject.blocks) and all(one.requires_grad for one in maps) is any(
        p.requires_grad for p in subject.model.parameters())
    for one in maps:
        found = one.detach()
        torch.testing.assert_close(found.sum(-1), real_BT[:, None].float().expand(found.shape[:3]), rtol=0, atol=1e-5)
        assert float(found.triu(1).abs().max()) == 0
    alone = subject.attention(batch_of(subject, small_task().forget[3:4]))
    length = alone[0].shape[-1]
    for one, single in zip(maps, alone, strict=True):
        torch.testing.assert_close(one[3:4, :, :length, :length], single, rtol=0, atol=1e-5)


@check
def shifts_by_hand(plugin: type[Objective]) -> None:
    """Row by row: marked columns times 1 - lambda, scaled to sum to 1; no change at 0; its divergence from itself 0."""
    generator = torch.Generator().manual_seed(0)
    map_BHTT = torch.rand(2, 3, 5, 5, generator=generator, dtype=torch.float64).tril()
    map_BHTT = map_BHTT / map_BHTT.sum(-1, keepdim=True)
    marked_BT = torch.tensor([[False, True, False, True, True], [True, True, False, False, False]])
    for change in (-0.99, -0.5, 1.5):
        found = shifted(map_BHTT, marked_BT, change)
        torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
        for b in range(2):
            by_hand = map_BHTT[b, 1, 4] * torch.where(marked_BT[b], 1 + change, 1.0)
            torch.testing.assert_close(found[b, 1, 4], by_hand / by_hand.sum())
        expected = (found * (found.clamp_min(1e-300) / map_BHTT.clamp_min(1e-300)).log()).sum((2, 3)).mean(1)
        torch.testing.assert_close(map_divergence([found, found], [map_BHTT, map_BHTT]), expected)
        assert bool((expected > 0).all())
        torch.testing.assert_close(map_divergence([map_BHTT], [found]), map_divergence([found], [map_BHTT], "reverse"))
    torch.testing.assert_close(shifted(map_BHTT, marked_BT, 0.0), map_BHTT)
    assert float(map_divergence([map_BHTT], [map_BHTT]).abs().max()) < 1e-12
    nothing = shifted(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, dtype=torch.bool), -0.5)
    assert float(nothing.abs().max()) == 0, "rows of padding stay 0"


@check
def marks_content(plugin: type[Objective]) -> None:
    """Marked tokens spell the content words of their row, all of them; words of the template are not marked."""
    encoder, marks = memoriser().encoder, made(term(plugin))
    for example in small_task().forget[:6]:
        row = encoder.encode(example)
        pieces = [encoder.processor.decode([i]).strip() for i in row.ids]
        words = {w.casefold() for w in WORD.findall(f"{example.prompt} {example.answer}")} - FUNCTION_WORDS
        said = encoder.processor.decode([i for i, m in zip(row.ids, marks[row.key], strict=True) if m]).casefold()
        assert all(word in said for word in words), (words, said)
        assert not marks[row.key][0] or pieces[0].casefold() in words
        left = [p for p, m in zip(pieces, marks[row.key], strict=True) if not m]
        assert {"Question", "Answer"} & set(pieces) <= set(left)


@check(trains=True)
def looks_away(plugin: type[Objective], steps: int, lr: float) -> None:
    """Attention on content words falls by at least four fifths of what the target takes away."""
    subject = trained(term(plugin), steps=steps, lr=lr).subject
    batch = batch_of(subject, small_task().forget)
    marked_BT = marked(made(term(plugin)), batch.rows, batch.ids_BT.shape[1], batch.device)

    def mass(maps: list[Tensor]) -> float:
        return float(torch.stack([(one * marked_BT[:, None, None]).sum() for one in maps]).sum())

    before = maps_of(memoriser())
    wanted = mass([shifted(one, marked_BT, -plugin().spec.suppress) for one in before])
    first, last = mass(before), mass(maps_of(subject))
    assert first - last > 0.8 * (first - wanted), (first, last, wanted)


@check
def opposes_its_companion(plugin: type[Objective]) -> None:
    """The cosine of the two gradients is below 0 where the model is its reference."""
    found = gradient(term(plugin), memoriser(), separate=True)
    assert cosine(found.forget, found.retain) < 0
    assert found.values["attention_shift"] > 1e-3 < found.values["retain_attention"]
    assert gradient(term(plugin), moved(), original=memoriser()).values["attention_shift"] > 0
