"""Tests by entity against counting by hand, and what they say of whole audits: no penalty for padding, few entities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations, product
from math import comb, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp, ttest_ind
from scipy.stats import t as student

from expunge.audit.suite import parse_suite
from expunge.audit.suites import QUICK_ATTACKS
from expunge.judgement.leaks import alarms, could_count, decided, leaks, untold
from expunge.judgement.outcome import decide
from expunge.judgement.threats import decide_threats
from expunge.judgement.verdict import verdict
from expunge.metrics.attacked import AttackComparison, Gap, with_tests
from expunge.metrics.by_entity import (
    ENOUGH,
    entity_means,
    labels,
    mean_error,
    permute,
    sign_flip,
    statistic_interval,
    swapped_distance,
    t_interval,
)
from expunge.metrics.statistics import auc
from expunge.records.score import ACCESS, PairedDistance, Score

SEVERITY = ["forgets", "over-forgets", "undecided", "suppresses", "retains"]
BY_ACCESS = {name: i for i, name in enumerate(SEVERITY)} | {"not tested": SEVERITY.index("undecided")}
PLAIN = (Score(name="forget_quality", value=0.4, n=100, higher_is="forgot", controls={"retrained": 1.0}),
         Score(name="forget.probability", value=0.21, interval=(0.15, 0.25), n=100, higher_is="knows",
               controls={"original": 0.9, "retrained": 0.2}))
ASKED = (*PLAIN, PLAIN[1].model_copy(update={"name": "forget.rouge_l", "access": "text"}))
"""With a score for each access."""


def column(values: Any) -> dict[str, float]:
    return {f"e{i}": float(v) for i, v in enumerate(values)}


def statistic(d: Any) -> float:
    return float(sum(d) / sqrt(sum(v * v for v in d))) if any(d) else 0.0


def test_sign_flips_equal_counting_by_hand() -> None:
    draw = np.random.default_rng(0)
    d_GJ = draw.normal(0.5, 1, (7, 3))
    found = sign_flip([column(d) for d in d_GJ.T])
    flips = [[statistic(np.asarray(s) * d) for d in d_GJ.T] for s in product((1, -1), repeat=7)]
    seen = [statistic(d) for d in d_GJ.T]
    assert found.alone_J == pytest.approx([np.mean([f[j] >= seen[j] - 1e-9 for f in flips]) for j in range(3)])
    order, least = sorted(range(3), key=lambda j: -seen[j]), 0.0
    for rank, j in enumerate(order):
        least = max(least, float(np.mean([max(f[k] for k in order[rank:]) >= seen[j] - 1e-9 for f in flips])))
        assert found.joint_J[j] == pytest.approx(least)


@pytest.mark.parametrize("others", [0, 5, 60])
@pytest.mark.parametrize("entities", [5, 8])
def test_the_smallest_p_stays_whatever_the_number_of_comparisons(entities: int, others: int) -> None:
    noise = np.random.default_rng(1).normal(0, 1, (others, entities))
    found = sign_flip([column([0.95] * entities), *(column(d) for d in noise)])
    assert found.joint_J[0] == found.alone_J[0] == 2.0 ** -entities


def test_units_that_a_comparison_lacks_change_nothing_for_it() -> None:
    full, half = column([1, 2, 0.5, 1, 3, 1, 2, -1]), column([1, 2, 0.5, 1])
    assert sign_flip([half]).alone_J[0] == sign_flip([half, full]).alone_J[0] == 1 / 16


def test_permutations_equal_counting_by_hand() -> None:
    draw = np.random.default_rng(2)
    mine, theirs = draw.normal(1, 1, 5), draw.normal(0, 1, 4)
    pooled = [*mine, *theirs]

    def welch(chosen: tuple[int, ...]) -> float:
        rest = [v for i, v in enumerate(pooled) if i not in chosen]
        return float(ttest_ind([pooled[i] for i in chosen], rest, equal_var=False).statistic)

    every = [welch(chosen) for chosen in combinations(range(9), 5)]
    found = permute([column(mine)], [column(theirs)])
    assert found.alone_J[0] == pytest.approx(np.mean([t >= every[0] - 1e-9 for t in every]))
    assert permute([column([1] * 4)], [column([0] * 4)]).joint_J[0] == 1 / comb(8, 4)
    assert permute([column([0] * 4)], [column([0] * 4)]).joint_J[0] == 1.0


def test_random_draws_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(0.4, 1, 12)
    exact = sign_flip([column(values)]), permute([column(values[:6])], [column(values[6:])])
    monkeypatch.setattr("expunge.metrics.by_entity.EXACT", 2)
    random = sign_flip([column(values)]), permute([column(values[:6])], [column(values[6:])])
    for known, found in zip(exact, random, strict=True):
        assert found.alone_J[0] == pytest.approx(known.alone_J[0], abs=0.02) and found.alone_J[0] != known.alone_J[0]
    assert sign_flip([column([1.0] * 12)]).joint_J[0] <= 1e-3


def test_the_interval_is_students_over_entity_means() -> None:
    rows = {f"{e} {i}": float(e + i / 10) for e in range(6) for i in range(4)}
    whose = {key: key.split()[0] for key in rows}
    means = list(entity_means(rows, whose).values())
    low, high = t_interval(float(np.mean(means)), [mean_error(list(rows.values()), labels(rows, whose))])
    half = student.ppf(0.975, 5) * np.std(means, ddof=1) / sqrt(6)
    assert (low, high) == pytest.approx((np.mean(means) - half, np.mean(means) + half))
    few = {key: "ab"[i % 2] for i, key in enumerate(rows)}
    assert labels(rows, few) == list(rows), "two entities are too few: by rows"
    assert t_interval(0.3, [mean_error([0.3])]) == (0.3, 0.3)


@pytest.mark.parametrize("correlation", [0.0, 0.3])
@pytest.mark.parametrize("entities", [5, 20])
def test_intervals_cover_where_rows_come_in_entities(entities: int, correlation: float) -> None:
    """A mean and an AUC; `experiments/coverage.py` has the whole table."""
    draw, held = np.random.default_rng(entities), np.zeros(2)
    names = [f"e{i // 8}" for i in range(entities * 8)]

    def side() -> np.ndarray:
        between = np.repeat(draw.normal(0, sqrt(correlation), entities), 8)
        return between + draw.normal(0, sqrt(1 - correlation), entities * 8)

    for _ in range(250):
        both = {"forget": side(), "holdout": side()}
        low, high = statistic_interval(lambda s: float(s["x"].mean()), {"x": both["forget"]}, {"x": names},
                                       plain_mean=True)
        least, most = statistic_interval(lambda s: auc(s["forget"], s["holdout"]), both, dict.fromkeys(both, names))
        held += [low <= 0 <= high, least <= 0.5 <= most]
    assert (held / 250 >= 0.91).all() and (held / 250 <= 0.985).all(), held / 250


def test_the_jackknife_of_a_mean_is_students_and_pairs_the_models() -> None:
    draw = np.random.default_rng(7)
    values, names = draw.normal(size=40), [f"e{i % 8}" for i in range(40)]

    def mean(strata: Mapping[str, Any]) -> float:
        return float(strata["x"].mean())

    slow, fast = (statistic_interval(mean, {"x": values}, {"x": names}, plain_mean=plain) for plain in (False, True))
    assert slow == pytest.approx(fast)
    paired = statistic_interval(lambda s: float(s["x"].mean() - s["reference_x"].mean()),
                                {"x": values, "reference_x": values + 1}, {"x": names, "reference_x": names})
    assert paired == pytest.approx((-1, -1)), "what both models share cancels"
    few = ["a" if i % 2 else "b" for i in range(40)]
    assert statistic_interval(mean, {"x": values}, {"x": few}) == statistic_interval(mean, {"x": values}, {})


def test_the_paired_distance_equals_counting_by_hand() -> None:
    draw = np.random.default_rng(9)
    whose = {f"r{i}": f"e{i % 7}" for i in range(21)}
    mine = {key: float(round(draw.normal(0.6), 1)) for key in whose}
    theirs = {key: float(round(draw.normal(), 1)) for key in whose}

    def distance(swapped: tuple[int, ...]) -> float:
        sides = [[(b if swapped[int(whose[k][1:])] else a)[k] for k in whose]
                 for a, b in ((mine, theirs), (theirs, mine))]
        return float(ks_2samp(*sides).statistic)

    found = swapped_distance(mine, theirs, whose)
    seen = distance((0,) * 7)
    every = [distance(swapped) for swapped in product((0, 1), repeat=7)]
    assert found.distance == pytest.approx(seen) and found.units == 7
    assert found.p == pytest.approx(np.mean([d >= seen - 1e-9 for d in every]))
    assert swapped_distance(mine, mine, whose).p == 1.0
    assert swapped_distance(mine, theirs, {key: f"e{i % 5}" for i, key in enumerate(whose)}).unit == "rows"


def test_the_paired_distance_holds_its_level_where_rows_come_in_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published test does not: it takes the rows for independent ones."""
    monkeypatch.setattr("expunge.metrics.by_entity.DRAWS", 199)
    draw, found = np.random.default_rng(4), np.zeros(2)
    whose = {f"r{i}": f"e{i // 10}" for i in range(160)}
    for _ in range(200):
        mine, theirs = (dict(zip(whose, (np.repeat(draw.normal(size=16), 10) + draw.normal(size=160)).tolist(),
                                 strict=True)) for _ in range(2))
        found += [swapped_distance(mine, theirs, whose).p <= 0.05,
                  ks_2samp(list(mine.values()), list(theirs.values())).pvalue <= 0.05]
    assert found[0] / 200 <= 0.09 and found[1] / 200 > 0.15


