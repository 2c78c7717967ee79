"""Teacher-forced likelihood of answers, paraphrases, wrong answers and options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.data.tokens import batches_by_length, collate
from expunge.models.subject import Answers, Subject
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.records.observation import Form, LikelihoodRow, Row
from expunge.records.task import Example, Task

CELLS = 1 << 24
"""Logits looked at at once when taking moments: 64 MB in float32."""
LOWEST = -1e4
"""Log-probs below it stand for probability 0 in the moments; its square is still finite."""


class Likelihood(Probe):
    """Per-token log-probs, the mean and variance of log p at each position, and arg-max hits."""

    class Spec(plugin.Spec):
        alternatives: bool = Field(True, description="Ask about paraphrases, wrong answers and options too.")
        paraphrases: int = Field(1, ge=0, description="How many paraphrased answers to ask about.")

    card = Card(
        name="likelihood", kind="probe",
        summary="per-token log-probs of answers, paraphrases, wrong answers and options",
        paper="TOFU (arXiv 2401.06121); Min-K%++ (arXiv 2404.02936) for the moments",
        formula="log p(y_t), E_v[log p_t(v)], Var_v[log p_t(v)], argmax_v p_t(v) = y_t",
        defaults="one paraphrase; log-probs in natural units, rounded to 7 significant digits",
    )
    must_show = (
        Property("matches_slow_twin", {}, "one row at a time with full logits gives the same"),
        Property("ignores_padding_and_order", {}, "batch composition changes nothing"),
    )

    def count(self, examples: Sequence[Example]) -> int:
        return sum(1 for e in examples for _ in self.forms(e))

    def forms(self, example: Example) -> Iterator[tuple[Form, int, bool, str]]:
        """(form, index, correct, text) of everything asked about one example."""
        yield "answer", 0, True, example.answer
        if not self.spec.alternatives:
            return
        for i, text in enumerate(example.paraphrased_answers[: self.spec.paraphrases]):
            yield "paraphrase", i, True, text
        for i, text in enumerate(example.wrong_answers):
            yield "wrong", i, False, text
        right = example.short_answer or example.answer
        for i, text in enumerate(example.options):
            # Options are put into the answer's own sentence: a model that answers in sentences would
            # otherwise be asked about words it never begins with.
            said = example.answer.replace(example.short_answer, text) if example.short_answer else text
            yield "option", i, text == right, said

    def observe(self, subject: Subject, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: Subject | None = None) -> list[Row]:
        asked = [(e, form) for e in examples for form in self.forms(e)]
        tokens = [subject.tokens.row(e, answer=form[3]) for e, form in asked]
        usable = [i for i, row in enumerate(tokens) if row.answer + row.end > 0]
        found: dict[int, Row] = {}
        with subject.evaluating():
            for chosen in batches_by_length(tokens, usable):
                answers = subject.answers(collate([tokens[i] for i in chosen], subject.tokens.pad_id))
                for i, numbers in zip(chosen, _per_token(answers), strict=True):
                    example, (form, index, correct, text) = asked[i]
                    found[i] = LikelihoodRow(
                        id=example.id, subject=example.subject, group=example.group, form=form, index=index,
                        correct=correct, text=text, end=tokens[i].end, **numbers,  # type: ignore[typeddict-item]
                    )
                if progress:
                    progress(len(chosen))
        return [found[i] for i in usable]


def _per_token(answers: Answers) -> list[dict[str, list[float] | list[bool]]]:
    """Split the flat numbers of a batch back into rows of plain lists."""
    logits_NV, target_N = answers.logits_NV, answers.batch.target_N
    parts = [_moments(z, y) for z, y in zip(logits_NV.split(max(CELLS // logits_NV.shape[-1], 1)),
                                            target_N.split(max(CELLS // logits_NV.shape[-1], 1)), strict=True)]
    logp, mean, var, hit = (torch.cat(column) for column in zip(*parts, strict=True))
    sizes = [r.answer + r.end for r in answers.batch.rows]
    return [
        {"logp": _plain(a), "mean": _plain(b), "var": _plain(c), "hit": d.tolist()}
        for a, b, c, d in zip(logp.split(sizes), mean.split(sizes), var.split(sizes), hit.split(sizes), strict=True)
    ]


def _moments(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logp_NV = torch.log_softmax(logits_NV.float(), dim=-1)
    p_NV = logp_NV.exp()
    # A token with probability 0 adds nothing to either moment, but 0 * -inf would be NaN.
    safe_NV = logp_NV.clamp_min(LOWEST)
    mean_N = (p_NV * safe_NV).sum(-1)
    # About the mean rather than about zero: the difference of two squares loses half the digits.
    var_N = (p_NV * (safe_NV - mean_N[:, None]).square()).sum(-1)
    logp_N = logp_NV.gather(-1, target_N[:, None])[:, 0]
    return logp_N, mean_N, var_N, logits_NV.argmax(-1) == target_N


def _plain(values: Tensor) -> list[float]:
    return [float(f"{v:.7g}") for v in values.tolist()]
