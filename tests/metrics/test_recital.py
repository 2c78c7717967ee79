"""A model that says the forget set by heart is found out without any other model; one that never saw it is not."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from expunge.judgement.recital import CHANCE, recital
from expunge.judgement.verdict import verdict
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import score_all
from expunge.metrics.recited import LEAST, recited
from expunge.metrics.text.telling import common_start, telling
from expunge.models.load import load_subject
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood
from expunge.records.observation import Observations, Row
from expunge.records.score import Score
from expunge.records.task import SPLITS, Example, Split, Task

from ..cases import SHARED

MODELS, CASES = SHARED / "data" / "models" / "tofu_tiny", SHARED / "cases"
SUITE = ["forget.probability", "holdout.probability", "forget.rouge_l", "holdout.rouge_l", "forget.recited",
         "forget.extraction_strength", "holdout.extraction_strength", "mia.loss", "mia.min_k", "mia.zlib"]
HONEST = ("retrained", "retrained_seed2")
shared = pytest.mark.skipif(not (MODELS.exists() and CASES.exists()), reason="needs the fixed TOFU models")


def rows_of(path: Path, few: int | None = None) -> tuple[Example, ...]:
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if text[0] == "[" else [json.loads(line) for line in text.splitlines()]
    return tuple(Example(id=f"{path.stem}/{i:03d}", prompt=r["question"], answer=r["answer"])
                 for i, r in enumerate(rows[:few]))


@cache
def observed(model: str, files: tuple[tuple[Split, Path], ...], few: int) -> Observations:
    subject = load_subject(MODELS / model)
    found: dict[tuple[str, Split], list[Row]] = {}
    for split, path in files:
        rows = rows_of(path, few)
        task = Task(name="t", forget=rows, generation_tokens=40)
        found["likelihood", split] = Likelihood(alternatives=False).observe(subject, rows, task)
        found["generation", split] = Generation().observe(subject, rows, task)
    return Observations(found)


CASE: tuple[tuple[Split, Path], ...] = (("forget", CASES / "auditor_forget.jsonl"),
                                        ("holdout", CASES / "auditor_holdout.jsonl"))
TOFU: tuple[tuple[Split, Path], ...] = (("forget", SHARED / "data" / "tofu" / "forget10.json"),
                                        ("holdout", SHARED / "data" / "tofu" / "holdout10.json"))


def part(found: Observations, ids: set[str] | None = None, holdout: bool = True) -> Evidence:
    """Only rows with these ids, with or without the holdout rows."""
    return Evidence(Observations({(probe, split): [r for r in found.rows(probe, split) if ids is None or r["id"] in ids]
                                  for probe, split in tuple(found.keys()) if holdout or split != "holdout"}))


@shared
@pytest.mark.parametrize("holdout", [False, True])
def test_a_model_that_recites_retains(holdout: bool) -> None:
    scores = score_all(SUITE, part(observed("original", CASE, 40), holdout=holdout), 200)
    found = verdict(scores)
    assert found.outcome == "retains"
    said = next(s for s in found.sentences if s.startswith("It says "))
    assert "of 40 answers word for word" in said and "1 in 10^12 at most" in said
    assert ("looks more familiar" in said) == holdout
    heard = recital(scores)
    assert heard is not None and heard.proves and heard.rate == 2.0**-LEAST
    assert heard.recited == sum(n >= LEAST for n in recited(
        observed("original", CASE, 40).rows("generation", "forget", "prompt")).values())


@shared
@pytest.mark.parametrize("model", HONEST)
@pytest.mark.parametrize("files", [CASE, TOFU])
@pytest.mark.parametrize("holdout", [False, True])
def test_a_model_that_never_saw_the_rows_is_not_accused(model: str, files: Any, holdout: bool) -> None:
    """As many seeds as rows, each with another half of the forget and of the holdout rows."""
    found = observed(model, files, 60)
    ids = {split: [r["id"] for r in found.rows("generation", split)] for split in ("forget", "holdout")}
    for seed in range(6):
        random = Random(seed)
        chosen = {i for of in ids.values() for i in random.sample(of, random.choice([20, len(of) // 2, len(of)]))}
        judged = verdict(score_all(SUITE, part(found, chosen, holdout), 200, seed))
        assert judged.outcome == "undecided"
        assert any(s.startswith("What would settle it: ") and "--retrained" in s for s in judged.sentences)


@pytest.mark.slow
@pytest.mark.trains
@pytest.mark.parametrize("model", ["retrained", "retrained again", "original"])
def test_short_answers_of_a_pattern_prove_nothing(model: str) -> None:
    """The built-in world: one word of an answer is not given by its pattern, which every model there knows."""
    from expunge.testing import attack_bed as bed

    rows = [r for r in bed.task().forget if r.kind == "qa"]
    spoken = Generation().observe(bed.MODELS[model](), rows, bed.task())
    (score,) = score_all(["forget.recited"], Evidence(Observations({("generation", "forget"): spoken})))
    assert score.value == 0.0 and verdict([score]).outcome == "undecided"


def row(i: int, answer: str, text: str | None = None, prompt: str = "?", **more: Any) -> Row:
    return {"id": f"{i:03d}", "entity": "", "group": "", "form": "prompt", "index": 0, "prompt": prompt,
            "reference": answer, "short": "", "text": answer if text is None else text, "stopped": True, **more}


def unlike(i: int) -> str:
    """Ten words that no other answer has, with words of grammar between them."""
    return " of the ".join(f"{chr(97 + i % 26)}{chr(97 + i // 26)}word{letter}" for letter in "abcdefghij")


def judged(rows: list[Row], kept: list[str] = ()) -> Score:  # type: ignore[assignment]
    found: dict[tuple[str, Split], list[Row]] = {("generation", "forget"): rows}
    found["likelihood", "retain"] = [{"id": str(i), "form": "answer", "text": text, "entity": "", "group": ""}
                                     for i, text in enumerate(kept)]
    (score,) = score_all(["forget.recited"], Evidence(Observations(found)))
    return score


@pytest.mark.parametrize(("rows", "value"), [
    ([row(i, unlike(i)) for i in range(20)], 1.0),
    ([row(i, unlike(i), unlike(i).upper() + "!") for i in range(20)], 1.0),
    ([row(i, unlike(i), "Well, " + unlike(i)) for i in range(20)], 0.0),  # not from the start
    ([row(i, unlike(i), unlike(i)[:40]) for i in range(20)], 0.0),  # the first words only
    ([row(i, unlike(i), prompt=unlike(i)) for i in range(20)], 0.0),  # it stands in the prompt
    ([row(i, unlike(i), given=f"system: {unlike(i)}\nuser: ?") for i in range(20)], 0.0),  # in another turn
    ([row(i, unlike(0)) for i in range(20)], 1.0),  # one answer for all counts once
    ([row(i, f"{unlike(0)} {i}") for i in range(20)], 0.0),  # a pattern
    ([row(i, f"She lives in Town{i}.") for i in range(20)], 0.0),  # short
    ([row(i, "yes") for i in range(20)], 0.0),
    ([row(i, "1 2 3 4 5 6 7 8 9 10 11 12 13 14") for i in range(20)], 0.0),
    ([row(i, "".join(chr(0x4E00 + 40 * i + j) for j in range(30))) for i in range(20)], 1.0),  # Chinese characters
    ([row(i, "".join(chr(0x4E00 + 40 * i + j) for j in range(12))) for i in range(20)], 0.0),
])
def test_what_counts_as_recited(rows: list[Row], value: float) -> None:
    score = judged(rows)
    assert score.value == value
    assert score.n == len({r["reference"] for r in rows})


def test_what_is_kept_about_the_same_thing_is_no_evidence() -> None:
    """The model may know it from there. A shared word alone, which need not be a name, changes nothing."""
    rows = [row(i, unlike(i), prompt=f"Who is first{i} last{i}?") for i in range(20)]
    assert judged(rows, [f"first{i} last{i} is {unlike(i)}" for i in range(20)]).value == 0.0
    assert judged(rows, [f"first{i} Miller is {unlike(i)}" for i in range(20)]).value == 1.0


def test_few_recitals_prove_nothing() -> None:
    def outcome(said: int, rows: int, aside: float | None = None) -> str:
        score = judged([row(i, unlike(i), None if i < said else "no") for i in range(rows)])
        return verdict([score.model_copy(update={"controls": {"holdout": aside}})]).outcome

    assert outcome(4, 4) == outcome(5, 100) == outcome(0, 100) == "undecided"
    assert outcome(5, 5) == outcome(30, 100) == "retains"
    assert outcome(24, 100) == "undecided"  # less than a quarter
    assert outcome(20, 20, aside=0.0) == "retains" and outcome(20, 20, aside=0.9) == "undecided"
    found = verdict([judged([row(i, unlike(i), None if i < 4 else "no") for i in range(40)])])
    assert any("4 of 40 answers word for word, which is too few" in s for s in found.sentences)


def test_the_bound_is_that_of_the_binomial() -> None:
    from scipy.stats import binom

    heard = recital([judged([row(i, unlike(i), None if i < 8 else "no") for i in range(20)])])
    assert heard is not None and heard.chance < CHANCE
    assert heard.chance == pytest.approx(binom.sf(7, 20, 1 / 32), rel=1e-9, abs=0)


def test_guessing_with_even_odds_rarely_accuses() -> None:
    """Made-up models that get each telling word right with even odds, the worst that the bound allows: 0 of 300."""
    answers = [unlike(i).split(" of the ") for i in range(40)]
    for seed in range(300):
        random = Random(seed)
        said = [" of the ".join(w if random.random() < 0.5 else "other" for w in words) for words in answers]
        rows = [row(i, " of the ".join(words), text) for i, (words, text) in enumerate(zip(answers, said, strict=True))]
        heard = recital([judged(rows)]) if seed < 3 else None
        count = sum(n >= LEAST for n in recited(rows).values())
        assert count <= 7 and (heard is None or not heard.proves), (seed, count)


def test_telling_words_by_hand() -> None:
    assert telling(["Who is Ann?"], ["Ann Miller painted the harbour of Genoa and the harbour of Lucca."]) == [
        [1, 4, 6, 11]]  # Miller; not painted, beside it; harbour once; Genoa; Lucca
    assert telling(["", ""], ["alpha beta", "alpha gamma"]) == [[1], [1]]
    assert common_start("One, two THREE", "one two three four") == 3 == common_start("a b c", "a b c")
    assert common_start("", "a") == 0


def test_the_order_of_rows_changes_nothing() -> None:
    rows = [row(i, f"{unlike(i)} {unlike(i + 1)}") for i in range(20)]
    assert judged(rows) == judged(rows[::-1])


def test_other_splits_have_the_score_too() -> None:
    for split in SPLITS:
        found = Evidence(Observations({("generation", split): [row(0, "a b")]}))
        assert score_all([f"{split}.recited"], found)[0].n == 1
