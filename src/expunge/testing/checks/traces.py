"""Promises of the metrics that tasks about the inside of a model name: values by hand."""

from __future__ import annotations

import sys
from math import log
from typing import Any

import numpy as np
import pytest
import torch

from expunge.metrics.base import Evidence, Metric
from expunge.probes.base import Probe
from expunge.records.observation import Observations, Row
from expunge.records.task import Example, Split

from .. import planted
from ..observed_worlds import likelihood
from ..support import fresh
from .base import check


def seen(rows: dict[tuple[str, Split], list[Row]]) -> Observations:
    return Observations({key: tuple(found) for key, found in rows.items()})


def chosen(id: str, right: bool, group: str) -> list[Row]:
    """A row whose likeliest of three options is right, or is not."""
    values = [-1.0 if right else -3.0, -2.0, -4.0]
    return [likelihood(id, [value], "option", index=i, correct=i == 0, group=group) for i, value in enumerate(values)]


@check
def relation_score_by_hand(plugin: type[Metric]) -> None:
    """UA* 0, TA 1, SA 1/2, MA_f 1/2 and MA_t 1 make (1 + 1 + 1/2 + 3/4) / 4; a group that is not there is named."""
    parts = {"paraphrase": [False, False], "base": [True, True], "same_answer": [True, False],
             "multi_hop": [True, False], "multi_hop_test": [True]}
    rows = {group: [row for i, right in enumerate(answers) for row in chosen(f"{group}{i}", right, group)]
            for group, answers in parts.items()}
    forget = chosen("a", True, "base") + chosen("b", False, "base")
    everything = [row for found in rows.values() for row in found]
    score = plugin().score(Evidence(seen({("likelihood", "forget"): forget, ("likelihood", "neighbour"): everything})))
    assert score.value == pytest.approx((1 + 1 + 0.5 + 0.75) / 4) and score.n == 9
    assert score.remark == "UA 0.50, UA* 0.00, TA 1.00, SA 0.50, MA_f 0.50, MA_t 1.00"
    people: list[Row] = [
        {**row, "entity": f"person {i}"} for i in range(20) for group in parts
        for row in chosen(f"{group}{i}", group == "base" or i % 2 == 0, group)]
    score = plugin().score(Evidence(seen({("likelihood", "forget"): forget, ("likelihood", "neighbour"): people})))
    assert score.entities == 20 and score.interval == pytest.approx((0.625, 0.625)), "of all parts at once"
    fewer = [row for group, found in rows.items() if group != "multi_hop" for row in found]
    score = plugin().score(Evidence(seen({("likelihood", "forget"): forget, ("likelihood", "neighbour"): fewer})))
    assert score.value is None and "multi_hop (MA_f)" in str(score.unavailable)


@check
def falls_with_prior(plugin: type[Metric]) -> None:
    """Four beliefs of which the two weaker are overwritten: 1 - 0. A push of one strength overwrites no more of a
    firmer group than of a weaker one."""
    def rows(gaps: list[float], priors: list[float]) -> list[Row]:
        return [row for i, (gap, prior) in enumerate(zip(gaps, priors, strict=True)) for row in (
            likelihood(f"r{i}", [prior]), likelihood(f"r{i}", [prior + gap], "wrong"))]

    priors = [-0.1, -3.0, -0.5, -2.0]
    before = seen({("likelihood", "forget"): rows([-9.0] * 4, priors)})
    after = seen({("likelihood", "forget"): rows([-1.0, 1.0, -1.0, 1.0], priors)})
    score = plugin().score(Evidence(after, original=before), "forget", resamples=0)
    assert score.value == 1.0
    assert score.remark == "overwritten, from the weakest belief to the firmest: 1.00, 1.00, 0.00, 0.00"
    assert plugin(parts=2).score(Evidence(after, original=before), "forget", resamples=0).value == 1.0
    assert plugin().score(Evidence(after, original=before), "forget").interval is not None, "also with a row left out"
    random = np.random.default_rng(0)
    margins = np.sort(random.uniform(0.0, 8.0, 64))  # the firmer a belief, the larger its margin
    shares = sys.modules[plugin.__module__].by_prior((margins < 4.0).astype(float), margins - 9.0, 4)
    assert (np.diff(shares) <= 0).all() and shares[0] == 1.0 and shares[-1] == 0.0


