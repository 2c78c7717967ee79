"""The fixed pair of tiny Llamas on all of TOFU: figures measured by other code when it was made.

They are in the README beside the weights; agreement here means that templates, masks, end tokens,
truth ratios and the KS test are read as the makers of the pair read them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import expunge
from expunge.audit.cache import ObservationCache
from expunge.audit.runner import observe
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import score_all
from expunge.metrics.rows import by_example
from expunge.metrics.truth_ratio import log_truth_ratios
from expunge.records.observation import Observations
from expunge.records.task import Split

DATA = Path(os.environ.get("EXPUNGE_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
PAIR = DATA / "models" / "tofu_tiny"
SPLITS: tuple[Split, ...] = ("forget", "holdout")
# forget probability, forget token exact match (end token included), median truth ratio
MEASURED = {"original": (0.939, 0.997, 0.394), "retrained": (0.006, 0.303, 0.891)}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Observations]:
    if not PAIR.exists():
        pytest.skip("the fixed TOFU pair is not here (EXPUNGE_TEST_DATA names its data folder)")
    place = tmp_path_factory.mktemp("fixed")
    whole = expunge.load_task("tofu:forget10", data_dir=DATA)
    # The makers measured the first 200 rows, and a limit draws rows of all authors.
    task = whole.model_copy(update={"probes": whole.probes | {s: whole.probe_rows(s)[:200] for s in SPLITS}})
    return {
        who: observe(expunge.load_subject(PAIR / who), task, [("likelihood", s) for s in SPLITS], place / who,
                     announce=lambda title, total: lambda n: None, cache=ObservationCache(place / "cache"))
        for who in MEASURED
    }


@pytest.mark.slow
@pytest.mark.parametrize("who", MEASURED)
def test_figures_of_the_makers(seen: dict[str, Observations], who: str) -> None:
    evidence = Evidence(seen[who])
    probability, match, ratio = MEASURED[who]
    (score,) = score_all(["forget.probability"], evidence, resamples=0)
    assert score.value == pytest.approx(probability, abs=6e-4)
    hits = [np.mean(row["hit"]) for row in evidence.rows("likelihood", "forget", "answer")]
    assert np.mean(hits) == pytest.approx(match, abs=6e-4)
    ratios = log_truth_ratios(by_example(evidence.rows("likelihood", "forget")), "arithmetic")
    assert np.exp(np.median([v for v in ratios.values() if v is not None])) == pytest.approx(ratio, abs=6e-4)


@pytest.mark.slow
def test_the_pair_is_told_apart(seen: dict[str, Observations]) -> None:
    evidence = Evidence(seen["original"], None, (seen["retrained"],))
    (original,) = score_all(["forget_quality"], evidence, resamples=0)
    assert original.value == pytest.approx(1.4e-16, rel=0.05)
    (same,) = score_all(["forget_quality"], evidence.of(seen["retrained"]), resamples=0)
    assert same.value == 1.0
