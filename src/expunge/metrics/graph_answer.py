"""Whether an answer to a problem on a graph is right, told by solving the problem that the prompt states."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, GroupOptions, MetricCard, RowMetric
from expunge.metrics.text.graphs import mark, read
from expunge.metrics.text.units import units
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split

Measure = Literal["best", "feasible", "ratio"]


class GraphAnswerOptions(GroupOptions):
    measure: Measure = Field("best", description=(
        "best: no other answer is better; feasible: it is what was asked for, if not the best; ratio: its size to that "
        "of a best one"))


def graded(row: Row, measure: Measure = "best") -> float:
    """The mark of one answer. A row that states no graph is right where it says its true answer, word for word."""
    problem = read(row["prompt"])
    value = float(units(row["text"]) == units(row["reference"])) if problem is None else mark(problem, row["text"])
    return value if measure == "ratio" else float(value == 1 if measure == "best" else value > 0)


class GraphAnswer(RowMetric):
    card = MetricCard(
        name="graph_answer", kind="metric",
        summary="Share of graph problems that are solved; every best answer counts, not the stored one alone",
        paper="Graph-R1 (arXiv 2508.20373), whose checkers are those of GraphArena",
        formula="mean 1[the last list in brackets is feasible and as small, or as large, as an exact solution]",
        defaults="best answers alone",
        deviations=("A node that the graph does not have makes an answer wrong; the authors' checkers skip it.",
                    "Sizes count nodes; the authors' reward divides lengths of paths, and adds 2 or takes 1 away.",
                    "Rows that state no graph are compared with their true answer, word for word."),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="text",
        probes=(("generation", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = GraphAnswerOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "word for word, without a graph"),
        Property("value", {"world": "collapsed", "split": "forget", "is_": 0.0}, "an empty answer"),
        Property("needs", {"without": ("generation", "forget", None), "split": "forget", "says": "generation"}),
        Property("graphs_check_themselves", {}, "best, feasible and impossible answers of every kind, by hand"),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return {row["id"]: graded(row, self.spec.measure) for row in evidence.rows("generation", split, "prompt")}
