"""Scores of MUSE, RWKU and RESTOR against independent implementations, written from the papers, on random cases."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from expunge.metrics.accepted import Accepted
from expunge.metrics.base import Evidence, Metric, NotAvailable
from expunge.metrics.forget_curves import slope
from expunge.metrics.knowmem import KnowMem
from expunge.metrics.mean_logp import MeanLogp
from expunge.metrics.membership_score import MembershipScore
from expunge.metrics.ngram_entropy import NgramEntropy, words_of
from expunge.metrics.privleak import PrivLeak, privleak
from expunge.metrics.recovery import Recovery
from expunge.metrics.rouge_l import RougeL
from expunge.metrics.rwku_recall import RwkuRecall
from expunge.records.observation import Observations, Row
from expunge.testing.observed_worlds import generation, likelihood

CASES = 200
WORDS = ("the", "a", "Ann", "ann", "Bob's", "sea", "sea", "42", "re-opened", "U.S.", "café", "(B)", "7", "yes")
BREAKS = ("\n", "\n\n", "\nQuestion: ", " Question: ", ". ", ". ", ", ", "  ")


def text(random: np.random.Generator, longest: int = 8, breaks: bool = True) -> str:
    """Words with marks between them; now and then empty, or one word again and again."""
    kind = random.random()
    if kind < 0.1:
        return "" if kind < 0.05 else " ".join([str(random.choice(WORDS))] * longest)
    found = ""
    for _ in range(int(random.integers(1, longest + 1))):
        mark = str(random.choice(BREAKS)) if random.random() < 0.3 else " "
        found += str(random.choice(WORDS)) + (mark if breaks or "\n" not in mark else " ")
    return found


def pairs(seed: int, breaks: bool = True) -> list[tuple[str, str]]:
    random = np.random.default_rng(seed)
    answers = [text(random, breaks=breaks) for _ in range(CASES)]
    return [(answer or "Ann", text(random, breaks=breaks) + (answer if random.random() < 0.5 else ""))
            for answer in answers]


def each(metric: Metric, rows: Sequence[Row], probe: str = "generation") -> list[float]:
    evidence = Evidence(Observations({(probe, "forget"): list(rows)}))  # type: ignore[dict-item]
    return list(metric.values(evidence, "forget").values())  # type: ignore[attr-defined]


def spoken(cases: Sequence[tuple[str, str]]) -> list[Row]:
    return [generation(f"r{i}", answer, said) for i, (answer, said) in enumerate(cases)]


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence: the matches of a row, from the right, reach one further each."""
    best = [0] * (len(second) + 1)
    for word in first:
        for j in range(len(second), 0, -1):
            if second[j - 1] == word:
                best[j] = max(best[:j]) + 1
    return max(best)


def rouge_f1(answer: str, said: str) -> float:
    """Lin 2004, over words of a-z and 0-9."""
    asked, found = (re.findall("[a-z0-9]+", one.lower()) for one in (answer, said))
    common = longest_common(asked, found)
    return 2 * common / (len(asked) + len(found)) if common else 0.0


def test_verbatim_and_knowledge_memorisation() -> None:
    cases = pairs(0)
    assert each(RougeL(measure="f1", stemmer=False), spoken(cases)) == pytest.approx(
        [rouge_f1(*one) for one in cases], abs=1e-6)
    cut = [(answer, re.split(r"\n\n|\nQuestion|Question:", said)[0]) for answer, said in cases]
    assert each(KnowMem(), spoken(cases)) == pytest.approx([rouge_f1(*one) for one in cut], abs=1e-6)


def test_published_rouge_reads_ascii_alone() -> None:
    cases = [("東京", "東京"), ("...", "..."), ("cafe\u0301", "cafe\u0301"), ("the café", "the caf")]
    for metric in (RougeL(measure="f1", stemmer=False, letters="ascii"), KnowMem(letters="ascii")):
        assert each(metric, spoken(cases)) == [0.0, 0.0, 1.0, 1.0]
        assert "as in the published code" in str(metric.score(
            Evidence(Observations({("generation", "forget"): spoken(cases)})), "forget", resamples=0).remark)
    assert each(KnowMem(), spoken(cases)) == pytest.approx([1.0, 1.0, 1.0])  # "..." is left out


def tokens(random: np.random.Generator, id: str) -> Row:
    """A row with the log-probabilities of a random model at each of its tokens."""
    count = int(random.integers(5, 40))
    logp_TV = np.log(random.dirichlet(np.ones(7), count))
    mean_T = (np.exp(logp_TV) * logp_TV).sum(1)
    var_T = (np.exp(logp_TV) * (logp_TV - mean_T[:, None]) ** 2).sum(1)
    said = "".join(random.choice(list("abcé "), count))
    return likelihood(id, logp_TV[:, 0].tolist(), text=said, mean=mean_T.tolist(), var=var_T.tolist())


