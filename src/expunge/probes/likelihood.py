"""Teacher-forced likelihood of answers, paraphrases, wrong answers and options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.models.answers import Answers, ToldScores
from expunge.models.head import blocks, raised
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.records.observation import Form, LikelihoodRow, Row
from expunge.records.task import Example, Task

LOWEST = -1e4
"""Log-probs are clamped to it in the moments; its square is still finite."""
PER_TOKEN = ("logp", "hit", "mean", "var")
"""Values per token; the moments (mean, var) only for the answer itself."""


class Likelihood(Probe):
    """Per-token log-probs and arg-max hits; for the answer also mean and variance of log p at each position."""

    class Spec(plugin.Spec):
        alternatives: bool = Field(True, description="Score paraphrases, wrong answers and options too.")
        paraphrases: int = Field(1, ge=0, description="Number of paraphrased answers to score.")

    card = Card(
        name="likelihood", kind="probe",
        model_needs=frozenset({"logp"}),
        summary="per-token log-probs of answers, paraphrases, wrong answers and options",
        paper="TOFU (arXiv 2401.06121); Min-K%++ (arXiv 2404.02936) for the moments",
        formula="log p(y_t), E_v[log p_t(v)], Var_v[log p_t(v)], argmax_v p_t(v) = y_t",
        defaults="one paraphrase; log-probs in nats, rounded to 7 significant digits",
    )
    must_show = (
        Property("matches_slow_twin", {}, "one row at a time with full logits gives the same"),
        Property("ignores_padding_and_order", {}, "batch composition changes nothing"),
    )

    def count(self, examples: Sequence[Example]) -> int:
        return sum(1 for e in examples for _ in self.forms(e))

    def forms(self, example: Example) -> Iterator[tuple[Form, int, bool, str]]:
        """(form, index, correct, text) of every text scored for one example."""
        yield "answer", 0, True, example.answer
        if not self.spec.alternatives:
            return
        for i, text in enumerate(example.paraphrased_answers[: self.spec.paraphrases]):
            yield "paraphrase", i, True, text
        for i, text in enumerate(example.wrong_answers):
            yield "wrong", i, False, text
        right = example.short_answer or example.answer
        for i, text in enumerate(example.options):
            # Options are put into the answer's sentence: a model that answers in sentences would
            # otherwise be scored on words it never begins with.
            sentence = example.answer.replace(example.short_answer, text) if example.short_answer else text
            yield "option", i, text == right, sentence

    def observe(self, subject: Subject, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: Subject | None = None) -> list[Row]:
        texts = [(e, form) for e in examples for form in self.forms(e)]
        tokens = [subject.encoder.encode(e, answer=form[3]) for e, form in texts]
        usable = [i for i, row in enumerate(tokens) if row.supervised > 0]
        whole = "distribution" in subject.offered  # an endpoint tells log-probs of the tokens alone
        answered = {i for i in usable if texts[i][1][0] == "answer"}
        numbers: dict[int, dict[str, Any]] = {
            i: {name: [] for name in (PER_TOKEN if whole and i in answered else PER_TOKEN[:2])} for i in usable}
        with subject.evaluating():
            for parts, answers in subject.answers_in_parts(tokens, usable):
                moments = [not answered.isdisjoint(members) for members in parts]
                for members, values in zip(parts, _per_token(answers, moments), strict=True):
                    for i in members:
                        for name, column in numbers[i].items():
                            column += values[name]
                if progress:
                    progress(sum(len(members) == 1 for members in parts))
        rows: list[Row] = []
        for i in usable:
            example, (form, index, correct, text) = texts[i]
            rows.append(LikelihoodRow(
                id=example.id, entity=example.entity, group=example.group, form=form, index=index, correct=correct,
                text=text, end=tokens[i].end, **numbers[i]))  # type: ignore[typeddict-item]
        return rows


def _per_token(answers: Answers | ToldScores, moments: Sequence[bool]) -> Iterator[dict[str, list[Any]]]:
    """Split the flat values of a batch into plain lists per row; moments only for the rows flagged in `moments`."""
    if isinstance(answers, ToldScores):
        yield {"logp": _plain(answers.logp), "hit": answers.hit}
        return
    batch = answers.batch
    with_moments_N = torch.tensor(moments, device=batch.row_N.device)[batch.row_N]
    parts, at = [], 0
    for logits in blocks(answers.source):
        few = slice(at, at := at + len(logits))
        parts.append(_of_block(logits, batch.target_N[few], with_moments_N[few]))
    logp_N, hit_N, mean_N, var_N = (iter(torch.cat(column).tolist()) for column in zip(*parts, strict=True))
    for b, with_moments in enumerate(moments):
        count = batch.rows[b].supervised
        row: dict[str, list[Any]] = {"logp": _plain(islice(logp_N, count)), "hit": list(islice(hit_N, count))}
        if with_moments:
            row |= {"mean": _plain(islice(mean_N, count)), "var": _plain(islice(var_N, count))}
        yield row


def _of_block(logits_NV: Tensor, target_N: Tensor, with_moments_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p of the targets, whether they are likeliest, and mean and variance of log p at the flagged positions."""
    hit_N = logits_NV.argmax(-1) == target_N
    logp_NV = raised(logits_NV).log_softmax(-1)
    logp_N = logp_NV.gather(1, target_N[:, None])[:, 0]
    return logp_N, hit_N, *_moments(logp_NV if bool(with_moments_N.all()) else logp_NV[with_moments_N])


def _moments(logp_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of log p over the vocabulary; overwrites its input."""
    p_NV = logp_NV.exp()
    # A token with probability 0 adds 0 to both moments, but 0 * -inf would be NaN.
    safe_NV = logp_NV.clamp_min_(LOWEST)
    mean_N = torch.linalg.vecdot(p_NV, safe_NV)
    # Around the mean, not around zero: the difference of two squares loses half the digits.
    return mean_N, torch.linalg.vecdot(p_NV, safe_NV.sub_(mean_N[:, None]).square_())


def _plain(values: Iterable[float]) -> list[float]:
    return [float(f"{v:.7g}") for v in values]
