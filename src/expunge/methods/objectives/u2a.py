"""U2A: forget most what, once forgotten, brings the model nearest to what is preferred."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge.errors import DataError, ExpungeError
from expunge.methods._lib.importance import differentiable
from expunge.methods._lib.preferences import Pair, alignment, pairs_of, read_pairs
from expunge.methods._lib.weighted_likelihood import log_ratio, sequence_logp, sequence_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.objectives.npo import npo
from expunge.methods.run_context import RunContext
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.seeding import stream
from expunge.training.step import Step, Term


def mirrored(scores_M: Tensor, rate: float, rounds: int) -> Tensor:
    """Weights after `rounds` steps w <- w exp(rate * score), renormalised to a sum of M; shape M.

    A positive score means that forgetting the row lowers J, so its weight grows. Scores are divided by their deviation,
    so that `rate` does not depend on the model.
    """
    scale = scores_M.std(correction=0).clamp_min(1e-12)
    return len(scores_M) * (rounds * rate * (scores_M - scores_M.mean()) / scale).softmax(0)


class U2A(Objective):
    """Weigh forget rows by their marginal gain in alignment, and unlearn the best of them."""

    builds = True

    class Spec(WeightedSpec):
        inner: Literal["npo", "ga"] = Field("npo", description="Loss that a row is unlearned with.")
        beta: float = Field(0.1, gt=0, description="Inverse temperature of npo.")
        outer_beta: float = Field(0.3, gt=0, description="Inverse temperature of the preference loss J.")
        top: int = Field(1024, ge=1, description="Rows with the largest scores that are unlearned at all.")
        rate: float = Field(0.1, ge=0, description="Step of the weights per round, on scores of deviation 1; 0 leaves "
                                                   "equal weights.")
        rounds: int = Field(3, ge=1, description="Steps of the weights.")
        pairs: str | None = Field(None, description="File of rows {prompt, chosen, rejected} for J; if left out, "
                                                    "refusals to forget questions and answers to retain questions are "
                                                    "preferred.")
        outer: int = Field(64, ge=1, description="Pairs that J is taken over, drawn with the seed.")

    card = Card(
        name="u2a", kind="objective", target="capability",
        summary="unlearning weighted by how much forgetting a row improves alignment",
        paper="Feng et al. 2025, Bridging Preference Alignment and Unlearning, U2A (arXiv 2504.06659)",
        formula="L = mean w_i l_i, w ~ exp(rate * rounds * s_i), s_i = <grad J, grad l_i>, J a preference loss",
        defaults="top 1024, 3 rounds, preference beta 0.3, npo beta 0.1; lr 6.8e-5 (ga) to 9.5e-5 (npo), adapter of "
                 "rank 32, cosine, 3 epochs. The rate is ours: theirs (0.01) is for scores as they come",
        needs=frozenset({"reference.logp"}),
        model_needs=frozenset({"logp", "prompt", "weights"}),
        memory="3 before the first step: the gradients of J and of a row",
        deviations=("weights grow with the score; the authors' code lets them shrink, although it selects the largest",
                    "the mean of J is a mean; the authors' code adds up the gradients of its batches",
                    "scores are read once, of the original and over all weights, also where an adapter is trained; the "
                    "authors read them again after each round of training. Their regulariser of the weights is off",
                    "the mean loss of ga is over the answer's tokens; the authors' code divides by one more, and takes "
                    "token 1 for padding",
                    "a threshold of the run ends ga; the authors' cap ends a round"),
    )
    reads = ("forget",)
    space = {"inner": ("choice", "npo", "ga"), "rate": ("log", 0.01, 1.0), "weight": ("log", 0.1, 4.0)}
    must_show = (
        Property("scores_foretell_alignment", {}, "a step on one row changes J as its score says, for most rows"),
        Property("best_rows_align_most", {}, "unlearning the half with the larger scores lowers J more than the other"),
        Property("weights_sum_to_rows", {}, "weights are positive, grow with the score and sum to the rows; those left "
                                            "out have none"),
        Property("reads_pairs", {}, "a file of pairs replaces the rows'; one that cannot be used is refused"),
        Property("forgets", {}, "the loss of forget answers grows"),
    )

    @property
    def unbounded(self) -> bool:
        return bool(self.spec.inner == "ga")

    def problems(self, task: Task) -> list[ExpungeError]:
        try:
            self.preferences(task, 0)
        except ExpungeError as error:
            return [error]
        return []

    def preferences(self, task: Task, seed: int) -> list[Pair]:
        """The pairs of J. Raises MissingError or DataError for a file that cannot be used."""
        found = read_pairs(Path(self.spec.pairs)) if self.spec.pairs else pairs_of(task, seed)
        if not found:
            raise DataError("u2a has no preferences: no row of the task asks anything.", "", "Give pairs=FILE.")
        return found if len(found) <= self.spec.outer else stream(seed, "u2a").sample(found, self.spec.outer)

    def prepare(self, subject: Subject, task: Task, run: RunContext) -> dict[str, Any]:
        scores = self.scores(subject, task, self.preferences(task, run.seed))
        best = sorted(scores, key=lambda id: -scores[id])[: self.spec.top]
        chosen = mirrored(torch.tensor([scores[id] for id in best]), self.spec.rate, self.spec.rounds).tolist()
        return {"scores": scores, "weights": dict.fromkeys(scores, 0.0) | dict(zip(best, chosen, strict=True))}

    def scores(self, subject: Subject, task: Task, pairs: Sequence[Pair]) -> dict[str, float]:
        """Row id -> <grad J, grad l>, both at the original, for a Hessian of 1."""
        parameters, found = list(subject.model.parameters()), dict[str, float]()
        with differentiable(subject, parameters):
            total = [torch.zeros_like(p) for p in parameters]
            for pair in pairs:
                _add(total, torch.autograd.grad(alignment(subject, pair, None, self.spec.outer_beta) / len(pairs),
                                                parameters, allow_unused=True))
            for row in task.forget:
                answers = subject.answers(subject.collate([subject.encoder.encode(row)]))
                # At its reference, npo has the gradient of the summed log-prob.
                loss = sequence_logp(answers) if self.spec.inner == "npo" else answers.row_means(answers.logp_N)
                parts = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
                found[row.id] = sum(float((a * b).sum()) for a, b in zip(total, parts, strict=True) if b is not None)
        return found

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("forget")
        weights = [self.made["weights"][row.id] for row in answers.batch.rows]
        weight_B = torch.tensor(weights, dtype=answers.logp_N.dtype, device=answers.logp_N.device)
        loss_B = npo(log_ratio(step, "forget"), self.spec.beta) if self.spec.inner == "npo" \
            else answers.row_means(answers.logp_N)
        return {"u2a": sequence_mean(weight_B * loss_B, "forget")}


def _add(total: Sequence[Tensor], parts: Sequence[Tensor | None]) -> None:
    for whole, part in zip(total, parts, strict=True):
        if part is not None:
            whole += part
