"""SISA: sharded, sliced training, so that deleting a row exactly retrains only the stages that saw it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from expunge import plugin
from expunge.errors import DataError, ExpungeError, UsageError
from expunge.exact.deletion import Deletion, deletion_of
from expunge.exact.ensemble import SisaForCausalLM
from expunge.exact.ledger import Average, Ledger, ShardPlace, ShardPlan, content, place
from expunge.exact.shards import STORE, archive, base_problems, carry_out
from expunge.methods.base import Exact
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.models.load import resolve
from expunge.models.subject import checksum
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task


class Sisa(Exact):
    """Per-shard adapters on one frozen base, and a checkpoint after every slice."""

    class Spec(plugin.Spec):
        shards: int = Field(3, ge=1, description="Disjoint parts of the data; each trains its own adapter.")
        slices: int = Field(2, ge=1, description="Parts of a shard, added to training one after the other.")
        rank: int = Field(8, ge=1, description="Rank of each adapter.")
        alpha: float | None = Field(None, gt=0, description="Scaling numerator; twice the rank when left out.")
        targets: str | list[str] = Field("all-linear", description='Modules with an adapter, or "all-linear".')
        dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
        lr: float = Field(2e-4, gt=0, le=1e30, description="Peak learning rate of every stage.")
        average: Average = Field("logprob", description="How shards are combined: mean of log-probs, or mean of "
                                                        "probabilities (posterior).")
        batches: int | None = Field(None, ge=1, description="Batches per slice and epoch; from the number of rows if "
                                                            "left out. Retraining from scratch needs the same value.")

    card = Card(
        name="sisa", kind="exact",
        summary="train in shards and slices, so that a deletion retrains only the stages that saw the row",
        paper="Bourtoule et al. 2021, Machine Unlearning (arXiv 1912.03817); adapters as in S3T (arXiv 2406.16257)",
        formula="p = mean over shards k of p_k; delete x in (k, r): go back to checkpoint (k, r-1), train on",
        defaults="3 shards (FairSISA takes 1, 3 or 5) and 2 slices; learning rate of S3T's vision runs; AdamW "
                 "without decay, with a warm-up and a schedule in every stage; a deletion takes all settings from "
                 "the ledger and ignores length, rate, batches and seed of `expunge forget`",
        model_needs=frozenset({"distribution", "logp", "sequence", "weights"}),
        deviations=("each shard trains a low-rank adapter on one shared frozen base; neither the base nor its "
                    "tokenizer may have seen the rows, which is declared and not proven",
                    "log-probs are averaged; the paper votes, or averages posteriors (average='posterior')",
                    "a row's shard, slice and batches are hashes of its id, so their sizes vary around the mean",
                    "bit-exact on one machine with fixed library versions",
                    "the number of batches per epoch depends on the number of rows, deleted ones included"),
        memory="one adapter per shard; every batch runs once per shard, in parallel",
    )
    space = {"shards": ("choice", 1, 3, 5), "slices": ("choice", 1, 2, 4), "rank": ("choice", 4, 8, 16),
             "lr": ("log", 5e-5, 2e-3)}
    must_show: ClassVar[tuple[Property, ...]] = (
        Property("deletion_is_exact", {}, "byte for byte what training without the rows gives, for one row and for "
                                          "several in several shards and slices"),
        Property("spares_the_rest", {}, "other shards and earlier slices are byte identical before and after"),
        Property("costs_as_stated", {}, "a deletion redoes 1/S of the run, times 2/3 + 1/(3R) with R slices"),
        Property("keeps_rows_in_place", {}, "a row's shard, slice and batches do not depend on other rows"),
        Property("one_shard_is_lora", {}, "one shard is plain LoRA fine-tuning, slice after slice"),
        Property("averages_its_shards", {}, "predictions are those of a loop over the shards"),
    )

    model_class: ClassVar[type[SisaForCausalLM]] = SisaForCausalLM

    def training_problems(self, subject: CausalLM, rows: Sequence[Example]) -> list[ExpungeError]:
        problems = base_problems(self.card.name, subject, self.spec.targets)
        if len({row.id for row in rows}) < len(rows):
            problems.append(DataError("Two rows have the same id, so the ledger cannot distinguish them."))
        return problems

    def train(self, subject: CausalLM, rows: Sequence[Example], run: RunContext) -> tuple[CausalLM, dict[str, Any]]:
        for problem in self.training_problems(subject, rows):
            raise problem
        spec, tokens, settings = self.spec, subject.encoder, run.settings
        rows_per_step = spec.shards * spec.slices * settings.batch_size * settings.accumulate
        plan = ShardPlan(
            **spec.model_dump(include={"shards", "slices", "rank", "dropout", "targets", "lr", "average"}),
            alpha=spec.alpha or 2.0 * spec.rank, epochs=settings.epochs or 1.0, steps=settings.steps,
            batches=spec.batches or math.ceil(len(rows) / rows_per_step), batch_size=settings.batch_size,
            seed=settings.seed,
            template=None if tokens.chat else tokens.template, max_length=tokens.max_length, **self.more_of_plan())
        places = {row.id: self.place_of(row, plan) for row in rows}
        start = Ledger(plan=plan, base=checksum(subject.model.state_dict()), rows=places, checkpoints={}, served="")
        again = [stage for shard in range(plan.shards) for stage in start.possible(shard)]
        model, ledger = carry_out(subject, start, {row.id: row for row in rows}, again, run, kind=self.model_class)
        return model, self.finish(model, ledger, {row.id: row for row in rows}) | {
            "plan": plan.to_json(), "base": ledger.base,
                       "base_and_tokenizer": "declared free of the rows, not proven",
                       "rows": {n: len(c.saw) for n, c in ledger.checkpoints.items()},
                       "checkpoints": {n: c.checksum for n, c in ledger.checkpoints.items()}}

    def more_of_plan(self) -> dict[str, Any]:
        """What the plan says beside the options that all methods with shards have."""
        return {}

    def place_of(self, row: Example, plan: ShardPlan) -> ShardPlace:
        """Where a row is trained on."""
        shard, slice_ = place(row.id, plan.shards, plan.slices, plan.seed)
        return ShardPlace(shard=shard, slice=slice_, content=content(row))

    def finish(self, model: CausalLM, ledger: Ledger, texts: Mapping[str, Example]) -> dict[str, Any]:
        """What is done to the ensemble once its shards are trained, in place; returns figures."""
        return {}

    def problems(self, task: Task, config: Any) -> list[ExpungeError]:
        try:
            self._deletion(config.name_or_path, task)
        except ExpungeError as error:
            return [error]
        return []

    def build(self, subject: CausalLM, task: Task, run: RunContext) -> tuple[CausalLM, dict[str, Any]]:
        deletion, folder = self._deletion(subject.path, task), Path(resolve(subject.path))
        if checksum(subject.model.state_dict()) != deletion.before.served:
            raise UsageError("The weights are not those that the model's ledger describes.",
                             "Another stage or program changed them, so a deletion could not be proved.",
                             "Start from the model as it was trained.")
        if not deletion.deleted:
            subject.model.archive = partial(archive, deletion.before, folder / STORE)
            return subject, deletion.figures(deletion.before)
        base = subject.around(subject.model.unwrap())
        if checksum(base.model.state_dict()) != deletion.before.base:
            raise DataError("The base is not the one the shards were trained on.")
        model, after = carry_out(base, deletion.after, deletion.texts, deletion.again, run, folder / STORE,
                                 self.model_class)
        return model, self.finish(model, after, deletion.texts) | deletion.figures(after)

    def _deletion(self, path: str, task: Task) -> Deletion:
        options = {name: getattr(self.spec, name) for name in self.spec.model_fields_set}
        return deletion_of(Path(resolve(path)), task, {n: v for n, v in options.items() if v is not None},
                           self.card.name)