def lowest(values: Sequence[float], k: float) -> float:
    ordered = sorted(values)
    return math.fsum(ordered[: int(len(ordered) * k)]) / int(len(ordered) * k)


def test_membership_scores() -> None:
    random = np.random.default_rng(1)
    rows = [tokens(random, f"t{i}") for i in range(CASES)]
    loss = [-math.fsum(row["logp"]) / len(row["logp"]) for row in rows]
    standard = [[(p - m) / math.sqrt(v) for p, m, v in zip(row["logp"], row["mean"], row["var"], strict=True)]
                for row in rows]
    expected = {"loss": loss, "min_k": [-lowest(row["logp"], 0.2) for row in rows],
                "min_k_pp": [-lowest(one, 0.2) for one in standard],
                "zlib": [one / len(zlib.compress(row["text"].encode())) for one, row in zip(loss, rows, strict=True)]}
    for score, values in expected.items():
        assert each(MembershipScore(score=score), rows, "likelihood") == pytest.approx(values, abs=1e-6)


def test_privacy_leakage() -> None:
    random = np.random.default_rng(2)

    def observed() -> tuple[Observations, float]:
        """And the share of pairs whose holdout text has the larger Min-40%, of ties the half."""
        sides = {side: [tokens(random, f"{side}{i}") for i in range(15)] for side in ("forget", "holdout")}
        sides["holdout"] += [{**row, "id": f"again{row['id']}"} for row in sides["forget"][:3]]
        forget, holdout = ([lowest(row["logp"], 0.4) for row in rows] for rows in sides.values())
        won = sum(float(out > own) + 0.5 * float(out == own) for own in forget for out in holdout)
        return (Observations({("likelihood", side): rows for side, rows in sides.items()}),  # type: ignore[misc]
                won / (len(forget) * len(holdout)))

    for _ in range(10):
        (own, area), (gold, kept) = observed(), observed()
        expected = 100 * (area - kept) / kept
        assert PrivLeak().score(Evidence(own, retrained=(gold,)), resamples=0).value == pytest.approx(
            expected, abs=1e-6)
        # MUSE stores the AUC of its retrained model; then none has to be given.
        alone = PrivLeak(retrained_auc=kept).score(Evidence(own), resamples=10)
        assert alone.value == pytest.approx(expected, abs=1e-6) and alone.interval is not None
    assert "retrained" in PrivLeak().needs and "retrained" not in PrivLeak(retrained_auc=0.5).needs
    assert privleak(0.9, 0.002) == pytest.approx(100 * (0.9 - 0.002) / 0.002, abs=1e-9)


def test_scalability_and_sustainability() -> None:
    random = np.random.default_rng(3)
    for _ in range(CASES):
        sizes, values = random.permutation(9)[:4], random.random(4)
        assert slope(sizes.tolist(), values.tolist()) == pytest.approx(np.polyfit(sizes, values, 1)[0], abs=1e-6)


def union_recall(answer: str, said: str) -> float:
    """Summary-level ROUGE-L recall in different words, as the package `rouge` counts: of several longest
    subsequences it takes the one whose path from the end drops a word of the text where both ways are as long."""
    asked, found = ([" ".join(part.split()).split(" ") for part in one.split(".") if part] for one in (answer, said))
    union: set[str] = set()
    for reference in asked:
        for sentence in found:
            i, j = len(reference), len(sentence)
            while i > 0 and j > 0:
                if reference[i - 1] == sentence[j - 1]:
                    union.add(reference[i - 1])
                    i, j = i - 1, j - 1
                    continue
                above, before = (longest_common(reference[:a], sentence[:b]) for a, b in ((i - 1, j), (i, j - 1)))
                i, j = (i - 1, j) if above > before else (i, j - 1)
    return len(union) / len({word for reference in asked for word in reference})


def test_recall_of_rwku() -> None:
    cases = [(answer, said) for answer, said in pairs(4, breaks=False)[:60] if answer.strip(" .")]
    expected = [union_recall(answer, said.strip()) for answer, said in cases]
    assert each(RwkuRecall(), spoken(cases)) == pytest.approx(expected, abs=1e-6)
    assert 0.1 < np.mean(expected) < 0.9
    broken = [(answer, f"\n{said}\nAnn") for answer, said in cases]
    assert set(each(RwkuRecall(), spoken(broken))) == {0.0}, "the first line is empty"
    assert each(RwkuRecall(lines="all"), spoken(broken)) == pytest.approx(
        [union_recall(answer, f"{said.strip()} Ann") for answer, said in cases], abs=1e-6)


