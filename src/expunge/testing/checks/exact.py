"""Promises of exact methods: what a deletion leaves is what training without the rows gives.

Legend: S shards, B rows, T length, N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.exact.ledger import NAME, Checkpoint, Ledger, ShardPlace, ShardPlan, ShardStage, place
from expunge.exact.shards import STORE, adapter_of, path_of, schedule_of
from expunge.methods.optimizers.adamw import AdamW
from expunge.methods.run_context import RunContext
from expunge.methods.scopes.lora import LoRA
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.plugin import Plugin
from expunge.records.settings import RunSettings
from expunge.records.task import Example, Task
from expunge.seeding import derive

from ..support import batch_of, fresh, memoriser, small_task
from .base import check

FEW: dict[str, Any] = {"shards": 2, "slices": 2, "rank": 4, "lr": 1e-2, "batches": 4}
"""So many batches that some hold one row alone."""
STEPS = 24
PLACE = tempfile.mkdtemp(prefix="expunge-test-")
atexit.register(shutil.rmtree, PLACE, ignore_errors=True)


def row_task(forget: Sequence[Example], rows: Sequence[Example]) -> Task:
    return small_task().model_copy(update={"forget": tuple(forget), "retain": tuple(rows), "background": ()})


def all_rows() -> tuple[Example, ...]:
    """Mostly what the base does not know yet."""
    task = small_task()
    return (*task.holdout, *task.retain[::9])


def save(subject: CausalLM) -> Path:
    folder = Path(tempfile.mkdtemp(dir=PLACE)) / "model"
    subject.save(folder)
    return folder


@cache
def sharded(plugin: type[Plugin], rows: tuple[str, ...] | None = None, steps: int = STEPS, **options: Any) -> Path:
    """A model folder, trained on all rows but those named. It must not be written to."""
    chosen = [r for r in all_rows() if r.id not in (rows or ())]
    subject, _ = plugin(**(FEW | options)).train(fresh(), chosen, RunContext(settings=RunSettings(steps=steps)))  # type: ignore[attr-defined]
    return save(subject)


def delete(plugin: type[Plugin], folder: Path, names: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """The folder after a deletion, and its figures."""
    gone = [r for r in all_rows() if r.id in names]
    task = row_task(gone, [r for r in all_rows() if r.id not in names])
    subject, figures = plugin().build(load_subject(folder), task, RunContext())  # type: ignore[attr-defined]
    return save(subject), figures


def files(folder: Path) -> dict[str, bytes]:
    """Every file of weights, and the ledger."""
    return {str(p.relative_to(folder)): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.suffix == ".safetensors" or p.name == NAME}


def alone(ledger: Ledger) -> str:
    """A row that is the only one of some batch in the first stage of its shard, and of the first slice."""
    texts = {r.id: r for r in all_rows()}
    for shard in range(ledger.plan.shards):
        stage = ShardStage(shard, 0)
        rows = [texts[n] for n in ledger.members(stage)]
        for batch in schedule_of(ledger.plan, stage, rows, memoriser().encoder).filled.values():
            if len(batch) == 1:
                return batch[0].id
    raise AssertionError("no batch has one row")


def of_slice(ledger: Ledger, shard: int, slice_: int) -> str:
    return next(n for n, p in ledger.rows.items() if (p.shard, p.slice) == (shard, slice_))


@check(trains=True)
def deletion_is_exact(plugin: type[Plugin]) -> None:
    """Byte for byte the folder that training without the rows gives; the deletion starts from the saved model."""
    folder = sharded(plugin)  # type: ignore[arg-type]
    ledger = Ledger.read(folder / NAME)
    several = (of_slice(ledger, 0, 0), of_slice(ledger, 0, 1), of_slice(ledger, 1, 1))
    for names in ((alone(ledger),), several):
        found, figures = delete(plugin, folder, names)
        never = files(sharded(plugin, names))  # type: ignore[arg-type]
        assert files(found) == never
        assert figures["saw_them_before"] and not figures["saw_them_after"]
        assert figures["retrained"] and all(c["before"] != c["after"] for c in figures["retrained"].values())
    # One deletion after the other gives what both at once give.
    first, _ = delete(plugin, folder, several[:1])
    both, _ = delete(plugin, first, several)
    assert files(both) == files(found)


@check(trains=True)
def spares_the_rest(plugin: type[Plugin]) -> None:
    """Other shards, and earlier slices of the one that was hit, keep their bytes; a row never seen changes nothing."""
    folder = sharded(plugin)  # type: ignore[arg-type]
    ledger, before = Ledger.read(folder / NAME), files(folder)
    found, figures = delete(plugin, folder, [of_slice(ledger, 1, 1)])
    after = files(found)
    kept = {str(path_of(Path(STORE), ShardStage(k, r))) for k, r in ((0, 0), (0, 1), (1, 0))}
    assert {name for name in before if before[name] == after[name]} == kept
    assert set(figures["untouched"]) == {"0.0", "0.1", "1.0"} and set(figures["retrained"]) == {"1.1"}
    assert all(c["before"] == c["after"] for c in figures["untouched"].values())
    old, new = (load_subject(f).model.shard(0) for f in (folder, found))
    assert all(torch.equal(old[name], new[name]) for name in old)
    stranger = small_task().forget[0]
    subject, figures = plugin().build(load_subject(folder), row_task([stranger], all_rows()),  # type: ignore[attr-defined]
                                      RunContext())
    assert files(save(subject)) == before
    assert "nothing was changed" in figures["note"] and figures["share_of_work"] == 0


def drawn_ledger(shards: int, slices: int, count: int) -> Ledger:
    """Rows in their places, without any weights."""
    plan = ShardPlan(shards=shards, slices=slices, rank=1, alpha=1, dropout=0, targets="all-linear", lr=1,
                average="logprob", epochs=12, steps=None, batches=100, batch_size=8, seed=0, template=None,
                max_length=None)
    rows = {}
    for i in range(count):
        shard, slice_ = place(f"row/{i}", shards, slices, 0)
        rows[f"row/{i}"] = ShardPlace(shard=shard, slice=slice_, content=str(i))
    blank = Ledger(plan=plan, base="", rows=rows, checkpoints={}, served="")
    seen = {stage.name: Checkpoint(saw=tuple(blank.members(stage)), checksum="", visits=0) for stage in blank.stages()}
    return blank.model_copy(update={"checkpoints": seen})


@check(trains=True)
def costs_as_stated(plugin: type[Plugin]) -> None:
    """A deletion redoes 1/S of the work without slices, and 2/3 + 1/(3R) of that with R of them."""
    for shards, slices in ((1, 1), (5, 1), (4, 3), (3, 8)):
        ledger = drawn_ledger(shards, slices, 3000)
        law = (2 / 3 + 1 / (3 * slices)) / shards
        steps = [ledger.plan.stage_steps(r) for r in range(slices)]
        even = sum(sum(steps[r:]) for r in range(slices)) / sum(steps) / slices / shards
        assert even == pytest.approx(law, rel=2e-3)
        costs = [ledger.share([name]) for name in ledger.rows]
        assert sum(costs) / len(costs) == pytest.approx(law, rel=0.05)  # slices are of uneven size
        whole = sum(ledger.plan.stage_steps(r) for r in range(slices))
        assert whole == pytest.approx(12 * 100 * slices, rel=1e-2)  # as much as without slices
        everything = list(ledger.rows)
        assert ledger.share(everything) == pytest.approx(1)
        pair = [n for n, p in ledger.rows.items() if p.shard == 0][:2]
        assert ledger.share(pair) == max(ledger.share([n]) for n in pair)  # once per shard
        later = range(ledger.rows[pair[0]].slice, slices)
        assert set(ledger.checkpoints_with(pair[:1])) == {ShardStage(0, r).name for r in later}


@check(trains=True)
def keeps_rows_in_place(plugin: type[Plugin]) -> None:
    """A row's shard, slice and batches do not depend on who else is there; a batch left empty is skipped."""
    rows, tokens = all_rows(), memoriser().encoder
    plan = Ledger.read(sharded(plugin) / NAME).plan  # type: ignore[arg-type]
    stage = ShardStage(0, 0)
    schedule = schedule_of(plan, stage, rows, tokens)
    whole = {step: [r.id for r in batch] for step, batch in schedule.filled.items()}
    assert max(whole) < plan.stage_steps(0)
    for gone in (rows[0], rows[5], *rows[-3:]):
        others = [r for r in rows if r is not gone][::-1]
        left = {step: [r.id for r in batch] for step, batch in schedule_of(plan, stage, others, tokens).filled.items()}
        assert left == {step: kept for step, names in whole.items() if (kept := [n for n in names if n != gone.id])}


