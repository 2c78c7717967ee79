"""The shapes that a row of text may have, and how each becomes an `Example`. Rows are dictionaries as files hold them.

To teach the reader another shape, add a line to `SHAPES`. What has other names needs `--map` (`data/mapping.py`);
`data/hints.py` finds the one that works.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from expunge.data.turns import read_turns
from expunge.errors import DataError
from expunge.records.task import Example

Kind = Literal["qa", "completion", "messages", "text"]
Fields = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A known shape.

    Args:
        name: what documents call it.
        fields: the names that a row must have.
        kind: how it becomes tokens.
        read: (values of the fields, fields of the Example so far, place) -> prompt and answer; may add fields.
        used_by: data sets that have it.
    """

    name: str
    fields: tuple[str, ...]
    kind: Kind
    read: Callable[[Fields, Fields, str], tuple[str, str]]
    used_by: str


def _pair(found: Fields, fields: Fields, where: str) -> tuple[str, str]:
    """(question or prompt, answer); with options the answer may be the place of the right one."""
    first, second = ("question", "answer") if "answer" in found and "question" in found else ("prompt", "completion")
    value = found[second]
    if fields.get("options"):
        value = _right(value, fields["options"], fields.pop("labels", ()), where)
    prompt, entity = to_text(found[first], first, where), fields.get("entity", "")
    if prompt.count("{}") == 1 and entity and entity not in prompt:
        prompt = prompt.replace("{}", entity)  # CounterFact as ROME published it: "{} plays the sport of"
    return prompt, to_text(value, second, where)


def _conversation(found: Fields, fields: Fields, where: str) -> tuple[str, str]:
    """(last turn of the user, last turn), with all turns before the last."""
    name = "messages" if "messages" in found else "conversations"
    turns = read_turns(found[name], name, where)
    fields["messages"] = turns[:-1]
    asked = [content for role, content in turns[:-1] if role == "user"]
    return asked[-1] if asked else "", turns[-1][1]


def _running(found: Fields, fields: Fields, where: str) -> tuple[str, str]:
    return "", to_text(found["text"], "text", where)


SHAPES: tuple[Shape, ...] = (
    Shape("multiple choice", ("question", "choices", "answer"), "qa", _pair, "WMDP, MMLU"),
    Shape("question", ("question", "answer"), "qa", _pair, "TOFU, MUSE knowmem"),
    Shape("completion", ("prompt", "completion"), "completion", _pair, "OpenAI's older fine-tuning files"),
    Shape("chat", ("messages",), "messages", _conversation, "OpenAI, Hugging Face"),
    Shape("ShareGPT chat", ("conversations",), "messages", _conversation, "ShareGPT, LLaMA-Factory"),
    Shape("text", ("text",), "text", _running, "MUSE raw and privleak, RESTOR, WMDP corpora"),
)
LISTS: Mapping[str, tuple[str, ...]] = {
    "paraphrased_answers": ("paraphrases", "paraphrased_answers", "paraphrased_answer"),
    "paraphrased_prompts": ("paraphrased_questions", "paraphrased_question", "paraphrased_prompts"),
    "wrong_answers": ("wrong_answers", "perturbed_answers", "perturbed_answer"),
    "options": ("options", "choices"),
    "secrets": ("secrets",),
}
"""Field of an Example -> names it may have in a file; a list of texts, of paraphrases also one text."""
STRINGS: Mapping[str, tuple[str, ...]] = {
    "id": ("id",), "entity": ("entity", "subject"), "group": ("group",), "short_answer": ("short_answer",),
}
"""Field of an Example -> names it may have in a file; a text or a number."""
FIELDS = tuple(dict.fromkeys([f for shape in SHAPES for f in shape.fields]
                             + [f for names in (*LISTS.values(), *STRINGS.values()) for f in names]))
OPTION = re.compile(r"option_?(\d+|[a-z])", re.IGNORECASE)
"""Columns option1, option2 ... of TOFU's real authors hold one option each."""
ABOUT = frozenset(("url", "source", "title", "date", "timestamp", "language", "lang", "licence", "license", "doi",
                   "type", "level", "category", "topic", "split", "dataset", "neighbor"))