@pytest.mark.parametrize(("paired", "outcome"), [
    (None, "forgets"), ({"p": 0.001, "distance": 0.3, "room": 0.9}, "undecided"),
    ({"p": 0.001, "distance": 0.3}, "undecided"), ({"p": 0.2, "distance": 0.3, "room": 0.9}, "forgets"),
    ({"p": 0.001, "distance": 0.2, "room": 0.9}, "forgets"), ({"p": 0.001, "distance": 0.3, "floor": 0.31}, "forgets"),
    ({"p": 0.001, "distance": 0.2, "room": 0.9, "floor": 0.1}, "undecided"),
    ({"p": 0.001, "distance": 0.2, "room": 0.9, "floor": 0.1, "unit": "rows"}, "forgets")])
def test_the_published_number_is_not_the_only_rule(paired: dict[str, Any] | None, outcome: str) -> None:
    quality = PLAIN[0].model_copy(update={"paired": None if paired is None else PairedDistance(units=20, **paired)})
    quiet = with_tests([compared(rows(8, 10, 0.0, 0.02, 0.1, 1))])
    found = verdict((quality, PLAIN[1], *quiet))
    assert found.outcome == outcome
    if paired is not None:
        assert "That is TOFU's published number; paired by" in " ".join(found.sentences)
    if outcome == "undecided":
        assert any(s.startswith("What would settle it: a second retrained model") for s in found.sentences)