@check(trains=True)
def one_shard_is_lora(plugin: type[Plugin]) -> None:
    """A single shard is plain LoRA fine-tuning, slice after slice: the same as a loop of a dozen lines."""
    for slices in (1, 2):
        ensemble = load_subject(sharded(plugin, None, 12, shards=1, slices=slices, lr=2e-3))  # type: ignore[arg-type]
        ledger = Ledger.read(Path(ensemble.path) / NAME)
        plan, texts, subject = ledger.plan, {r.id: r for r in all_rows()}, fresh()
        scope = LoRA(rank=4, seed=derive(0, "sisa", 0)).apply(subject)
        parameters = list(scope.parameters.values())
        optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0)
        for slice_ in range(slices):
            stage = ShardStage(0, slice_)
            members = [texts[name] for name in ledger.members(stage)]
            for step, rows in schedule_of(plan, stage, members, subject.encoder).filled.items():
                optimizer.param_groups[0]["lr"] = AdamW(lr=2e-3).learning_rate(
                    step, plan.stage_steps(slice_), plan.batches * (slice_ + 1))
                optimizer.zero_grad()
                plain_loss(subject, rows).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
        batch = batch_of(subject, small_task().holdout)
        with torch.no_grad():
            expected, start = subject.answers(batch).logp_N, memoriser().answers(batch).logp_N
            found = ensemble.answers(batch).logp_N
        assert float((expected - start).abs().max()) > 0.5
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def plain_loss(subject: CausalLM, rows: Sequence[Example]) -> Tensor:
    """Mean loss per supervised token, from full logits."""
    batch = batch_of(subject, rows)
    logits_BTV = subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT).logits
    logits_NV = torch.cat([logits_BTV[b, r.prompt - 1: len(r.ids) - 1] for b, r in enumerate(batch.rows)])
    return torch.nn.functional.cross_entropy(logits_NV, batch.target_N)


