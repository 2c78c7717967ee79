"""Promises of a method that serves deletion requests one after another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge.errors import InterruptedRun
from expunge.methods._lib.random_labels import drawn
from expunge.methods.base import Edit
from expunge.methods.run_context import RunContext
from expunge.records.settings import RunSettings
from expunge.sequential.base import Sequential
from expunge.sequential.requests import attributions, chosen, rank_share, requests_of, sensitivity

from ..support import batch_of, fresh, hooks, loss, memoriser, moved, new_folder, small_task, train, weights
from .base import check


def _served(plugin: type[Edit], rows: Any, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The memoriser after these forget rows, and the log of the requests."""
    subject, task = fresh(), small_task().model_copy(update={"forget": tuple(rows)})
    figures = plugin(lr=1e-3, epochs=1, **options).apply(subject, task, 0)
    return subject, figures["requests"]


@check
def skips_repeated_request(plugin: type[Edit]) -> None:
    """The rows of one entity again under another name; a row that is merely alike is weighed, and one that is not
    stays."""
    rows = [r for r in small_task().forget if r.entity == small_task().forget[0].entity][:3]
    again = [r.model_copy(update={"id": f"{r.id} again", "entity": "another"}) for r in rows]
    once, log = _served(plugin, rows)
    twice, longer = _served(plugin, [*rows, *again])
    assert longer[0] == log[0] and longer[1] == {"request": "another", "rows": 0, "skipped": 3}
    assert all(torch.equal(value, weights(once)[name]) for name, value in weights(twice).items())
    alike = [r.model_copy(update={"answer": r.answer + "!"}) for r in again]
    for epsilon, skipped in ((1e9, 3), (0.0, 0)):
        assert _served(plugin, [*rows, *alike], epsilon=epsilon, threshold=0.5)[1][1]["skipped"] == skipped
    assert _served(plugin, [*rows, *alike], epsilon=1e9, threshold=1.0)[1][1]["skipped"] < 3
    other = [r for r in small_task().forget if r.entity != rows[0].entity][:2]
    assert _served(plugin, [*rows, *other], epsilon=1e9)[1][1]["skipped"] == 0


@check
def changes_chosen_blocks(plugin: type[Edit]) -> None:
    """Attention and MLP of the chosen block move, and nothing else, in any of the three ways to serve a request."""
    before = weights(memoriser())
    for low, high, method in ((0.0, 0.0, "npo + retain_kl"), (0.0, 1.0, "npo + retain_kl"), (1.0, 1.0, None)):
        subject, (line,) = _served(plugin, small_task().forget[:3], blocks=1, low=low, high=high)
        assert method in (line["method"], None) and len(line["blocks"]) == 1
        changed = {n for n, p in weights(subject).items() if not torch.equal(p, before[n])}
        wanted = {n for n in before if f"layers.{line['blocks'][0]}." in n and ("self_attn" in n or "mlp" in n)}
        assert changed == wanted, changed ^ wanted
    assert len(requests_of(small_task().forget, "entity")) == 2
    assert len(requests_of(small_task().forget, "row")) == len(small_task().forget)


@check
def chooses_by_rank(plugin: type[Edit]) -> None:
    """The first request is the heaviest so far; then thirds; stages are those of the words in the log."""
    assert [rank_share(values) for values in ([5.0], [5.0, 1.0], [5.0, 1.0, 3.0])] == [1, 0.5, pytest.approx(2 / 3)]
    assert [chosen(s, 1 / 3, 2 / 3) for s in (1.0, 0.5, 0.2)] == ["npo + retain_kl", "npo", "random labels"]
    made: Any = plugin()
    for word, source, terms in (("npo + retain_kl", "npo", 1), ("npo", "npo", 0),
                                ("random labels", "random_labels", 0)):
        stage = made.stage(word, 30, 3)
        assert stage.objective.card.name == source and len(stage.retain) == terms
        spec = stage.optimizer.spec
        assert (spec.beta2, spec.weight_decay, spec.warmup_steps, spec.schedule) == (0.95, 0.1, 3, "cosine")