def test_the_stored_simulation_is_within_its_bounds() -> None:
    """95 % intervals cover 93 to 97 %; tests raise false alarms in 5 % at most, but for two standard errors."""
    stored = json.loads((Path(__file__).parents[2] / "results" / "coverage.json").read_text())
    assert "dirty" not in stored["environment"]["commit"] and stored["seconds"] < 180
    assert {(r["entities"], r["icc"]) for r in stored["results"]} == set(product((5, 10, 20, 50), (0.0, 0.1, 0.3)))
    for row in stored["results"]:
        assert 0.93 <= row["mean"] <= 0.97 and 0.93 <= row["auc"] <= 0.97, row
        for name in ("sign_flip", "permute"):
            assert row[name] <= 0.05 + 2 * sqrt(0.05 * 0.95 / stored["times"][name]), row
    assert min(row["mean_by_rows"] for row in stored["results"]) < 0.75, "what intervals by rows do"


# Whole audits, of made-up rows


def compared(differences: Mapping[str, float], attack: str = "relearn", *, original: float = 0.9,
             control: float = 0.1, name: str = "forget.probability", **more: Any) -> AttackComparison:
    """A comparison of those differences by row; the first word of an id is the entity. The control is not moved."""
    whose = {key: key.split()[0] for key in differences}
    gap, value = Gap(differences, None, whose), float(np.mean(list(differences.values())))
    frame: dict[str, Any] = {
        "name": name, "attack": attack, "value": control + value, "before": control, "control_before": control,
        "n": len(differences), "original_attacked": original, "higher_is": "knows", "access": "weights",
        "excess": value, "gain": value,
        "controls": {"original": original, "retrained": control}, "entities": gap.entities,
        "excess_interval": gap.interval(), "gain_interval": gap.interval()}
    return AttackComparison(Score(**frame | more), gap, gap)


