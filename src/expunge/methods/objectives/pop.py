"""POP, approximated: the true token is pushed out of the original's distribution, and all else is held."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from expunge.methods._lib.divergence import kl
from expunge.methods._lib.edited_teacher import forbid
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.models.head import raised
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


def pushed_out(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """-log(1 - p) of each true token in nats, exact for p near 1; shape N. Not negative, and 0 at p = 0."""
    return raised(logits_NV).logsumexp(-1) - forbid(logits_NV, target_N).logsumexp(-1)


def others_moved(original_NV: Tensor, logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """KL in nats from the original's distribution over all other tokens to the model's, each normalised; shape N."""
    return kl(forbid(original_NV, target_N), forbid(logits_NV, target_N))


class POP(Objective):
    """Bounded ascent on the answers, with the original as the carrier of all that was not to be forgotten."""

    class Spec(WeightedSpec):
        ascent: float = Field(1.0, ge=0, description="Coefficient of -log(1 - p) of the true tokens.")
        others: float = Field(1.0, ge=0, description="Coefficient of the divergence among all other tokens.")

    card = Card(
        name="pop", kind="objective",
        summary="approximates POP: push the true token out, hold the odds of all others",
        paper="Learn What You Want to Unlearn: Privacy Protection via Optimal Parameters (POP), Findings of ACL 2024 "
              "(arXiv 2406.14091); only its idea",
        formula="L = mean_t [-a log(1 - p_t) + c KL(q0_t without y_t || q_t without y_t)]  (+ KL(q0 || q) on the "
                "original's own text)",
        defaults="coefficients 1 are ours; batch 32 of 32 sequences, lr 5e-5, at most 20 epochs in the suite that the "
                 "paper takes over (arXiv 2210.01504)",
        needs=frozenset({"reference.logits"}),
        model_needs=frozenset({"distribution", "generate", "prompt", "weights"}),  # two of them for its companion
        companions="retain_replay",
        deviations=("an approximation: no code is stored, the paper's loss was not read, and nothing was compared. The "
                    "paper approximates the gradient of retraining; to first order that is ascent on the answers, "
                    "corrected by what holds all else",
                    "the original stands in for the rest of the pretraining corpus, at the answer positions and by "
                    "text that it writes (retain_replay)",
                    "the paper's small losses in sequence are not reproduced: three deletions cost a tiny model half "
                    "of its retain tokens, where ga costs all",
                    "with both coefficients 1 it is prod(top_p=1) plus a constant, and undial with an infinite "
                    "strength"),
    )
    reads = ("forget",)
    space = {"ascent": ("log", 0.1, 10.0), "others": ("log", 0.1, 10.0), "weight": ("log", 0.1, 2.0)}
    must_show = (
        Property("reduces_to", {"other": "prod(top_p=1.0)", "at": "moved"}, "the same gradient as distilling the "
                                                                            "original without the true token"),
        Property("reduces_to", {"other": "unlikelihood", "options": {"others": 0.0}, "at": "moved"},
                 "without its second part it is unlikelihood"),
        Property("holds_other_odds", {}, "the second part is 0 while only the true token has moved"),
        Property("never_negative", {}, "both parts are at least 0"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("survives_batches", {"batches": 3, "steps": 12, "lr": 1e-3}, "three deletions in sequence cost retain "
                                                                              "answers less than under ga"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        answers, spec = step.answers("forget"), self.spec
        logits_NV, target_N = answers.logits_NV, answers.batch.target_N
        loss_N = spec.ascent * pushed_out(logits_NV, target_N)
        if spec.others:
            original_NV = step.reference.answers(answers.batch).logits_NV
            loss_N = loss_N + spec.others * others_moved(original_NV, logits_NV, target_N)
        return {"pop": token_mean(loss_N, answers, "forget")}
