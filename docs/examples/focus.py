"""A plug-in of one's own: gradient ascent that leans on the tokens a model is surest of."""

from pydantic import Field

from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.weighted_likelihood import token_mean
from expunge.models.subject import per_row
from expunge.plugin import Card, Property


class Focus(Objective):
    """Share each answer's push among its tokens by how sure the model is of them."""

    class Spec(WeightedSpec):
        power: float = Field(1.0, ge=0, description="0 treats tokens alike; more leans on the surest.")

    card = Card(
        name="focus", kind="objective",
        summary="gradient ascent, weighted towards the surest tokens",
        paper="none; made up to show what a plug-in is",
        formula="L = (1/n_tokens) * sum_t w_t log p(y_t), w_t = n p_t^power / sum_s p_s^power",
        defaults="power 1: weights in proportion to probability",
        unbounded=True,
    )
    reads = ("forget",)
    space = {"power": ("uniform", 0.0, 3.0)}
    must_show = (
        Property("reduces_to", {"other": "ga", "options": {"power": 0.0}, "at": "moved"}, "equal weights"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("grows_without_bound", {}, "the weights share the push out, they do not end it"),
    )

    def terms(self, step):
        answers = step.answers("forget")
        share_N = (self.spec.power * answers.logp_N.detach()).exp()
        per_token_B = per_row(share_N, answers.batch) / answers.per_row(share_N.new_ones(len(share_N)))
        weight_N = share_N / per_token_B[answers.batch.row_N]
        return {"focus": token_mean(weight_N * answers.logp_N, answers, "forget")}
