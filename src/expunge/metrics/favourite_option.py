"""Whether a model answers multiple choice by place: how often it picks the place that it picks most."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from expunge import plugin
from expunge.metrics.accuracy import text_mean
from expunge.metrics.base import Evidence, GroupOptions, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.plugin import Property
from expunge.records.observation import Row, in_group
from expunge.records.task import SPLITS, Split


def picked(rows: tuple[Row, ...]) -> dict[str, int]:
    """Place of the likeliest option, by example id; the first of several."""
    best: dict[str, tuple[float, int]] = {}
    for row in rows:
        value = text_mean(row)
        if value is not None and (row["id"] not in best or value > best[row["id"]][0]):
            best[row["id"]] = value, row["index"]
    return {key: place for key, (_, place) in best.items()}


class FavouriteOption(Metric):
    card = MetricCard(
        name="favourite_option", kind="metric", target="capability",
        summary="Share of multiple-choice rows on which the option that is picked most often is picked",
        paper="A check of WMDP's letters (arXiv 2403.03218): a model that says one letter is right at chance too",
        formula="max over places of mean 1[the likeliest option stands at this place]",
        higher_is="neutral", range=(0.0, 1.0), ideal="reference", access="logits", alternatives=True,
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = GroupOptions
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "the right one always stands first"),
        Property("needs", {"without": ("likelihood", "forget", "option"), "split": "forget", "says": "option"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        split = self.one(split)
        rows = [r for r in evidence.rows("likelihood", split, "option") if in_group(r["group"], self.spec.group)]
        places, entities = picked(tuple(rows)), evidence.subject.entities(split)
        if not places:
            raise NotAvailable(f"no {split} row of the group {self.spec.group} has options")
        return ({split: np.asarray(list(places.values()), dtype=float)},
                {split: [entities.get(key, key) for key in places]})

    def statistic(self, strata: Strata) -> float:
        (places,) = strata.values()
        return float(np.bincount(places.astype(int)).max() / len(places))
