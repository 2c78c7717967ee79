"""Metrics of model internals: worked by hand, beside literal formulas, and on models made to hide.

Legend: n rows, L layers, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from expunge.audit.cache import ObservationCache
from expunge.audit.runner import observe
from expunge.audit.store import read_store
from expunge.judgement.outcome import looks_inside
from expunge.metrics.base import Evidence, NotAvailable
from expunge.metrics.cka import gram, linear_cka
from expunge.metrics.evaluate import parse_metric
from expunge.metrics.knn_overlap import neighbours, overlaps
from expunge.metrics.layers import cross_chosen, entity_folds, entity_groups, out_of_fold_logits
from expunge.metrics.linear_probe import permuted, probe_hits
from expunge.metrics.logit_lens import lens_values
from expunge.metrics.remind import features
from expunge.metrics.uds import depth_scores
from expunge.metrics.weight_distance import distance
from expunge.models.language import CausalLM
from expunge.probes.base import Probe
from expunge.records.observation import Observations, Row
from expunge.records.task import Split, Task
from expunge.registry import load
from expunge.testing.observed_worlds import observations, rows_of, world
from expunge.testing.support import STEADY, fresh, loss, memoriser, small_task, train

RANDOM = np.random.default_rng(5)


def value(term: str, evidence: Evidence) -> float:
    metric, split = parse_metric(term)
    score = metric.score(evidence, split, resamples=20)
    assert score.value is not None, score.unavailable
    return score.value


# Hand-worked values


def test_depth_by_hand() -> None:
    retrained = np.array([[1.0, 0.02, 2.0], [0.01, 0.02, 0.03]])
    found = depth_scores(np.array([[0.5, 5.0, 3.0], [1.0, 1.0, 1.0]]), retrained)
    assert found[0] == pytest.approx((0.5 + 2.0) / 3.0), "the second block holds nothing, the third is clipped"
    assert np.isnan(found[1]), "no block holds anything"
    assert depth_scores(np.array([[-1.0, 0.0, 1.0]]), retrained[:1]).tolist() == pytest.approx([1 / 3])
    assert depth_scores(0 * retrained[:1], retrained[:1]).tolist() == [0.0]
    assert depth_scores(retrained[:1], retrained[:1]).tolist() == [1.0]


def test_layer_is_chosen_on_the_others() -> None:
    """People a, c are one half and b, d the other; each half is read where the other is best."""
    values_nL = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    assert cross_chosen(values_nL, ["a", "b", "c", "d"]).tolist() == [0.1, 0.2, 0.3, 0.4]
    assert cross_chosen(values_nL, ["a"] * 4).tolist() == [0.1, 0.2, 0.3, 0.4], "rows of one entity are halved"
    assert lens_values(values_nL, ["a", "b", "c", "d"], gain=True).tolist() == pytest.approx([0, -0.6, 0, -0.2])
    assert lens_values(values_nL, ["a"] * 4, layer="final").tolist() == [0.1, 0.8, 0.3, 0.6]
    with pytest.raises(NotAvailable, match="only one row"):
        cross_chosen(values_nL[:1], ["a"])


def test_folds_keep_entities_whole() -> None:
    entities = ["a", "a", "b", "c", "x", "y", "y", "z"]
    label_n = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    fold_n = entity_folds(entities, label_n, 5)
    assert fold_n.tolist() == [0, 0, 1, 2, 0, 1, 1, 2]
    with pytest.raises(NotAvailable, match="single entity"):
        entity_folds(entities[:2] + entities[4:], label_n[[0, 1, 4, 5, 6, 7]], 5)
    assert entity_groups(["b", "a", "b"], 2).tolist() == [1, 0, 1]
    for draw in range(5):
        permuted_n = permuted(label_n, entities, draw)
        assert permuted_n[0] == permuted_n[1] and permuted_n[5] == permuted_n[6], "labels are permuted per entity"


def test_features_of_a_landscape_by_hand() -> None:
    (row,) = features(np.array([1.0]), np.array([[2.0, 4.0, 8.0]]), np.array([[1.0, 2.0, 3.0]]))
    spread = np.std([2, 4, 8])
    assert row.tolist() == pytest.approx([1, 14 / 3, spread, 2, 8, 6, 11 / 3, 7, 3, 1])
    (flat,) = features(np.array([1.0]), np.array([[2.0, 2.0]]), np.array([[1.0, 1.0]]))
    assert flat[-2:].tolist() == [0, 0], "one strength has no slope"


def test_neighbours_by_hand() -> None:
    line = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1.0]])
    assert neighbours(line, 1).argmax(1).tolist() == [1, 0, 3, 2]
    assert overlaps(line, line[[1, 0, 3, 2]], 1).tolist() == [1, 1, 1, 1]
    assert overlaps(line, line[[0, 2, 1, 3]], 1).tolist() == [0, 0, 0, 0]
    assert overlaps(line, 5 * line @ np.array([[0, 1], [-1, 0]]), 2).tolist() == [1, 1, 1, 1]


def test_distance_by_hand() -> None:
    assert distance(np.array([3.0, 4.0]), np.array([6.0, 8.0])) == pytest.approx(0.5)
    assert value("weight_distance(over=largest)", world("hiding")) == pytest.approx(0.3 * 2**0.5)


# CKA


def slow_hsic(k: Any, n_l: Any) -> float:
    """The U-statistic over four different rows (Song et al. 2012, equation 4), tuple by tuple."""
    total, count = 0.0, 0
    for i, j, q, r in permutations(range(len(k)), 4):
        total += k[i, j] * (n_l[i, j] + n_l[q, r] - 2 * n_l[i, q])
        count += 1
    return total / count


def test_cka_is_its_formulas() -> None:
    x, y = RANDOM.normal(size=(7, 3)), RANDOM.normal(size=(7, 5))
    x_c, y_c = x - x.mean(0), y - y.mean(0)
    literal = np.linalg.norm(x_c.T @ y_c) ** 2 / (np.linalg.norm(x_c.T @ x_c) * np.linalg.norm(y_c.T @ y_c))
    assert linear_cka(x, y, "biased") == pytest.approx(literal)
    k, other = gram(x, "biased"), gram(y, "biased")
    slow = slow_hsic(k, other) / np.sqrt(slow_hsic(k, k) * slow_hsic(other, other))
    assert linear_cka(x, y) == pytest.approx(slow)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_cka_sees_neither_rotation_nor_scale(estimator: str) -> None:
    x = RANDOM.normal(size=(60, 8)) * np.arange(1, 9)
    turn, _ = np.linalg.qr(RANDOM.normal(size=(8, 8)))
    assert linear_cka(x, x, estimator) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ turn + 7, estimator) == pytest.approx(1)
    assert linear_cka(x, x / np.arange(1, 9) ** 2, estimator) < 0.8, "but a general linear map"


@pytest.mark.slow
def test_independent_states_have_no_cka() -> None:
    """With as many rows as units the published form is far from 0, and only falls as rows are added."""
    draws = [(RANDOM.normal(size=(100, 128)), RANDOM.normal(size=(100, 128))) for _ in range(5)]
    assert np.mean([linear_cka(x, y) for x, y in draws]) == pytest.approx(0, abs=0.02)
    assert np.mean([linear_cka(x, y, "biased") for x, y in draws]) > 0.4
    assert linear_cka(RANDOM.normal(size=(4000, 16)), RANDOM.normal(size=(4000, 16)), "biased") < 0.01


def test_cka_interval_holds_the_value_and_rows_are_thinned() -> None:
    metric, split = parse_metric("forget.cka(rows=30)")
    score = metric.score(world("original"), split, resamples=200)
    assert score.interval is not None and score.value is not None and score.n == 30
    low, high = score.interval
    assert low < score.value < high < 1 and high - low < 0.6
    assert value("forget.cka(to=original)", world("original")) == pytest.approx(1)
    assert value("forget.knn_overlap(to=original)", world("original")) == 1
    assert score.controls["retrained"] is not None and score.controls["retrained"] < 1, "the other retrained model"


# Read-outs


def test_read_out_is_a_pipeline_of_sklearn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, label_n = RANDOM.normal(size=(30, 4)) * [1, 10, 0.1, 0], np.arange(30) % 2
    x[:, 3] = 7.0
    fold_n = np.arange(30) // 10
    slow = np.zeros(30)
    for fold in range(3):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=10000, class_weight="balanced"))
        model.fit(x[fold_n != fold], label_n[fold_n != fold])
        slow[fold_n == fold] = model.decision_function(x[fold_n == fold])
    assert out_of_fold_logits(x, label_n, fold_n) == pytest.approx(slow, abs=1e-6)


def test_a_probe_of_noise_lies_within_its_permutations() -> None:
    """Two groups that differ in nothing: accuracy is among those of permuted labels; a real difference is not."""
    entities = [f"p{i // 3:02d}" for i in range(60)]
    label_n = np.repeat([1, 0], 30)
    noise = RANDOM.normal(size=(60, 2, 6))

    def accuracy(states: Any, labels: Any) -> float:
        return float(probe_hits(states, labels, entities, 5, "chosen").mean())

    null = [accuracy(noise, permuted(label_n, entities, draw)) for draw in range(20)]
    low, high = np.quantile(null, [0.025, 0.975])
    assert low <= accuracy(noise, label_n) <= high and high < 0.75
    told = noise.copy()
    told[label_n == 1, 1, 0] += 3
    assert accuracy(told, label_n) > high + 0.1
    assert accuracy(told, label_n) > float(probe_hits(told[:, :1], label_n, entities, 5, "mean").mean()) + 0.1


def test_the_probe_by_layer() -> None:
    """Every model's accuracy at each layer; the interval is over entities, whose rows are asked of one probe."""
    (metric, split) = parse_metric("linear_probe")
    score = metric.score(world("original"), split, resamples=20)
    assert list(score.by_layer) == ["unlearned", "original", "retrained"] and score.entities > 1
    assert [layer for layer, _ in score.by_layer["retrained"]] == [1, 3]
    assert score.by_layer["unlearned"] == score.by_layer["original"] > score.by_layer["retrained"]
    assert score.value is not None and score.value <= max(at for _, at in score.by_layer["original"]) + 1e-12
    (last, split) = parse_metric("linear_probe(layer=last)")
    assert last.score(world("original"), split, resamples=0).by_layer["original"] == score.by_layer["original"][-1:]
    (null, split) = parse_metric("linear_probe(labels=permuted, permutations=1)")
    assert not null.score(world("original"), split, resamples=0).by_layer


