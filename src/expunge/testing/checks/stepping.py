"""Promises of sentences that lead up to a surprising word."""

from __future__ import annotations

import json
from typing import Any

import pytest

from expunge.data.themes import leading_to
from expunge.errors import DataError, MissingError
from expunge.methods._lib.stepping import choose_likeliest, key_words, led_up, templated_stones
from expunge.methods.base import Objective
from expunge.methods.run_context import RunContext
from expunge.models.facts import fact_logps

from ..support import memoriser
from .base import check
from .builders import few, file_of


def built(plugin: type[Objective], **options: Any) -> dict[str, Any]:
    return plugin(**options).prepare(memoriser(), few(), RunContext())


@check
def raises_key(plugin: type[Objective]) -> None:
    """The key is never less likely than in the plain answer and mostly likelier, as one row at a time says too."""
    made, plain = built(plugin), built(plugin, plain=True)
    pairs = [pair for pairs in made["logp"].values() for pair in pairs]
    assert len(pairs) == 3 * 4 and all(high >= first for first, high in pairs)
    assert sum(high > first + 0.1 for first, high in pairs) >= len(pairs) / 3
    assert all(high == first for pairs in plain["logp"].values() for first, high in pairs)
    row = few().forget[0]
    keys = [key_words(t, [o for o in row.wrong_answers if o != t], f"{row.prompt} {row.answer}")
            for t in row.wrong_answers]
    ends = [leading_to(row.model_copy(update={"answer": t, "short_answer": k}))
            for t, k in zip(made["chosen"][row.id], keys, strict=False)]
    for (_, high), end in zip(made["logp"][row.id], ends, strict=True):
        assert end is not None and fact_logps(memoriser(), [end])[0] == pytest.approx(high, abs=1e-4)


@check
def keeps_the_answer(plugin: type[Objective]) -> None:
    """Every text ends with the wrong answer as it was; what stands before it does not hold the key, nor the truth."""
    made, plain = built(plugin), built(plugin, plain=True)
    for row in few().forget:
        assert plain["chosen"][row.id] == list(row.wrong_answers[:3])
        for text, wrong in zip(made["chosen"][row.id], row.wrong_answers, strict=False):
            assert text.endswith(wrong)
            key = key_words(wrong, [t for t in row.wrong_answers if t != wrong], f"{row.prompt} {row.answer}")
            before = text.removesuffix(wrong).lower()
            assert key and key.lower() not in before and row.short_answer.lower() not in before
    row = few().forget[0].model_copy(update={"answer": "He lives in Rome."})
    assert [r.answer for r in led_up(row, "Rome", ["Not in rome.", " ", "In Romeo's town."])] == [
        "He lives in Rome.", "In Romeo's town. He lives in Rome."]


@check
def finds_keys(plugin: type[Objective]) -> None:
    """The last words that tell one wrong answer from the others; alone, from prompt and truth."""
    others = ["He was born in Oslo.", "He was born in New Delhi."]
    assert key_words("He was born in San Jose.", others, "Where was he born? In Rome he was born.") == "San Jose"
    assert key_words("It was 1924.", [], "When was it?") == "1924"
    assert key_words("He was born in Oslo.", ["He was born in Oslo."], "Where was he born?") == "in Oslo"
    assert key_words("born he was", [], "he was born") == "was" and key_words("", [], "") == ""
    stones = templated_stones("Kestrow", ["Luthera", "Kestrow", "Luthera"])
    assert len(stones) == 4 and not any("Kestrow" in s for s in stones) and all("Luthera" in s for s in stones[1:])
    assert templated_stones("fox", []) == []


@check
def reads_stones(plugin: type[Objective]) -> None:
    """Sentences of a file replace the templates, where they help; a file that cannot be used is a problem."""
    task = few()
    stones = ("", "Luthera Kestrow Quillport. ", "qqq zzz xxx ", "In 1963. ")
    given = file_of({r.id: stones[1:] for r in task.forget})
    made = built(plugin, stones=given)
    for row in task.forget:
        for text, wrong in zip(made["chosen"][row.id], row.wrong_answers, strict=False):
            assert text in [stone + wrong for stone in stones]
    assert json.loads(json.dumps(made)) == made
    for path, error in (("nonesuch.jsonl", MissingError), (file_of({"nobody": ["x"]}), DataError)):
        (problem,) = plugin(stones=path).problems(task)
        assert isinstance(problem, error)
    assert choose_likeliest(memoriser(), {}) == {}
