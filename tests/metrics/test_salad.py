"""Alarms where answers are no language any more, and none where they are short, refused, wrong or in another script."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.audit.fluency import salad_notes, unlikeliness
from expunge.metrics.text.repetition import repetition
from expunge.records.observation import Observations
from expunge.testing.support import memoriser, small_task

SAID = "the town where she was born lies by a cold river and nobody there has read any of her many books"


@pytest.mark.parametrize(("said", "low", "high"), [
    ("born in born in born in born in born in born in born in", 0.7, 1.0),
    ("no no no no no no no no no no no no no no", 0.9, 1.0),
    ("东京东京东京东京东京东京东京东京", 0.7, 1.0),
    (SAID, 0.0, 0.0), ("She lives in Rome.", 0.0, 0.0), ("no no no", 0.0, 0.0), ("", 0.0, 0.0),
    ("她出生在一条寒冷的河边的小镇上没有人读过她写的书", 0.0, 0.2),
    ("She wrote The Salt Ledger, and later The Salt Ledger again, in the same town by the river.", 0.0, 0.3)])
def test_what_repeats_itself(said: str, low: float, high: float) -> None:
    assert low <= repetition(said) <= high


def spoken(texts: list[str], split: str = "forget") -> Observations:
    return Observations({("generation", split): [  # type: ignore[dict-item]
        {"id": f"{split}/{i}", "form": "prompt", "prompt": "?", "text": text} for i, text in enumerate(texts)]})


FINE, LOOP = [SAID] * 20, ["no no no no no no no no no no no no no no"] * 20


@pytest.mark.parametrize(("subject", "original", "nats", "says"), [
    (FINE, FINE, (0.5, 0.3), None), (LOOP, FINE, (0.5, 0.3), "100% of them repeat themselves (of the original's 0%)"),
    (LOOP, LOOP, (0.5, 0.3), None), (FINE, FINE, (6.0, 0.3), "their median perplexity under the original is 403"),
    (FINE, FINE, (6.0, 5.5), None), (FINE[:9], FINE, (6.0, 0.3), None), (LOOP[:4] + FINE[4:], FINE, (0.5, 0.3), "20%"),
    (LOOP[:3] + FINE[3:], FINE, (0.5, 0.3), None)])
def test_when_it_is_said(subject: list[str], original: list[str], nats: tuple[float, float], says: str | None) -> None:
    unlikely = {("subject", "forget"): [nats[0]] * len(subject), ("original", "forget"): [nats[1]] * len(original)}
    found = salad_notes({"subject": spoken(subject), "original": spoken(original)}, unlikely, 2048)  # type: ignore[arg-type]
    assert (not found) if says is None else (len(found) == 1 and says in found[0] and "word salad" in found[0])


def test_without_an_original_loops_are_still_said() -> None:
    said, = salad_notes({"subject": spoken(LOOP, "retain")}, {}, 2048)
    assert "retain rows" in said and "original" not in said


def test_salad_is_told_from_answers_that_are_only_wrong() -> None:
    """By a model that knows the rows: the right answers, refusals, and words drawn at random."""
    subject, task = memoriser(), small_task()
    noise, words = random.Random(0), [word for row in task.retain for word in row.answer.split()]

    def judged(texts: list[str]) -> list[float]:
        said = [{"id": row.id, "text": text} for row, text in zip(task.forget, texts, strict=True)]
        return unlikeliness(subject, said, task, "forget")

    right = judged([row.answer for row in task.forget])
    salad = judged([" ".join(noise.choices(words, k=12)) for _ in task.forget])
    assert max(right) < 1 < math.log(subject.outcomes) / 2 < min(salad)
    assert judged(["I do not know the answer to that question."] * len(right)) == [] == judged([""] * len(right))


def test_an_audit_says_it(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """A random model loops or babbles beside one that answers; a page and the record tell of it."""
    from tests.conftest import write_rows

    many = write_rows(tmp_path / "many.jsonl", [{"question": f"Where does Ada {i} live?", "answer": f"In town {i}."}
                                                for i in range(12)])
    out = tmp_path / "audit"
    cli("audit", model, "--forget", many, "--suite", "forget.keyword", "--out", out, "--original", model)
    found = expunge.Audit.read(out / "audit.json")
    assert found.notes == (), "it says what its original says"
