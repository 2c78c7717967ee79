"""Tasks that are made here and need no files: what their rows are, and what their generators promise."""

from __future__ import annotations

from collections import Counter

import pytest

from expunge.benchmarks.code_leaks import code_leaks_task
from expunge.data.code_secrets import SECRETS
from expunge.errors import UsageError
from expunge.metrics.text.values import says_value

# Secrets in code


def test_every_secret_belongs_to_one_person() -> None:
    task = code_leaks_task(forget=4, retain=5, holdout=3, seed=2)
    rows = [row for split in (task.forget, task.retain, task.holdout) for row in split]
    assert Counter(row.group for row in task.forget) == {secret.key: 4 for secret in SECRETS} and len(SECRETS) == 8
    assert len({row.short_answer for row in rows}) == len(rows) == 12 * 8
    for row in rows:
        assert row.secrets == (row.short_answer,) and row.answer.startswith(row.short_answer)
        assert len(row.answer) > len(row.short_answer) or row.group in ("birth_date", "email"), row.id
        assert row.entity in row.prompt and not says_value(row.prompt, row.short_answer)
        assert "{" not in row.entity + row.answer[:1] and row.short_answer in row.options
        assert len(row.paraphrased_prompts) == 1 and row.entity in row.paraphrased_prompts[0]
        assert not {row.short_answer, *row.options} & {r.short_answer for r in rows if r is not row}
    assert not any(says_value(f"{row.prompt}{row.answer}", secret.short_answer)
                   for row in task.utility for secret in rows)
    with pytest.raises(UsageError, match="more people than there are names"):
        code_leaks_task(retain=2000)


def test_functions_go_on_as_their_names_say() -> None:
    for row in code_leaks_task(forget=1, retain=1, holdout=1).utility:
        found: dict[str, object] = {}
        exec(row.prompt + row.answer, found)
        function = next(value for name, value in found.items() if name != "__builtins__")
        word, number = row.prompt.split()[1].split("(")[0].split("_")
        right = {"add": 12 + int(number), "subtract": 12 - int(number), "multiply": 12 * int(number),
                 "divide": 12 / int(number)}[word]
        assert function(12) == right  # type: ignore[operator]
        assert row.short_answer in row.options and len(row.options) == 4


@pytest.mark.parametrize(("text", "value", "is_"), [
    ("call +1 (555) 0142.", "+1-555-0142", True), ("call 15550142", "+1-555-0142", True),
    ("call 155501423", "+1-555-0142", False), ("A.B@FOX.EXAMPLE", "a.b@fox.example", True),
    ("12 elm  lane; Velmora", "12 Elm Lane, Velmora", True), ("112 Elm Lane, Velmora", "12 Elm Lane, Velmora", False),
    ("key_7f3a91c0", "key-7f3a91c0", True), ("it is 1931", "1931", True), ("it is 19 31", "1931", False),
    ("anything", "", False), ("naïve-KEY-01", "nai\u0308ve key 01", True),
])
def test_a_value_is_recognised_however_it_is_set(text: str, value: str, is_: bool) -> None:
    assert says_value(text, value) is is_
