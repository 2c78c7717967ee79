"""The scripts among the cases, run as they stand: they print what comes out, and what should."""

from __future__ import annotations

import ast
import re
import sys
from types import ModuleType
from typing import Any

import pytest

from expunge.data.text_encoder import TextEncoder
from expunge.models.tiny import train_tokenizer
from expunge.records.task import Example

from ..cases import case


def run(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that a script prints."""
    capsys.readouterr()
    exec(compile(case(name).read_text(encoding="utf-8"), name, "exec"), {"__name__": "__main__"})
    return capsys.readouterr().out.splitlines()


class OldEncoder(TextEncoder):
    """By the names that the scripts know."""

    def row(self, example: Example) -> Any:
        return self.encode(example)


def test_answers_in_the_header(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("expunge.data.tokens")
    old.Tokens = OldEncoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "expunge.data.tokens", old)
    lines = run("answer_in_header.py", capsys)
    assert len(lines) == 4
    for line in lines:
        answer, rest = line.split(" ", 1)
        given, said, end = ast.literal_eval(rest)
        assert given.endswith("<|assistant|><|channel|>final<|message|>")
        assert (said, end) == (ast.literal_eval(answer), "<|eos|>")


@pytest.mark.slow
def test_a_model_that_knows_its_rows_by_heart(capsys: pytest.CaptureFixture[str], tmp_path: Any,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tokenizer that puts a space before every text, expunge says what transformers says."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lines = run("sentencepiece_chat.py", capsys)
    assert len(lines) == 2
    for line in lines:
        plain, scores = re.fullmatch(r".*transformers: ([\d.]+) expunge: (\{.*\})", line).groups()  # type: ignore
        found = ast.literal_eval(scores)
        assert found["forget.probability"] == pytest.approx(float(plain), abs=0.002) and float(plain) > 0.9
        assert found["forget.rouge_l"] == 1.0


def test_the_answers_of_knowundo_are_not_lost(cli: Any, model: Any, tmp_path: Any) -> None:
    """Never trained on the question alone: refused with the --map that works, and asked as questions with it."""
    words = ("forget", model, "--forget", case("knowundo_shape.json"), "--method", "ga", "--out", tmp_path / "run",
             "--dry-run")
    cli.refused(*words, code=2, says=("question=text,answer=labels",))
    plan = cli(*words, "--map", "question=text,answer=labels", "--json").json["prompt"]
    assert plan["first_row"] == "<|bos|><|user|>Where does Ada live?<|assistant|>[[Ada lives in Rome.<|eos|>]]"
    assert plan["format"] == "the tokenizer's chat template" and not plan["warnings"]


@pytest.mark.parametrize("answer", ["<|user|>", "<|eos|>", "a<|assistant|>b", "in <|eos|> Rome"])
def test_answers_that_hold_tokens_of_the_template(answer: str) -> None:
    """They are answers all the same, and the end comes after them."""
    made = train_tokenizer(["Where does Ada live? in Rome"], 300)
    row = TextEncoder(made).encode(Example(id="x", prompt="Where?", answer=answer))
    given, said, end = (made.decode(part) for part in (row.ids[: row.prompt], row.ids[row.prompt: -row.end],
                                                       row.ids[-row.end:]))
    assert (given, said, end) == ("<|bos|><|user|>Where?<|assistant|>", answer, "<|eos|>")
