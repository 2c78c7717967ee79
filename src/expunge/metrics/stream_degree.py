"""Forgetting degree and retained utility: whether a model is where so many deletions should have brought it (FIT)."""

from __future__ import annotations

from math import exp
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.exact_memorization import exact_memorizations
from expunge.metrics.request_stream import degree, expected, quality
from expunge.metrics.rouge_l import rouges
from expunge.metrics.rows import text_values
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.score import Orientation
from expunge.records.task import Split

Of = Literal["forget", "retain"]
PARTS = ("probability", "rouge_l", "accuracy")


class StreamDegreeOptions(plugin.Spec):
    of: Of = Field("forget", description="forget: forgetting degree (F.D.); retain: retained utility (R.U.)")
    total: int = Field(0, ge=0, description=(
        "entities (requests) that the retrained model was trained without; 0 stands for those that are asked"))
    questions: str = Field("", description="group of the rows whose probability and ROUGE-L count; all by default")
    texts: str = Field("", description="group of the rows whose token accuracy counts; all by default")


def answer_probability(row: Row) -> float | None:
    """exp(mean log p) of the answer's tokens, without the end token."""
    values = text_values(row, "logp")
    return exp(float(values.mean())) if len(values) else None


class StreamDegree(Metric):
    card = MetricCard(
        name="stream_degree", kind="metric",
        summary="How near a model is to what as many deletions should have made of it (F.D. and R.U. of FIT)",
        paper="FIT: Defying Catastrophic Forgetting in Continual LLM Unlearning (arXiv 2601.21682)",
        formula="max(0, 1 - |Q / Q* - 1|), Q = 100 (P RL A)^(1/3), Q* on the line from original to retrained model",
        defaults="all requests have been served: Q* is the retrained model's",
        needs=frozenset({"original", "retrained"}),
        deviations=("Both ends of the line are taken on the rows that are asked: the original's at 0 deletions, the "
                    "retrained model's at all. The paper takes each on the rows of its own time, which with fewer "
                    "requests than `total` are other retain rows.",
                    "ROUGE-L (F1, with stemmer) is of the answer; the authors' code takes it of prompt and answer.",
                    "A version of the authors' code is said to swap the token accuracies of retain and forget texts; "
                    "the one we read does not. Whether published tables have the swap is not known."),
        higher_is="forgot", range=(0.0, 1.0), ideal=1.0, access="logits",
        probes=(("likelihood", ("forget", "retain")), ("generation", ("forget", "retain"))),
    )
    Spec: ClassVar[type[plugin.Spec]] = StreamDegreeOptions
    anchored = True
    must_show = (
        Property("value", {"world": "retrained", "is_": 1.0}, "the retrained model itself"),
        Property("orders", {"worlds": ("retrained", "collapsed")}, "too much costs as too little does"),
        Property("degrees_along_a_stream", {}, "the original before, between and after all deletions, by hand"),
        Property("needs", {"without": "retrained", "says": "no retrained model"}),
        Property("needs", {"without": ("generation", "forget", None), "says": "generation"}),
    )

    def orientation(self, split: Split | None) -> Orientation:
        return "forgot" if self.spec.of == "forget" else "knows"

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        """answers: columns (P, RL) of subject, original and retrained model; texts: A of the three, requests served."""
        if evidence.original is None:
            raise NotAvailable("no original model was given (--original)")
        of, spec = self.spec.of, self.spec
        models = [qualities(evidence.of(one), of, spec.questions, spec.texts)
                  for one in (evidence.subject, evidence.original, evidence.need_retrained())]
        served = len(set(evidence.subject.entities("forget").values()))
        if spec.total and served > spec.total:
            raise NotAvailable(f"{served} requests are asked, and the retrained model lacks {spec.total}")
        entities = evidence.subject.entities(of)
        strata: dict[str, NDArray[np.float64]] = {}
        groups: dict[str, list[str]] = {}
        for name, parts in (("answers", PARTS[:2]), ("texts", PARTS[2:])):
            columns = [model[part] for model in models for part in parts]
            ids = [key for key in columns[0] if all(key in column for column in columns)]
            if not ids:
                raise NotAvailable(f"no {of} row has a {' and a '.join(parts)} of all three models")
            table = [[column[key] for column in columns] for key in ids]
            strata[name] = np.asarray(table if name == "answers" else [[*row, served] for row in table], dtype=float)
            groups[name] = [entities.get(key, key) for key in ids]
        return strata, groups

    def statistic(self, strata: Strata) -> float:
        answers, texts = strata["answers"].mean(0).reshape(3, 2), strata["texts"].mean(0)
        subject, original, retrained = (quality(float(answers[i, 0]), float(answers[i, 1]), float(texts[i]))
                                        for i in range(3))
        served = round(float(texts[3]))
        return degree(subject, expected(original, retrained, served, self.spec.total or served))


def qualities(evidence: Evidence, of: Of, questions: str = "", texts: str = "") -> dict[str, dict[str, float]]:
    """P, RL and A of the subject, each by example id; see the options of `StreamDegree`."""
    def of_group(rows: tuple[Row, ...], group: str) -> list[Row]:
        return [row for row in rows if not group or row["group"] == group]

    answers = evidence.rows("likelihood", of, "answer")
    likely = {row["id"]: answer_probability(row) for row in of_group(answers, questions)}
    return {"probability": {key: value for key, value in likely.items() if value is not None},
            "rouge_l": rouges(of_group(evidence.rows("generation", of, "prompt"), questions), "f1"),
            "accuracy": exact_memorizations(of_group(answers, texts))}
