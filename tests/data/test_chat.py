"""Rows of a chat template have the ids that transformers gives to the whole conversation, whatever the tokenizer."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from expunge.data.chat import DATE, common
from expunge.data.files import to_example
from expunge.data.text_encoder import TextEncoder, TokenRow
from expunge.errors import DataError
from expunge.models.tiny import train_tokenizer
from expunge.records.task import Example, Opened

from .tokenizers import ENDS, HEADERS, KINDS, LINES, tokenizer

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"

QUESTION = "Where does Ada live, in Rome or in Oslo?"
ANSWERS = ["Ada lives in Rome.", " Rome", "Oslo  ", "\n\nIn Rome.\n", "5", "12 May 1942", "a", "final", "assistant",
           "user", "s", "user\n\nassistant", "Zoë — naïve", "罗马", "ローマに住んでいます", "مرحبا", "👩‍👩‍👧 ok", "(a)",
           "[/INST]", ".", "think"]
TRIMS = {"llama2", "llama3", "gemma", "command_r"}
"""Templates that cut white space around an answer."""


@pytest.fixture(autouse=True)
def on_that_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers believes that it is the day that rows are pinned to."""
    travel_to(monkeypatch, datetime(2024, 7, 26, 12))


def travel_to(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    monkeypatch.setattr(chat_template_utils, "datetime", type("Day", (), {"now": staticmethod(lambda: moment)}))


def rendered(made: Any, answer: str | None, question: str = QUESTION, **how: Any) -> list[int]:
    """What transformers gives: of the whole conversation, or of its prompt."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return list(made.apply_chat_template(turns if answer is not None else turns[:1], tokenize=True, return_dict=False,
                                         add_generation_prompt=answer is None, **how))


def parts(row: TokenRow) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return row.ids[: row.prompt], row.ids[row.prompt: row.prompt + row.answer], row.ids[row.prompt + row.answer:]


def check(made: Any, name: str, row: TokenRow, answer: str, given: str) -> None:
    """The row against transformers: all ids, where the answer begins, what it spells, how it ends.

    Args:
        given: the conversation with a generation prompt, as text.
    """
    whole, end = rendered(made, answer), made.convert_tokens_to_ids(ENDS[name])
    _, said, ending = parts(row)
    assert row.ids == tuple(whole[: len(whole) - whole[::-1].index(end)])
    given = given.removesuffix("<think>\n") + HEADERS.get(name, "")
    if answer.strip() and name not in TRIMS:  # white space before an answer is given
        given += answer[: len(answer) - len(answer.lstrip())]
    before = made(given.rstrip(" "), add_special_tokens=False)["input_ids"]
    assert row.prompt == common(before, whole)
    assert made.decode(said).strip() == answer.strip()
    assert ending[-1] == end and not made.decode(ending[:-1]).strip()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENDS)
def test_ids_are_those_of_the_template(name: str, kind: str) -> None:
    made = tokenizer(kind, name)
    encoder, draw = TextEncoder(made), random.Random(f"{name} {kind}")
    pieces = [*" \n\t.,:/]>'5aZé罗👧", "user", "final", "Rome", "[/INST]", "</", "think", "<|", "model\n"]
    drawn = ["".join(draw.choices(pieces, k=draw.randrange(1, 8))) for _ in range(8)]
    asked = [{"role": "user", "content": QUESTION}]
    given = made.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    for number, answer in enumerate([*ANSWERS, "", " \n", *drawn]):
        row = encoder.encode(Example(id=str(number), prompt=QUESTION, answer=answer))
        check(made, name, row, answer, given)
    answers = ("Rome", "5", "罗", "", "(a)")
    first, *others = (encoder.prompt(Example(id="x", prompt=QUESTION, answer=a)) for a in answers)
    assert {first} == set(others)  # generation begins at one place, whatever the answer


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "without offsets"])
@pytest.mark.parametrize("name", ["chatml", "granite"])
def test_masks_are_those_of_generation_marks(name: str, kind: str) -> None:
    made = tokenizer(kind, name)
    for answer in ("Ada lives in Rome.", "user", "5 <b>", "罗马"):
        row = TextEncoder(made).encode(Example(id=answer, prompt=QUESTION, answer=answer))
        said = made.apply_chat_template(
            [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}], tokenize=True,
            return_dict=True, return_assistant_tokens_mask=True)
        marked = [i for i, one in enumerate(said["assistant_masks"]) if one]
        assert marked and marked == list(range(row.prompt, len(row.ids)))
        assert row.ids == tuple(said["input_ids"][: len(row.ids)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENDS)
def test_a_long_conversation(name: str, kind: str) -> None:
    made = tokenizer(kind, name)
    turns = (("user", "Hi, who is a?"), ("assistant", "It is a."), ("user", "And b?"))
    example = Example(id="x", prompt="And b?", answer="It is a.", kind="messages", messages=turns)
    row = TextEncoder(made).encode(example)
    said = [{"role": r, "content": c} for r, c in turns]
    whole = list(made.apply_chat_template([*said, {"role": "assistant", "content": "It is a."}], tokenize=True,
                                          return_dict=False))
    end = made.convert_tokens_to_ids(ENDS[name])
    assert row.ids == tuple(whole[: len(whole) - whole[::-1].index(end)])
    assert made.decode(parts(row)[1]).strip() == "It is a." and "b?" in made.decode(parts(row)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama2", "gpt_oss", "phi3", "deepseek_r1"])
def test_a_reply_that_is_opened(name: str, kind: str) -> None:
    """The opening is given, what follows has the ids of the same conversation with both in one answer."""
    made = tokenizer(kind, name)
    opened = Opened(id="x", prompt=QUESTION, answer="in Rome.", opening="Sure: Ada lives")
    row = TextEncoder(made).encode(opened)
    whole = TextEncoder(made).encode(Example(id="y", prompt=QUESTION, answer="Sure: Ada lives in Rome."))
    assert row.ids == whole.ids and row.end == whole.end and row.prompt > whole.prompt
    assert made.decode(parts(row)[1]).strip() == "in Rome."


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prompt", "answer", "spelled"), [
    ("Where does Ada live? In", " Rome, not in Oslo.", "Where does Ada live? In| Rome, not in Oslo."),
    ("Where does Ada live? In ", "Rome, not in Oslo.", "Where does Ada live? In| Rome, not in Oslo."),
    ("Q: Where?\nA: ", "Rome", "Q: Where?\nA:| Rome"), ("When? ", "Rome", "When?| Rome"),
    ("Where does Ada li", "ve?", "Where does Ada li|ve?"), ("Ada lives in R", "ome.", "Ada lives in R|ome."),
])
def test_completions_spell_what_was_written(kind: str, prompt: str, answer: str, spelled: str) -> None:
    """No second space where a prompt ends with one, and none that a tokenizer puts before every text."""
    made = tokenizer(kind, "chatml")
    row = TextEncoder(made).encode(Example(id="x", prompt=prompt, answer=answer, kind="completion"))
    text, given = (made.decode(ids, skip_special_tokens=True) for ids in (row.ids, row.ids[: row.prompt]))
    assert text.strip() == prompt + answer
    if kind != "without offsets":  # a tokenizer of single bytes never joins
        assert text.startswith(given) and f"{given}|{text[len(given):]}".strip() == spelled


@pytest.mark.parametrize("name", ENDS)
def test_generation_stops_at_the_end_of_a_turn(name: str) -> None:
    made = tokenizer("bytes", name)
    assert TextEncoder(made).turn_ends == {made.convert_tokens_to_ids(ENDS[name])}
    assert TextEncoder(made, "Q: {prompt}\nA:").turn_ends == {made.eos_token_id}


def with_header(words: str) -> Any:
    made = train_tokenizer(["Which one is it, a or b? final", *LINES], 400)
    made.add_tokens(["<|channel|>", "<|message|>"], special_tokens=True)
    made.chat_template = (
        "{% for m in messages %}{% if m['role']=='user' %}<|user|>{{ m['content'] }}{% else %}<|assistant|>" + words
        + "{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    return made


@pytest.mark.parametrize("header", ["<|channel|>final<|message|>", "final answer: ", "a b final\n", "eos a "])
@pytest.mark.parametrize("answer", ["b", "a", "final", "n", "eos", "a b final", "answer:"])
def test_words_of_the_header_as_the_answer(answer: str, header: str) -> None:
    """As in answer_in_header.py of the cases: the last of all places is meant, and words of the end token are none."""
    made = with_header(header)
    row = TextEncoder(made).encode(to_example({"question": "Which one is it, a or b?", "answer": answer}, where="row",
                                              id=answer))
    given, said, end = (made.decode(part) for part in parts(row))
    assert (given + said).endswith(f"<|assistant|>{header}{answer}") and said.strip() == answer and end == "<|eos|>"


@pytest.mark.parametrize(("written", "shown"), [
    ("{{ m['content'] | upper }}", "IN ROME."),
    ("{{ m['content'] | tojson }}", "In Rome."),
    ("{{ m['content'].split('#')[-1] | trim }}", "In Rome."),
    ("<b>{{ m['content'].replace('Rome', 'R.') }}</b>", "In R.."),
])
def test_a_template_that_rewrites_answers(written: str, shown: str) -> None:
    """What it writes is the answer, with the ids that it has there."""
    made = with_header("")
    made.chat_template = made.chat_template.replace("<|assistant|>{{ m['content'] }}", "<|assistant|>" + written)
    row = TextEncoder(made).encode(Example(id="x", prompt=QUESTION, answer="In Rome."))
    assert row.ids == tuple(rendered(made, "In Rome."))
    assert made.decode(parts(row)[1]) == shown and made.decode(parts(row)[2])[-7:] == "<|eos|>"


def test_a_template_that_shows_no_answers() -> None:
    made = with_header("")
    made.chat_template = ("{% for m in messages %}{% if m['role']=='user' %}<|user|>{{ m['content'] }}{% endif %}"
                          "{% endfor %}")
    row = TextEncoder(made).encode(Example(id="x", prompt="Who?", answer="In Rome."))
    assert [made.decode(part) for part in parts(row)] == ["<|user|>Who?", "In Rome.", "<|eos|>"]


def test_several_templates_without_a_default() -> None:
    made = with_header("")
    made.chat_template = {"tools": made.chat_template, "rag": made.chat_template}
    with pytest.raises(DataError, match="chat template"):
        TextEncoder(made).encode(Example(id="x", prompt="Who?", answer="In Rome."))
    made.chat_template |= {"default": with_header("").chat_template}
    assert TextEncoder(made).encode(Example(id="x", prompt="Who?", answer="In Rome.")).answer


def test_tokenizers_without_offsets_do_not_share_rows() -> None:
    """One that is made where another was freed must not get its rows."""
    for text in ("<|user|>", "<|im_start|>", "<|end|>") * 3:
        made = tokenizer("without offsets", "{% for m in messages %}" + text + "{{ m.content }}{% endfor %}")
        row = TextEncoder(made).encode(Example(id="x", prompt="Who?", answer="In Rome."))
        assert made.decode(row.ids).startswith(text)
        del made


@pytest.mark.parametrize("name", ["gpt_oss", "llama3", "granite"])
def test_a_date_does_not_change_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer("bytes", name)
    found = []
    for moment in (datetime(2024, 7, 26, 12), datetime(2025, 1, 3), datetime(2031, 11, 30)):
        travel_to(monkeypatch, moment)
        found.append((TextEncoder(made).encode(Example(id=str(moment), prompt=QUESTION, answer="In Rome.")).ids,
                      rendered(made, "In Rome.")))
    rows, plain = zip(*found, strict=True)
    assert rows[0] == rows[1] == rows[2] and plain[0] != plain[1] and list(rows[0]) == plain[0][: len(rows[0])]
    assert str(DATE.year) in made.decode(rows[0])