def rows(entities: int, each: int, level: float, between: float, within: float, seed: int) -> dict[str, float]:
    draw = np.random.default_rng(seed)
    whose = level + draw.normal(0, between, entities)
    return {f"p{e} {i}": float(whose[e] + draw.normal(0, within)) for e in range(entities) for i in range(each)}


def judged(comparisons: list[AttackComparison], primary: set[str] | None = None) -> str:
    return decide((*PLAIN, *with_tests(comparisons, primary))).outcome


def by_access(comparisons: list[AttackComparison], primary: set[str] | None = None) -> dict[str, str]:
    """The outcome of every access, and of all together as `whole`."""
    scores = (*ASKED, *with_tests(comparisons, primary))
    whole = decide(scores)
    return {"whole": whole.outcome} | {found.access: found.outcome for found in decide_threats(scores, whole)}


@pytest.mark.parametrize(("entities", "level", "others"), [
    (2, 0.836, 3), (2, 0.836, 6), (1, 0.867, 3), (1, 0.867, 30), (3, 0.5, 6), (4, 0.4, 6), (5, 0.6, 30)])
def test_a_leak_about_few_entities_is_never_called_forgotten(entities: int, level: float, others: int) -> None:
    noise = [compared(rows(entities, 10, 0.0, 0.02, 0.05, seed), f"harmless{seed}") for seed in range(others)]
    leak = compared(rows(entities, 20, level, 0.03, 0.05, 99))
    found = verdict(decided((*PLAIN, *with_tests([leak, *noise]))))
    assert found.outcome == "suppresses"
    assert any("holds for these rows only" in s for s in found.sentences) == (entities < ENOUGH)


@pytest.mark.parametrize(("entities", "says"), [
    (0, None), (1, "about 1 entity, fewer"), (2, "about 2 entities"), (5, None)])
def test_a_verdict_on_rows_about_few_entities_is_about_these_rows(entities: int, says: str | None) -> None:
    quiet = with_tests([compared(rows(max(entities, 1), 12, 0.0, 0.0, 0.1, 3))])
    found = verdict(decided((PLAIN[0], PLAIN[1].model_copy(update={"entities": entities}), *quiet)))
    told = [s for s in found.sentences if "for these rows only" in s and "forget rows are about" in s]
    assert found.outcome == "forgets" and (says is None) == (not told) and all(says in s for s in told if says)


@pytest.mark.parametrize("entities", [5, 6, 10, 20])
def test_an_attack_that_recovers_nearly_all_counts_from_five_entities_on(entities: int) -> None:
    noise = [compared(rows(entities, 10, 0.0, 0.05, 0.1, seed), f"harmless{seed}") for seed in range(29)]
    leak = compared(rows(entities, 10, 0.95 * 0.8, 0.05, 0.1, 99))
    found = decided(with_tests([leak, *noise]))
    assert found[0].succeeded and found[0].test is not None
    assert found[0].test.unit == "entities" and all(map(could_count, found)) and not untold(found)


