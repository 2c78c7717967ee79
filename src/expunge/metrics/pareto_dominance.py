"""How many of its rivals a model beats both in forgetting and in what it keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from expunge import plugin
from expunge.errors import DataError, MissingError
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.probability import probabilities
from expunge.metrics.rows import by_example
from expunge.plugin import Property
from expunge.records.task import Split

Point = tuple[float, float]
"""(forget quality, utility), both the larger the better."""
SIDES: tuple[Split, Split] = ("forget", "retain")


TIE = 1e-9
"""Differences below this are rounding."""


def dominates(one: Point, other: Point) -> bool:
    """Whether one is at least as good in both and better in one; equal points do not dominate each other."""
    gains = [mine - theirs for mine, theirs in zip(one, other, strict=True)]
    return min(gains) >= -TIE and max(gains) > TIE


def dominance_ratio(own: Sequence[Point], rivals: Sequence[Point]) -> float:
    """Share of the rivals' points that at least one own point dominates. There must be a rival."""
    return sum(any(dominates(mine, other) for mine in own) for other in rivals) / len(rivals)


def hypervolume(own: Sequence[Point]) -> float:
    """Area in which points are no better than one of these in either, down to (0, 0)."""
    area, reached = 0.0, 0.0
    for forget, utility in sorted(own, reverse=True):
        area += max(forget, 0.0) * max(utility - reached, 0.0)
        reached = max(reached, utility)
    return area


def read_points(path: Path) -> list[Point]:
    """Points of a JSON-lines file: {"forget", "utility"} probabilities per line, or a run's steps.jsonl, whose readings
    hold them. Raises MissingError or DataError."""
    if not path.is_file():
        raise MissingError(f"The file of points {path} does not exist.", fix="A run keeps its readings in steps.jsonl.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            read = json.loads(line)
            reading = read.get("eval", {} if "step" in read else read)
            found += [(1 - float(reading["forget"]), float(reading["utility"]))] if reading else []
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"Line {number} of {path} is no reading.", 'It should be {"forget": 0.1, "utility": 0.9}, '
                            "two mean probabilities of answers.") from None
    if not found:
        raise DataError(f"{path} holds no reading.", "A run reads both sides every --eval-every steps.")
    return found


class ParetoDominanceOptions(plugin.Spec):
    against: str | None = Field(None, description="JSON-lines file of rivals' points, such as another run's "
                                                  "steps.jsonl; the original and the retrained models if left out.")
    own: str | None = Field(None, description="The same of further points of this method along its training.")
    measure: Literal["ratio", "hypervolume"] = Field("ratio", description=(
        "ratio: share of rivals' points that are dominated; hypervolume: area that the own points dominate"))


class ParetoDominance(Metric):
    card = MetricCard(
        name="pareto_dominance",
        kind="metric",
        summary="Share of rivals that it beats in forgetting and utility together",
        paper="Large Language Model Unlearning for Source Code (PROD), AAAI 2026 (arXiv 2506.17125), Pareto Dominance "
              "Ratio; our definition",
        formula="share of rivals' points (f', u') with f >= f', u >= u', not both equal, for an own point (f, u); f = "
                "1 - mean p_bar of forget answers, u = mean p_bar of retain answers",
        defaults="the audited model is one own point; own= and against= add readings along training",
        deviations=("the official formula was not found, so this definition is ours: ties count for neither",
                    "the paper's forget quality is the BLEU of completions and its utility pass@1; here both are "
                    "probabilities, as in a run's readings",
                    "without against= the rivals are the original and the retrained models: two or three points"),
        higher_is="neutral", range=(0.0, 1.0), ideal=1.0, access="logits",
        probes=(("likelihood", SIDES),),
    )
    Spec: ClassVar[type[plugin.Spec]] = ParetoDominanceOptions
    must_show = (
        Property("dominance_by_hand", {}, "ties count for neither, and a point is beaten by any own one"),
        Property("reads_points", {}, "files of readings are rivals and own points; others are refused"),
        Property("value", {"world": "original", "is_": 0.0}, "nothing is beaten by its equal"),
        Property("needs", {"without": ("likelihood", "retain", None), "says": "retain"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        rivals = [m for m in (evidence.original, *evidence.retrained) if m is not None and not self.spec.against]
        if not rivals and not self.spec.against and self.spec.measure == "ratio":
            raise NotAvailable("there is nothing to compare with: no original or retrained model, and no against=")
        strata: dict[str, NDArray[np.float64]] = {}
        groups: dict[str, list[str]] = {}
        for name, model in [("", evidence.subject), *((f"reference {i} ", m) for i, m in enumerate(rivals))]:
            for side in SIDES:
                values = _probabilities(evidence.of(model), side)
                strata[name + side] = np.asarray(list(values.values()))
                entities = model.entities(side)
                groups[name + side] = [entities.get(key, key) for key in values]
        return strata, groups

    def statistic(self, strata: Strata) -> float:
        spec = self.spec
        own = [_point(strata, ""), *(read_points(Path(spec.own)) if spec.own else ())]
        if spec.measure == "hypervolume":
            return hypervolume(own)
        names = [name.removesuffix("forget") for name in strata if name.startswith("reference")
                 and name.endswith("forget")]
        rivals = read_points(Path(spec.against)) if spec.against else [_point(strata, name) for name in names]
        return dominance_ratio(own, rivals)


def _probabilities(evidence: Evidence, side: Split) -> dict[str, float]:
    found = probabilities(by_example(evidence.rows("likelihood", side, "answer")))
    if not found:
        raise NotAvailable(f"no {side} row has an answer with a token")
    return found


def _point(strata: Strata, name: str) -> Point:
    return 1 - float(np.mean(strata[f"{name}forget"])), float(np.mean(strata[f"{name}retain"]))
