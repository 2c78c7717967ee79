"""CE-U: cross-entropy with the model's own distribution without the true token."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.methods._lib.divergence import cross_entropy
from expunge.methods._lib.edited_teacher import EditedTeacher, forbid, tokens_after
from expunge.methods.base import WeightedSpec
from expunge.needs import ModelNeed
from expunge.plugin import Card, Property


def ce_u(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Cross-entropy in nats per token with the model's own distribution over all other tokens, shape N.

    Its gradient on the logits is that of -log(1 - p): p_y on the true token and -p_v p_y / (1 - p_y) elsewhere.
    """
    return cross_entropy(forbid(logits_NV.detach(), target_N), logits_NV)


class CEU(EditedTeacher):
    """Distil the model into itself without the true token: the gradient is large while p is near 1 and 0 at p = 0."""

    class Spec(WeightedSpec):
        skip: int = Field(1, ge=0, description="Number of tokens at the start of each answer that are not trained.")

    card = Card(
        name="ce_u", kind="objective",
        summary="cross-entropy unlearning: distil the model into itself without the true token",
        paper="Yang 2025, CE-U: Cross Entropy Unlearning (arXiv 2503.01224)",
        formula="L = mean_t CE(stopgrad softmax(z_t with z_t[y_t] = -inf), softmax(z_t)), t > skip",
        defaults="skip 1, lr 1e-5, batch 32, 10 epochs on TOFU, no retain term (the authors' port to open-unlearning)",
        model_needs=frozenset({"distribution", "weights"}),
        deviations=("the mean is over the counted tokens of the whole optimizer step, not of each micro-batch",
                    "an answer of at most `skip` tokens is not counted; if no token of a step counts, its loss is 0, "
                    "where the authors' mean is NaN"),
    )
    fixes = {"sequence": "Write ce_u(skip=0), which reads one label per row too."}
    value_is_loss = False
    space = {"skip": ("choice", 0, 1, 2), "weight": ("log", 0.05, 2.0)}
    must_show = (
        Property("logit_gradient_is_unlikelihoods", {}, "p_y on the true token and -p_v p_y / (1 - p_y) elsewhere: "
                                                        "most at p = 1 and none at p = 0, the reverse of ascent"),
        Property("reduces_to", {"other": "unlikelihood", "options": {"skip": 0}, "at": "moved"},
                 "the same gradient on the weights, when nothing is skipped"),
        Property("leaves_first_tokens", {}, "the first tokens of an answer are neither trained nor counted"),
        Property("finite_when_certain", {}, "p = 0, p = 1 and impossible tokens give finite values and gradients"),
        Property("never_negative", {}, "a cross-entropy"),
        Property("no_reference", {}, "no copy of the model is loaded"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("lets_go", {}, "the gradient vanishes once the answers are forgotten, while ga's grows"),
        Property("drifts_less", {"levels": (1.0, 2.0, 4.0, 6.0)},
                 "at equal forget loss retain answers suffer less than under ga"),
        Property("drifts_less", {"levels": (4.0, 6.0), "beside": "retain_nll"}, "far less with a retain term"),
    )

    @property
    def model_needs(self) -> frozenset[ModelNeed]:
        """Tokens after the skipped ones; without skipping any distribution will do."""
        return self.card.model_needs | ({"sequence"} if self.spec.skip else frozenset())

    def edit(self, teacher_NV: Tensor, batch: Batch) -> Tensor:
        return forbid(teacher_NV, batch.target_N)

    def counted(self, batch: Batch) -> Tensor:
        return tokens_after(self.spec.skip, batch)