@check
def spreads_over_forms(plugin: type[Metric]) -> None:
    """Question and answer fall from 0.8 to 0.2 (3/4), the blank from 0.5 to 0.4 (1/5): 11/20."""
    def rows(qa: float, blank: float) -> Observations:
        return seen({("likelihood", "forget"): [likelihood("a", [log(qa)], group="qa")],
                     ("likelihood", "neighbour"): [likelihood("b", [log(blank)], group="fb")]})

    score = plugin().score(Evidence(rows(0.2, 0.4), original=rows(0.8, 0.5)), resamples=0)
    assert score.value == pytest.approx(0.55) and score.remark == "qa 75%, fb 20%"
    assert plugin().score(Evidence(rows(0.8, 0.5), original=rows(0.8, 0.5)), resamples=0).value == 0.0
    def people(each: float) -> Observations:
        """What is left of a person's facts differs by person, and is the same in both forms."""
        def rows(form: str) -> list[Row]:
            return [{**likelihood(f"{form}{i}", [log(0.2 + each * i)], group=form), "entity": f"person {i}"}
                    for i in range(20)]

        return seen({("likelihood", "forget"): rows("qa"), ("likelihood", "neighbour"): rows("fb")})

    score = plugin().score(Evidence(people(0.01), original=people(0.03)))
    assert score.entities == 20 and score.interval == pytest.approx((0, 0), abs=1e-9), "of all forms at once"
    alone = seen({("likelihood", side): [likelihood(side, [-1.0], group="qa")] for side in ("forget", "neighbour")})
    assert "one form" in str(plugin().score(Evidence(alone, original=alone)).unavailable)


@check
def concept_trace_by_hand(plugin: type[Metric]) -> None:
    """The mean over concepts of each number."""
    rows: list[Any] = [{"id": name, "entity": name, "group": "block 1, neuron 2", "form": "answer", "index": i,
                        "jaccard": j, "cosine": c, "distance": d}
                       for i, (name, j, c, d) in enumerate((("a", 1.0, 1.0, 0.0), ("b", 0.5, 0.2, 3.0)))]
    evidence = Evidence(seen({("value_vectors", "forget"): rows}))
    for of, right, way in (("jaccard", 0.75, "knows"), ("cosine", 0.6, "knows"), ("distance", 1.5, "forgot")):
        score = plugin(of=of).score(evidence, resamples=0)
        assert score.value == pytest.approx(right) and score.higher_is == way


@check
def traces_match_by_hand(plugin: type[Probe]) -> None:
    """The model with itself: cosine 1, Jaccard 1, distance 0. A vector that is another's: that one alone has changed,
    and a place is read once."""
    task, original = planted.planted_task("Beth"), planted.planted()
    (block, neuron), (other, second) = planted.PLACES["Beth"], planted.PLACES["Dora"]
    assert block == other
    rows = [Example(id=f"{name}{i}", prompt="", answer="a", entity=name, group=f"block {at}, neuron {n}")
            for i in range(2) for name, (at, n) in (("Beth", (block, neuron)), ("Dora", (other, second)))]
    rows.append(Example(id="none", prompt="", answer="a", group="qa"))
    found = plugin().observe(original, rows, task, partner=original)
    assert [row["id"] for row in found] == ["Beth0", "Dora0"]
    assert all((row["cosine"], row["jaccard"], row["distance"]) == (1.0, 1.0, 0.0) for row in found)
    subject = fresh(original)
    weight_DK = subject.model.model.layers[block].mlp.down_proj.weight
    with torch.no_grad():
        weight_DK[:, neuron] = weight_DK[:, second]
    first, same = plugin().observe(subject, rows, task, partner=original)
    moved_D = (weight_DK[:, neuron] - original.model.model.layers[block].mlp.down_proj.weight[:, neuron]).double()
    assert first["distance"] == pytest.approx(float(moved_D.norm()), rel=1e-6)
    assert first["cosine"] < 0.5 and first["jaccard"] < 1
    assert (same["cosine"], same["jaccard"], same["distance"]) == (1.0, 1.0, 0.0)
