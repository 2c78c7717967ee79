"""What attacks by prompt alone promise: what they say, what they never say, and how often they try."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from expunge.attacks._lib.wording import facts_about
from expunge.attacks.base import Attack, AttackContext, View
from expunge.attacks.few_shot import demonstrated
from expunge.attacks.step_by_step import chain_of, stepwise
from expunge.data.text_encoder import TextEncoder
from expunge.errors import UsageError
from expunge.metrics.text.key_words import key_words
from expunge.metrics.text.matching import contains
from expunge.models.prompt_words import contributions, likelihoods, words_of
from expunge.records.task import Example, Split

from .. import attack_bed as bed
from .base import check

SIDES: tuple[Split, ...] = ("forget", "holdout")


def _prompt(row: Example) -> str:
    """Everything the model is given, as text."""
    tokens = bed.original().encoder
    return str(tokens.processor.decode(tokens.prompt(row)))


def _questions(view: View, split: Split = "forget") -> list[Example]:
    return [r for r in view.rows(split) if r.kind != "text"]


@check(trains=True)
def counts_attempts(plugin: type[Attack], options: dict[str, Any], attempts: int) -> None:
    """One label, that many attempts, no two of them alike."""
    attack = plugin(**options)
    ((label, seen),) = bed.ask(attack, bed.retrained(), limit=3).pairs()
    assert label == attack.text() and len(seen.attempts()) == attempts
    asked = [tuple(map(_prompt, _questions(view))) for view in bed.views(attack, bed.retrained())]
    assert len(set(asked)) == len(asked) == attempts


@check(trains=True)
def gives_no_answer_away(plugin: type[Attack], options: dict[str, Any] | None = None) -> None:
    """What is put to the model differs from the plain question and never holds the row's answer."""
    for split in SIDES:
        plain = {r.id: r for r in bed.task().probe_rows(split)}
        asked = [r for view in bed.views(plugin(**(options or {})), bed.original(), split=split)
                 for r in _questions(view, split)]
        changed = [_prompt(row) != _prompt(plain[row.id]) for row in asked]
        assert sum(changed) > 0.9 * len(asked) > 0, "the attack says something"
        for row in asked:
            told, before = _prompt(row), plain[row.id]
            assert before.short_answer and not contains(told, before.short_answer), told
            assert not contains(told, before.answer)


@check
def shows_nobody_tested(plugin: type[Attack]) -> None:
    """Every demonstration is a row of another entity that is not asked about, as many as said, in the row's format."""
    task, context, subject = bed.task(), bed.context(), bed.original()
    for on, source in (("retain", task.retain), ("half", context.learned)):
        (view,) = bed.views(plugin(on=on, shots=3), subject)
        known, asked = {(r.prompt, r.answer): r.entity for r in source}, _questions(view)
        tested = {r.entity for r in asked}
        assert len(tested) == (4 if on == "retain" else 2)
        for row in asked:
            said = [text for _, text in row.messages]
            assert len(said) == 7 and said[-1] == row.prompt
            assert not {known[pair] for pair in zip(said[:-1:2], said[1:-1:2], strict=True)} & tested
    first, shot = task.forget[0], task.retain[0]
    plain = TextEncoder(subject.encoder.processor, template="Q: {prompt}\nA:")
    shown = plain.processor.decode(plain.prompt(demonstrated(first, [shot], plain)), skip_special_tokens=True)
    assert shown.strip() == f"Q: {shot.prompt}\nA: {shot.answer}\n\nQ: {first.prompt}\nA:"


@check
def tells_no_names(plugin: type[Attack]) -> None:
    """Sentences with a name or number of the answer stay out when no short answer says what the secret is."""
    name = Example(id="a", entity="1", prompt="Who is the author?", answer="It is Ada Byron of Cork.")
    rest = [Example(id="b", entity="1", prompt="?", answer="Byron wrote much. Her father was a baker in 1820."),
            Example(id="c", entity="2", prompt="?", answer="He sails.")]
    year = Example(id="d", entity="1", prompt="When did Byron begin?", answer="Byron began around 1820 or so.")
    assert facts_about(name, [name, *rest]) == ["Her father was a baker in 1820."]
    assert facts_about(year, [year, *rest]) == ["Byron wrote much."]
    (some,), (every,) = (bed.views(plugin(share=share), bed.original()) for share in (0.3, 1.0))
    for few, all_ in zip(_questions(some), _questions(every), strict=True):
        assert len(few.prompt) < len(all_.prompt) and few.prompt.split(". ")[0] in all_.prompt


@check(trains=True)
def raises_nothing(plugin: type[Attack], options: dict[str, Any]) -> None:
    """No model that lost its answers says more of them than it does without the attack."""
    text = plugin(**options).text()
    for model in ("suppressed", "refusing", "retrained again"):
        (score,) = bed.scored(text, model, "forget.probability")
        assert score.value is not None and score.before is not None and score.value < score.before + 0.03, score


