"""The formulas again, as literally as they are printed: plain Python loops, no numpy, no sharing.

Slow on purpose and written without looking at the package; the tests hold the two side by side.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Row = Any


def p_bar(row: Row) -> float | None:
    if not row["logp"]:
        return None
    total = 0.0
    for value in row["logp"]:
        total += value
    return math.exp(total / len(row["logp"]))


def ids(rows: Sequence[Row]) -> list[str]:
    found: list[str] = []
    for row in rows:
        if row["id"] not in found:
            found.append(row["id"])
    return found


def p_bars(rows: Sequence[Row], id: str, form: str) -> list[float]:
    found = []
    for row in rows:
        if row["id"] == id and row["form"] == form and (p := p_bar(row)) is not None:
            found.append(p)
    return found


def mean(values: Sequence[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def geometric(values: Sequence[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return product ** (1 / len(values))


def probability(rows: Sequence[Row], utility: bool, added: float = 0.0) -> list[float]:
    found = []
    for id in ids(rows):
        answer, wrong = p_bars(rows, id, "answer"), p_bars(rows, id, "wrong")
        if answer and not utility:
            found.append(answer[0])
        if answer and utility and wrong:
            found.append(answer[0] / (answer[0] + sum(wrong) + added))
    return found


def truth_ratio(rows: Sequence[Row], variant: str) -> list[tuple[float, float, float]]:
    """(the variant's own ratio, wrong, right) per example."""
    found = []
    for id in ids(rows):
        right = p_bars(rows, id, "paraphrase") or p_bars(rows, id, "answer")
        wrong = p_bars(rows, id, "wrong")
        if not right or not wrong:
            continue
        average = mean if variant == "arithmetic" else geometric
        w, r = average(wrong), average(right)
        ratio = {"arithmetic": w / r, "legacy": r / w, "geometric": w / (r + 1e-10)}[variant]
        found.append((ratio, w, r))
    return found


def truth_score(rows: Sequence[Row], variant: str, aggregate: str) -> list[float]:
    found = []
    for ratio, wrong, right in truth_ratio(rows, variant):
        if aggregate == "closer_to_1":
            found.append(min(ratio, 1 / ratio))
        elif aggregate == "true_better":
            found.append(max(0.0, 1 - (1 / ratio if variant == "legacy" else ratio)))
        else:
            found.append(right / (right + wrong + (1e-10 if variant == "geometric" else 0)))
    return found


def exact_memorization(rows: Sequence[Row]) -> list[float]:
    found = []
    for row in rows:
        length = len(row["logp"]) - row["end"]
        if row["form"] == "answer" and length > 0:
            count = 0
            for t in range(length):
                if row["hit"][t]:
                    count += 1
            found.append(count / length)
    return found


def extraction_strength(rows: Sequence[Row]) -> list[float]:
    found = []
    for row in rows:
        length = len(row["logp"]) - row["end"]
        if row["form"] != "answer" or length == 0:
            continue
        for k in range(length + 1):
            if all(row["hit"][t] for t in range(k, length)):
                found.append(1 - k / length)
                break
    return found


def accuracy(rows: Sequence[Row]) -> list[float]:
    found = []
    for id in ids(rows):
        options = [r for r in rows if r["id"] == id and r["form"] == "option" and r["logp"]]
        if len(options) < 2 or not any(r["correct"] for r in options):
            continue
        best = max(options, key=lambda r: sum(r["logp"]) / len(r["logp"]))
        found.append(1.0 if best["correct"] else 0.0)
    return found


def lcs(a: Sequence[str], b: Sequence[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + lcs(a[:-1], b[:-1])
    return max(lcs(a[:-1], b), lcs(a, b[:-1]))


def rouge_recall(rows: Sequence[Row]) -> list[float]:
    """For texts of short lower-case words, which neither the tokenizer nor the stemmer changes."""
    found = []
    for row in rows:
        reference = row["reference"].split()
        if reference:
            found.append(lcs(reference, row["text"].split()) / len(reference))
    return found


def _text_tokens(row: Row, key: str) -> list[float]:
    found = list(row[key])
    for _ in range(row["end"]):
        found.pop()
    return found


def _lowest(values: list[float], k: float) -> float:
    count = math.floor(k * len(values))
    if count < 1:
        count = 1
    return mean(sorted(values)[:count])


def loss(row: Row, k: float = 0.4, tokens: str = "text") -> float:
    return -mean(_text_tokens(row, "logp") if tokens == "text" else row["logp"])


def zlib_loss(row: Row, k: float = 0.4, tokens: str = "text") -> float:
    return loss(row, k, tokens) / len(zlib.compress(row["text"].encode()))


def _of_lowest(row: Row, key: str, tokens: str) -> list[float]:
    """OpenUnlearning takes the index of every labelled token but the last."""
    if tokens == "openunlearning":
        return [row[key][i] for i in range(len(row[key]) - 1)]
    return list(row[key]) if tokens == "all" else _text_tokens(row, key)


def min_k(row: Row, k: float = 0.4, tokens: str = "text") -> float:
    values = _of_lowest(row, "logp", tokens)
    return -_lowest(values, k) if values else 0.0


def min_k_pp(row: Row, k: float = 0.4, tokens: str = "text") -> float:
    z = []
    for logp, mu, var in zip(*(_of_lowest(row, key, tokens) for key in ("logp", "mean", "var")), strict=True):
        z.append((logp - mu) / math.sqrt(max(var, 1e-6)))
    return -_lowest(z, k) if z else 0.0


def membership_auc(forget: Sequence[Row], holdout: Sequence[Row], score: Callable[..., float],
                   k: float = 0.4, tokens: str = "text") -> float:
    """P(the holdout row scores higher) + ties / 2."""
    sides = [[score(r, k, tokens) for r in rows if r["form"] == "answer" and len(r["logp"]) > r["end"]]
             for rows in (forget, holdout)]
    won = 0.0
    for f in sides[0]:
        for h in sides[1]:
            won += 1.0 if h > f else 0.5 if h == f else 0.0
    return won / (len(sides[0]) * len(sides[1]))


def ks_pvalue(x: Sequence[float], y: Sequence[float]) -> float:
    """Share of all orderings of n + m values whose greatest gap is at least the observed one.

    Lattice paths that stay strictly below the gap are counted with integers.
    """
    n, m = len(x), len(y)

    def steps_apart(i: int, j: int) -> int:
        return abs(i * m - j * n)

    gap = 0
    for value in [*x, *y]:
        gap = max(gap, steps_apart(sum(v <= value for v in x), sum(v <= value for v in y)))
    paths = {(0, 0): 1 if gap > 0 else 0}
    for i in range(n + 1):
        for j in range(m + 1):
            if (i, j) != (0, 0):
                inside = steps_apart(i, j) < gap
                paths[i, j] = (paths.get((i - 1, j), 0) + paths.get((i, j - 1), 0)) if inside else 0
    return float(1 - paths[n, m] / math.comb(n + m, n))


def harmonic_mean(values: Sequence[float]) -> float:
    if any(v == 0 for v in values):
        return 0.0
    return len(values) / sum(1 / v for v in values)


def model_utility(likelihood: dict[str, Sequence[Row]], generation: dict[str, Sequence[Row]],
                  variant: str = "arithmetic") -> float:
    numbers = []
    for split in ("retain", "utility"):
        for group in sorted({r["group"] for r in likelihood[split]}):
            rows = [r for r in likelihood[split] if r["group"] == group]
            said = [r for r in generation[split] if r["group"] == group]
            numbers.append(mean(probability(rows, split == "utility", 1e-10 if variant == "geometric" else 0.0)))
            numbers.append(mean(rouge_recall(said)))
            numbers.append(mean(truth_score(rows, variant, "true_better")))
    return harmonic_mean(numbers)