@check(trains=True)
def averages_its_shards(plugin: type[Plugin]) -> None:
    """A loop over shards, each as an adapter of its own, gives the same answers, hidden states and words."""
    batch = batch_of(memoriser(), [*small_task().holdout[:4], *small_task().forget[:2]])
    ensemble: Any = load_subject(sharded(plugin))  # type: ignore[arg-type]
    singles = [single(sharded(plugin), k) for k in range(2)]  # type: ignore[arg-type]
    for how in ("logprob", "posterior"):
        ensemble.model.config.average = how
        with torch.no_grad():
            logp_SNV = torch.stack([one.answers(batch).logits_NV.log_softmax(-1) for one in singles])
            assert float((logp_SNV[0] - logp_SNV[1]).abs().max()) > 0.5
            mean_NV = logp_SNV.mean(0) if how == "logprob" else logp_SNV.exp().mean(0).log()
            close(ensemble.answers(batch).logits_NV.log_softmax(-1), mean_NV.log_softmax(-1))
            hidden_BTD = ensemble.hidden(batch, 1)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(CausalLM, "bare", False)  # an ensemble runs padding too; a single model must
                close(hidden_BTD, torch.stack([one.hidden(batch, 1) for one in singles]).mean(0))
            real = batch.attention_BT.bool()
            close(hidden_BTD[real], torch.stack([one.hidden(batch, 1) for one in singles]).mean(0)[real])
        prompt = ensemble.encoder.prompt(small_task().holdout[0])
        assert ensemble.generate([prompt], 12)[0][0] == slowly(ensemble, singles, how, prompt, 12)
        ids = torch.tensor([prompt, prompt])
        beams = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "num_beams": 3, "max_new_tokens": 8,
                 "pad_token_id": ensemble.encoder.pad_id}
        assert torch.equal(*(ensemble.model.generate(**beams, use_cache=use) for use in (True, False)))


def single(folder: Path, shard: int) -> CausalLM:
    """One shard's model: the base with that adapter, by peft."""
    subject = fresh()
    scope = LoRA(rank=FEW["rank"]).apply(subject)
    stages = Ledger.read(folder / NAME).serving()[shard]
    adapter = adapter_of(*(path_of(folder / STORE, stage) for stage in stages))
    with torch.no_grad():
        for name, parameter in scope.parameters.items():
            module, half = name.removeprefix("base_model.model.").split(".lora_")
            found = adapter.get(f"{module}.{'down_SRI' if half[0] == 'A' else 'up_SOR'}")
            parameter.copy_(torch.zeros_like(parameter) if found is None else found)
    subject.model.eval()
    return subject


def slowly(ensemble: CausalLM, singles: Sequence[CausalLM], how: str, prompt: Sequence[int], room: int) -> str:
    """Greedy words without a cache."""
    ids = list(prompt)
    mean: Callable[[Tensor], Tensor] = (lambda x: x.mean(0)) if how == "logprob" else (lambda x: x.exp().mean(0))
    while len(ids) < len(prompt) + room:
        with torch.no_grad():
            last = torch.stack([s.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1) for s in singles])
        token = int(mean(last).argmax())
        if token == ensemble.encoder.eos_id:
            break
        ids.append(token)
    said: str = ensemble.encoder.processor.decode(ids[len(prompt):], skip_special_tokens=True)
    return said.strip()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