def test_controls_of_the_probe() -> None:
    known, unseen = world("original"), world("retrained")
    assert value("linear_probe(labels=permuted, permutations=3)", known) == pytest.approx(0.5, abs=0.12)
    assert value("linear_probe(against=pure)", known) == pytest.approx(0.5, abs=0.2)
    assert value("linear_probe(against=retain)", known) < 0.65 < value("linear_probe(against=retain)", unseen)
    assert value("remind(against=retain)", unseen) > 0.9 > value("remind(against=retain)", known)
    assert value("remind(read=gap)", known) > 0.9 > value("remind(read=gap)", unseen)
    assert value("remind(max_fpr=0.05)", known) > 0.7 > value("remind(max_fpr=0.05)", unseen)
    assert 0.5 < value("remind(against=rest)", known) < value("remind", known)


# Models made to hide


@cache
def knowing() -> CausalLM:
    """The memoriser after it learnt the holdout rows too: what is now to be forgotten; the memoriser never saw it."""
    subject = fresh()
    train("retain_nll", subject=subject, forget=(), retain=[*small_task().holdout, *small_task().retain],
          optimizer=STEADY, steps=150, batch_size=16)
    subject.model.requires_grad_(False)
    assert loss(subject, small_task().holdout) < 0.1 < loss(memoriser(), small_task().holdout)
    return subject


