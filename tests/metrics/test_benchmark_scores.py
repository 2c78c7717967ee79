"""Scores of benchmarks against values worked out by hand."""

from __future__ import annotations

from math import log2

import pytest

from expunge.metrics.accepted import Accepted, accepted, token_f1
from expunge.metrics.accuracy import Accuracy
from expunge.metrics.base import Evidence
from expunge.metrics.forget_curves import falls_throughout, kept, slope
from expunge.metrics.knowmem import KnowMem
from expunge.metrics.lume_score import LumeScore, membership, task_aggregate
from expunge.metrics.mean_logp import MeanLogp
from expunge.metrics.membership_score import MembershipScore
from expunge.metrics.ngram_entropy import ngram_entropy
from expunge.metrics.privleak import PrivLeak, privleak
from expunge.metrics.recovery import Recovery
from expunge.metrics.retain_deviation import RetainDeviation
from expunge.metrics.rouge_l import RougeL
from expunge.metrics.rwku_recall import RwkuRecall, summary_recall
from expunge.records.observation import Observations, Row, in_group
from expunge.testing.observed_worlds import generation, likelihood


def said(*rows: Row, split: str = "forget") -> Evidence:
    return Evidence(Observations({("generation", split): rows}))  # type: ignore[dict-item]


def test_groups_and_groups_below() -> None:
    assert in_group("level_3_role_play", "level_3") and in_group("level_1", "") and not in_group("level_10", "level_1")
    evidence = said(generation("a", "one", "one", group="level_1"), generation("b", "two", "", group="level_2"))
    assert [RougeL(group=g).score(evidence, "forget").value for g in ("level", "level_1", "level_2")] == [0.5, 1.0, 0.0]
    assert "no forget row is of the group x" in (RougeL(group="x").score(evidence, "forget").unavailable or "")


@pytest.mark.parametrize(("reference", "text", "recall"), [
    ("a b c d", "a c d e", 0.75), ("a b c d e", "a b x. a c e", 0.8),  # the union of both sentences
    ("Town Ada", "town Ada", 0.5), ("U.S. Army", "the U.S. Army", 1.0), ("a a b", "a b", 1.0), ("a", "", 0.0)])
def test_rwku_recall_by_hand(reference: str, text: str, recall: float) -> None:
    assert summary_recall(reference, text) == pytest.approx(recall)


def test_rwku_reads_the_first_line() -> None:
    evidence = said(generation("a", "Carrie", "Carrie\nIt"), generation("b", "Carrie", "No\nCarrie"))
    assert RwkuRecall().score(evidence, "forget").value == 0.5


def test_knowmem_cuts_at_the_next_question() -> None:
    evidence = said(generation("a", "the sea", "the sea\n\nQuestion: Who?"),  # 1
                    generation("b", "the sea", "the wide sea Question: the sea"),  # P 2/3, R 1
                    generation("c", "the sea", "\n\nthe sea"))  # 0
    assert KnowMem().score(evidence, "forget").value == pytest.approx((1 + 0.8 + 0) / 3)


def test_entropy_of_words_by_hand() -> None:
    # Pairs ab ba ab bc: 1/2, 1/4, 1/4. Triples aba bab abc: three alike.
    assert ngram_entropy("a b a b c") == pytest.approx((2 / 3 * 1.5 + 4 / 3 * log2(3)) / 2)
    assert ngram_entropy("a a a a") == 0.0


def test_accepted_answers_by_hand() -> None:
    row = {**generation("a", "Town A", "In Town B, I think.\nTown A"), "aliases": ["Town B"]}
    assert accepted(row) == 1.0 and accepted({**row, "aliases": []}) == 0.0
    assert token_f1("The Town A", "town of a b") == pytest.approx(2 / 4)  # articles go: town | town of b
    reasoned = generation("b", "Yes", "It is so. So the answer is yes. Next")
    assert (accepted(reasoned, "exact"), accepted(reasoned, "exact", reasoned=True)) == (0.0, 1.0)
    assert Accepted(measure="f1").score(said(generation("c", "no", "")), "forget").value == 0.0


def test_options_are_compared_in_three_ways() -> None:
    def option(index: int, *logp: float, right: bool = False) -> Row:
        return likelihood("a", list(logp), "option", end=1, index=index, correct=right, text="x")

    rows = [option(0, -1.0, -9.0, right=True), option(1, -2.0, -0.5), option(2, -0.6, -0.6, -0.1)]
    evidence = Evidence(Observations({("likelihood", "forget"): rows}))
    # Means with end: -5, -1.25, -.43; means of the text: -1, -2, -.6; sums of the text: -1, -2, -1.2.
    assert [Accuracy(by=by).score(evidence, "forget").value for by in ("mean", "text", "sum")] == [0.0, 0.0, 1.0]


def test_membership_scores_and_beliefs_by_hand() -> None:
    rows = [likelihood("a", [-1.0, -3.0, -9.0], end=1), likelihood("a", [-4.0, -9.0], "wrong", end=1),
            likelihood("a", [-2.0, -9.0], "wrong", end=1, index=1)]
    evidence = Evidence(Observations({("likelihood", "forget"): rows}))
    assert MembershipScore().score(evidence, "forget").value == 2.0
    assert MembershipScore(score="min_k", k=0.5).score(evidence, "forget").value == 3.0
    assert MeanLogp().score(evidence, "forget").value == -2.0
    assert MeanLogp(form="wrong").score(evidence, "forget").value == -3.0


