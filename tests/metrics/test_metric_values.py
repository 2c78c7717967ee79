"""Hand-worked values, published numbers, and the slow literal formulas beside the package."""

from __future__ import annotations

from math import exp, log
from typing import Any

import numpy as np
import pytest

from expunge.errors import DataError, UsageError
from expunge.metrics.accuracy import choices
from expunge.metrics.base import Evidence, Metric, NotAvailable
from expunge.metrics.evaluate import parse_metric
from expunge.metrics.exact_memorization import exact_memorizations
from expunge.metrics.extraction_strength import extraction_strengths
from expunge.metrics.forget_quality import ForgetQuality
from expunge.metrics.membership import lowest_mean
from expunge.metrics.mia_loss import MiaLoss
from expunge.metrics.mia_min_k import MiaMinK, min_k
from expunge.metrics.mia_min_k_pp import min_k_pp
from expunge.metrics.mia_zlib import zlib_loss
from expunge.metrics.model_utility import ModelUtility
from expunge.metrics.privleak import PrivLeak, privleak
from expunge.metrics.probability import Probability, normalised_probabilities
from expunge.metrics.rouge_l import RougeL, rouge_l
from expunge.metrics.rows import RowForms, by_example
from expunge.metrics.truth_ratio import TruthRatio, log_truth_ratios, truth_scores
from expunge.records.observation import Observations, Row
from expunge.records.task import SPLITS, Split
from expunge.testing.observed_worlds import generation, likelihood, observations, odd_observations, rows_of, world

from . import reference

SEEDS = range(4)


def only(rows: list[Row], split: Split = "forget", probe: str = "likelihood") -> Evidence:
    return Evidence(Observations({(probe, split): rows}))


# Hand-worked values


def test_rouge_recall_and_f1() -> None:
    assert rouge_l("a b c d", "a c d e") == 0.75
    assert rouge_l("a b c d", "a c d e", "f1", stemmer=False) == 0.75
    assert rouge_l("a b c d", "a b c d and more") == 1.0
    assert rouge_l("the cats", "the cat") == 1.0 and rouge_l("the cats", "the cat", stemmer=False) == 0.5


def test_rouge_leaves_out_references_without_words() -> None:
    rows = [generation("1", "—", "—"), generation("2", "yes", "yes"), generation("3", "", "x"),
            generation("4", "no", "", form="paraphrase")]
    score = RougeL().score(only(rows, probe="generation"), "forget")
    assert (score.value, score.n) == (1.0, 1)
    assert "letter" in (RougeL().score(only(rows[:1], probe="generation"), "forget").unavailable or "")


def test_extraction_strength_and_exact_memorization() -> None:
    def row(hits: str, end: int = 0) -> Row:
        return likelihood(hits, [-1.0] * len(hits), hit=[h == "1" for h in hits], end=end)

    rows = [row("0011"), row("1110"), row("1111"), row("0000"), row("01"), row("1"), row("0"), row("110", 1)]
    assert list(extraction_strengths(rows).values()) == [0.5, 0.0, 1.0, 0.0, 0.5, 1.0, 0.0, 1.0]
    assert list(exact_memorizations(rows).values()) == [0.5, 0.75, 1.0, 0.0, 0.5, 1.0, 0.0, 1.0]
    assert extraction_strengths([row(""), row("1", 1)]) == exact_memorizations([row(""), row("1", 1)]) == {}


def test_min_k_takes_two_of_five_and_never_none() -> None:
    values = np.array([-1.0, -5.0, -2.0, -4.0, -3.0])
    assert lowest_mean(values, 0.4) == -4.5
    assert lowest_mean(values[:2], 0.4) == -5.0
    assert lowest_mean(-np.arange(100.0), 0.29) == pytest.approx(-np.arange(71.0, 100.0).mean())


def test_min_k_pp_by_hand() -> None:
    row = likelihood("1", [-1.0, -3.0, -9.0], mean=[-2.0, -2.0, -2.0], var=[4.0, 0.25, 1.0], end=1)
    assert min_k_pp(row, 0.5) == pytest.approx(2.0)  # z = 0.5 and -2; the end token's -7 is left out
    assert min_k(row, 0.5) == 3.0


def test_privleak_published_pair_and_both_conventions() -> None:
    assert privleak(0.0024, 0.477) == pytest.approx(-99.5, abs=0.005)
    assert privleak(0.3, 0.3) == 0
    assert privleak(1 - 0.0024, 1 - 0.477) > 0  # the other AUC, not complemented, even flips the sign


def test_probability_normalisation_by_hand() -> None:
    examples = {"1": RowForms("", log(0.6), wrong=[log(0.1), log(0.3)]), "2": RowForms("", log(0.5))}
    assert normalised_probabilities(examples) == {"1": pytest.approx(0.6)}


