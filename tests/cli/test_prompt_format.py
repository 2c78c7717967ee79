"""A plan says how rows are put to the model, shows the first as the model reads it, and warns of what looks wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from expunge.data.chat import DATE
from expunge.data.prompt_format import describe
from expunge.data.text_encoder import TextEncoder
from expunge.models.tiny import train_tokenizer
from expunge.records.task import Example

from ..cases import case

PLAIN_FIRST = "<|bos|><|user|>Where does Ada live?<|assistant|>[[Ada lives in Town adA.<|eos|>]]"
NPO = ("--method", "npo + retain_kl", "--steps", 2, "--keep", "last")


def with_template(model: Path, folder: Path, template: str | None) -> Path:
    """A copy of the model with another chat template, or none."""
    made = Path(shutil.copytree(model, folder))
    (made / "chat_template.jinja").unlink()
    if template is not None:
        (made / "chat_template.jinja").write_text(template, encoding="utf-8")
    return made


def formats(processor: Any, *rows: Example, template: str | None = None) -> Any:
    return describe(TextEncoder(processor, template), rows or (Example(id="a", prompt="Who is b?", answer="It is a."),))


def test_a_run_shows_how_it_reads(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    words = ("forget", model, *rows.words, *NPO, "--out", tmp_path / "run")
    plan = cli(*words, "--dry-run", "--json").json["prompt"]
    assert plan["format"] == "the tokenizer's chat template" and plan["first_row"] == PLAIN_FIRST
    assert not plan["warnings"] and not plan["notes"] and plan["date"] == ""
    said = cli(*words)
    assert f"Prompt format: the tokenizer's chat template.\nFirst row, supervised in [[ ]]: {PLAIN_FIRST!r}" in said.err
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["prompt"] == plan
    audit = ("audit", tmp_path / "run", "--suite", "forget.probability")
    assert cli(*audit, "--dry-run", "--json").json["prompt"]["first_row"] == PLAIN_FIRST
    assert PLAIN_FIRST in cli(*audit).err
    made = json.loads((tmp_path / "run" / "audit.json").read_text())["prompt"]
    assert made == plan | {"first_row": ""}
    cli("purge", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "record.json").read_text())["prompt"] == made


def test_another_template_is_not_gone_on_with(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    other = with_template(model, tmp_path / "other", (model / "chat_template.jinja").read_text())
    words = ("forget", other, *rows.words, *NPO, "--out", tmp_path / "run")
    cli(*words)
    (other / "chat_template.jinja").write_text((model / "chat_template.jinja").read_text().replace("<|user|>", "Q: "))
    cli.refused(*words, "--resume", says=("another tokenizer or chat template",))


@pytest.mark.parametrize(("template", "words"), [
    (None, ("no chat template, although its vocabulary has <|user|>", "'Question: {prompt}\\nAnswer:'", "--template")),
    ("{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}",
     ("no generation prompt: '<|user|>' is put before the answer", "no special token: <|eos|> is put there")),
    ("{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}",
     ("does not show the answer",)),
    ("{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{% else %}<|assistant|>{{ m['content'] }}"
     "{{ eos_token }}{% endif %}{% endfor %}", ("does not show the user turn",)),
    ("{% for m in messages %}<|user|>{{ m['content'] | lower }}{{ eos_token }}{% endfor %}",
     ("rewrites answers",)),
    ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}<|user|>{% else %}<|assistant|>"
     "{% endif %}{{ m['content'] }}{{ eos_token }}{% endfor %}", ("writes <|bos|> and so does the tokenizer",)),
])
def test_odd_templates_are_told(cli: Any, model: Path, rows: Any, tmp_path: Path, template: str | None,
                                words: tuple[str, ...]) -> None:
    odd = with_template(model, tmp_path / "odd", template)
    plan = cli("forget", odd, *rows.words, *NPO, "--out", tmp_path / "run", "--dry-run", "--json").json
    warnings = " ".join(plan["prompt"]["warnings"])
    assert all(phrase in warnings for phrase in words), warnings
    assert plan["prompt"]["first_row"].count("<|bos|>") <= 1
    said = cli("audit", odd, *rows.words, "--suite", "forget.probability", "--out", tmp_path / "audit").err
    assert all(f"warning: {warning}" in said for warning in plan["prompt"]["warnings"])


def test_models_that_read_differently(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    other = with_template(model, tmp_path / "other", None)
    said = cli("audit", model, *rows.words, "--suite", "forget.probability", "--original", other, "--out",
               tmp_path / "audit").err
    assert "read the rows in different forms" in said and "Question: Where does Ada live?" in said


@pytest.mark.parametrize("template", ["<|bos|>Q: {prompt}\nA:", "<|bos|> {prompt}", "<|bos|>{prompt}<|assistant|>"])
def test_no_row_begins_twice(template: str) -> None:
    """A tokenizer that adds a BOS under a template that writes one."""
    from tokenizers import processors

    made = train_tokenizer(["Who is b? It is a."], 300)
    bos = made.bos_token_id
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", bos)])
    row = TextEncoder(made, template).encode(Example(id="a", prompt="Who is b?", answer="It is a."))
    assert row.ids.count(bos) == 1 and row.ids[0] == bos
    assert "one is left out" in " ".join(formats(made, template=template).warnings)
    text = Example(id="t", prompt="", answer="<|bos|>It is a.", kind="text")
    assert TextEncoder(made).encode(text).ids.count(bos) == 1
    assert not formats(made, template="{prompt} A:").warnings


@pytest.mark.parametrize(("prompt", "completion", "warned"), [
    ("Ada plays the sport", "basketball", True), ("Answer:", "Rome", True), ("The year", "1942", True),
    ("Это", "Рим", True), ("Ada plays the sport", " basketball", False), ("Ada plays ", "golf", False),
    ("エイダは", "ローマ", False), ("阿达住在", "罗马", False), ("She said (", "no)", False), ("Rome", ".", False),
    ("Line\n", "next", False),
])
def test_words_that_meet(prompt: str, completion: str, warned: bool) -> None:
    row = Example(id="r1", prompt=prompt, answer=completion, kind="completion")
    found = formats(train_tokenizer(["Who is b?"], 300), row)
    assert bool(found.warnings) is warned and found.format == "completions as they stand, without a template"
    assert not warned or ("In 1 of 1 rows" in found.warnings[0] and "r1" in found.warnings[0])


def test_counterfact(cli: Any, model: Path, tmp_path: Path) -> None:
    words = ("--forget", case("counterfact_shape.json"), "--map", "prompt=prompt,completion=ground_truth")
    plan = cli("forget", model, *words, "--method", "ga", "--out", tmp_path / "run", "--dry-run",
               "--json").json["prompt"]
    assert "In 1 of 1 rows nothing separates prompt and completion" in plan["warnings"][0]
    assert "sport[[basketball" in plan["first_row"]


def test_long_rows_are_shortened() -> None:
    row = Example(id="t", prompt="", answer="word " * 2000, kind="text")
    found = formats(train_tokenizer(["word"], 300), row)
    assert len(found.first_row) < 1300 and " characters ... " in found.first_row and found.first_row.endswith("]]")


def test_a_think_block_that_only_a_prompt_opens(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    odd = with_template(model, tmp_path / "odd", case("think_template.jinja").read_text(encoding="utf-8"))
    plan = cli("forget", odd, *rows.words, *NPO, "--out", tmp_path / "run", "--dry-run", "--json").json["prompt"]
    assert plan["first_row"] == PLAIN_FIRST and "opens a reply with '<think>\\n'" in plan["notes"][0]


THINKS = ("{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}<|assistant|>CLOSED"
          "{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
          "{% if add_generation_prompt %}<|assistant|>OPEN{% endif %}")
OFF = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}"


@pytest.mark.parametrize(("opened", "closed", "given", "note"), [
    ("<think>", "", "", "opens a reply with '<think>'"),
    (OFF + "<think>\n{% endif %}", "<think></think>", "<think></think>", "thinking is off"),
    (OFF + "<think>{% endif %}", "", "", "opens a reply with '<think>'"),
    (OFF + "{% endif %}", "<think></think>", "<think></think>", "it is given"),
    ("<think>\n", "<think>\n\n</think>\n", "<think>\n\n</think>\n", "it is given"),
    ("</think>", "</think>", "</think>", ""),
])
def test_every_way_to_think(opened: str, closed: str, given: str, note: str) -> None:
    """The answer stands where a whole conversation has it, never in an open block."""
    made = train_tokenizer(["Who is b? It is a."], 300)
    made.chat_template = THINKS.replace("OPEN", opened).replace("CLOSED", closed)
    found = formats(made)
    assert found.first_row == f"<|user|>Who is b?<|assistant|>{given}[[It is a.<|eos|>]]"
    assert note in " ".join(found.notes) and bool(note) is bool(found.notes) and not found.warnings


def test_a_dated_template_gives_the_same_weights(cli: Any, model: Path, rows: Any, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    dated = with_template(model, tmp_path / "dated", case("dated_template.jinja").read_text(encoding="utf-8"))
    weights, records = [], []
    for year in (2024, 2031):
        monkeypatch.setattr(chat_template_utils, "datetime", type("Day", (), {"now": staticmethod(
            lambda year=year: datetime(year, 3, 5))}))
        run = tmp_path / str(year)
        cli("forget", dated, *rows.words, *NPO, "--out", run)
        weights.append(hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest())
        records.append(json.loads((run / "record.json").read_text())["prompt"])
    assert weights[0] == weights[1] and records[0] == records[1]
    assert records[0]["date"] == str(DATE) and "26 Jul 2024" in records[0]["first_row"]
    assert "always 26 July 2024" in records[0]["notes"][0]