def silent(part: str) -> CausalLM:
    """Knows it all, and says none of it: one module after the facts were read is turned round."""
    subject: Any = fresh(knowing())
    with torch.no_grad():
        if part == "output":
            subject.model.model.norm.weight *= -1
        else:
            block = subject.model.model.layers[-1]
            block.mlp.down_proj.weight *= -4
            block.self_attn.o_proj.weight *= -4
    return cast(CausalLM, subject)


@cache
def turned_task() -> Task:
    task = small_task()
    return task.model_copy(update={"forget": task.holdout, "retain": task.retain[:10], "holdout": task.forget})


def seen(subject: CausalLM, *probes: str, splits: tuple[Split, ...] = ("forget", "retain")) -> Observations:
    rows: dict[tuple[str, Split], list[Row]] = {}
    for name in probes:
        probe = cast(Probe, load(name, "probe")())
        for split in splits:
            partner = knowing() if probe.uses_original else None
            rows[name, split] = probe.observe(subject, turned_task().split(split), turned_task(), partner=partner)
    return Observations(rows)


def beside(subject: CausalLM, *probes: str) -> Evidence:
    return Evidence(seen(subject, *probes), seen(knowing(), *probes), (seen(memoriser(), *probes),))


@pytest.mark.slow
def test_depth_tells_erased_from_silenced() -> None:
    """Original 0, retrained 1; who only turns the output round has erased nothing, the last block only itself."""
    assert value("uds", beside(knowing(), "depth")) == 0
    assert value("uds", beside(memoriser(), "depth")) == pytest.approx(1)
    for part, most in (("output", 0.0), ("block", 0.6)):
        evidence = beside(silent(part), "depth")
        assert loss(silent(part), turned_task().forget) > 5, "nothing of it is said"
        assert value("uds", evidence) <= most, part
        assert all(r["drops"][:2] == [0.0, 0.0] for r in evidence.rows("depth", "forget")), "the blocks below are whole"


