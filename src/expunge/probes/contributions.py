"""What each word of a question contributes to its answer, in the subject and the original, and what emphasis does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import Field

from expunge.metrics.text.key_words import emphasis, key_words
from expunge.models.language import CausalLM
from expunge.models.prompt_words import EmphasisOptions, contributions, likelihoods, reworded, words_of
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.residual import answerable, heading
from expunge.records.observation import Row
from expunge.records.task import Example, Task


def rounded(values: Sequence[float]) -> list[float]:
    """Six decimals: rows of a padded batch differ beyond."""
    return [round(float(v), 6) for v in values]


class Contributions(Probe):
    """Per row: C of every word in both models, log-probs as asked and emphasised, and the answers they give."""

    uses_original = True

    class Spec(EmphasisOptions):
        count: int = Field(5, ge=1, description="Maximum number of key words that are emphasised.")

    card = Card(
        name="contributions", kind="probe",
        summary="what each word of a question contributes, and the answer with the key words emphasised",
        paper="UNPACT, Understanding the Dilemma of Unlearning, 2025 (arXiv 2509.24675)",
        formula="C_i = LP(x, y) - LP(x without i, y), LP the mean log p of the answer's tokens",
        defaults="key words of the original by alpha 0.1 and beta 5, at most five emphasised: our choice",
        needs=frozenset({"original"}),
        model_needs=frozenset({"generate", "logp", "prompt"}),
        deviations=("words and whole names are removed, not tokens",
                    "alpha, beta, the normalisation by the maximum and the wording could not be confirmed",
                    "blank='_' keeps the number of words: a removed word also moves those behind it"),
        memory="a few numbers per word",
    )
    must_show = (
        Property("internals_ignore_padding_and_order", {}, "batch composition changes nothing"),
        Property("contributions_by_hand", {}, "each is the difference of two likelihoods; the original against itself "
                                              "is equal, and the prompt never contains the answer"),
    )

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        """Running text has no words to remove: its row has empty lists."""
        original, rows = self.require_original(partner), list[dict[str, Any]]()
        usable = [examples[i] for i in answerable([subject.encoder.encode(e) for e in examples])]
        forms = list[Example]()
        for example in usable:
            words = words_of(example)
            row: dict[str, Any] = {**heading(example), "words": words, "own": [], "original": [], "lp": None,
                                   "lp_stressed": None, "short": example.short_answer, "reference": example.answer}
            form = example
            if words:
                row["own"], row["original"] = (
                    rounded(contributions(words, partial(likelihoods, model, example), self.spec.blank))
                    for model in (subject, original))
                keys = key_words(words, row["original"], self.spec.alpha, self.spec.beta)[: self.spec.count]
                stressed = f"{emphasis([w for w, _ in keys], self.spec.wording)} {example.prompt}".strip()
                form = reworded(example, stressed)
                row["lp"], row["lp_stressed"] = rounded(likelihoods(subject, example, [example.prompt, stressed]))
            forms.append(form)
            rows.append(row)
            if progress:
                progress(1)
        asked = [i for i, row in enumerate(rows) if row["words"]]
        for key, model, by in (("said", subject, usable), ("emphasised", subject, forms), ("before", original, usable)):
            prompts = [model.encoder.prompt(by[i]) for i in asked]
            for i, (text, _) in zip(asked, model.generate(prompts, task.generation_tokens), strict=True):
                rows[i][key] = text
        return list(rows)