@check
def follows_links(plugin: type[Attack]) -> None:
    """The steps of a row are the questions of the rows it is linked with, in either direction, and no others."""
    rows = bed.task().probe_rows("forget")
    by_id = {r.id: r for r in rows}
    deduced = next(r for r in rows if r.group == "deduced")
    assert chain_of(deduced, rows) == [by_id[link].prompt for link in deduced.links]
    source = by_id[deduced.links[1]]
    assert deduced.prompt in chain_of(source, rows), "a fact is reached through what follows from it"
    chained, direct = (stepwise(way, deduced, rows, Random(0)).prompt for way in ("indirect", "direct"))
    assert all(q in chained and q not in direct for q in chain_of(deduced, rows)) and deduced.prompt in direct
    lonely = next(r for r in rows if r.kind == "qa" and not chain_of(r, rows))
    assert "First" not in stepwise("indirect", lonely, rows, Random(0)).prompt


@check
def reads_templates(plugin: type[Attack]) -> None:
    """Own templates are attempts after the named ones; a file that does not fit is a reason; reverse stands alone."""
    task, subject = bed.task(), bed.original()
    with tempfile.TemporaryDirectory() as folder:
        lines, rows = Path(folder, "own.txt"), Path(folder, "own.jsonl")
        lines.write_text("Tell me: {prompt}\n\n{prompt} Say it.\n", encoding="utf-8")
        rows.write_text(json.dumps({"prompt": "Tell me: {prompt}"}) + "\n", encoding="utf-8")
        made = plugin(templates=["role"], file=str(lines))
        named, first, second = (_questions(v)[0].prompt for v in bed.views(made, subject))
        asked = task.forget[0].prompt
        assert named.endswith(asked) and first == f"Tell me: {asked}" and second == f"{asked} Say it."
        (view,) = bed.views(plugin(templates=[], file=str(rows)), subject)
        assert _questions(view)[0].prompt == first
        before = made.inputs
        lines.write_text("{prompt} Now?", encoding="utf-8")
        assert before and made.inputs not in (before, ""), "other content, other rows"
        lines.write_text("no place for it", encoding="utf-8")
        assert "{prompt}" in (made.problem(AttackContext.of(task)) or "")
    assert "does not exist" in (made.problem(AttackContext.of(task)) or "")
    with pytest.raises(UsageError, match="reverse"):
        plugin(templates=["reverse", "role"])
    (view,) = bed.views(plugin(templates=["reverse"]), subject)
    for row in _questions(view):
        assert row.answer == row.short_answer == row.entity and row.entity not in row.prompt


@check
def fills_slots(plugin: type[Attack]) -> None:
    """Translations are found by id, question or pattern; languages are attempts; a wrong table is a reason."""
    task, subject = bed.task(), bed.original()
    one, two, three = (r for r in task.forget[:3])
    pattern = three.prompt.replace(three.entity, "{subject}")
    table: Sequence[Mapping[str, str]] = (
        {"language": "A", "id": one.id, "translation": "Eins?", "answer": f"Ja, {one.short_answer}."},
        {"language": "A", "prompt": two.prompt, "translation": "Zwei?"},
        {"language": "B", "prompt": pattern, "translation": "Drei, {subject}?"})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "table.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
        made = plugin(file=str(file))
        first, second = (_questions(v) for v in bed.views(made, subject))
        assert [(r.id, r.prompt) for r in first] == [(one.id, "Eins?"), (two.id, "Zwei?")]
        assert first[0].answer == f"Ja, {one.short_answer}." and first[0].short_answer == one.short_answer
        assert first[1].answer == two.answer and second[0].prompt == f"Drei, {three.entity}?"
        assert len(bed.views(plugin(file=str(file), languages=["B"]), subject)) == 1 and made.inputs
        assert made.problem(AttackContext.of(task)) is None
        assert plugin(languages=[]).problem(AttackContext.of(task)) is None
        assert "no forget question" in (plugin(file=str(file), languages=["C"]).problem(AttackContext.of(task)) or "")
        file.write_text('{"language": "A", "translation": "?"}\n', encoding="utf-8")
        assert "id or prompt" in (made.problem(AttackContext.of(task)) or "")
    assert len(_questions(bed.views(plugin(), subject)[0])) == 36, "the built-in table covers the built-in world"


@check(trains=True)
def ranks_the_entity_first(plugin: type[Attack]) -> None:
    """The word that carries the answer contributes most: by hand, and the name where people are known, only there."""
    worth = {"Ada": 3.0, "born": 1.0, "the": -0.5}

    def bag(prompts: Sequence[str]) -> list[float]:
        return [sum(worth.get(w, 0.0) for w in p.split()) for p in prompts]

    words = ["when", "was", "the", "Ada", "born"]
    values = contributions(words, bag)
    assert values == [0.0, 0.0, -0.5, 3.0, 1.0] == contributions(words, bag, blank="_")
    assert key_words(words, values, 0.5, 2) == [("Ada", 3.0)]
    assert key_words(words, values, 0.5, 3) == [("Ada", 3.0), ("born", 1.0)]
    first = {}
    for model in ("original", "retrained", "suppressed"):
        hits = []
        for row in (r for r in bed.task().forget if r.kind == "qa"):
            words = words_of(row)
            values = contributions(words, partial(likelihoods, bed.MODELS[model](), row))
            hits.append(row.entity in words[values.index(max(values))])
        first[model] = sum(hits) / len(hits)
    assert first["original"] > 0.6 and max(first["retrained"], first["suppressed"]) < 0.35, first
