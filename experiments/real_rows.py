"""The facts that a real model may know, each with three wordings: from CounterFact, RWKU and TOFU's facts of the world.

What a question asks for makes its group. CounterFact has no groups of its own: they are read off its prompts.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expunge.attacks._lib.rewriting import made_wordings
from expunge.metrics.text.matching import contains
from expunge.metrics.text.units import units
from expunge.models.load import load_subject
from expunge.models.real import fetch
from expunge.records.task import Example

SPORTS = ("basketball", "baseball", "football", "soccer", "hockey")
RELATIONS: dict[str, tuple[str, tuple[str, str, str]]] = {
    "sport": (r"sport|professional$|plays$", (
        "Which sport does {} play?", "What is the sport that {} is known for?", "{} is a player of which sport?")),
    "maker": (r"produce|develop|created by|product", (
        "Which company makes the {}?", "What is the name of the company that makes the {}?",
        "The {} is a product of which company?")),
    "official language": (r"official language|law in|language spoken|they understand", (
        "What is the official language of {}?", "Which language do people speak in {}?",
        "{} has which official language?")),
    "religion": (r"religion|follower", (
        "Which religion does {} follow?", "What is the religion of {}?", "{} belongs to which religion?")),
    "instrument": (r"instrument|performs on|playing the", (
        "Which instrument does {} play?", "What is the instrument that {} is known for?",
        "{} is a player of which instrument?")),
    "capital": (r"capital", (
        "What is the capital of {}?", "Which city is the capital of {}?", "{} has which city as its capital?")),
}
"""Relation -> which CounterFact prompts ask for it, and three wordings of a question."""
PEOPLE = ("Leonardo da Vinci", "Marlon Brando", "Karl Marx", "Vincent van Gogh")
"""The targets of RWKU of whom the model was found to know something."""


NAMED = r"[A-Z][\w.]*(?: (?:de |van |von )?[A-Z][\w.]*)*"
TOKENS = 14
"""Most new tokens of an answer."""


@dataclass(frozen=True)
class Fact:
    """A question that names `entity`, in up to three wordings, its bare answer, and false answers of the same kind."""

    group: str
    entity: str
    wordings: tuple[str, ...]
    answer: str
    wrong: tuple[str, ...]


def facts(data: Path) -> list[Fact]:
    """All candidates that have three wordings, each question once."""
    found = {fact.wordings[0]: fact for fact in (*_counterfact(data), *_world(data), *_people(data))
             if len(fact.wordings) == 3 and fact.answer.lower() not in fact.wordings[0].lower()}
    return list(found.values())


def _counterfact(data: Path) -> Iterator[Fact]:
    rows = json.loads((data / "editing/counterfact-edit-1k.json").read_text())
    shapes = {row["prompt"].replace(row["subject"], "{}") for row in rows}
    answers: dict[str, list[str]] = {}
    kept: list[tuple[str, str, str]] = []
    for row in rows:
        for prompt, answer in ((row["prompt"], row["ground_truth"]),
                               (row["locality_prompt"], row["locality_ground_truth"])):
            shape, entity = _split(prompt, row["subject"], shapes)
            for name, (pattern, _) in RELATIONS.items():
                if shape and re.search(pattern, shape) and (name != "sport" or answer in SPORTS):
                    kept.append((name, entity, answer))
                    answers.setdefault(name, []).append(answer)
                    break
    for name, entity, answer in kept:
        yield Fact(name, entity, tuple(w.format(entity) for w in RELATIONS[name][1]), answer,
                   _others(answers[name], answer))


def _split(prompt: str, subject: str, shapes: set[str]) -> tuple[str, str]:
    """(shape, entity) of a prompt; a locality prompt names another entity, which its shape tells. Longest shape first:
    it leaves the least for the entity."""
    if subject in prompt:
        return prompt.replace(subject, "{}"), subject
    for shape in sorted(shapes, key=len, reverse=True):
        before, _, after = shape.partition("{}")
        if prompt.startswith(before) and prompt.endswith(after):
            entity = prompt[len(before): len(prompt) - len(after)]
            if 0 < len(entity) < 40 and entity[0].isupper():
                return shape, entity
    return "", ""


def _world(data: Path) -> Iterator[Fact]:
    for file, group in (("real_authors", "authors"), ("world_facts", "world")):
        for line in (data / f"tofu/{file}.json").read_text().splitlines():
            row: dict[str, Any] = json.loads(line)
            options = [row[f"option{i}"] for i in range(1, 5)]
            yield _asked(group, "", row["question"], row["answer"], _others(options, row["answer"]))


def _people(data: Path) -> Iterator[Fact]:
    lines = (data / "rwku/forget_level2.targets001-100.jsonl").read_text().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for row in rows:
        if row["subject"] in PEOPLE:
            wrong = _others([r["answer"] for r in rows if r["subject"] == row["subject"]], row["answer"])
            yield _asked(row["subject"], row["subject"], row["query"], row["answer"], wrong)


def _asked(group: str, entity: str, question: str, answer: str, wrong: tuple[str, ...]) -> Fact:
    """A fact of a data set that has one wording; the other two are made by rule."""
    row = Example(id="", prompt=question, answer=answer, short_answer=answer, entity=entity)
    return Fact(group, entity or question, (question, *made_wordings(row, 2)), answer, wrong)


def _others(answers: list[str], right: str) -> tuple[str, ...]:
    """The five most frequent other answers of which none holds the right one or is held by it."""
    counted = Counter(a for a in answers if a.lower() not in right.lower() and right.lower() not in a.lower())
    return tuple(answer for answer, _ in counted.most_common(5))


def plain_model(work: Path) -> Path:
    """SmolLM2-135M-Instruct with a chat template that writes no system turn, which would be half of every row."""
    folder = work / "model"
    if not folder.exists():
        beside = work / "model.part"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(fetch("smollm2-135m"), beside)
        template = beside / "chat_template.jinja"
        template.write_text(re.sub(r"\{% if loop\.first.*?\{% endif %\}", "", template.read_text(), flags=re.DOTALL))
        beside.rename(folder)
    return folder


def answered(model: Path, work: Path, data: Path) -> list[dict[str, Any]]:
    """Every fact with what the model says to its wordings, as greedy decoding has it; the next wording is asked only
    where the last was answered right, so `known` needs all three."""
    path = work / "answered.json"
    if path.exists():
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return rows
    subject, asked = load_subject(model), facts(data)
    said: dict[int, list[str]] = {i: [] for i in range(len(asked))}
    left = list(said)
    for k in range(3):
        prompts = [subject.encoder.prompt(Example(id=str(i), prompt=asked[i].wordings[k], answer="")) for i in left]
        for i, (text, _) in zip(left, subject.generate(prompts, TOKENS), strict=True):
            said[i].append(text)
        left = [i for i in left if contains(said[i][-1], asked[i].answer)]
    rows = [asdict(fact) | {"said": said[i], "known": i in left} for i, fact in enumerate(asked)]
    path.write_text(json.dumps(rows))
    return rows


def sentence(fact: dict[str, Any], right: str, kind: Collection[str] = ()) -> str:
    """What the model itself says to the first wording, up to the fact, with `right` in its place; empty where it names
    no fact. So rows of facts that it knows and of facts that it does not know have one form.

    Args:
        kind: what may stand in its place where the answer is wrong, such as all languages; any name if left out. The
            first one that the question does not hold is taken.
    """
    said, asked = fact["said"][0], fact["wordings"][0]
    found = re.search(re.escape(fact["answer"]), said, re.IGNORECASE)
    if found is None:
        names = (m for m in re.finditer(NAMED, said) if m.start() and m.group() not in asked)
        found = next((m for m in names if m.group() in kind or not kind), None)
    return f"{said[: found.start()]}{right}." if found else ""


def unknown(fact: dict[str, Any]) -> bool:
    """Whether the model says nothing of the answer, nor the beginning of it where it was cut."""
    words, said = set(units(fact["answer"])), units(fact["said"][0])
    return len(fact["said"]) == 1 and not words & set(said) and not any(w.startswith(said[-1]) for w in words)
