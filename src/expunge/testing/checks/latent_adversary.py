"""Promises of perturbations of activations: an adversary inside the model.

Legend: B rows, T padded length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.methods._lib.latent import away, pushed
from expunge.methods.base import Perturb
from expunge.models.language import CausalLM
from expunge.records.task import Example
from expunge.training.step import Step

from ..support import (
    batch_of,
    batches_of,
    draws_of,
    fresh,
    hooks,
    loss,
    moved,
    small_task,
    trained,
    weights,
)
from .base import check, term


@cache
def _forget_batch(count: int = 4) -> TokenBatch:
    rows: list[Example] = sorted(small_task().forget[:count], key=lambda r: len(r.answer))
    return batch_of(moved(), rows)


@check(trains=True)
def adversary_wins(plugin: type[Perturb]) -> None:
    """Tokens end within eps, some of them on it; the rest of the row is untouched; the adversary's loss has fallen."""
    subject = trained("npo + retain_nll", steps=15, lr=1e-3, watch=15).subject
    before = weights(subject)
    batches = batches_of(subject, draws_of("dpo", subject, 4))
    tried: tuple[dict[str, Any], ...] = (
        {"eps": 0.4}, {"eps": 0.4, "site": "block", "layers": [0, 2]}, {"eps": 1.0, "ball": "row"},
        {"eps": 0.4, "mask": "all"}, {"eps": 0.4, "site": "embedding"})
    for options in tried:
        made = plugin(steps=8, **options)
        sites = made.sites(subject)  # type: ignore[attr-defined]
        forget, refusal = batches["forget"], batches["refusal"]
        deltas = made.worst(subject, sites, forget, refusal)  # type: ignore[attr-defined]
        nothing = [torch.zeros_like(d) for d in deltas]
        with torch.no_grad():
            low, high = (float(made.loss(subject, sites, d, forget, refusal)) for d in (deltas, nothing))  # type: ignore[attr-defined]
        assert low < high - 0.1, (options, low, high)
        for delta_BTD in deltas:
            size_BT = delta_BTD.norm(dim=-1)
            whole = delta_BTD.norm(dim=(1, 2)) if made.spec.ball == "row" else size_BT
            assert options["eps"] - 1e-3 < float(whole.max()) <= options["eps"] + 1e-5
            for size_T, row in zip(size_BT, forget.rows, strict=True):
                end = len(row.ids) - 1 if made.spec.mask == "all" else row.prompt  # nothing follows the last
                assert float(size_T[end:].abs().sum()) == 0 and float(size_T[end - 1]) > 0
    assert hooks(subject) == [] and not subject.model.training
    assert all(torch.equal(p, before[n]) and named.grad is None
               for (n, p), named in zip(weights(subject).items(), subject.model.parameters(), strict=True))
    answers = subject.answers(batches["forget"])
    slow = -torch.log1p(-answers.logp_N.double().exp()).where(answers.logp_N >= -5, 0.0)
    torch.testing.assert_close(away(answers).double(), slow, atol=1e-4, rtol=1e-3)


@check
def alone_or_in_company(plugin: type[Perturb]) -> None:
    """Each row's perturbation is the same alone, among others and behind padding; and each time it is asked."""
    subject, together = moved(), _forget_batch()
    made = plugin(steps=4)
    sites = made.sites(subject)  # type: ignore[attr-defined]
    (crowd_BTD,) = made.worst(subject, sites, together)  # type: ignore[attr-defined]
    assert torch.equal(crowd_BTD, made.worst(subject, sites, together)[0])  # type: ignore[attr-defined]
    for b, row in enumerate(together.rows):
        (alone_BTD,) = made.worst(subject, sites, batch_of(subject, [row]))  # type: ignore[attr-defined]
        # AdamW turns a gradient lost in rounding into a step, so a few elements may differ.
        gap = (alone_BTD[0] - crowd_BTD[b, : len(row.ids)]).abs()
        assert float((gap > 1e-3).float().mean()) < 0.01, f"row {b}"
    text = small_task().forget[0].model_copy(update={"kind": "text", "prompt": ""})
    (running_BTD,) = made.worst(subject, sites, batch_of(subject, [text]))  # type: ignore[attr-defined]
    assert float(running_BTD[0, :-1].norm(dim=-1).min()) > 0, "in running text all positions are open"


@check
def reaches_forget_sides(plugin: type[Perturb]) -> None:
    """The refusal is given the forget prompt's own perturbation, the retain side none, whatever ran before."""
    subject = fresh(moved())
    batches = batches_of(subject, draws_of("dpo + retain_nll", subject, 3))
    step, clean = Step(subject, batches), Step(subject, batches)
    made = plugin(steps=3)
    made.attack(step)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(CausalLM, "bare", False)  # its hook keeps rows in one pass: so must the clean one
        for side, reached in (("forget", True), ("refusal", True), ("retain", False)):
            same = torch.equal(step.answers(side).logits_NV, clean.answers(side).logits_NV)
            assert same != reached, side
            assert torch.equal(step.hidden(side, 0), clean.hidden(side, 0)), "the block before the site"
            assert torch.equal(step.hidden(side, 1), clean.hidden(side, 1)) != reached
    with torch.no_grad():
        (delta_BTD,) = made.worst(subject, made.sites(subject), batches["forget"], batches["refusal"])  # type: ignore[attr-defined]
        row = batches["refusal"].rows[1]
        with pushed(subject, made.sites(subject), [delta_BTD[1:2, : row.prompt]]):  # type: ignore[attr-defined]
            prompt_TD = subject.model.model(torch.tensor([row.ids[: row.prompt]])).last_hidden_state[0]
    seen: list[Tensor] = []
    handle = subject.model.model.norm.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    with torch.no_grad():
        again = Step(subject, batches)
        made.attack(again)  # type: ignore[attr-defined]
        seen.clear()
        again.answers("refusal")
    handle.remove()
    torch.testing.assert_close(seen[0][1, : row.prompt], prompt_TD, atol=1e-4, rtol=1e-4)


def elicited(subject: CausalLM, rows: Sequence[Any], options: dict[str, Any]) -> float:
    """Forget loss under a fresh attack, stronger than the one in training."""
    from expunge.methods.perturb.lat import LAT

    made, batch = LAT(**(options | {"steps": 12})), batch_of(subject, rows)
    sites = made.sites(subject)
    with pushed(subject, sites, made.worst(subject, sites, batch)):
        return loss(subject, rows)


@check(trains=True)
def harder_to_elicit(plugin: type[Perturb], options: dict[str, Any]) -> None:
    """Attacked anew, the model trained against attacks answers less of the forget set, and knows the retain set."""
    mine, plain = (trained(r, steps=15, lr=1e-3, watch=15)
                   for r in (f"npo + retain_nll + {term(plugin, options)}", "npo + retain_nll"))
    rows = small_task().forget
    calm, pressed = ([f(run.subject) for run in (mine, plain)] for f in (
        lambda s: loss(s, rows), lambda s: elicited(s, rows, options)))
    assert pressed[1] < 0.8 * calm[1], "the attack has no effect on the plain model"
    assert pressed[0] > 1.15 * pressed[1] and calm[0] < 1.1 * calm[1], (calm, pressed)
    assert mine.readings[-1][1] < 1.3 * plain.readings[-1][1]
