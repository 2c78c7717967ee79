"""Promises of retain terms."""

from __future__ import annotations

import pytest
import torch

from expunge.methods.base import Retain
from expunge.methods.run_context import RunContext
from expunge.records.settings import RunSettings

from ..support import (
    batch_of,
    batches_of,
    cosine,
    distance,
    draws_of,
    flat,
    fresh,
    gradient,
    memoriser,
    moved,
    small_task,
    train,
    trained,
)
from .base import check, term


@check
def matches_plain_finetuning(plugin: type[Retain]) -> None:
    """Value and gradient are those of Hugging Face's own loss on the same labels."""
    rows = small_task().retain[:6]
    batch = batch_of(memoriser(), rows)
    found = gradient(term(plugin), moved(), batches=[{"retain": batch}])
    model = fresh(moved()).model.requires_grad_(True)
    labels = torch.full_like(batch.ids_BT, -100)
    for b, row in enumerate(batch.rows):
        labels[b, row.prompt: len(row.ids)] = torch.tensor(row.ids[row.prompt:])
    theirs = model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, labels=labels).loss
    grads = torch.autograd.grad(theirs, tuple(model.parameters()))
    assert found.values[plugin.card.name] == pytest.approx(theirs.item(), rel=1e-5)
    assert cosine(found.total(), grads) > 1 - 1e-8 and distance(found.total(), grads) < 1e-4


@check(trains=True)
def protects_retain(plugin: type[Retain]) -> None:
    """After the same forgetting steps the retain loss is well below what it is without the term."""
    alone, kept = (trained(r, steps=30, lr=1e-3, watch=10).readings[-1] for r in ("npo", f"npo + {term(plugin)}"))
    assert kept[1] < 0.3 * alone[1]
    assert kept[0] > 3, "nothing was forgotten, so nothing was protected"


@check
def zero_at_start(plugin: type[Retain]) -> None:
    """Value and gradient vanish while the model is its reference, and not after it has moved."""
    recipe = f"ga + {term(plugin)}"
    start, later = (gradient(recipe, s, original=memoriser(), separate=True) for s in (memoriser(), moved(8)))
    assert start.values[plugin.card.name] == pytest.approx(0, abs=1e-6)
    assert later.values[plugin.card.name] > 1e-3
    assert flat(start.retain).norm() < 1e-5 * flat(later.retain).norm()


@check
def leaves_first_update(plugin: type[Retain]) -> None:
    """At the start the whole gradient is that of the objective alone."""
    batches = batches_of(memoriser(), draws_of(f"ga + {term(plugin)}", memoriser()))
    both = gradient(f"ga + {term(plugin)}", memoriser(), batches=[batches])
    alone = gradient("ga", memoriser(), batches=[{"forget": batches["forget"]}])
    assert distance(both.total(), alone.total()) < 1e-4


@check
def below_whole_divergence(plugin: type[Retain]) -> None:
    """Between 0 and the whole divergence, nearer to it with every token that is kept; equal once all of them are."""
    vocabulary = moved().model.config.vocab_size
    whole = gradient("retain_kl", moved(), original=memoriser())
    ladder = [gradient(f"{plugin.card.name}(k={k})", moved(), original=memoriser()) for k in (1, 4, 32, vocabulary)]
    values = [found.values[plugin.card.name] for found in ladder]
    assert 0 < values[0] < values[1] < values[2] < whole.values["retain_kl"]
    assert values[3] == pytest.approx(whole.values["retain_kl"], rel=1e-5)
    assert distance(ladder[3].total(), whole.total()) < 1e-4
    assert cosine(ladder[2].total(), whole.total()) > 0.9


@check(trains=True)
def never_negative(plugin: type[Retain]) -> None:
    """Its value is at least zero at every step of a run, and above zero at some."""
    objective = plugin.card.kind == "objective"
    run = train(term(plugin) if objective else f"ga + {term(plugin)}", steps=12)
    values = [line["terms"][plugin.card.name] for line in run.lines]
    assert min(values) > -1e-7 and max(values) > 1e-4, values


@check
def replays_own_text(plugin: type[Retain]) -> None:
    """Sampled by the original, the same for the same seed, without a forgotten name; no retain row is drawn."""
    made = [plugin(texts=5, tokens=16).prepare(fresh(), small_task(), RunContext(settings=RunSettings(seed=seed)))
            for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2] and 1 <= len(made[0]["texts"]) <= 5
    names = {row.entity.lower() for row in small_task().forget}
    assert not any(name in text.lower() for text in made[0]["texts"] for name in names)
    draws = draws_of(f"npo + {term(plugin)}", memoriser(), 12)
    assert all(set(draw) == {"forget", "replay"} for draw in draws)
    assert len({draw["replay"].answer for draw in draws}) > 1


@check(trains=True)
def softens_damage(plugin: type[Retain], share: float) -> None:
    """After the same steps the retain loss is at most `share` of that without the term, and the answers are lost."""
    alone, kept = (trained(r, steps=30, lr=1e-3, watch=10).readings[-1] for r in ("npo", f"npo + {term(plugin)}"))
    assert kept[1] < share * alone[1] and kept[0] > 3, (alone, kept)
