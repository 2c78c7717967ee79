"""The stages of a sharded model: a shard's adapter, trained slice after slice, with a checkpoint after each.

A stage depends on its rows, the plan and the checkpoint before it, and on nothing else: seeds are derived
from names, and batches are keyed on row ids, so that a deleted row leaves a hole and moves no other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.data.text_encoder import TextEncoder
from expunge.errors import DataError, ExpungeError, UsageError
from expunge.exact.ensemble import DOWN, UP, SisaForCausalLM, assemble
from expunge.exact.ledger import NAME, Checkpoint, Ledger, ShardPlan, ShardStage
from expunge.exact.orders import group_of
from expunge.methods.optimizers.adamw import AdamW
from expunge.methods.recipe import Stage, training_stage
from expunge.methods.run_context import RunContext
from expunge.methods.scopes.lora import LoRA
from expunge.methods.stage import StageMethod
from expunge.models.language import CausalLM
from expunge.models.load import made_by, resolve
from expunge.models.scope import Scope
from expunge.models.subject import checksum
from expunge.progress import Announce
from expunge.records.task import Example, Task
from expunge.seeding import derive
from expunge.training.checkpoint import FitState, put
from expunge.training.fit import fit
from expunge.training.loop import Loop
from expunge.training.schedule import Draw, Schedule

STORE = "shards"
"""Folder of the checkpoints, within a model folder."""
WEIGHT = "weight"
"""Kind of a checkpoint's weights; its other kinds are those of the optimizer's state."""


class Keyed(Schedule):
    """Batches a row falls into by a hash of its id, epoch after epoch; a batch without rows is skipped.

    Args:
        rows: in any order.
        steps: planned; those of empty batches count.
        batches: per epoch.
        batch_size: rows of a micro-batch; a fuller batch is accumulated.
    """

    def __init__(self, rows: Sequence[Example], encoder: TextEncoder, *, steps: int, batches: int, batch_size: int,
                 seed: int) -> None:
        self._encoder, self._micro, self.steps_per_epoch = encoder, batch_size, batches
        self._rollout = None
        self.planned = steps
        self._rows, self._seed = sorted(rows, key=lambda row: row.id), seed

    @cached_property
    def filled(self) -> dict[int, list[Example]]:
        """Planned step -> its rows, in order, without empty steps."""
        filled: dict[int, list[Example]] = {}
        for epoch in range(-(-self.planned // self.steps_per_epoch)):
            for row in self._rows:
                at = epoch * self.steps_per_epoch + derive(self._seed, "batch", epoch, row.id) % self.steps_per_epoch
                if at < self.planned:
                    filled.setdefault(at, []).append(row)
        return dict(sorted(filled.items()))

    def draws(self, step: int) -> Sequence[Draw]:
        return [{"retain": row} for row in list(self.filled.values())[step]]


class ShardMethod(StageMethod):
    """Likelihood training on a keyed schedule, with the rate of the planned step: a skipped one moves no other."""

    def __init__(self, stage: Stage, subject: CausalLM, rows: Sequence[Example], seed: int, schedule: Keyed) -> None:
        super().__init__(stage, subject, Task(name="shard", forget=(), retain=tuple(rows)), (), rows, seed)
        self._planned, self._total = tuple(schedule.filled), schedule.planned

    def learning_rate(self, step: int, total: int, steps_per_epoch: int) -> float:
        return super().learning_rate(self._planned[step], self._total, steps_per_epoch)


def flat_state(optimizer: Mapping[str, Any], names: Sequence[str]) -> dict[str, Tensor]:
    """An optimizer's `state_dict` as tensors "kind/parameter", for a file."""
    return {f"{kind}/{names[i]}": value.detach().cpu().clone().contiguous()
            for i, kinds in optimizer["state"].items() for kind, value in kinds.items()}


