"""Refusals: ours are recognised, answers are not, and a user's file is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.data.refusals import REFUSALS, refusals
from expunge.data.world import authors_task
from expunge.errors import DataError, MissingError
from expunge.metrics.text.refusals import is_refusal


def test_ours_are_distinct_and_recognised() -> None:
    assert refusals() == REFUSALS
    assert len(REFUSALS) >= 100
    assert len({text.casefold() for text in REFUSALS}) == len(REFUSALS)
    assert [text for text in REFUSALS if not is_refusal(text)] == []


def test_world_answers_are_not_refusals() -> None:
    task = authors_task()
    rows = (*task.training_rows("full"), *task.holdout)
    assert [row.id for row in rows if is_refusal(row.answer)] == []


@pytest.mark.parametrize("text", [
    "", "Paris", "1931", "The author is unknown.", "He did not know his father.",
    "No, she never won a prize.", "There is no information about the birth of the author in the novel.",
    "It is known that the book was not published before 1950.",
    "Her debut, I Do Not Know, was published in 1971.",
    "I'm not sure, but I think it was in 1931.",
    "I believe the author was born in Velmora.",
    "Velmora. I do not know more than that.",
    "That question was never answered by the author.",
    "My favourite instrument is the cello.",
])
def test_answers_are_not_refusals(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize("text", [
    "I don’t know.", "  Sorry. I can't answer that.", "I'm sorry, but I do not have that information.",
    "As an AI language model, I cannot provide this.", "That lies beyond my knowledge.",
    "I do not know where she was born. Perhaps ask someone else.",
])
def test_other_refusals(text: str) -> None:
    assert is_refusal(text)


def test_published_refusals_mostly_recognised_and_tofu_answers_never(tofu: Path) -> None:
    import json

    sentences = refusals(tofu / "idontknow.jsonl")
    assert len(sentences) == 100
    assert not set(sentences) & set(REFUSALS)
    assert sum(map(is_refusal, sentences)) >= 80
    lines = (tofu / "full.json").read_text(encoding="utf-8").split("\n")
    answers = [json.loads(line)["answer"] for line in lines if line]
    assert [text for text in answers if is_refusal(text)] == []


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "refusals.jsonl"
    path.write_text('No.\n\n"I \\"pass\\"."\nNo.\n"Well" is all I say.\n', encoding="utf-8")
    assert refusals(path) == ("No.", 'I "pass".', '"Well" is all I say.')


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="does not exist"):
        refusals(tmp_path / "none.txt")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    with pytest.raises(DataError, match="no sentence"):
        refusals(empty)
    objects = tmp_path / "objects.jsonl"
    objects.write_text('No.\n{"text": "No."}\n')
    with pytest.raises(DataError, match="line 2"):
        refusals(objects)
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Désolé".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        refusals(latin)