@pytest.mark.parametrize("entities", [2, 4, 10, 12, 20])
def test_attacks_on_half_of_the_entities_count(entities: int) -> None:
    """Beside twenty attacks that ask about all of them."""
    noise = [compared(rows(entities, 10, 0.0, 0.05, 0.1, seed), f"harmless{seed}") for seed in range(20)]
    leak = compared(rows(entities // 2, 20, 0.95 * 0.8, 0.05, 0.1, 99))
    found = decided(with_tests([leak, *noise]))
    assert found[0].succeeded and not untold(found)
    assert found[0].test is not None and (found[0].test.unit == "entities") == (entities == 20)


def test_too_few_rows_and_entities_cannot_tell() -> None:
    """Nothing came out of three rows about three entities, but nothing could have counted."""
    none = compared({f"p{i} 0": 0.01 for i in range(3)} | {}, n=12)
    found = verdict(decided((*PLAIN, *with_tests([none]))))
    assert found.outcome == "undecided" and "could not have counted" in found.sentences[0]
    assert any(s.startswith("What would settle it: 5 entities or more") for s in found.sentences)


def test_a_leak_in_some_entities_of_few_is_an_alarm() -> None:
    """Two of six are recovered in full: over entities the interval holds 0, over rows it does not."""
    some = {f"p{e} {i}": (0.8 if e < 2 else 0.0) + 0.01 * i for e in range(6) for i in range(10)}
    found = with_tests([compared(some)])
    assert found[0].excess_interval is not None and found[0].excess_interval[0] < 0
    whole = verdict(decided((*PLAIN, *found)))
    assert whole.outcome == "undecided" and decided(found)[0].doubt == "entities differ"
    assert any("differ too much for so few" in s for s in whole.sentences)
    assert any(s.startswith("What would settle it: forget rows about more than 6 entities") for s in whole.sentences)
    assert judged([compared({key: value / 10 for key, value in some.items()})]) == "forgets", "too small to matter"


def test_where_rows_are_tested_the_interval_is_theirs() -> None:
    """An attack on five of ten entities, of which two leak: beside others by entity, by rows it succeeds."""
    some = {f"p{e} {i}": (0.8 if e < 2 else 0.1) + 0.01 * i for e in range(5) for i in range(10)}
    noise = [compared(rows(10, 10, 0.0, 0.05, 0.1, seed), f"harmless{seed}") for seed in range(9)]
    found = decided(with_tests([compared(some), *noise]))
    assert found[0].test is not None and found[0].test.unit == "rows" and found[0].succeeded
    assert found[0].excess_interval == found[0].test.row_interval
    assert any("5 entities are too few for a test by entity beside attacks that ask about more" in s
               for s in verdict((*PLAIN, *found)).sentences)


def test_other_attacks_raise_an_alarm_and_say_what_would_settle_it() -> None:
    quiet, leak = compared(rows(8, 10, 0.0, 0.02, 0.1, 1)), compared(rows(8, 10, 0.5, 0.05, 0.1, 2), "roleplay")
    alone, both = (with_tests(made, {"relearn"}) for made in ([quiet], [quiet, leak]))
    assert both[0] == alone[0], "what another attack finds changes nothing for the primary ones"
    assert judged([quiet], {"relearn"}) == "forgets"
    found = verdict(decided((*PLAIN, *both)))
    assert found.outcome == "undecided" and "an attack raises an alarm" in found.sentences[0]
    assert any("roleplay brings" in s and "declared beforehand" in s for s in found.sentences)
    assert any(s.startswith("What would settle it: ") and "roleplay" in s for s in found.sentences)
    assert judged([quiet, leak]) == "suppresses", "declared beforehand it counts"


def test_what_no_primary_attack_tested_is_undecided() -> None:
    """By weights nothing was declared; and one that was could not have counted."""
    quiet = {a: compared(rows(8, 10, 0.0, 0.02, 0.1, 1), a, access=a) for a in ("text", "weights")}
    few = compared({f"p{i} 0": 0.01 for i in range(3)}, "few", n=12, access="weights")
    assert by_access(list(quiet.values()))["weights"] == "forgets"
    assert by_access([quiet["text"]])["weights"] == "not tested"
    found = by_access(list(quiet.values()), {"text"})
    assert (found["text"], found["weights"]) == ("forgets", "undecided")
    assert by_access([*quiet.values(), few])["weights"] == by_access([few, *quiet.values()], {"few"})["weights"] \
        == "undecided"


@pytest.mark.parametrize(("test", "outcome"), [("alarm", "undecided"), ("nothing", "forgets")])
def test_an_alarm_stays_although_the_original_falls(test: str, outcome: str) -> None:
    """An attack under which even the original says less is no attempt where it finds nothing; an alarm is told."""
    quiet, breaks = compared(rows(8, 10, 0.0, 0.02, 0.1, 1)), {"original_attacked": 0.3, "name": "forget.rouge_l"}
    # Found by an attack that was not declared; by few entities; by one control alone.
    kinds = [(compared(rows(8, 10, 0.3, 0.02, 0.05, 2), "roleplay", **breaks), {"relearn"}, "not primary"),
             (compared({f"p{e} {i}": (0.8 if e < 2 else 0.0) + 0.01 * i for e in range(6) for i in range(10)},
                       "roleplay", **breaks), None, "entities differ"),
             (compared(rows(8, 10, 0.15, 0.01, 0.02, 3), "roleplay", **breaks), None, "lone control")]
    for loud, declared, word in kinds:
        if test == "nothing":
            loud = compared(rows(8, 10, 0.0, 0.02, 0.1, 4), "roleplay", **breaks)
        made = with_tests([quiet, loud], declared)
        found = verdict(decided((*PLAIN, *made)))
        assert found.outcome == outcome, word
        assert [s.doubt for s in decided(made) if s.attack == "roleplay"] == [
            word if test == "alarm" else "lowers the original"]
        assert any("raises an alarm" in s for s in found.sentences) == (test == "alarm")


def test_adding_attacks_never_improves_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 random suites. A primary attack more can turn a success into an alarm, never into a pass."""
    monkeypatch.setattr("expunge.metrics.by_entity.DRAWS", 400)
    draw, seen, here = np.random.default_rng(5), set(), set()
    for number in range(200):
        entities, each = int(draw.integers(1, 13)), int(draw.integers(2, 8))

        def attack(name: str, entities: int = entities, each: int = each) -> AttackComparison:
            asked = max(1, entities // int(draw.choice([1, 1, 2])))
            level = float(draw.choice([0.0, 0.0, 0.1, 0.2, 0.3, 0.6]))
            made = rows(asked, max(each, 10 // asked + 1), level, float(draw.choice([0.02, 0.15])), 0.15,
                        int(draw.integers(1 << 30)))
            floor = float(draw.choice([0.0, 0.02])) if draw.random() < 0.5 else None
            return compared(made, name, access=str(draw.choice(ACCESS)), floor=floor)

        first = [attack(f"a{number}.{i}") for i in range(int(draw.integers(1, 5)))]
        more = [attack(f"b{number}.{i}") for i in range(int(draw.integers(1, 7)))]
        declared = {c.score.attack or "" for c in first}
        ways = by_access(first), by_access([*first, *more], declared), by_access([*first, *more])
        base, padded, joined = (way["whole"] for way in ways)
        seen |= {(base, padded), (base, joined)}
        assert SEVERITY.index(padded) >= SEVERITY.index(base), (number, base, padded)
        assert joined != "forgets" or base == "forgets", (number, base, joined)
        for access, before, after, whole in ((a, *(way[a] for way in ways)) for a in ACCESS):
            here.add((before, after, whole))
            assert BY_ACCESS[after] >= BY_ACCESS[before], (number, access, before, after)
            tried = any(c.score.access == access for c in first)  # only the first primary attack makes it possible
            assert whole != "forgets" or before == "forgets" or not tried, (number, access, before, whole)
    assert {("forgets", "forgets"), ("forgets", "undecided"), ("suppresses", "suppresses")} <= seen
    assert {("not tested", "undecided", "forgets"), ("forgets", "forgets", "forgets"),
            ("forgets", "undecided", "undecided"), ("suppresses", "suppresses", "suppresses")} <= here, here


@pytest.mark.parametrize("entities", [5, 8, 20])
def test_false_alarms_of_the_primary_attacks(entities: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 audits of two exchangeable models with 12 comparisons each, at most one in twenty finds something."""
    monkeypatch.setattr("expunge.metrics.by_entity.DRAWS", 999)
    draw, found = np.random.default_rng(entities), 0
    for _ in range(300):
        shared = draw.normal(0, 1, entities)
        found += bool((sign_flip([column(0.5 * shared + draw.normal(0, 1, entities)) for _ in range(12)]).joint_J
                       <= 0.05).any())
    assert found / 300 <= 0.05 + 2 * sqrt(0.05 * 0.95 / 300)


def test_an_honest_pair_raises_nothing_large() -> None:
    """Two retrained models of ten entities differ by a little everywhere: no success and no alarm."""
    made = decided(with_tests([compared(rows(10, 10, 0.03, 0.03, 0.1, seed), f"a{seed}") for seed in range(30)]))
    assert not leaks(made) and not alarms(made)


@pytest.mark.parametrize(("suite", "holds"), [
    ("quick", set(QUICK_ATTACKS)), ("scores", set()), ("relearn", {"relearn"}),
    ("quick,roleplay", set(QUICK_ATTACKS)),
    ("roleplay,quantise", {"roleplay", "quantise"}),
    ("quick,standard", {a.text() for a in parse_suite("quick,standard").attacks}),
    ("roleplay,relearn", {"roleplay", "relearn"})])
def test_the_primary_attacks_of_a_suite(suite: str, holds: set[str]) -> None:
    assert set(parse_suite(suite).primary) == holds


def test_the_primary_attacks_of_full_are_those_of_standard() -> None:
    standard, full = parse_suite("standard"), parse_suite("full")
    assert set(standard.primary) == set(full.primary) == {a.text() for a in standard.attacks}
    assert set(parse_suite("standard,relearn(steps=16)").primary) == set(standard.primary)