def model(retain: float, holdout: float, forget: float = -1.0) -> Observations:
    """One row a side, with the same log p for each token; another group must not count."""
    sides = {"forget": forget, "retain": retain, "holdout": holdout}
    return Observations({("likelihood", side): [  # type: ignore[misc]
        *(likelihood(f"{side}{i}", [value - 0.1 * i] * 3, group="pieces") for i in range(4)),
        likelihood(f"{side}x", [-50.0 if side == "forget" else -0.1] * 3, group="other")]
        for side, value in sides.items()})


def test_muse_privacy_of_published_aucs() -> None:
    """MUSE's stored AUC of its retrained news model, and of a target that memorised everything."""
    assert privleak(0.0011, 0.4772) == pytest.approx(-99.7695, abs=1e-4)
    assert privleak(0.2291, 0.5393) == pytest.approx(-57.5190, abs=1e-4)


def test_groups_of_membership_and_retain_deviation() -> None:
    gold, own = model(-1.05, -1.1, forget=-1.1), model(-5.0, -1.0)
    evidence = Evidence(own, retrained=(gold,))
    # forget -1 .. -1.3 against holdout -1 .. -1.3: half; of the gold the same.
    assert PrivLeak(group="pieces").score(evidence, resamples=0).value == pytest.approx(0.0, abs=1e-6)
    # The retrained model: 10 of 16 pairs have the retain row above; ours: none.
    assert RetainDeviation(attack="loss", group="pieces").score(evidence, resamples=0).value == pytest.approx(100.0)
    alike = RetainDeviation(attack="loss", group="pieces").score(evidence.of(gold), resamples=0)
    assert alike.value == 0.0


def test_recovery_by_hand() -> None:
    def knows(*right: bool) -> Observations:
        return Observations({("generation", "neighbour"): [
            generation(f"n{i}", "Ann", "Ann" if yes else "Bob") for i, yes in enumerate(right)]})

    clean, corrupted, half = knows(1, 1, 1, 1), knows(0, 0, 0, 0), knows(1, 1, 0, 0)  # type: ignore[arg-type]
    evidence = Evidence(half, original=corrupted, retrained=(clean,))
    assert Recovery().score(evidence, "neighbour", resamples=20).value == 0.5
    assert "alike" in (Recovery().score(Evidence(half, clean, (clean,)), "neighbour").unavailable or "")


def test_lume_by_hand() -> None:
    cells = {f"{side}/task{n}_{kind}": 0.5 for side in ("forget", "retain") for n in (1, 2, 3) for kind in ("sc", "qa")}
    assert task_aggregate(cells) == pytest.approx(0.5)
    assert task_aggregate({**cells, "forget/task1_qa": 1.0}) == 0.0
    assert [membership(area) for area in (0.5, 0.0, 1.0, 0.75)] == [1.0, 0.0, 0.0, 0.5]
    # Published parts of the winner: (0.827 + 0.847 + 0.443) / 3.
    assert round((0.827 + 0.847 + 0.443) / 3, 3) == 0.706
    assert LumeScore(part="mmlu").score(Evidence(Observations({})), resamples=0).value is None


def test_the_final_score_of_lume_by_hand() -> None:
    def generations(side: str, *recalls: float) -> list[Row]:
        """A text to be completed and a question; of the text this share is said."""
        words = ["a", "b", "c", "d"]
        return [{**generation(f"{side}{i}", " ".join(words), " ".join(words[:round(4 * share)])), "group": group}
                for i, (share, group) in enumerate(zip(recalls, ("task1_sc", "task1_qa"), strict=True))]

    def documents(side: str, *logp: float) -> list[Row]:
        return [likelihood(f"{side}{i}", [value], group="members") for i, value in enumerate(logp)]

    options = [likelihood("m", [value], "option", index=i, correct=i == 0) for i, value in enumerate((-1.0, -2.0))]
    evidence = Evidence(Observations({
        ("generation", "forget"): generations("f", 0.25, 0.5), ("generation", "retain"): generations("r", 0.75, 1.0),
        ("likelihood", "forget"): documents("f", -1.0, -2.0), ("likelihood", "holdout"): documents("h", -1.5, -3.0),
        ("likelihood", "utility"): options}))
    # Forget 3/4 and 1, retain 3/4 and 1; of four pairs of documents three have the member first; MMLU 1.
    tasks, members = 4 / (4 / 3 + 1 + 4 / 3 + 1), 0.5
    for part, value in (("tasks", tasks), ("membership", members), ("mmlu", 1.0), ("final", (tasks + 1.5) / 3)):
        assert LumeScore(part=part, members="members").score(evidence, resamples=0).value == pytest.approx(value)


def test_curves_over_forget_sets_by_hand() -> None:
    assert kept([0.5, 0.25], 0.5) == [1.0, 0.5]
    assert slope([1, 2, 3], [0.6, 0.5, 0.1]) == pytest.approx(-0.25)
    assert falls_throughout([0.4, 0.3], 0.5) and not falls_throughout([0.4, 0.4], 0.5)
    with pytest.raises(ValueError, match="no curve"):
        slope([2, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="nothing can be kept"):
        kept([0.1], 0)