@pytest.mark.slow
def test_restoration_tells_suppressed_from_deleted() -> None:
    """What rmu steers away below the block comes back, more with every step of strength, but not with random latents;
    what the last block hides stays hidden. The memoriser, which the original grew out of, never saw the facts and still
    reads a part of them out of the latents: why a control is needed."""
    steered = train("rmu(coefficient=12.0, alpha=0.1)", subject=fresh(knowing()), forget=turned_task().forget,
                    retain=turned_task().retain, steps=40, lr=5e-3).subject
    said, back, never = {}, {}, {}
    for name, subject in (("steered", steered), ("retrained", memoriser()), ("hidden", silent("block"))):
        evidence = Evidence(seen(subject, "restoration", splits=("forget",)))
        said[name] = np.exp([row["plain"] for row in evidence.rows("restoration", "forget")]).mean()
        back[name] = value("forget.sae_restoration(read=gain)", evidence)
        never[name] = value("forget.sae_restoration(latents=random, read=gain)", evidence)
        if name == "steered":
            curve = np.exp([row["all"] for row in evidence.rows("restoration", "forget")]).mean(0)
            assert (np.diff([said[name], *curve]) > -0.02).all(), curve
            assert value("forget.sae_restoration(read=share)", evidence) > 0.8
            assert value("forget.sae_restoration", evidence) > 0.5
    assert said["steered"] < 0.2 and back["steered"] > 0.5, (said, back)
    assert max(never.values()) < 0.1 and back["hidden"] < 0.1, (back, never)
    assert back["retrained"] < 0.5 * back["steered"], back


@pytest.mark.parametrize("read", ["probability", "gain", "share"])
def test_restoration_is_no_evidence_for_a_verdict(read: str) -> None:
    """Facts that were lost in early blocks come back as well, so it may not call a model suppressed."""
    metric, split = parse_metric(f"forget.sae_restoration(read={read})")
    score = metric.score(Evidence(Observations(rows_of(world("collapsed").subject))), split)
    assert score.value is not None and not looks_inside(score)


def test_restoration_is_not_scored_where_it_says_nothing() -> None:
    rows = rows_of(world("original").subject)
    metric, split = parse_metric("forget.sae_restoration")
    coarse = {**rows, ("restoration", "forget"): tuple({**r, "ceiling": -5.0} for r in rows["restoration", "forget"])}
    score = metric.score(Evidence(Observations(coarse)), split)
    assert score.value is None and "too coarse" in (score.unavailable or "")
    metric, split = parse_metric("forget.sae_restoration(read=share)")
    score = metric.score(Evidence(Observations(rows)), split)
    assert score.value is None and "nothing is left to restore" in (score.unavailable or "")


def test_lens_finds_what_the_last_block_hides() -> None:
    evidence = beside(silent("block"), "lens")
    assert value("forget.logit_lens(layer=final)", evidence) < 0.01
    hidden, never = value("forget.logit_lens", evidence), value("forget.logit_lens", beside(memoriser(), "lens"))
    assert hidden > 0.15 > 2 * never, (hidden, never)
    assert value("forget.logit_lens(gain=True)", evidence) == pytest.approx(hidden, abs=0.01)


