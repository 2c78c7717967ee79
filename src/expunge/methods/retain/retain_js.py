"""Keep the original's distribution on the retain rows, by a bounded divergence."""

from __future__ import annotations

from expunge.methods._lib.divergence import jensen_shannon
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Retain
from expunge.plugin import Card, Property
from expunge.training.step import Step, Term


class RetainJS(Retain):
    """Jensen-Shannon divergence from the original on the retain rows: at most log 2 per token."""

    card = Card(
        name="retain_js", kind="retain",
        summary="Jensen-Shannon divergence from the original's distribution on the retain answers",
        paper="Unlearning That Lasts (JensUn), 2025 (arXiv 2509.02820), its retain term",
        formula="R = mean_t [KL(q0 || m) + KL(q || m)] / 2, m = (q0 + q) / 2, q0 the original",
        defaults="weight 1; near the original it is a quarter of retain_kl",
        needs=frozenset({"retain", "reference.logits"}),
        model_needs=frozenset({"distribution", "weights"}),
        deviations=("log m is exact; the code clamps m at 1e-10",),
    )
    reads = ("retain",)
    space = {"weight": ("log", 0.2, 20.0)}
    must_show = (
        Property("zero_at_start", {}, "value and gradient are zero while the model is its reference"),
        Property("quarter_of_kl", {}, "a quarter of the divergence near the original, and at most log 2"),
        Property("leaves_first_update", {}, "its first gradient is 0: the first update is the objective's"),
        Property("never_negative", {}, "a divergence"),
        Property("softens_damage", {"share": 0.9}, "retain answers lose less than with the objective alone"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("retain")
        loss_N = jensen_shannon(step.reference.answers(answers.batch).source, answers.source)
        return {"retain_js": token_mean(loss_N, answers, "retain")}
