"""S3T: several orders of slices per shard, a group of blocks per stage, so that a deletion needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from typing import Any, Self

from pydantic import Field, model_validator
from transformers import AutoConfig, AutoModelForCausalLM

from expunge.errors import ExpungeError, UsageError
from expunge.exact.ensemble import SisaConfig, SisaForCausalLM
from expunge.exact.orders import matched, rotations
from expunge.exact.sisa import Sisa
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example


class S3TConfig(SisaConfig):
    """As its parent's; a shard may have no adapter on some of the modules."""

    model_type = "expunge_s3t"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


class S3TForCausalLM(SisaForCausalLM):
    """Predicts the average of the shards that can still answer."""

    config_class = S3TConfig


class S3T(Sisa):
    """Drops the stages that saw a row, and serves from every shard's longest surviving order."""

    class Spec(Sisa.Spec):
        slices: int = Field(4, ge=1, description="Parts of a shard, and groups of blocks: stage i of an order trains "
                                                 "group i, counted from the last blocks, on the first i slices.")
        orders: int | None = Field(None, ge=1, description="Orders of the slices that each shard trains, each a "
                                                           "whole training; as many as slices if left out.")
        deletion: list[float] | None = Field(None, description=(
            "Deletion probability of every slice, where known; orders are then matched with slices, not rotated."))

        @model_validator(mode="after")
        def fitting(self) -> Self:
            """Orders there are, and a probability for every slice."""
            count = self.orders or self.slices
            if count > factorial(self.slices):
                raise ValueError(f"{self.slices} slices have {factorial(self.slices)} orders, not {count}")
            if self.deletion is not None:
                if len(self.deletion) != self.slices or any(not 0 <= p <= 1 for p in self.deletion):
                    raise ValueError(f"deletion needs {self.slices} probabilities, one for every slice")
                if count > self.slices:
                    raise ValueError(f"with deletion there are at most {self.slices} orders, one for every slice")
            return self

    card = Card(
        name="s3t", kind="exact",
        summary="train slices in several orders and blocks in groups: a deletion drops stages, without training",
        paper="Chowdhury et al. 2025, Towards Scalable Exact Machine Unlearning Using PEFT (arXiv 2406.16257)",
        formula="per shard the order with the longest prefix of stages that never saw a deleted row; mean over shards",
        defaults="3 shards, 4 slices as for Llama in the paper (4 groups of 8 blocks) and as many orders, cyclic "
                 "rotations; rank, rate and schedule as sisa",
        model_needs=frozenset({"blocks", "distribution", "logp", "sequence", "weights"}),
        deviations=(*Sisa.card.deviations,
                    "no head is trained: a language model brings one, and only a stage's own adapters ever move; "
                    "the paper trains its task head in every stage and serves the prefix's own",
                    "a stage takes the steps that SISA gives it, where the paper trains every stage as long",
                    "an order ends before a slice without rows, and a shard without any stage does not answer",
                    "rows are put into slices by a hash, so deletion= is of use where hits were seen to be uneven"),
        memory="one adapter per shard; on disk an adapter's group per shard, order and stage",
    )
    space = {"shards": ("choice", 1, 3, 5), "slices": ("choice", 2, 4), "rank": ("choice", 4, 8, 16),
             "lr": ("log", 5e-5, 2e-3)}
    must_show = (
        Property("serves_what_never_saw", {}, "no tensor that is served depends on a deleted row: byte for byte what "
                                              "training without its slice serves, and nothing is trained"),
        Property("retrains_a_dead_shard", {}, "a shard without an order left is trained again: byte for byte as "
                                              "training without the rows"),
        Property("stages_keep_apart", {}, "a stage moves the blocks of its group alone"),
        Property("lasts_as_stated", {}, "hits of slices until nothing serves: m L H_n, by the ledger alone"),
        Property("one_stage_is_sharding", {}, "one order of one slice is sisa without slices, bit for bit"),
        Property("averages_its_shards", {}, "predictions are those of a loop over the shards"),
    )
    model_class = S3TForCausalLM

    def training_problems(self, subject: CausalLM, rows: Sequence[Example]) -> list[ExpungeError]:
        problems = super().training_problems(subject, rows)
        depth = len(subject.blocks)
        if depth < self.spec.slices:
            problems.append(UsageError(f"s3t(slices={self.spec.slices}) needs as many blocks, and this model has "
                                       f"{depth}.", "Every stage trains a group of blocks of its own.",
                                       f"Take slices={depth} or fewer."))
        return problems

    def more_of_plan(self) -> dict[str, Any]:
        spec = self.spec
        count = spec.orders or spec.slices
        if spec.deletion is None:
            return {"orders": rotations(spec.slices, count)}
        return {"orders": matched(spec.deletion, count), "deletion": tuple(spec.deletion)}


AutoConfig.register(S3TConfig.model_type, S3TConfig, exist_ok=True)
AutoModelForCausalLM.register(S3TConfig, S3TForCausalLM, exist_ok=True)
