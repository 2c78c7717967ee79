"""RULE: reinforcement that rewards refusals on forget questions and answers on questions just beyond them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from expunge.methods._lib.rollouts import sample_answers
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.metrics.text.refusals import is_refusal
from expunge.metrics.text.rouge import rouge
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


def reward(text: str, row: Example, *, reject: bool, least: float = 0.3) -> float:
    """In 0..1. To reject: half for a refusal, half for naming the entity (a row without one: all for a refusal).
    Otherwise half for no refusal, and half more for a ROUGE-L recall of the answer above `least`."""
    if reject:
        named = row.entity.lower() in text.lower() if row.entity else is_refusal(text)
        return 0.5 * is_refusal(text) + 0.5 * named
    return 0.0 if is_refusal(text) else 0.5 + 0.5 * ((rouge(row.answer, text) or 0.0) > least)


def group_advantages(rewards_G: Tensor, eps: float = 1e-6) -> Tensor:
    """(r - mean) / (deviation + eps) within the answers to one question; 0 where all have the same reward."""
    return (rewards_G - rewards_G.mean()) / (rewards_G.std() + eps)


def grpo(logp_N: Tensor, old_N: Tensor, reference_N: Tensor, advantage_N: Tensor, *, kl: float,
         clip: float = 0.2, dual_clip: float = 3.0) -> Tensor:
    """Clipped policy loss plus `kl` times the low-variance divergence exp(d) - d - 1, d = log(p0 / p), at most 10.

    Args:
        old_N: log-probs of the policy that wrote the answers.
        clip: bound of the ratio's distance from 1; `dual_clip` bounds the ratio where the advantage is negative.
    """
    ratio_N = (logp_N - old_N).exp()
    loss_N = torch.maximum(-advantage_N * ratio_N, -advantage_N * ratio_N.clamp(1 - clip, 1 + clip))
    loss_N = torch.where(advantage_N < 0, torch.minimum(loss_N, -advantage_N * dual_clip), loss_N)
    gap_N = reference_N - logp_N
    return loss_N + kl * (gap_N.exp() - gap_N - 1).clamp(-10, 10)


class RULE(Objective):
    """Sample answers to forget questions and to the nearest retain questions; push up those with more reward."""

    class Spec(WeightedSpec):
        samples: int = Field(8, ge=2, description="Answers sampled per question and step.")
        kl: float = Field(0.01, ge=0, description="Coefficient of the divergence from the model at the start.")
        boundary: int = Field(4, ge=1, description="Nearest retain questions that a forget question is paired with.")
        tokens: int = Field(64, ge=1, description="Maximum length of a sampled answer.")

    card = Card(
        name="rule", kind="objective",
        summary="reinforcement: refuse forget questions, answer their neighbours (GRPO)",
        paper="RULE: Reinforcement UnLEarning, NeurIPS 2025 (arXiv 2506.07171)",
        formula="L = mean_t [-min(A r_t, A clip(r_t)) + kl (e^d_t - d_t - 1)], A = (R - mean R) / std R over a "
                "question's answers, r = p / p_old, d = log(p0 / p)",
        defaults="8 answers at temperature 1, kl 0.01, lr 2e-6, batch 32, 20 steps, weight decay 0.01; before it "
                 "refusals are taught (idk at lr 4e-7, 3 epochs, batch 8): idk >> rule",
        needs=frozenset({"questions", "reference.logp", "retain"}),
        model_needs=frozenset({"generate", "logp", "prompt", "weights"}),
        memory="log-probs of the original are asked live: a frozen copy, or the adapter switched off",
        deviations=("the first stage is another objective of the recipe (idk); a model that never refuses earns no "
                    "reward for it, and learns nothing here",
                    "boundary questions are the retain rows with the most words in common, not synthesised ones",
                    "a refusal is what the package's refusal test says; the authors' pattern also fires on ordinary "
                    "sentences such as 'not ... information'",
                    "as published, half of the reward of a refusal is for naming the entity, so refusals tell who is "
                    "forgotten; recall alone rewards long answers; what the first stage contributes is not known",
                    "one update per batch of answers, so no ratio is ever clipped",
                    "answers are decoded and tokenised again; a cut answer carries no end token",
                    "retain terms of the recipe read their rows once per sampled answer"),
    )
    reads = ("rollout",)
    value_is_loss = False  # the value of the policy part is minus the mean advantage, which does not move
    space = {"samples": ("choice", 4, 8), "kl": ("log", 1e-3, 1.0), "boundary": ("choice", 1, 4, 16)}
    must_show = (
        Property("reward_table", {}, "refusal or not, on forget and on boundary questions, to the number"),
        Property("equal_rewards_leave_divergence", {}, "without differences in reward only the divergence pulls"),
        Property("group_policy_gradient", {}, "advantages and gradient are those of the formula, answer by answer"),
        Property("pairs_with_neighbours", {}, "boundary questions are the nearest retain questions"),
        Property("sharpens_the_boundary", {"steps": 40}, "reward rises; paraphrased forget questions are refused, and "
                                                         "neighbours, which the first stage refuses too, are answered"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._near: dict[str, list[Example]] = {}
        self._figures: dict[str, float] = {}

    def nearest(self, row: Example, task: Task) -> list[Example]:
        """The retain rows whose prompts share most words with this one's, in their order where they tie."""
        if row.id not in self._near:
            words = set(row.prompt.lower().split())
            asking = [r for r in task.retain if r.asks] or list(task.retain)
            shared = [len(words & (own := set(r.prompt.lower().split()))) / max(len(words | own), 1) for r in asking]
            order = sorted(range(len(asking)), key=lambda i: -shared[i])
            self._near[row.id] = [asking[i] for i in order[: self.spec.boundary]]
        return self._near[row.id]

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        return {"reject": example, "normal": rng.choice(self.nearest(example, task))}

    def rollout(self, subject: CausalLM, draws: Sequence[Mapping[str, Example]],
                seed: int) -> Sequence[Mapping[str, Example]]:
        rows = [draw[side] for draw in draws for side in ("reject", "normal")]
        groups = sample_answers(subject, rows, self.spec.samples, tokens=self.spec.tokens, seed=seed)
        made, earned = list[dict[str, Example]](), [list[float](), list[float]()]
        for i, (row, group) in enumerate(zip(rows, groups, strict=True)):
            rewards = [reward(said.answer, row, reject=i % 2 == 0) for said in group]
            earned[i % 2] += rewards
            others = {s: e for s, e in draws[i // 2].items() if s not in ("reject", "normal")}
            made += [{**others, "rollout": said.model_copy(update={"value": value}) } for said, value in
                     zip(group, group_advantages(torch.tensor(rewards)).tolist(), strict=True)]
        reject, normal = (sum(part) / len(part) for part in earned)
        self._figures = {"reward": (reject + normal) / 2, "reward_reject": reject, "reward_normal": normal}
        return made

    def figures(self) -> dict[str, float]:
        return self._figures

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("rollout")
        values = [row.value for row in answers.batch.rows]
        advantage_B = torch.tensor(values, dtype=answers.logp_N.dtype, device=answers.logp_N.device)
        loss_N = grpo(answers.logp_N, answers.logp_N.detach(), step.reference.logp(answers.batch),
                      advantage_B[answers.batch.row_N], kl=self.spec.kl)
        return {"rule": token_mean(loss_N, answers, "rollout")}
