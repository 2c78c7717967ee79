"""ULD: subtract the logits of an assistant that knows only the forget rows at inference."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pydantic import Field

from expunge import plugin
from expunge.errors import ExpungeError, UsageError
from expunge.guards.assistant import lesson, readings, teach
from expunge.guards.logit_difference import ULDConfig, ULDForCausalLM
from expunge.methods.base import Guard
from expunge.methods.run_context import RunContext
from expunge.models.load import made_by
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.seeding import derive


class ULD(Guard):
    """Train a small assistant on the forget rows and to be uniform elsewhere; subtract its logits at inference."""

    class Spec(plugin.Spec):
        weight: float = Field(0.8, ge=0, description="Factor of the assistant's logits; 0 gives the target itself.")
        filter: float = Field(0.01, gt=0, le=1, description="Tokens less likely than this share of the likeliest and "
                                                            "outside the top share of V are left unchanged.")
        layers: int | None = Field(None, ge=1, description="Blocks of the assistant; a quarter of the target's "
                                                           "if left out.")
        rank: int = Field(32, ge=1, description="Rank of its adapters.")
        alpha: float = Field(32.0, gt=0, description="Scaling numerator of its adapters.")
        dropout: float = Field(0.05, ge=0, lt=1, description="Dropout on the input of its adapters.")
        lr: float = Field(1e-3, gt=0, le=1e30, description="Peak learning rate of the assistant.")
        uniform: float = Field(5.0, ge=0, description="Weight of the term that keeps it uniform on retain rows.")
        batch: int = Field(32, ge=1, description="Rows of each side per step, in micro-batches of --batch-size.")
        paraphrases: int = Field(2, ge=0, description="Paraphrases per forget row to train on, if rows have them.")
        wrong_answers: int = Field(2, ge=0, description="Wrong answers per forget row to be uniform on, likewise.")
        retain_rows: int = Field(400, ge=1, description="Number of retain rows, drawn at random.")

    card = Card(
        name="uld", kind="guard",
        summary="subtract an assistant that knows only the forget rows (logit difference)",
        paper="Ji et al. 2024, Reversing the Forget-Retain Objectives (arXiv 2406.08607)",
        formula="l = l_target - a * l_assistant; assistant: min CE(forget) + u * CE(uniform, assistant) on retain",
        defaults="a 0.8, filter 0.01, a quarter of the blocks (8 of 32), rank 32, alpha 32, dropout 0.05, lr 1e-3, "
                 "u 5, batches of 32, 400 retain rows, 10 epochs (the paper and its TOFU configuration)",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"distribution", "generate", "hidden", "logp", "prompt", "weights"}),
        deviations=(
            "the retain term covers supervised positions only; the public code also averages over prompt and padding",
            "the assistant's logits are centred before the subtraction, so that a uniform assistant changes nothing "
            "with a filter either; without a filter this is the published difference",
            "paraphrases and wrong answers are those of the rows, two of each, not newly generated; rows without any "
            "are trained without, and the figures count those used",
            "400 retain rows, drawn at random, for any number of forget rows; the public code takes the last ones, at "
            "most as many as forget rows",
            "an audit may score the same paraphrases and wrong answers; figures.asked_by_audit counts them",
            "target and assistant keep separate keys and values; the public code passes one cache to both",
            "experts of a mixture get no adapter: they are not linear layers in transformers",
        ),
        memory="adapters of a quarter of the blocks (0.3 % of a 7B model), in memory and on disk; they can reproduce "
               "the forget rows, and the target is stored with them as the original",
    )
    trains = True
    blocks_in = ()  # `layers` is a count, not a position
    space = {"weight": ("uniform", 0.2, 2.0), "uniform": ("log", 1.0, 20.0), "lr": ("log", 1e-4, 5e-3)}
    must_show = (
        Property("weight_zero_is_the_target", {}, "a = 0 gives the target's logits bit for bit"),
        Property("flat_assistant_changes_nothing", {}, "a uniform assistant leaves softmax as it is, for any a"),
        Property("recites_and_stays_flat", {"nll": 0.5, "flatness": 0.95}, "on forget answers, and on retain rows it "
                                                                           "was not trained on"),
        Property("guard_forgets", {"rise": 1.5, "slack": 0.1}, "forget answers are lost and retain answers stay"),
        Property("augmentation_matters", {}, "without paraphrases less is forgotten, without wrong ones more lost"),
        Property("candidates_match_slow_twin", {}, "the filter is its definition, token by token"),
        Property("ruled_out_in_decoding_only", {}, "filtered tokens keep the target's logit in scoring"),
        Property("flat_term_is_masked", {}, "prompt and padding carry no part of the uniform term"),
    )

    @staticmethod
    def inside(model: Any) -> Any:
        return model.target

    def problems(self, task: Task, config: Any) -> list[ExpungeError]:
        problems: list[ExpungeError] = []
        if made_by(config):
            problems.append(UsageError("uld guards a plain model, and this one is a guarded model or an ensemble.",
                                       fix="Name the model it was made from, with all rows to be forgotten."))
        depth = getattr(config, "num_hidden_layers", None)
        if depth is not None and self.spec.layers is not None and self.spec.layers > depth:
            problems.append(UsageError(f"uld(layers={self.spec.layers}) is more than the model's blocks.",
                                       f"It has {depth} blocks, and `layers` is the number the assistant uses.",
                                       "Leave it out for a quarter of them."))
        return problems

    def build(self, subject: Subject, task: Task, run: RunContext) -> tuple[Subject, dict[str, Any]]:
        for problem in self.problems(task, subject.model.config):
            raise problem
        spec = self.spec
        guarded = self.around(subject, run.seed)
        assistant = subject.around(guarded.model.assistant)
        rows = lesson(task, paraphrases=spec.paraphrases, wrong_answers=spec.wrong_answers,
                      retain_rows=spec.retain_rows, seed=run.seed)
        training = teach(assistant, task, rows, run, uniform=spec.uniform, lr=spec.lr, batch=spec.batch)
        figures = {"guard": "uld", "blocks": guarded.model.config.blocks, "rows": rows.counts}
        return guarded, figures | training | readings(assistant, task, rows)

    def around(self, subject: Subject, seed: int) -> Subject:
        """The guarded subject with an untrained assistant."""
        blocks = self.spec.layers or max(len(subject.blocks) // 4, 1)
        options = self.spec.model_dump(include={"weight", "filter", "rank", "alpha", "dropout"})
        config = ULDConfig(copy.deepcopy(subject.model.config), blocks=blocks, **options)
        generator = torch.Generator().manual_seed(derive(seed, "uld", "adapters"))
        model = ULDForCausalLM.around(subject.model, config, generator)
        return subject.around(model)
