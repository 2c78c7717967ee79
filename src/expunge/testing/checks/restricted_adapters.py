"""Promises of adapters that begin in chosen directions and are kept away from others.

Legend: O outputs of a layer, R rank, K directions of retain outputs.
"""

from __future__ import annotations

from typing import Any

import torch

from expunge.methods._lib.layer_outputs import contrast, overlap, second_moment
from expunge.methods.base import ScopePlugin
from expunge.models.sites import Site, read
from expunge.models.tiny import build_subject

from ..support import batch_of, fresh, memoriser, small_task, token_rows, train
from .base import check, term

B = ".lora_B.default.weight"


def _gpt2() -> Any:
    """Its linear layers hold their weights transposed, and have biases."""
    return build_subject({"model_type": "gpt2", "vocab_size": 768, "n_embd": 32, "n_layer": 2, "n_head": 2,
                          "n_positions": 256}, small_task().texts())


@check
def starts_at_original(plugin: type[ScopePlugin]) -> None:
    """Logits at step 0 differ by less than 1e-4, no matrix B is 0, and the weights below the adapter did change."""
    for subject, options in ((fresh(), {"rank": 100, "alpha": 7.0}), (_gpt2(), {"rank": 4})):
        batch = batch_of(subject, small_task().forget[:5])
        with torch.no_grad():
            before = subject.answers(batch).logits_NV
            scope = plugin(rows=6, **options).apply(subject, token_rows(subject))
            after = subject.answers(batch).logits_NV
            with subject.model.disable_adapter():
                below = subject.answers(batch).logits_NV
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
        assert float((below - before).abs().max()) > 1e-2
        assert all(float(p.detach().norm()) > 0.1 for n, p in scope.parameters.items() if n.endswith(B))


@check
def starts_orthonormal(plugin: type[ScopePlugin], balance: float) -> None:
    """Against a moment of the layer's own outputs, taken with a batch and a mask; random matrices do worse."""
    made, subject = plugin(balance=balance, rank=8, rows=12), fresh()
    rows = {side: few[:12] for side, few in token_rows(subject).items()}
    scope = made.apply(subject, rows)
    name = next(n for n in scope.names if n.endswith("1.mlp.down_proj" + B))
    up_OR = scope.parameters[name].detach().double()
    torch.testing.assert_close(up_OR.T @ up_OR, torch.eye(8, dtype=torch.float64), atol=1e-5, rtol=0)
    moments = {}
    for side, few in rows.items():
        batch = batch_of(memoriser(), few)
        with read(memoriser(), [Site(1, "mlp")]) as seen:
            memoriser().hidden(batch, 1)
        moments[side] = second_moment((seen[0][-1] * batch.attention_BT[..., None]).sum(1))
    delta_OO = contrast(moments["forget"], moments["retain"], balance)

    def kept(basis: torch.Tensor) -> float:
        return float(torch.trace(basis.T @ delta_OO @ basis))

    largest = torch.linalg.eigvalsh(delta_OO)[-8:].sum()
    torch.testing.assert_close(torch.tensor(kept(up_OR)), largest.float(), atol=1e-3, rtol=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        random_OR = torch.linalg.qr(torch.randn(len(delta_OO), 8, generator=generator, dtype=torch.float64)).Q
        assert kept(random_OR) < kept(up_OR)


@check
def penalty_of_orthogonal_is_zero(plugin: type[ScopePlugin]) -> None:
    """Columns outside P: value and gradient 0. Within P it is the squared norm, times lambda, over all layers."""
    subject = fresh()
    scope: Any = plugin(penalty=0.3, directions=8, rank=4, rows=8).apply(subject, token_rows(subject))
    for name, away_OK in scope.directions.items():
        assert away_OK.shape[1] == 8
        torch.testing.assert_close(away_OK.T @ away_OK, torch.eye(8), atol=1e-5, rtol=0)
        up_OR = scope.parameters[name].detach()
        outside = (up_OR - away_OK @ (away_OK.T @ up_OR)).requires_grad_(True)
        value = overlap(outside, away_OK)
        assert float(value.detach()) < 1e-9 and float(torch.autograd.grad(value, outside)[0].abs().max()) < 1e-5
        with torch.no_grad():
            scope.parameters[name].copy_(away_OK[:, :4] * 2)
    wanted = torch.tensor(0.3 * 16.0 * len(scope.directions))
    torch.testing.assert_close(scope.penalty().detach(), wanted, atol=1e-3, rtol=1e-4)
    assert plugin(penalty=0, rank=4, rows=1).apply(fresh(), token_rows(subject)).penalty() is None


@check(trains=True)
def penalty_shrinks_overlap(plugin: type[ScopePlugin], penalty: float) -> None:
    """The log tells the penalty of every step, and the run with it ends with a tenth of the overlap of the other."""
    ends = {}
    for strength in (penalty, 1e-6):
        scoped = term(plugin, {"penalty": strength, "rank": 8, "rows": 6})
        run = train(f"npo + retain_nll + {scoped}", steps=20, lr=1e-2)
        told = [line["penalty"] / strength for line in run.lines]
        assert all(abs(line["loss"] - sum(line["terms"].values())) < 1e-5 for line in run.lines)
        scope: Any = run.scope
        ends[strength] = (told[0], float(scope.penalty().detach()) / strength)
    assert ends[penalty][0] > 0 and abs(ends[penalty][0] - ends[1e-6][0]) < 1e-3 * ends[penalty][0]
    assert ends[penalty][1] < 0.1 * ends[1e-6][1], ends