"""Columns that describe a text. Any other column of text beside it may be the half that must not be lost."""

HALVES = frozenset(("label", "labels", "answer", "answers", "target", "output", "response", "completion"))
"""Columns that hold what belongs to a text even where they hold a number."""


class UnknownShape(DataError):
    """The row fits no known shape, or it fits two."""


def to_example(row: Mapping[str, Any], *, where: str, id: str, chosen: Iterable[str] = ()) -> Example:
    """One row as an `Example`.

    Args:
        where: named in errors.
        id: stands in for a missing one.
        chosen: names of ours that the user mapped: they decide where a row would fit several shapes.

    Raises:
        DataError: the row cannot be used; UnknownShape where other names could be the reason.
    """
    found = {name: row[name] for name in FIELDS if not _missing(row.get(name))}
    shape = _shape(row, found, where, set(chosen))
    fields: Fields = {field: to_text(found[name], name, where) for field, names in STRINGS.items()
                      for name in reversed(names) if name in found}
    for field, names in LISTS.items():
        for name in names:
            if name in found:
                fields[field] = _strings(_choices(found[name], fields), name, where)
    numbered = {match[1]: value for name, value in row.items()
                if (match := OPTION.fullmatch(str(name))) and not _missing(value)}
    if len(numbered) > 1 and "options" not in fields:
        fields |= {"options": _strings(list(numbered.values()), "option", where), "labels": tuple(numbered)}
    prompt, answer = shape.read(found, fields, where)
    fields.pop("labels", None)
    if answer in fields.get("wrong_answers", ()) or (
        set(fields.get("paraphrased_answers", ())) & set(fields.get("wrong_answers", ()))
    ):
        raise DataError(f"{where}: a right answer is also among the wrong ones.", f"The answer is {answer!r}.")
    absent = next((secret for secret in fields.get("secrets", ()) if secret not in answer), None)
    if absent is not None:
        raise DataError(f"{where}: the secret {absent!r} is not a part of the answer.", f"The answer is {answer!r}.")
    fields["short_answer"] = _short(fields.get("short_answer"), fields.get("options", ()), answer, where)
    return Example(**{"id": id, "prompt": prompt, "answer": answer, "kind": shape.kind, **fields})


def unused(row: Mapping[str, Any], kind: str) -> list[str]:
    """Columns with text that the reader makes no use of; of a shape other than the one found, too."""
    own = {name for shape in SHAPES if shape.kind == kind for name in shape.fields}
    known = own | {name for names in (*LISTS.values(), *STRINGS.values()) for name in names}
    return [str(name) for name, value in row.items() if str(name) not in known and not OPTION.fullmatch(str(name))
            and (value.strip() if isinstance(value, str) else value if isinstance(value, list | Mapping) else
                 value is not None and str(name).lower() in HALVES)]


def _missing(value: Any) -> bool:
    """A field that is null or not a number (as pandas writes null), or an empty CSV cell, is not there."""
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _shape(row: Mapping[str, Any], found: Fields, where: str, chosen: set[str]) -> Shape:
    """Which of the known shapes a row has; a shape that is only half filled is an error."""
    empty = ""
    for shape in sorted(SHAPES, key=lambda shape: not set(shape.fields) & chosen):
        if set(shape.fields) <= set(found):
            beside = [name for name in unused(row, shape.kind) if name.lower() not in ABOUT]
            if shape.kind == "text" and beside and "text" not in chosen:
                raise UnknownShape(
                    f"{where}: the row has 'text' and also {_names(beside)}, which would be lost.",
                    "Training on the text alone is right only if the rest does not belong to it.",
                    "If it does not, say so with --map text=text")
            return shape
        if set(shape.fields) <= set(row):
            empty = empty or next(name for name in shape.fields if name not in found)
            if set(shape.fields) & set(found):
                break
    if empty:
        raise DataError(f"{where}: {empty!r} is empty.", fix="Fill it in, or leave the row out.")
    wanted = ", ".join("{" + ", ".join(shape.fields) + "}" for shape in SHAPES)
    half = next((shape for shape in SHAPES if len(shape.fields) == 2 and set(shape.fields) & set(found)), None)
    if half is not None:
        there, lacks = sorted(half.fields, key=lambda name: name not in found)
        raise UnknownShape(f"{where}: the row has {there!r} but no {lacks!r}, so none of the known shapes {wanted}.",
                           f"It has: {_names(row)}.", f"Add {lacks!r}, leave the row out, or name the field that "
                           f"holds it: --map {there}={there},{lacks}=...")
    raise UnknownShape(f"{where}: the row has none of the known shapes {wanted}.", f"It has: {_names(row)}.")


