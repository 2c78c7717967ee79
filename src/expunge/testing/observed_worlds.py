"""Made-up observations: single rows, random ones with every oddity, and whole worlds.

perfect     every answer known with certainty, holdout never seen
original    what was trained on is known well, holdout is not
retrained   as original, but the forget rows look like holdout rows ("retrained again": another such model)
collapsed   as after too much ascent: wrong answers preferred, nothing said, on everything but holdout
uniform     every token of every text equally likely
sure        as original, with sharper distributions on what was trained on
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

import numpy as np

from expunge.metrics.base import Evidence
from expunge.records.observation import Observations, Row
from expunge.records.task import SPLITS, Split

from .observed_internals import internals, traces, weights

WORDS = ["ann", "bob", "cat", "dog", "elm", "fox", "gem", "hat", "ink", "jam"]
SIZES: dict[Split, int] = {"forget": 100, "retain": 40, "holdout": 100, "neighbour": 20, "utility": 40}
GROUPS: dict[Split, tuple[str, ...]] = {
    "utility": ("real_authors", "world_facts"),
    "neighbour": ("paraphrase", "base", "same_answer", "multi_hop", "multi_hop_test")}
WORLDS = ("perfect", "original", "retrained", "collapsed", "uniform")


def likelihood(id: str, logp: list[float], form: str = "answer", *, end: int = 0, group: str = "",
               text: str = "", index: int = 0, correct: bool | None = None, hit: list[bool] | None = None,
               mean: list[float] | None = None, var: list[float] | None = None) -> Row:
    return {
        "id": id, "entity": "", "group": group, "form": form, "index": index,
        "correct": form in ("answer", "paraphrase") if correct is None else correct,
        "text": text, "logp": logp, "mean": mean or [-2.0] * len(logp), "var": var or [1.0] * len(logp),
        "hit": [True] * len(logp) if hit is None else hit, "end": end,
    }


def generation(id: str, reference: str, text: str, *, group: str = "", form: str = "prompt") -> Row:
    return {"id": id, "entity": "", "group": group, "form": form, "index": 0, "prompt": "?",
            "reference": reference, "short": reference, "text": text, "stopped": True}


def gradient(answer: Row) -> Row:
    """As large as the loss, which a gradient follows."""
    return {"id": answer["id"], "entity": "", "group": answer["group"], "form": "answer",
            "norm": -sum(answer["logp"]) / len(answer["logp"])}


def world(name: str, retrained: bool = True) -> Evidence:
    gold = (observations("retrained"), observations("retrained again")) if retrained else ()
    return Evidence(observations(name), observations("original"), gold)


def rows_of(observations: Observations) -> dict[tuple[str, Split], tuple[Row, ...]]:
    """All rows by (probe, split), to make changed copies from."""
    pairs = observations.keys()
    return {pair: observations.rows(*pair) for pair in pairs}


@cache
def observations(name: str) -> Observations:
    plain = name.removesuffix(" again").replace("sure", "original")
    rows: dict[tuple[str, Split], list[Row]] = {
        ("weights", "forget"): weights(plain), ("value_vectors", "forget"): traces(plain)}
    name, again = name.removesuffix(" again"), " again" * name.endswith(" again")
    for split in SPLITS:
        # One generator per split, so that what two worlds share is the same in both.
        random = np.random.default_rng(zlib.crc32(f"{split}{again}".encode()))
        state = _state(name, split)
        for i in range(SIZES[split]):
            groups = GROUPS.get(split, ("",))
            group = groups[i % len(groups)]
            made, spoken = _example(state, f"{split}-{i}", i, group, random)
            rows.setdefault(("likelihood", split), []).extend(made)
            rows.setdefault(("gradient", split), []).append(gradient(made[0]))
            rows.setdefault(("generation", split), []).append(spoken)
            inside = name.replace("sure", "original"), state.replace("sure", "original")
            for probe, row in internals(inside[0], inside[1], split, f"{split}-{i}", again).items():
                rows.setdefault((probe, split), []).append(row)
    return Observations(rows)


def _state(name: str, split: Split) -> str:
    if name == "uniform":
        return "uniform"
    if name == "hiding":
        name = "collapsed" if split == "forget" else "original"
    unseen = split == "holdout" or (name == "retrained" and split == "forget")
    return "unseen" if unseen else "original" if name == "retrained" else name


def _example(state: str, id: str, i: int, group: str, random: np.random.Generator) -> tuple[list[Row], Row]:
    sure, state = state == "sure", "original" if state == "sure" else state
    text = " ".join(WORDS[(i * 7 + j * 3) % 10] for j in range(3 + i % 5))
    length = 3 + i % 5

    def tokens(right: bool) -> list[float]:
        noise = random.exponential(size=length + 1)
        level = {"perfect": 0 * noise - (0 if right else 50), "original": -(0.1 if right else 2) * noise,
                 "unseen": -1.5 * noise, "collapsed": -(8 if right else 5) - noise,
                 "uniform": 0 * noise - 2}[state]
        return [float(v) for v in level]

    def row(form: str, right: bool, index: int = 0) -> Row:
        chance = {"perfect": 1.0, "original": 0.95, "unseen": 0.4}.get(state, 0.0)
        hit = [bool(v) for v in random.random(length + 1) < chance]
        return likelihood(id, tokens(right), form, end=1, group=group, text=text, index=index,
                          correct=right, hit=hit, mean=[-0.1] * (length + 1) if sure else None)

    made = [row("answer", True), row("paraphrase", True)]
    made += [row("wrong", False, k) for k in range(3)]
    made += [row("option", k == 0, k) for k in range(4)]
    words = text.split()
    said = {"perfect": words, "original": words, "unseen": words[: len(words) // 2]}.get(state, [])
    return made, generation(id, text, " ".join(said), group=group)


def odd(seed: int, split: Split = "forget", count: int = 25) -> dict[tuple[str, Split], list[Row]]:
    """Random rows with odd lengths, empty answers, end = 0, missing paraphrases and wrong answers."""
    random = np.random.default_rng([seed, SPLITS.index(split)])
    rows: dict[tuple[str, Split], list[Row]] = {("likelihood", split): [], ("generation", split): []}

    def row(id: str, form: str, **more: Any) -> Row:
        length, end = int(random.integers(0, 8)), int(random.integers(0, 2))
        length = max(length, 1) if id.endswith("-0") else length
        total = length + end
        return likelihood(
            id, (-random.exponential(2, total)).tolist(), form, end=end,
            text=" ".join(random.choice(WORDS, length)), hit=[bool(v) for v in random.random(total) < 0.6],
            mean=(-random.exponential(2, total)).tolist(),
            var=(random.exponential(1, total) * random.integers(0, 2, total)).tolist(), **more)

    for i in range(count):
        id, group = f"{split}-{i}", f"group{i % 2}" if split == "utility" else ""
        plenty = i < 4
        found = [row(id, "answer", group=group)]
        found += [row(id, "paraphrase", index=k, group=group) for k in range(int(random.integers(0, 3)))]
        wrong = 3 if plenty else int(random.integers(0, 4))
        found += [row(id, "wrong", index=k, group=group) for k in range(wrong)]
        options = 4 if plenty else int(random.integers(0, 4))
        right = int(random.integers(0, 4))
        found += [row(id, "option", index=k, correct=k == right, group=group) for k in range(options)]
        random.shuffle(found)
        rows["likelihood", split] += found
        words = [" ".join(random.choice(WORDS, int(random.integers(0, 6)))) for _ in range(2)]
        rows["generation", split].append(generation(id, *words, group=group))
    return rows


def odd_observations(seed: int) -> Observations:
    return Observations({key: rows for split in SPLITS for key, rows in odd(seed, split).items()})
