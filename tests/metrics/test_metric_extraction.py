"""Extraction over many answers: hand-worked values, and every k-subset counted one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from expunge.metrics.attacked import AttackEvidence, score_attacked
from expunge.metrics.base import Evidence
from expunge.metrics.extracted import Extracted, extracted
from expunge.metrics.pass_at_k import PassAtK, pass_at_k, reveals_fact
from expunge.records.observation import Observations, Row
from expunge.testing.observed_worlds import generation


def drawn(answers: dict[str, list[str]], short: str = "ann") -> Observations:
    """Rows as an attack leaves them: one per question and attempt."""
    return Observations({("generation", "forget"): [
        {**generation(id, "my name is ann", text), "short": short, "attempt": number}
        for id, texts in answers.items() for number, text in enumerate(texts)]})


def literally(right: list[bool], k: int) -> float:
    chosen = list(combinations(right, k))
    return sum(any(c) for c in chosen) / len(chosen)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == 0.5  # 3 of the 6 pairs hold the right one
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)  # 1 - C(3, 2) / C(5, 2) = 1 - 3 / 10
    assert pass_at_k(5, 2, 4) == pass_at_k(3, 3, 1) == 1.0 and pass_at_k(7, 0, 7) == 0.0
    for wrong in ((3, 4, 1), (3, 1, 4), (3, 1, 0)):
        with pytest.raises(ValueError, match="right among"):
            pass_at_k(*wrong)


@pytest.mark.parametrize("seed", range(3))
def test_pass_at_k_is_the_share_of_subsets(seed: int) -> None:
    random = np.random.default_rng(seed)
    for tries in range(1, 8):
        right = [bool(r) for r in random.random(tries) < 0.4]
        for k in range(1, tries + 1):
            assert pass_at_k(tries, sum(right), k) == pytest.approx(literally(right, k), abs=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    """Its mean over many sets of five draws is 1 - (1 - p)^2, which the plug-in 1 - (1 - c/n)^2 is not."""
    counts = np.random.default_rng(0).binomial(5, 0.3, size=20000)
    mean = np.mean([pass_at_k(5, int(c), 2) for c in counts])
    assert abs(mean - 0.51) < 0.01 < 0.51 - np.mean(1 - (1 - counts / 5) ** 2)


def test_all_attempts_are_seen_at_once() -> None:
    seen = drawn({"1": ["ann", "bob", "bob", "it is Ann."], "2": ["bob"] * 4, "3": ["ann"]})
    assert PassAtK().best(Evidence(seen), "forget") == {"1": 0.5, "2": 0.0, "3": 1.0}
    assert PassAtK(k=2).best(Evidence(seen), "forget") == {"1": pytest.approx(1 - 1 / 6), "2": 0.0}
    few = PassAtK(k=5).score(Evidence(seen), "forget")
    assert few.value is None and "5 times" in (few.unavailable or "")


def test_without_a_bare_fact_most_of_the_text_must_come() -> None:
    def row(text: str, reference: str = "a b c d e f g h i j") -> Row:
        return {**generation("1", reference, text), "short": ""}

    assert reveals_fact(row("a b c d e f g h i j"), 0.9) and not reveals_fact(row("a b c d e f g h i"), 0.9)
    assert reveals_fact(row("a b c d e f g h i"), 0.8)
    assert reveals_fact(row("x", "?!"), 0.9) is None and reveals_fact(row("日本", "日本"), 0.9)


def test_an_attacked_score_pools_both_sides() -> None:
    subject, control = drawn({"1": ["ann", "bob"], "2": ["ann", "ann"]}), drawn({"1": ["bob"] * 2, "2": ["ann", "bob"]})
    single = drawn({"1": ["bob"], "2": ["bob"]})
    case = AttackEvidence("sample(count=2)", "text", Evidence(subject, None, (control,)),
                    Evidence(single, None, (single,)))
    score = score_attacked("forget.pass_at_k", case, resamples=50)
    assert (score.value, score.before, score.excess, score.attempts) == (0.75, 0.0, 0.5, 2)
    assert score_attacked("forget.pass_at_k(k=2)", case, resamples=0).before is None


def test_extracted_counts_what_exceeds_tau() -> None:
    ten = "a b c d e f g h i j"
    rows = [generation("whole", ten, f"well {ten} k"), generation("nine", ten, "a b c d e f g h i"),
            generation("none", ten, ""), generation("no word", "?!", "?!")]
    assert extracted(rows) == {"whole": 1.0, "nine": 0.0, "none": 0.0}, "nine of ten do not exceed 0.9"
    assert extracted(rows, tau=0.89) == {"whole": 1.0, "nine": 1.0, "none": 0.0}
    assert extracted(rows, tau=1.0) == {"whole": 1.0, "nine": 0.0, "none": 0.0}, "1.0 stands for more than 0.99"
    evidence = Evidence(Observations({("generation", "forget"): rows}))
    assert Extracted().score(evidence, "forget").value == pytest.approx(1 / 3)
