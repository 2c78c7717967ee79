"""RULI, IAM and the evidence of single rows, on made-up margins whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import gaussian_kde, gumbel_r

from expunge.metrics.exposure import assess, entity_evidence, row_evidence
from expunge.metrics.interpolated import BOUND, LEAST, iam, iam_scores, signal
from expunge.metrics.population import population, ruli, ulira
from expunge.shadows import assign

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Margins = tuple[Floats, Flags, Flags]


def dealt(shadows: int, points: int, seed: int) -> tuple[np.random.Generator, Flags, Flags]:
    """Who unlearned and who never met each point; a quarter and a half of the models."""
    random = np.random.default_rng(seed)
    state = np.stack([random.permutation(shadows) % 4 for _ in range(points)], axis=1)
    return random, state == 0, state >= 2


def same(shadows: int, points: int, seed: int) -> Margins:
    """Margins on which unlearning left no trace; rows differ in level."""
    random, gone, out = dealt(shadows, points, seed)
    return random.normal(size=(shadows, points)) + 3 * random.normal(size=points), gone, out


# RULI


@pytest.mark.parametrize("shared", [True, False])
def test_two_samples_of_one_distribution_are_a_coin_toss(shared: bool) -> None:
    found = [ruli(*same(16, 10, seed), shared=shared, resamples=1) for seed in range(25)]
    for values in ([f.accuracy for f in found], [f.auc for f in found]):
        assert np.mean(values) == pytest.approx(0.5, abs=3 * np.std(values) / np.sqrt(len(found)))


def test_its_densities_are_those_of_the_authors() -> None:
    """Each pair left out in turn, with scipy's kernel estimate and the authors' p_U / (p_U + p_O) > 1/2."""
    phi, gone, out = same(24, 6, 1)
    phi = phi + 1.5 * gone
    right = []
    for p in range(phi.shape[1]):
        u, r = phi[gone[:, p], p], phi[out[:, p], p]
        for k in range(len(u)):
            fitted = [gaussian_kde(np.delete(x, k)) for x in (u, r)]
            says = [fitted[0](x)[0] / sum(f(x)[0] for f in fitted) > 0.5 for x in (u[k], r[k])]
            right += [says[0], not says[1]]
    assert ruli(phi, gone, out, shared=False, resamples=1).accuracy == pytest.approx(np.mean(right))


def test_it_sees_what_no_gaussian_fits() -> None:
    """Half of the unlearned models say a row less surely and half more surely, beside others that scatter as widely."""
    random, gone, out = dealt(64, 12, 2)
    unlearned = 2 * random.choice([-1.0, 1.0], gone.shape) + random.normal(0, 0.25, gone.shape)
    phi = np.where(gone, unlearned, random.normal(0, 2, gone.shape))
    kernel, gaussian = ruli(phi, gone, out, resamples=1), ulira(phi, gone, out, resamples=1)
    assert kernel.auc > gaussian.auc + 0.1 and kernel.accuracy > gaussian.accuracy + 0.05


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_it_recovers_more_at_few_false_alarms(seed: int) -> None:
    """Three in ten models lost a row altogether, and the others still know it."""
    random, gone, out = dealt(64, 20, seed)
    phi = np.where(gone, np.where(random.random(gone.shape) < 0.3, -8.0, random.normal(2, 0.5, gone.shape)),
                   random.normal(size=gone.shape))
    kernel, gaussian = ruli(phi, gone, out, resamples=1), ulira(phi, gone, out, resamples=1)
    assert kernel.tpr[0.05] >= gaussian.tpr[0.05] > 0.3 and kernel.auc > gaussian.auc


def test_it_sees_as_much_as_ulira_where_gaussians_fit() -> None:
    phi, gone, out = same(64, 20, 3)
    phi = phi + 2 * gone
    kernel, gaussian = ruli(phi, gone, out, resamples=1), ulira(phi, gone, out, resamples=1)
    assert kernel.accuracy == pytest.approx(gaussian.accuracy, abs=0.03)


# IAM


def test_the_grade_follows_the_published_formula() -> None:
    random = np.random.default_rng(4)
    phi, unseen, fitted = random.normal(size=8), random.normal(-1, 1, size=(3, 8)), random.normal(3, 1, size=8)

    def mapped(x: Floats) -> Floats:
        return -np.log(BOUND - np.log(1 / (1 + np.exp(-x)) + LEAST))

    alphas = np.linspace(0, 1, 50)
    between = np.stack([mapped(unseen) + (mapped(fitted) - mapped(unseen)) * a for a in alphas], axis=1)[:, :-1]
    scale = np.sqrt(6) * between.std(axis=(0, 2))[:, None] / np.pi
    cdf = gumbel_r.cdf(mapped(phi), between.mean(axis=0) - 0.5772156649 * scale, scale)
    expected = (alphas[1:, None] * cdf).sum(axis=0) / alphas[1:].sum()
    assert iam(phi, unseen, fitted, steps=50) == pytest.approx(expected)


def test_the_grade_has_the_right_ends() -> None:
    """The original near one end, a model that never met the rows near the other; half way in between."""
    random = np.random.default_rng(5)
    level = random.normal(-2, 1, size=200)
    unseen, fitted = level + random.normal(0, 0.2, (1, 200)), level + 5
    held = [iam(level + shift + random.normal(0, 0.2, 200), unseen, fitted).mean() for shift in (-4, 0, 2.5, 5, 8)]
    assert held == sorted(held) and held[1] < 0.2 and held[3] > 0.6, held
    assert (np.diff(signal(np.linspace(-100, 100, 50))) >= 0).all()


@pytest.mark.parametrize("models", [1, 2, 4])
@pytest.mark.parametrize("online", [True, False])
def test_few_shadows_see_more_than_one_threshold_for_all(models: int, online: bool) -> None:
    """Rows at different levels, of which unlearning left half of what was learned."""
    random, gone, out = dealt(32, 60, 6)
    level = random.normal(-1.5, 1.2, size=60)
    noise = random.normal(0, 0.4, size=(2, 32, 60))
    learned = 3.0 * ~out
    original, unlearned = level + learned + noise[0], level + np.where(gone, 1.2, learned) + noise[1]
    held = iam_scores(unlearned, original, ~out, out, models=models, online=online)
    graded, plain = population(held, gone, out, resamples=1), population(unlearned, gone, out, resamples=1)
    assert graded.auc > plain.auc + 0.03 and graded.accuracy > plain.accuracy, (graded.auc, plain.auc)
    assert held[~(gone | out)].mean() > held[gone].mean() > held[out].mean()


def test_equal_models_get_equal_grades() -> None:
    found = []
    for seed in range(8):
        random, gone, out = dealt(12, 20, seed)
        original = random.normal(size=gone.shape) + 4 * ~out
        held = iam_scores(random.normal(size=gone.shape), original, ~out, out)
        found.append(population(held, gone, out, resamples=1).auc)
    assert np.mean(found) == pytest.approx(0.5, abs=3 * np.std(found) / np.sqrt(len(found)))
    with pytest.raises(ValueError, match="only 5 other models on one side; 9 are needed"):
        iam_scores(original, original, ~out, out, models=9)


# Single rows


LEVELS = np.random.default_rng(7).normal(-2, 1, size=24)
ABOUT = {f"p{i // 3}/{i % 3}": f"p{i // 3}" for i in range(24)}
"""Eight entities of three rows."""


def margins(shadows: int, trace: dict[str, float], seed: int = 0) -> Margins:
    """Margins of unlearned models. `trace` is what unlearning left of an entity, in nats."""
    random = np.random.default_rng(seed)
    state = np.array([[states[who] for who in ABOUT.values()]
                      for states in assign(sorted(set(ABOUT.values())), shadows, seed)])
    left = np.where(state == "forgotten", [trace.get(who, 0.0) for who in ABOUT.values()],
                    np.where(state == "kept", 5.0, 0.0))
    return LEVELS + left + random.normal(0, 0.6, state.shape), state == "forgotten", state == "out"


def test_planted_rows_are_found_and_no_others() -> None:
    """One entity that was hardly unlearned, and one that was pushed far below: both are named first."""
    found = margins(32, {"p3": 4.0, "p5": -4.0})
    entities, rows = entity_evidence(*found, ABOUT), row_evidence(*found, ABOUT, {})
    assert {row["entity"]: row["auc"] for row in entities["first"][:2]} == {"p3": 1.0, "p5": 0.0}
    assert [row["evidence"] for row in entities["first"][:3]] == ["told apart", "told apart", "may be chance"]
    assert (entities["told_apart"], entities["of"]) == (2, 8) and (rows["told_apart"], rows["of"]) == (6, 24)
    assert {row["entity"] for row in rows["first"][:6]} == {"p3", "p5"} and rows["cannot_tell"] == 0


def test_honest_models_have_a_row_told_apart_once_in_twenty() -> None:
    """Holm over the rows keeps the chance of one false row at 5 %."""
    said = [row_evidence(*margins(32, {}, seed), ABOUT, {})["told_apart"] > 0 for seed in range(20)]
    assert sum(said) <= 3, "more has a chance of 1.6 % at a level of 5 %"


def test_few_shadows_cannot_tell_a_row() -> None:
    """With 2 models that unlearned it and 4 that never met it, no order of them is rare enough among 24 rows."""
    rows = row_evidence(*margins(8, {"p3": 9.0}), ABOUT, {})
    assert rows["told_apart"] == 0 and rows["cannot_tell"] == rows["of"] == 24
    assert rows["first"][0]["p"] == pytest.approx(2 / 15) and rows["first"][0]["evidence"] == "cannot tell"
    assert rows["shadows_needed"] == 20, "5 and 10 models: 2 / 3003 * 24 = 0.016; 4 and 8: 2 / 495 * 24 = 0.097"
    assert row_evidence(*margins(20, {"p3": 9.0}), ABOUT, {})["told_apart"] >= 3


def test_all_measures_of_a_set_of_shadows() -> None:
    """Unlearning left much of one entity, and lowered all that these models say."""
    original, gone, out = margins(16, dict.fromkeys(ABOUT.values(), 5.0), 1)
    phi = {"original": original, "method": margins(16, {"p3": 4.0}, 1)[0] - 3,
           "retrained": margins(16, {}, 1)[0]}
    states = np.where(gone, "forgotten", np.where(out, "out", "kept"))
    found = assess([{"shadow": s, "model": name, "id": id, "entity": who, "state": str(states[s, p]),
                     "phi": float(of[s, p])} for name, of in phi.items() for s in range(16)
                    for p, (id, who) in enumerate(ABOUT.items())], ["method"])
    method, floor = found["method"], found["retrained"]
    first = method["rows"]["first"][0]
    assert first["entity"] == "p3" and min(first["ulira"], first["ruli"]) > 0.9 and first["models"] == [4, 8]
    assert method["ruli_efficacy"]["accuracy"] > method["ruli"]["accuracy"] + 0.1, "the whole model was changed"
    assert abs(floor["ruli"]["accuracy"] - 0.5) < 0.1 and found["original"]["iam"]["auc"] > 0.9
    assert found["original"]["iam"]["held"] > 0.5 > floor["iam"]["held"]
    assert {"iam_offline", "population", "klom", "epsilon"} <= set(method) and "unavailable" in floor["klom_kept"]
