"""DP2Unlearning: a base trained under differential privacy, and a fine-tune of it that a deletion replaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import Field
from transformers import AutoConfig, AutoModelForCausalLM

from expunge.errors import ExpungeError
from expunge.exact.ensemble import SisaConfig, SisaForCausalLM
from expunge.exact.privacy import accounting, epsilon_of
from expunge.exact.private_base import make_private
from expunge.exact.sisa import Sisa
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task

OPTIONS = {"epsilon", "delta", "noise", "clip", "dp_lr", "dp_epochs", "dp_batch", "dp_rank", "ghost", "secret"}
"""Options of the private base; the ledger keeps them."""


class DP2Config(SisaConfig):
    """As its parent's, of one shard; the base inside was trained under differential privacy."""

    model_type = "expunge_dp2unlearning"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


class DP2ForCausalLM(SisaForCausalLM):
    """The private base with the adapter of its fine-tune."""

    config_class = DP2Config


class DP2Unlearning(Sisa):
    """DP-SGD first, then plain fine-tuning of that base; a deletion fine-tunes the base on the rows that stay."""

    class Spec(Sisa.Spec):
        shards: int = Field(1, ge=1, le=1, description="One: the fine-tune of the private base.")
        slices: int = Field(1, ge=1, le=1, description="One: a deletion repeats the fine-tune.")
        epsilon: float = Field(10.0, gt=0, description="Bound on what the base tells of one row; sets the noise.")
        delta: float | None = Field(None, gt=0, lt=1, description="Chance that the bound fails; rows ** -1.1 if left "
                                                                  "out.")
        noise: float | None = Field(None, gt=0, description="Standard deviation over the clipping norm; set by epsilon "
                                                            "if left out.")
        clip: float = Field(1.0, gt=0, description="Largest norm of a row's gradient.")
        dp_lr: float = Field(0.5, ge=0, description="Learning rate of DP-SGD; the paper's 5e-5 hardly moves the base.")
        dp_epochs: float = Field(10.0, ge=0, description="Passes of DP-SGD over the rows, on average; 0 leaves the "
                                                         "base as it is.")
        dp_batch: int = Field(16, ge=1, description="Rows of a batch, on average: each is drawn by itself.")
        dp_rank: int | None = Field(8, ge=1, description="Rank of the adapter that DP-SGD trains and that is then "
                                                         "merged; none trains all weights, row by row.")
        ghost: bool = Field(True, description="Norms of rows by Opacus' ghost clipping, where there is an adapter.")
        secret: bool = Field(False, description="Draw batches and noise from the operating system: who knows the seed "
                                                "of a run can subtract its noise. Such a run cannot be repeated.")

    card = Card(
        name="dp2unlearning", kind="exact", guarantee="certified",
        summary="fine-tune a differentially private base; a deletion fine-tunes it again without the rows",
        paper="Al Mahmud et al. 2025, DP2Unlearning (arXiv 2504.13774); DP-SGD: arXiv 1607.00133",
        formula="w <- w - lr (sum_i g_i min(1, C / |g_i|) + N(0, (sigma C)^2)) / (rate n); then fine-tune",
        defaults="epsilon 10, clip 1, 10 epochs, batch 16 as in the paper; rate and rank are ours; rank 8 for both",
        model_needs=frozenset({"distribution", "logp", "sequence", "weights"}),
        deviations=("base and fine-tune move low-rank adapters; dp_rank=none trains all weights of the base",
                    "the fine-tune is sisa's stage of one shard, so a deletion repeats it byte for byte",
                    "the sanitiser of the paper (DP-MLM) is left out: its epsilon is not what it states",
                    "epsilon of an entity with many rows is computed (mixture of Gaussians, arXiv 2401.10294) beside "
                    "the bound k epsilon; the paper counts rows",
                    "an entity is counted by its rows of one request: deletions of it in several requests are covered "
                    "together only if they are asked together; other trained rows with the same text are not counted",
                    "rate and default delta come from the exact number of rows, which the bound takes as known",
                    "DP-SGD has no weight decay (paper: 0.01)",
                    "losses in the record are read without noise; do not publish them where rows are secret"),
        memory="the base and an adapter",
    )
    space = {"lr": ("log", 5e-5, 2e-3), "epsilon": ("log", 0.5, 100.0), "dp_lr": ("log", 0.05, 2.0)}
    must_show = (
        Property("clips_every_row", {}, "no row adds more than the clipping norm; ghosts give the sum of the rows one "
                                        "by one; an empty batch adds noise"),
        Property("accounts_for_noise", {}, "epsilon grows with steps and entities, and falls with noise"),
        Property("no_noise_is_sgd", {}, "without noise and clipping it is SGD; without steps the deletion is a "
                                        "fine-tune of the start"),
        Property("deletes_to_the_base", {}, "a deletion is byte for byte the base's fine-tune without the rows, and a "
                                            "base that learned nothing is called so"),
        Property("canaries_stay_below_epsilon", {}, "what canaries show of the base lies below the accountant's"),
    )
    model_class = DP2ForCausalLM

    def training_problems(self, subject: CausalLM, rows: Sequence[Example]) -> list[ExpungeError]:
        problems = super().training_problems(subject, rows)
        try:
            accounting()
        except ExpungeError as error:
            problems.append(error)
        return problems

    def train(self, subject: CausalLM, rows: Sequence[Example], run: RunContext) -> tuple[CausalLM, dict[str, Any]]:
        for problem in self.training_problems(subject, rows):
            raise problem
        self.base = make_private(subject, rows, run, **self.spec.model_dump(include=OPTIONS))
        model, figures = super().train(subject, rows, run)
        figures["base_and_tokenizer"] = "tokenizer and start declared free of the rows, not proven"
        return model, figures | {"private_base": self.base}

    def more_of_plan(self) -> dict[str, Any]:
        return {"own": self.spec.model_dump(include=OPTIONS) | {"base": self.base}}

    def build(self, subject: CausalLM, task: Task, run: RunContext) -> tuple[CausalLM, dict[str, Any]]:
        model, figures = super().build(subject, task, run)
        base = figures["plan"]["own"]["base"]
        rows = Counter(row.entity or row.id for row in task.forget)
        most = max(rows.values())
        return model, figures | {"guarantee": {
            "of": "a row" if most == 1 else f"an entity with {most} of the rows to forget", "delta": base["delta"],
            "epsilon": epsilon_of(base["noise"], base["rate"], base["steps"], base["delta"], most),
            "epsilon_of_a_row": base["epsilon"]}} | ({"warning": base["warning"]} if "warning" in base else {})


AutoConfig.register(DP2Config.model_type, DP2Config, exist_ok=True)
AutoModelForCausalLM.register(DP2Config, DP2ForCausalLM, exist_ok=True)
