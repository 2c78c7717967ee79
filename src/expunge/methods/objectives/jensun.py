"""JensUn: after every true beginning of the answer, the words of a short refusal, by Jensen-Shannon divergence."""

from __future__ import annotations

from itertools import cycle, islice

import torch
from pydantic import Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.data.text_encoder import TextEncoder
from expunge.errors import UsageError
from expunge.methods._lib.divergence import jensen_shannon_to_token
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.models.head import token_logp
from expunge.plugin import Card, Property
from expunge.records.task import Example
from expunge.training.step import Step, Term


def repeated(refusal: tuple[int, ...], batch: Batch) -> Tensor:
    """The refusal's tokens over and over, from the first at the beginning of every answer; shape N."""
    ids = [token for row in batch.rows for token in islice(cycle(refusal), row.supervised)]
    return torch.tensor(ids, dtype=torch.long, device=batch.device)


def tokens_of(refusal: str, encoder: TextEncoder) -> tuple[int, ...]:
    """Its tokens as an answer to a question. Raises UsageError where it has none."""
    row = encoder.encode(Example(id="jensun", prompt="?", answer=refusal))
    if not row.answer:
        raise UsageError(f"jensun's refusal {refusal!r} has no token in this model's template.",
                         fix="Give a word, such as jensun(refusal='No idea').")
    return row.ids[row.prompt: row.prompt + row.answer]


class JensUn(Objective):
    """Learn the tokens of a short refusal in place of the answer's, by a loss of at most log 2 per token."""

    class Spec(WeightedSpec):
        refusal: str = Field("No idea", min_length=1, description="Its tokens are repeated over the answer.")

    card = Card(
        name="jensun", kind="objective",
        summary="Jensen-Shannon divergence to a short refusal at every position of the answer",
        paper="Unlearning That Lasts (JensUn), 2025 (arXiv 2509.02820)",
        formula="L = mean_t JSD(p(. | x, y_<t), onehot(r_t)) = mean_t [log 2 + (p log p - (1 + p) log(1 + p)) / 2], "
                "p = p(r_t), r the refusal over and over  (+ JSD(p, p0) on retain rows)",
        defaults="No idea, both weights 1; lr 8e-6, weight decay 0.01, 10 epochs, one of them warm-up, batch 4 times "
                 "4, paraphrases of both sides among the rows (the authors' script)",
        model_needs=frozenset({"distribution", "sequence", "weights"}),
        companions="retain_js",
        deviations=("the closed form; the code clamps both distributions at 1e-9, which moves the loss by about "
                    "1e-8 per token of the vocabulary",
                    "the refusal is tokenised as an answer of the run's template; the code has the ids of two models",
                    "paraphrases are not added: list them as rows. The first public version counted prompts and "
                    "padding, did not shift, and had every target token at every position",
                    "a refusal of tiny probability starts slowly: the gradient is p log p at p = 0"),
    )
    reads = ("forget",)
    space = {"weight": ("log", 0.1, 10.0)}
    must_show = (
        Property("closed_form_is_dense", {}, "value and gradient of the dense formula, without a one-hot array"),
        Property("at_most_log_two", {}, "between 0 and log 2 per token, whatever the model says"),
        Property("repeats_refusal", {}, "its tokens over and over, from the beginning of each answer"),
        Property("never_negative", {}, "a divergence"),
        Property("says_refusal", {"refusal": "I do not know.", "steps": 60, "lr": 3e-3},
                 "forget answers begin with a refusal that the model knows to say, retain answers do not"),
        Property("forgets", {"options": {"refusal": "I do not know."}, "lr": 3e-3}, "the loss of forget answers grows"),
    )

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("forget")
        target_N = repeated(tokens_of(self.spec.refusal, step.subject.encoder), answers.batch)
        loss_N = jensen_shannon_to_token(token_logp(answers.source, target_N))
        return {"jensun": token_mean(loss_N, answers, "forget")}