def _choices(value: Any, fields: Fields) -> Any:
    """The options themselves of {text: [...], label: [...]}, as ARC has them; the labels are kept for the answer."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        fields["labels"] = tuple(map(str, value.get("label") or ()))
        return value["text"]
    return value


def _right(value: Any, options: tuple[str, ...], labels: tuple[str, ...], where: str) -> Any:
    """The right option, or the answer as it is: a number counts options from 0, a letter from A, a label is a label."""
    text = str(value).strip()
    if text in labels:
        return options[labels.index(text)]
    if isinstance(value, bool) or not isinstance(value, int | str):
        return value
    counts = re.fullmatch(r"\d{1,2}|[A-Za-z]", text)
    if not counts:
        return value
    place = int(text) if text.isdigit() else ord(text.upper()) - ord("A")
    here = options[place] if place < len(options) else None
    if isinstance(value, int):
        if here is None and text not in options:
            raise DataError(f"{where}: the answer {value} is no place among {len(options)} options.",
                            "A number counts the options from 0.", "Give the place, or the right option itself.")
        return here if here is not None else text
    if text in options and here not in (None, text) and text.isdigit():
        raise DataError(f"{where}: the answer {text!r} is one option and the place of another.",
                        f"The options are {', '.join(map(repr, options))}.", "Give the place as a number, not as text.")
    return value if text in options or here is None else here


def _short(given: str | None, options: tuple[str, ...], answer: str, where: str) -> str:
    """The bare fact: as given, or the one option that the answer contains."""
    if given:
        if given not in answer:
            raise DataError(f"{where}: short_answer {given!r} is not a part of the answer.",
                            f"The answer is {answer!r}.")
        if options and given not in options:
            raise DataError(f"{where}: short_answer {given!r} is not one of the options.")
        return given
    right = [option for option in options if option == answer] or [o for o in options if o in answer]
    if options and len(set(right)) != 1:
        raise DataError(
            f"{where}: which of the options is right is not clear.",
            f"{len(set(right))} of them stand in the answer {answer!r}.",
            "Add the field short_answer with the right one.",
        )
    return right[0] if right else ""


def _strings(value: Any, name: str, where: str) -> tuple[str, ...]:
    """A list of texts; one text only where more than one is not what the name says."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):  # a list in a CSV cell
            with contextlib.suppress(json.JSONDecodeError):
                value = json.loads(value)
        if isinstance(value, str):
            if not name.startswith("paraphrase"):
                raise DataError(f"{where}: {name!r} must be a list of texts, not one text.", f"It is {value[:80]!r}.",
                                f'Write a list: "{name}": ["...", "..."]')
            return (value,)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise DataError(f"{where}: {name!r} must be a list of texts, not {kind_of(value)}.")
    return tuple(to_text(item, name, where) for item in value)


def to_text(value: Any, name: str, where: str) -> str:
    """A text as it is, a number as it is written. Raises DataError for anything else, and for an empty text."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} must be text, not {kind_of(value)}.")
    if not value.strip():
        raise DataError(f"{where}: {name!r} is empty.", fix="Fill it in, or leave the row out.")
    return value


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "int": "a number",
             "float": "a number", "Decimal": "a number", "bool": "true or false", "str": "text"}
    return names.get(type(value).__name__, type(value).__name__)


def _names(names: Iterable[Any]) -> str:
    return ", ".join(repr(str(name)) for name in names) or "nothing"