def test_a_changed_output_leaves_representations_alone() -> None:
    evidence = beside(silent("output"), "hidden", "weights")
    assert value("forget.cka(to=original)", evidence) == pytest.approx(1)
    assert value("forget.knn_overlap(to=original)", evidence) == 1
    assert value("forget.cka", evidence) == pytest.approx(value("forget.cka", beside(knowing(), "hidden")))
    rows = evidence.subject.rows("weights", "forget")
    assert {r["id"]: r["distance"] for r in rows if r["distance"]} == {"other": 2.0}


def test_states_that_do_not_fit_give_no_depth() -> None:
    """A retrained model from another start: its states destroy retain rows as well."""
    fits = world("original")
    rows = rows_of(fits.retrained[0])
    rows["depth", "retain"] = tuple({**r, "drops": [6.0, 6.0]} for r in rows["depth", "retain"])
    metric, split = parse_metric("uds")
    score = metric.score(Evidence(fits.subject, fits.original, (Observations(rows),)), split)
    assert score.value is None and "do not fit" in (score.unavailable or "")
    # What is normed twice costs forget rows more, and says nothing of whether states fit.
    rows["depth", "forget"] = tuple({**r, "normed": [20.0]} for r in rows["depth", "forget"])
    subject = rows_of(fits.subject)
    subject["depth", "forget"] = tuple({**r, "normed": [1.0]} for r in subject["depth", "forget"])
    normed, _ = parse_metric("uds(last=normed)")
    score = normed.score(Evidence(Observations(subject), fits.original, (Observations(rows),)), split)
    assert score.value is None and "do not fit" in (score.unavailable or "")
    score = metric.score(Evidence(observations("original"), None, fits.retrained), split)
    assert score.unavailable == "no original model was given (--original)"


@pytest.mark.parametrize(("name", "probe"), [("conflict", "statements"), ("transfer_probe", "hidden")])
def test_intervals_of_probes_are_over_entities(name: str, probe: str) -> None:
    """Three rows each of one entity, and every number says whose it is."""
    evidence, metric = world("original"), parse_metric(name)[0]

    def of_entities(found: Observations) -> Observations:
        rows = rows_of(found)
        for split in ("forget", "retain", "holdout"):
            rows[probe, split] = tuple({**r, "entity": f"{split} {i // 3}"} for i, r in enumerate(rows[probe, split]))
        return Observations(rows)

    assert evidence.original is not None
    strata, groups = metric.grouped(Evidence(of_entities(evidence.subject), of_entities(evidence.original), ()))
    assert {side: len(of) for side, of in groups.items()} == {side: len(values) for side, values in strata.items()}
    assert len(set(next(iter(groups.values())))) == -(-len(evidence.subject.rows(probe, "forget")) // 3)


def test_an_audit_says_why_a_probe_found_nothing(tmp_path: Path) -> None:
    """Also when it is scored again from disk; a probe that can do without the original does."""
    wanted: list[tuple[str, Split]] = [("depth", "forget"), ("landscape", "forget"), ("lens", "forget")]
    task = turned_task().model_copy(update={"forget": turned_task().forget[:4]})

    def run(subject: CausalLM, folder: Path, original: Callable[[], CausalLM] | None) -> Evidence:
        found = observe(subject, task, wanted, folder, announce=lambda title, total: lambda done: None,
                        cache=ObservationCache(tmp_path / "cache"), partner=original)
        again = read_store(folder)
        assert again is not None and again.missing("depth", "forget") == found.missing("depth", "forget")
        return Evidence(again, None, ())

    alone = run(memoriser(), tmp_path / "alone", None)
    assert {r["table"] for r in alone.rows("landscape", "forget")} == {"own"}
    with pytest.raises(NotAvailable, match=r"depth probe: .*--original"):
        alone.rows("depth", "forget")
    shorter: Any = fresh()
    shorter.model.model.layers = shorter.model.model.layers[:-1]
    shorter.model.config.num_hidden_layers -= 1
    with pytest.raises(NotAvailable, match="one architecture"):
        run(shorter, tmp_path / "shorter", memoriser).rows("depth", "forget")
    assert run(memoriser(), tmp_path / "shorter", memoriser).rows("depth", "forget"), "and then finds something"
    assert not (tmp_path / "shorter" / "missing.json").exists()