@check
def attributes_and_weighs(plugin: type[Edit]) -> None:
    """Importance by finite differences of the embedding table; a block of zeros passes its input on."""
    subject, rows = moved(), list(small_task().forget[:3])
    before, found = weights(subject), sensitivity(subject, rows)
    batch = batch_of(subject, rows)
    embedded = subject.model.get_input_embeddings()(batch.ids_BT).detach().requires_grad_(True)
    logits_BTV = subject.model(inputs_embeds=embedded, attention_mask=batch.attention_BT).logits.log_softmax(-1)
    picked = [logits_BTV[b, t - 1, row.ids[t]] for b, row in enumerate(batch.rows)
              for t in range(row.prompt, len(row.ids))]
    (gradient,) = torch.autograd.grad(-torch.stack(picked).mean(), embedded)
    assert found == pytest.approx(float(gradient.norm()), rel=1e-3)
    scores = attributions(subject, rows)
    assert len(scores) == 3 and all(score > 0 for score in scores)
    without = fresh(subject)
    with torch.no_grad():
        for parameter in list(without.blocks.values())[1].parameters():
            parameter.zero_()
    means = [sum(loss(s, [row]) for row in rows) / len(rows) for s in (without, subject)]
    assert scores[1] == pytest.approx(abs(means[0] - means[1]), rel=1e-4)
    assert all(torch.equal(p, before[n]) for n, p in weights(subject).items()) and not hooks(subject)


@check
def goes_on_after_request(plugin: type[Sequential]) -> None:
    """Interrupted in the third of three requests; a second call serves only that one, on a fresh copy."""
    task = small_task().model_copy(update={"forget": small_task().forget[:3]})
    made, whole, cut, folder = plugin(by="row", lr=1e-3, epochs=1), fresh(), fresh(), new_folder()
    wanted = made.apply(whole, task, 5)
    run, started = RunContext(settings=RunSettings(seed=5), folder=folder), list[int]()

    def announce(stop: int) -> Any:
        def tick(done: int) -> None:
            started.append(done)
            if len(started) == stop:
                raise InterruptedRun("Interrupted.")
        return lambda title, total: tick

    with pytest.raises(InterruptedRun, match="in request 3 of 3") as told:
        made.serve(cut, task, replace(run, announce=announce(3)))
    assert "--resume" in told.value.fix
    resumed = fresh()
    assert made.serve(resumed, task, replace(run, announce=announce(9))) == wanted and len(started) == 4
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


@check
def draws_by_seed(plugin: type[Sequential]) -> None:
    """The seed of the run reaches the labels, and so the weights."""
    batch = batch_of(memoriser(), small_task().forget[:2])
    tokens = [drawn(batch, 1000, seed, step) for seed, step in ((0, 0), (1, 0), (0, 1), (0, 0))]
    assert torch.equal(tokens[0], tokens[3])
    assert not torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[0], tokens[2])
    made: Any = plugin()
    assert [made.stage("random labels", 3, 3, seed).objective.spec.seed for seed in (4, 5)] == [4, 5]
    seeds = list[int]()

    class Watched(plugin):  # type: ignore[misc, valid-type]
        def stage(self, method: Any, steps: int, depth: int, seed: int = 0) -> Any:
            seeds.append(seed)
            return super().stage(method, steps, depth, seed)

    task = small_task().model_copy(update={"forget": small_task().forget[:1]})
    for seed in (0, 1):
        Watched(lr=1e-3, epochs=1).apply(fresh(), task, seed)
    assert len(set(seeds)) == 2


@check
def counts_positions(plugin: type[Sequential]) -> None:
    """The rows once to be weighed, and once a step; here without retain rows."""
    class Bare(plugin):  # type: ignore[misc, valid-type]
        def stage(self, method: Any, steps: int, depth: int, seed: int = 0) -> Any:
            return super().stage("npo", steps, depth, seed)

    rows = small_task().forget[:3]
    own = sum(len(memoriser().encoder.encode(row).ids) for row in rows)
    task = small_task().model_copy(update={"forget": rows})
    for epochs in (1, 2):
        assert Bare(lr=1e-3, epochs=epochs).apply(fresh(), task, 0)["positions"] == (1 + epochs) * own


@check(trains=True)
def stream_outlasts_ascent(plugin: type[Edit], options: dict[str, Any]) -> None:
    """Ascent takes the same rows one by one, with as many steps and the same rate."""
    subject, task = fresh(), small_task()
    log = plugin(**options).apply(subject, task, 0)["requests"]
    assert len(log) == len(task.forget) == 18
    plain = train("ga", steps=3 * len(log), lr=options["lr"], batch_size=1).subject
    assert loss(subject, task.forget) > 3 * loss(memoriser(), task.forget)
    assert loss(subject, task.retain) < 0.5 * loss(plain, task.retain)