def test_truth_ratio_by_hand() -> None:
    examples = {"1": RowForms("", log(0.9), paraphrases=[log(0.5)], wrong=[log(0.1), log(0.4)])}
    assert exp(log_truth_ratios(examples)["1"]) == pytest.approx(0.25 / 0.5)
    assert exp(log_truth_ratios(examples, "geometric")["1"]) == pytest.approx(0.2 / 0.5)
    assert exp(log_truth_ratios(examples, "legacy")["1"]) == pytest.approx(0.5 / 0.2)
    plain = {"1": RowForms("", log(0.9), wrong=[log(0.1), log(0.4)])}
    assert exp(log_truth_ratios(plain)["1"]) == pytest.approx(0.25 / 0.9)
    assert truth_scores(examples, "true_better")["1"] == pytest.approx(0.5)
    assert truth_scores(examples, "prob_mean")["1"] == pytest.approx(0.5 / 0.75)


@pytest.mark.parametrize("variant", ["arithmetic", "legacy", "geometric"])
@pytest.mark.parametrize("aggregate", ["closer_to_1", "true_better", "prob_mean"])
@pytest.mark.parametrize(("right", "wrong"), [(-2e3, -1.0), (-1.0, -2e3), (-2e3, -2e3), (0.0, 0.0)])
def test_truth_scores_survive_extremes(variant: Any, aggregate: Any, right: float, wrong: float) -> None:
    (score,) = truth_scores({"1": RowForms("", right, wrong=[wrong, wrong])}, aggregate, variant).values()
    assert 0 <= score <= 1
    if right == wrong == -2000 and variant != "geometric":  # equally impossible is a tie, not 0 / 0
        assert score == pytest.approx({"closer_to_1": 1.0, "true_better": 0.0, "prob_mean": 0.5}[aggregate])


def test_ties_in_multiple_choice_share_the_point() -> None:
    options = [(-1.0, False), (-1.0, True), (-2.0, False)]
    assert choices({"1": RowForms("", options=options), "2": RowForms("", options=options[1:]),
                    "3": RowForms("", options=options[:1]), "4": RowForms("", options=[(-1.0, False)] * 2)}) \
        == {"1": 0.5, "2": 1.0}


# Against the slow formulas


def same(metric: Metric, evidence: Evidence, split: Split | None, expected: float) -> None:
    score = metric.score(evidence, split, resamples=0)
    assert score.value == pytest.approx(expected, abs=1e-6, rel=1e-6), score
    assert score.interval is None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("split", SPLITS)
def test_per_split_metrics_equal_the_formulas(seed: int, split: Split) -> None:
    evidence = Evidence(odd_observations(seed))
    rows = evidence.rows("likelihood", split)
    said = evidence.rows("generation", split)
    for term, values in {
        "probability": reference.probability(rows, split == "utility"),
        "exact_memorization": reference.exact_memorization(rows),
        "extraction_strength": reference.extraction_strength(rows),
        "accuracy": reference.accuracy(rows),
        "rouge_l": reference.rouge_recall(said),
        "truth_ratio": reference.truth_score(
            rows, "arithmetic", "closer_to_1" if split == "forget" else "true_better"),
    }.items():
        metric, of = parse_metric(f"{split}.{term}")
        same(metric, evidence, of, reference.mean(values))
        assert metric.score(evidence, of, resamples=0).n == len(values)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variant", ["arithmetic", "legacy", "geometric"])
@pytest.mark.parametrize("aggregate", ["closer_to_1", "true_better", "prob_mean"])
def test_truth_ratio_variants_equal_the_formulas(seed: int, variant: str, aggregate: str) -> None:
    evidence = Evidence(odd_observations(seed))
    expected = reference.truth_score(evidence.rows("likelihood", "forget"), variant, aggregate)
    same(TruthRatio(variant=variant, aggregate=aggregate), evidence, "forget", reference.mean(expected))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [0.2, 0.4, 1.0])
@pytest.mark.parametrize("attack", ["loss", "zlib", "min_k", "min_k_pp"])
@pytest.mark.parametrize("tokens", ["text", "all", "openunlearning"])
def test_membership_and_privleak_equal_the_formulas(seed: int, tokens: str, attack: str, k: float) -> None:
    subject, retrained = odd_observations(seed), odd_observations(seed + 100)
    evidence = Evidence(subject, retrained=(retrained,))
    score = {"loss": reference.loss, "zlib": reference.zlib_loss, "min_k": reference.min_k,
             "min_k_pp": reference.min_k_pp}[attack]
    own, gold = (reference.membership_auc(o.rows("likelihood", "forget"), o.rows("likelihood", "holdout"),
                                          score, k, tokens) for o in (subject, retrained))
    term = f"mia.{attack}(tokens={tokens}" + (f", k={k})" if "min_k" in attack else ")")
    same(parse_metric(term)[0], evidence, None, own)
    expected = 100 * ((1 - own) - (1 - gold)) / ((1 - gold) + 1e-10)
    same(PrivLeak(attack=attack, k=k, tokens=tokens), evidence, None, expected)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variant", ["arithmetic", "legacy", "geometric"])
