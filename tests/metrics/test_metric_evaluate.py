"""Terms as typed, what they need observed, and scoring a whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.audit.runner import _evidence
from expunge.errors import UsageError
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import parse_metric, required, score_all
from expunge.needs import OFFERS
from expunge.records.observation import Observations
from expunge.records.score import SubjectRef
from expunge.testing.observed_worlds import observations, world

SUITE = ["forget.probability", "retain.rouge_l", "forget.truth_ratio(variant=geometric)", "mia.min_k(k=0.2)",
         "forget_quality", "model_utility", "privleak(attack=loss)", "neighbour.accuracy"]


def test_terms() -> None:
    metric, split = parse_metric(" forget.truth_ratio(variant='geometric', aggregate=prob_mean) ")
    assert split == "forget" and (metric.spec.variant, metric.spec.aggregate) == ("geometric", "prob_mean")
    metric, split = parse_metric("mia.min_k(k=0.2)")
    assert split is None and metric.spec.k == 0.2 and metric.card.name == "mia.min_k"
    assert parse_metric("forget_quality")[1] is None


@pytest.mark.parametrize(("term", "says"), [
    ("forget.probabilty", "Did you mean probability"),
    ("mia.lose", "mia.loss"),
    ("forgot.probability", "Did you mean forget"),
    ("probability", "For instance forget.probability"),
    ("forget.mia.loss", "without a split"),
    ("retain.forget_quality", "without a split"),
    ("forget.probability(k=1)", "no option 'k'"),
    ("mia.min_k(k=2)", "not possible"),
    ("mia.min_k(0.2)", "not a metric"),
    ("forget.truth_ratio(variant=mean)", "variant"),
    ("forget.", "not a metric"),
    ("", "not a metric"),
    ("forget.probability + forget.rouge_l", "not a metric"),
    ("forget", "no metric called"),
    ("npo", "no metric called"),
])
def test_wrong_terms_say_what_would_be_right(term: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_metric(term)
    assert says in str(caught.value)


def test_required_is_what_must_be_observed() -> None:
    assert required([parse_metric("retain.rouge_l"), parse_metric("mia.zlib")]) == {
        ("generation", "retain"), ("likelihood", "forget"), ("likelihood", "holdout")}
    assert required([parse_metric("model_utility")]) == {
        (p, s) for p in ("likelihood", "generation") for s in ("retain", "utility")}
    assert required([]) == set()


@pytest.mark.parametrize("term", SUITE)
def test_what_is_required_is_enough(term: str) -> None:
    asked = parse_metric(term)

    def cut(name: str) -> Observations:
        full = observations(name)
        return Observations({key: full.rows(*key) for key in required([asked])})

    full = asked[0].score(world("collapsed"), asked[1], resamples=20)
    least = asked[0].score(
        Evidence(cut("collapsed"), cut("original"), (cut("retrained"), cut("retrained again"))), asked[1], resamples=20)
    assert least == full and full.value is not None


def test_score_all_keeps_the_order_and_drops_repetitions() -> None:
    scores = score_all([*SUITE, "forget.probability"], world("original"), resamples=50, seed=1)
    assert [s.name for s in scores] == [t.replace("'", "") for t in SUITE]
    assert all(s.attack is None and s.value is not None for s in scores)
    attacked = score_all(SUITE[:1], world("original"), 50, 1, attack="relearn(steps=20)")
    assert attacked[0] == scores[0].model_copy(update={"attack": "relearn(steps=20)"})
    with pytest.raises(UsageError):  # before anything is scored
        score_all(["forget.probability", "nothing"], world("original"))


def test_rescoring_from_disk_gives_the_same_scores(tmp_path: Path) -> None:
    evidence = world("retrained")
    evidence.subject.write(tmp_path)
    again = evidence.of(Observations.read(tmp_path))
    assert score_all(SUITE, again, 50) == score_all(SUITE, evidence, 50)


def test_rows_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """They call an entity a subject."""
    evidence = world("retrained")
    evidence.subject.write(tmp_path)
    for path in tmp_path.glob("*.jsonl"):
        path.write_text(path.read_text(encoding="utf-8").replace('"entity":', '"subject":'), encoding="utf-8")
    again = Observations.read(tmp_path)
    assert again.entities("forget") == evidence.subject.entities("forget")
    assert score_all(SUITE, evidence.of(again), 50) == score_all(SUITE, evidence, 50)


def test_scores_go_by_what_the_subject_offered() -> None:
    seen = {"subject": Observations({})}
    now = SubjectRef(path="m", fingerprint="f", offered=("logp", "weights"))
    assert _evidence(seen, now, ()).offered == {"logp", "weights"}
    before = SubjectRef.model_validate({"path": "m", "fingerprint": "f", "reads": "image"})
    assert _evidence(seen, before, ()).offered == OFFERS["image"], "audits of earlier versions say what it reads alone"
