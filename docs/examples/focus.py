"""A plug-in of one's own: a fresh weight function in the token-weighted family."""

from pydantic import Field

from expunge.methods._lib.weighted_likelihood import WeightedLikelihood
from expunge.methods.base import WeightedSpec
from expunge.plugin import Card, Property


class Focus(WeightedLikelihood):
    """Push each token by the chance that it shows up at least once in a number of samples."""

    class Spec(WeightedSpec):
        samples: float = Field(4.0, gt=0, description="How often an attacker may ask; 1 is wga, many is ga.")

    card = Card(
        name="focus", kind="objective",
        summary="gradient ascent, weighted by the chance that a few samples show the token",
        paper="none; made up to show what a plug-in is",
        formula="L = (1/n_tokens) * sum_t stopgrad(1 - (1 - p_t)^samples) log p_t",
        defaults="4 samples: a guess",
    )
    space = {"samples": ("log", 1.0, 100.0)}
    must_show = (
        Property("reduces_to", {"other": "wga", "options": {"samples": 1.0}, "at": "moved"}, "one sample: weight p"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("settles_at_zero", {}, "what no sample shows is left alone"),
    )

    def weight(self, logp_N, reference_N):
        return 1 - (1 - logp_N.exp()) ** self.spec.samples