def test_forget_quality_equals_the_formula(seed: int, variant: str) -> None:
    subject, retrained = odd_observations(seed), odd_observations(seed + 100)
    ratios = [[r[0] for r in reference.truth_ratio(o.rows("likelihood", "forget"), variant)]
              for o in (subject, retrained)]
    evidence = Evidence(subject, retrained=(retrained,))
    same(ForgetQuality(variant=variant), evidence, None, reference.ks_pvalue(*ratios))


def test_scores_name_how_the_end_token_was_counted() -> None:
    """One answer of two tokens and an end token: -1, -3 and -8."""
    rows = odd_observations(0).rows("likelihood", "forget", "answer")
    row = {**rows[0], "logp": [-1.0, -3.0, -8.0], "end": 1, "text": "ab"}
    assert [MiaLoss(tokens=t).unfamiliarity(row) for t in ("text", "all", "openunlearning")] == [2.0, 4.0, 4.0]
    assert [MiaMinK(tokens=t, k=0.4).unfamiliarity(row) for t in ("text", "all", "openunlearning")] == [3.0, 8.0, 3.0]
    without_end = {**row, "logp": [-1.0, -3.0], "end": 0}  # that code drops the last token of running text too
    assert [MiaMinK(tokens=t).unfamiliarity(without_end) for t in ("text", "all", "openunlearning")] == [3.0, 3.0, 1.0]
    evidence = Evidence(odd_observations(0))
    scores = [MiaLoss(tokens=t).score(evidence, resamples=0) for t in ("text", "all", "openunlearning")]
    assert [s.name for s in scores] == ["mia.loss", "mia.loss(tokens=all)", "mia.loss(tokens=openunlearning)"]
    assert scores[1].remark == "the end token counts" and "OpenUnlearning" in (scores[2].remark or "")
    assert "end token is left out" in MiaLoss.card.defaults


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variant", ["arithmetic", "legacy", "geometric"])
def test_model_utility_equals_the_formula(seed: int, variant: str) -> None:
    subject = odd_observations(seed)
    rows = [{split: subject.rows(probe, split) for split in SPLITS} for probe in ("likelihood", "generation")]
    same(ModelUtility(variant=variant), Evidence(subject), None, reference.model_utility(*rows, variant))


# Model utility, forget quality, membership


def test_model_utility_equals_the_common_value() -> None:
    def rows(split: str, group: str) -> tuple[list[Row], Row]:
        right = log(0.5) if split == "retain" else 0.0  # utility: p / (p + w) = 0.5 needs w = p
        wrong = log(0.25) if split == "retain" else 0.0
        id = f"{split}{group}"
        made = [likelihood(id, [right], group=group), likelihood(id, [wrong], "wrong", group=group)]
        return made, generation(id, "one two", "one", group=group)

    retain = rows("retain", "")
    evidence = Evidence(Observations({("likelihood", "retain"): retain[0],
                                      ("generation", "retain"): [retain[1]]}))
    assert ModelUtility().score(evidence).value == pytest.approx(0.5)
    table = np.full((3, 3), 0.3)
    assert ModelUtility().statistic({"retain": table, "utility/a": table}) == pytest.approx(0.3)
    table[:, 1] = 0
    assert ModelUtility().statistic({"retain": table}) == 0.0


def test_model_utility_requires_retain_but_not_utility_groups() -> None:
    full = rows_of(observations("original"))
    without = Observations({k: rows for k, rows in full.items() if k[1] != "utility"})
    assert ModelUtility().score(Evidence(without), resamples=0).value is not None
    without = Observations({k: rows for k, rows in full.items() if k[1] != "retain"})
    assert "retain probability, retain rouge_l" in (ModelUtility().score(Evidence(without)).unavailable or "")


def test_forget_quality_of_itself_is_exactly_one() -> None:
    assert ForgetQuality().score(world("retrained")).value == 1.0