def optimizer_state(flat: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
    """What `flat_state` was made of; empty when nothing was."""
    kinds = sorted({name.partition("/")[0] for name in flat})
    return {"state": {i: {kind: flat[f"{kind}/{name}"] for kind in kinds} for i, name in enumerate(names)}} \
        if kinds else {}


def path_of(store: Path, stage: ShardStage) -> Path:
    """Where a checkpoint stands."""
    return store / f"{stage.name.replace('.', '/')}.safetensors"


def bytes_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_into(source: Path, target: Path) -> None:
    """A copy that is whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".new")
    shutil.copyfile(source, fresh)
    os.replace(fresh, target)


def schedule_of(plan: ShardPlan, stage: ShardStage, rows: Sequence[Example], encoder: TextEncoder) -> Keyed:
    """The batches of a stage."""
    return Keyed(rows, encoder, steps=plan.stage_steps(stage.number), batches=plan.batches * (stage.number + 1),
                 batch_size=plan.batch_size, seed=derive(plan.seed, "sisa", *stage.key))


def modules_of(subject: CausalLM, plan: ShardPlan, number: int) -> list[str]:
    """Names of the modules that get their adapter in this stage of an order: those of its group of blocks.

    The blocks are cut into as many groups as there are slices, and the first group is the last blocks.
    """
    wanted = subject.adapted if isinstance(plan.targets, str) and plan.targets == "all-linear" else plan.targets
    wanted = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    group = [f"{name}." for name in group_of(list(subject.blocks), plan.slices, number)]
    return [name for name, _ in subject.model.named_modules()
            if name.startswith(tuple(group)) and any(f".{name}".endswith(f".{end}") for end in wanted)]


def scope_of(subject: CausalLM, plan: ShardPlan, stage: ShardStage, store: Path) -> tuple[LoRA, Scope]:
    """The adapter of a stage, on the subject: with the weights of the stages before it, which do not move where every
    stage trains a group of blocks of its own."""
    targets: str | list[str] = plan.targets if isinstance(plan.targets, str) else list(plan.targets)
    if plan.orders:
        targets = [name for number in range(stage.number + 1) for name in modules_of(subject, plan, number)]
        own = tuple(f"base_model.model.{name}." for name in modules_of(subject, plan, stage.number))
    lora = LoRA(rank=plan.rank, alpha=plan.alpha, dropout=plan.dropout, targets=targets,
                seed=derive(plan.seed, "sisa", stage.shard))
    scope = lora.apply(subject)
    if plan.orders:
        for number in range(stage.number):
            before = load_file(path_of(store, stage._replace(number=number)))
            put({n: scope.parameters[n] for n in map(_parameter, before)},
                {_parameter(n): value for n, value in before.items()})
        scope = Scope(subject, tuple(n for n in scope.names if n.startswith(own)), adapter=True)
    return lora, scope


def _parameter(name: str) -> str:
    """The parameter of a tensor in a checkpoint."""
    return name.partition("/")[2]


def train_stage(base: CausalLM, plan: ShardPlan, stage: ShardStage, rows: Sequence[Example], store: Path,
                folder: Path, announce: Announce) -> None:
    """Train a stage of a shard on its rows from the checkpoint before, and write the next one.

    Args:
        base: a plain model, which comes back as it was.
        rows: all rows of the stage, under the ids of the ledger.
        store: where checkpoints stand, see `path_of`.
        folder: for what a killed stage goes on from.
    """
    seed = derive(plan.seed, "sisa", *stage.key)
    subject = CausalLM(base.model, TextEncoder(base.encoder.processor, plan.template, plan.max_length))
    try:
        lora, scope = scope_of(subject, plan, stage, store)
        recipe = replace(training_stage(), scope=lora, optimizer=AdamW(lr=plan.lr, weight_decay=0.0))
        kinds: dict[str, Tensor] = {}
        if stage.number and not plan.orders:
            before = load_file(path_of(store, stage._replace(number=stage.number - 1)))
            kinds = {k: v for k, v in before.items() if not k.startswith(f"{WEIGHT}/")}
            put(scope.parameters, {n: before[f"{WEIGHT}/{n}"] for n in scope.parameters})
        schedule = schedule_of(plan, stage, rows, subject.encoder)
        if schedule.filled:
            steps, names = len(schedule.filled), tuple(scope.parameters)
            order = "" if stage.order is None else f", order {stage.order + 1}"
            tick = announce(f"shard {stage.shard + 1}/{plan.shards}{order}, slices 1-{stage.number + 1}", steps)
            state = fit(ShardMethod(recipe, subject, rows, seed, schedule), subject, scope, schedule,
                        Loop(steps=steps, seed=seed), FitState(optimizer=optimizer_state(kinds, names)),
                        folder=folder / stage.name, on_step=lambda line: tick(1))
            kinds = {} if plan.orders else flat_state(state.optimizer, names)
        weights = {f"{WEIGHT}/{n}": p.detach().cpu().clone().contiguous() for n, p in scope.parameters.items()}
        target = path_of(store, stage)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights | kinds, target.with_suffix(".new"))
        os.replace(target.with_suffix(".new"), target)
        shutil.rmtree(folder / stage.name, ignore_errors=True)
    finally:
        if hasattr(subject.model, "peft_config"):
            base.model = subject.model.unload()
            vars(base.model).pop("peft_config", None)


def adapter_of(*paths: Path) -> dict[str, Tensor]:
    """The adapter in some checkpoints, each of other modules, named as `ensemble.assemble` takes it."""
    adapter = {}
    for name, value in (pair for path in paths for pair in load_file(path).items()):
        kind, _, parameter = name.partition("/")
        if kind == WEIGHT:
            module, half = parameter.removeprefix("base_model.model.").split(".lora_")
            adapter[f"{module}.{DOWN if half.startswith('A') else UP}"] = value
    return adapter


def carry_out(base: CausalLM, ledger: Ledger, texts: Mapping[str, Example], again: Collection[ShardStage],
              run: RunContext, kept: Path | None = None,
              kind: type[SisaForCausalLM] = SisaForCausalLM) -> tuple[CausalLM, Ledger]:
    """Train the stages in `again`, and make the ensemble of all shards.

    Args:
        base: a plain model, which the ensemble takes over.
        ledger: plan and rows as they are to be, and the checkpoints to keep.
        texts: id -> row, of the stages to train.
        kept: where the other checkpoints stand.
        kind: class of the ensemble.

    Returns:
        The ensemble, which saves with its checkpoints and ledger; and that ledger.

    Raises:
        DataError: a checkpoint to keep is not the one that the ledger speaks of.
    """
    plan, checkpoints = ledger.plan, {}
    folder = run.folder or Path(tempfile.mkdtemp(prefix="expunge-sisa-"))
    store = folder / STORE
    for stage in ledger.stages():
        name, path = stage.name, path_of(store, stage)
        if stage not in again and name not in ledger.checkpoints:
            continue
        members = ledger.members(stage) if stage in again else []
        rows = [texts[m].model_copy(update={"id": m}) for m in members]
        if stage in again and not path.exists():  # else it was finished before an interruption
            train_stage(base, plan, stage, rows, store, folder, run.announce)
        elif stage not in again and kept is not None:
            copy_into(path_of(kept, stage), path)
        checksum_now = bytes_of(path)
        if stage not in again and checksum_now != ledger.checkpoints[name].checksum:
            raise DataError(f"The checkpoint {name} is not the one the ledger speaks of.",
                            "Its bytes have changed since it was written.", "Restore the model from a copy.")
        batches = schedule_of(plan, stage, rows, base.encoder).filled
        checkpoints[name] = ledger.checkpoints[name] if stage not in again else Checkpoint(
            saw=tuple(members), checksum=checksum_now, visits=sum(map(len, batches.values())))
    ledger = ledger.model_copy(update={"checkpoints": checkpoints})
    adapters = [adapter_of(*(path_of(store, stage) for stage in stages)) for stages in ledger.serving()]
    model = assemble(base.model, adapters, scale=plan.alpha / plan.rank, average=plan.average, kind=kind)
    ledger = ledger.model_copy(update={"served": checksum(model.state_dict())})
    if run.folder is None:
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    model.archive = partial(archive, ledger, store)
    return base.around(model), ledger


def archive(ledger: Ledger, store: Path, model: SisaForCausalLM, folder: Path) -> None:
    """Checkpoints and ledger into a folder the model was saved to.

    Neither when its weights were changed since, or the store is gone: then no deletion could be shown.
    """
    if not store.exists() or checksum(model.state_dict()) != ledger.served:
        return
    for stage in ledger.stages():
        if stage.name in ledger.checkpoints:
            copy_into(path_of(store, stage), path_of(folder / STORE, stage))
    ledger.write(folder / NAME)


def base_problems(name: str, subject: CausalLM, targets: str | Sequence[str]) -> list[ExpungeError]:
    """Why adapters of shards cannot be trained on this model by the method `name`."""
    problems: list[ExpungeError] = []
    if made_by(subject.model.config):
        problems.append(UsageError(f"{name} trains on a plain model, and this one is wrapped by a method.",
                                   fix="Name the base it was made from."))
    if (Path(resolve(subject.path)) / "adapter_config.json").exists():
        problems.append(UsageError(f"{name} needs a whole model as its base, and this is an adapter.",
                                   "What the adapter learned could not be deleted.",
                                   "Name its base, or merge the two and save the result."))
    inside = {n.rpartition(".")[2] for n, _ in subject.model.named_modules() if "experts" in n}
    if inside and (targets == "all-linear" or inside & set(targets)):
        problems.append(UsageError(f"{name} cannot put adapters on experts.",
                                   "They process tokens of all shards in an order set by the router.",
                                   f"Name other modules, such as {name}(targets=['q_proj', 'v_proj'])."))
    return problems