def bits(items: Sequence[Any]) -> float:
    counts = [len(list(same)) for _, same in groupby(sorted(items))]
    return -math.fsum(n / len(items) * math.log(n / len(items), 2) for n in counts)


def test_fluency_of_rwku() -> None:
    cases = pairs(5)
    expected = []
    for _, said in cases:
        words = words_of(said)
        two, three = ([tuple(words[i: i + n]) for i in range(len(words) - n + 1)] for n in (2, 3))
        expected.append((2 * bits(two) + 4 * bits(three)) / 6)
    assert each(NgramEntropy(), spoken(cases)) == pytest.approx(expected, abs=1e-6)


def test_fluency_by_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    row = spoken([("", "One. Two. One. Two. Three")])
    monkeypatch.setattr(nltk, "word_tokenize", lambda said: said.replace(".", " .").split())
    assert each(NgramEntropy(sentences=True), row) != each(NgramEntropy(), row)

    def no_data(said: str) -> None:
        raise LookupError

    monkeypatch.setattr(nltk, "word_tokenize", no_data)
    with pytest.raises(NotAvailable, match="punkt_tab"):
        each(NgramEntropy(sentences=True), row)


def squad(said: str) -> list[str]:
    """Lower case, no marks, no articles."""
    return [w for w in re.sub(r"[!-/:-@\[-`{-~]", "", said.lower()).split() if w not in ("a", "an", "the")]


def test_factuality_of_rwku() -> None:
    cases = [one for one in pairs(6) if re.search(r"\w", one[0])]
    f1, exact = [], []
    for answer, said in cases:
        asked, left = squad(answer), squad(said)
        size, common = len(asked) + len(left), 0
        for word in asked:
            if word in left:
                left.remove(word)
                common += 1
        f1.append(2 * common / size if asked and size > len(asked) else float(not size))
        exact.append(float(asked == squad(said)))
    assert each(Accepted(measure="f1"), spoken(cases)) == pytest.approx(f1, abs=1e-6)
    assert each(Accepted(measure="exact"), spoken(cases)) == exact


@pytest.mark.parametrize(("answer", "said", "exact", "character"), [
    ("(B)", "So the answer is (B). Yes", 1, 1), ("(B)", "B", 1, 1), ("Yes", "The answer is yes.", 1, 0),
    ("42", "42", 1, 0), ("7", "7", 1, 1), ("(A)", "", 0, 0), ("(A)", "the answer is .", 0, 0), ("(B)", "the", 0, 1)])
def test_reasoning_of_rwku(answer: str, said: str, exact: float, character: float) -> None:
    """RWKU's code meets a right answer of one character only; an empty answer is none, even to "(A)"."""
    row = spoken([(answer, said)])
    assert [each(Accepted(measure=measure, reasoned=True), row) for measure in ("exact", "character")] == [
        [exact], [character]]


def test_accuracy_and_recovery_of_restor() -> None:
    random = np.random.default_rng(7)
    models, shares = [], []
    for share in (0.5, 0.1, 0.9):  # unlearned, corrupted, clean
        right = random.random(CASES) < share
        rows = [generation(f"r{i}", f"name{i}", f"\n It was NAME{i}, I think.\nname" if ok else f"name {i}\nname{i}")
                for i, ok in enumerate(right)]
        assert each(Accepted(), rows) == right.astype(float).tolist()
        models.append(Observations({("generation", "neighbour"): rows}))
        shares.append(right.sum() / CASES)
    unlearned, corrupted, clean = shares
    found = Recovery().score(Evidence(models[0], original=models[1], retrained=(models[2],)), "neighbour", resamples=0)
    assert found.value == pytest.approx((unlearned - corrupted) / (clean - corrupted), abs=1e-6)


def test_beliefs_of_restor() -> None:
    random = np.random.default_rng(8)
    rows, expected = [], []
    for i in range(CASES):
        options = [random.normal(-3, 1, int(random.integers(1, 6))).tolist() for _ in range(3)]
        rows += [likelihood(f"r{i}", [*one, -9.0], "wrong", end=1, index=j) for j, one in enumerate(options)]
        expected.append(sum(math.fsum(one) / len(one) for one in options) / 3)
    assert each(MeanLogp(form="wrong"), rows, "likelihood") == pytest.approx(expected, abs=1e-6)