def test_forget_quality_falls_again_when_pushed_too_far() -> None:
    """Non-monotone, while the probability keeps falling."""
    gold = observations("retrained")

    def pushed(by: float) -> Evidence:
        rows = [{**r, "logp": [v - by for v in r["logp"]]} if r["form"] in ("answer", "paraphrase") else r
                for r in gold.rows("likelihood", "forget")]
        return Evidence(Observations({("likelihood", "forget"): rows}), retrained=(gold,))

    steps = [pushed(by) for by in (-1.0, 0.0, 0.5, 2.0)]
    quality = [ForgetQuality().score(e).value or 0.0 for e in steps]
    likely = [Probability().score(e, "forget", resamples=0).value or 0.0 for e in steps]
    assert quality[0] < 0.05 < quality[1] == 1.0 and quality[1] > quality[2] > quality[3]
    assert likely == sorted(likely, reverse=True)


def test_other_retrained_models_give_the_noise_floor() -> None:
    one, two = odd_observations(1), odd_observations(2)
    score = ForgetQuality().score(Evidence(odd_observations(3), one, (one, two)))
    floor = ForgetQuality().score(Evidence(two, retrained=(one,))).value
    assert score.controls == {"original": 1.0, "retrained": floor} and floor != 1.0
    leak = PrivLeak().score(Evidence(one, retrained=(one, two)), resamples=0)
    assert leak.value == 0 and leak.controls["retrained"] != 0
    assert PrivLeak().score(Evidence(one, retrained=(one,)), resamples=0).controls == {"retrained": 0.0}


def test_privleak_has_no_denominator_when_the_retrained_model_leaks_everything() -> None:
    known = observations("perfect")
    score = PrivLeak().score(Evidence(known, retrained=(known,)))
    assert score.value is None and "denominator" in (score.unavailable or "")


def test_auc_of_one_distribution_is_a_half_up_to_noise() -> None:
    random = np.random.default_rng(7)

    def rows(split: str) -> list[Row]:
        return [likelihood(f"{split}{i}", (-random.exponential(2, 9)).tolist(), text=str(i))
                for i in range(600)]

    evidence = Evidence(Observations({("likelihood", s): rows(s) for s in ("forget", "holdout")}))
    for name in ("loss", "zlib", "min_k", "min_k_pp"):
        score = parse_metric(f"mia.{name}")[0].score(evidence, resamples=200)
        assert score.value == pytest.approx(0.5, abs=3 / (12 * 300) ** 0.5)
        assert score.interval is not None and score.n == 1200


def test_zlib_divides_by_the_compressed_text() -> None:
    short = likelihood("1", [-2.0], text="ab")
    long = likelihood("1", [-2.0], text="a longer text that says more")
    assert zlib_loss(short) > zlib_loss(long) > 0


# Missing and odd evidence


def test_rows_without_a_token_are_skipped() -> None:
    evidence = only([likelihood("1", []), likelihood("2", [log(0.5)])])
    score = Probability().score(evidence, "forget")
    assert score.value == pytest.approx(0.5) and score.n == 1
    assert "token" in (Probability().score(only([likelihood("1", [])]), "forget").unavailable or "")
    empty = {("likelihood", s): [likelihood("1", [-1.0], end=1)] for s in ("forget", "holdout")}
    assert MiaLoss().score(Evidence(Observations(empty))).unavailable == "every forget answer is empty"


def test_two_examples_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="share the id"):
        by_example([likelihood("1", [-1.0]), likelihood("1", [-1.0])])


def test_missing_models_and_splits_are_named() -> None:
    evidence = Evidence(observations("original"))
    for metric in (ForgetQuality(), PrivLeak()):
        assert metric.score(evidence).unavailable == "no retrained model was given (--retrained)"
    with pytest.raises(NotAvailable, match=r"there are no holdout rows$"):
        only([likelihood("1", [-1.0])]).rows("likelihood", "holdout", "answer")
    with pytest.raises(NotAvailable, match="no forget paraphrase rows of the likelihood probe"):
        only([likelihood("1", [-1.0])]).rows("likelihood", "forget", "paraphrase")
    half = Evidence(observations("original"), retrained=(Observations({}),))
    assert "of the retrained model" in (ForgetQuality().score(half).unavailable or "")
    assert "of the retrained model" in (PrivLeak().score(half).unavailable or "")
    assert Probability().score(half, "forget", resamples=0).controls == {"retrained": None}


def test_split_where_it_does_not_belong_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="needs a split"):
        Probability().score(world("original"))
    with pytest.raises(UsageError, match="spans several splits"):
        ForgetQuality().score(world("original"), "forget")


def test_truth_ratio_says_how_to_read_it() -> None:
    assert TruthRatio().score(world("original"), "forget").higher_is == "neutral"
    assert TruthRatio().score(world("original"), "retain").higher_is == "knows"
    assert TruthRatio(aggregate="prob_mean").score(world("original"), "forget").higher_is == "knows"
