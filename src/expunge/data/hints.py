"""The `--map` that a message proposes: made from names that data sets use, and tried on the rows before it is said."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product

from expunge.data.mapping import Located, apply, paths_in
from expunge.data.shapes import ABOUT, LISTS, STRINGS, to_example, unused
from expunge.errors import ExpungeError

CHATS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog", "turns", "chosen")
PROMPTS = ("prompt", "prefix", "context")
COMPLETIONS = ("completion", "ground_truth", "gt", "continuation", "target_true", "target", "suffix")
"""Both halves as they stand: CounterFact, MUSE verbmem, DUSK."""
QUESTIONS = ("question", "instruction+input", "instruction", "query", "prompt", "q", "problem", "user", "input", "text",
             "sentence")
ANSWERS = ("answer", "answers", "output", "response", "reply", "solution", "answerKey", "labels", "label", "a",
           "assistant", "chosen", "completion", "ground_truth", "target", "gt")
"""Question and answer: Alpaca (instruction, input, output), RWKU (query, answer), KnowUnDo (text, labels)."""
TEXTS = ("text", "content", "passage", "body", "document", "article", "raw_content", "intro")
HALVES = {"question", "query", "answer", "prompt", "completion"}
"""Names of a half: alone it is no running text, the other half is missing."""
NAMES = ABOUT | {name for names in STRINGS.values() for name in names}
"""Fields that are about a row."""
LISTED = {name for names in LISTS.values() for name in names}
"""Fields that hold lists of our own."""
PATHS = 400
"""Fields of a row that are looked at."""
KINDS = 5
"""Different sets of columns that are looked at."""
TRIED = 60
"""Mappings that are tried."""
FIRST = 20
"""Rows that a mapping is first tried on; all rows come after."""


def propose(rows: Sequence[Located]) -> str:
    """The option `--map ...`, as it can be pasted, under which every row can be read; empty if there is none.

    Conversations go before question and answer, and both before running text. Of several mappings of one kind, the one
    that gives most rows; of these the first.
    """
    kinds = {tuple(row): row for _, row in reversed(rows)}  # one row of each set of columns
    paths = list(dict.fromkeys(path for row in islice(reversed(kinds.values()), KINDS)
                               for path in islice(paths_in(row), PATHS) if path.partition(".")[0] not in LISTED))
    for candidates in (_conversations(paths), _pairs(paths, rows), _texts(paths, rows)):
        best, most = "", 0
        for mapping in islice(candidates, TRIED):
            if (count := _readable(rows, mapping, FIRST)) > most and _readable(rows, mapping):
                text = ",".join(f"{ours}={theirs}" for ours, theirs in mapping.items())
                best, most = f"--map {shlex.quote(text)}", count
        if best:
            return best
    return ""


def _conversations(paths: Sequence[str]) -> Iterator[dict[str, str]]:
    yield from ({"messages": path} for name in CHATS for path in paths if name in _ends(path))


def _pairs(paths: Sequence[str], rows: Sequence[Located]) -> Iterator[dict[str, str]]:
    """Two halves that stand in one item, by how sure their names are; then any two texts, if there are just two."""
    for group in dict.fromkeys(map(_item, paths)):
        inside = [path for path in paths if _item(path) == group]
        for first, second, names in (("prompt", "completion", product(PROMPTS, COMPLETIONS)),
                                     ("question", "answer", product(QUESTIONS, ANSWERS))):
            found = [{first: q, second: a} for one, other in names for q in _named(one, inside)
                     for a in _named(other, inside) if q != a]
            yield from (pair | more for pair in found if (more := _beside(pair[first], inside)))
            yield from found
    texts = [path for path in paths if _is_text(rows, path)]
    if len(texts) == 2:
        yield {"question": texts[0], "answer": texts[1]}


def _beside(path: str, paths: Sequence[str]) -> dict[str, str]:
    """Fields with our own names in the object that holds a field; --map must name them too if it is not the row."""
    holder = path.split("+")[0].rpartition(".")[0]
    if not holder or holder.endswith("[]"):
        return {}
    return {name: f"{holder}.{name}" for name in sorted(NAMES - ABOUT | LISTED) if f"{holder}.{name}" in paths}


def _texts(paths: Sequence[str], rows: Sequence[Located]) -> Iterator[dict[str, str]]:
    yield from ({"text": path} for name in TEXTS for path in paths if name in _ends(path))
    yield from ({"text": path} for path in paths if _is_text(rows, path) and not set(_ends(path)) & HALVES)


def _item(path: str) -> str:
    """The item of a list that a path leads into."""
    return path.rpartition("[]")[0]


def _named(words: str, paths: Sequence[str]) -> list[str]:
    """Paths that end in this name; of several names joined by +, all together."""
    found = [[path for path in paths if word.lower() in _ends(path)] for word in words.split("+")]
    return found[0] if len(found) == 1 else ["+".join(f[0] for f in found)] if all(found) else []


def _ends(path: str) -> list[str]:
    """The name at the end of a path; also the one before it where the last only says that a text comes."""
    names = path.strip(".").replace("[0]", "").lower().split(".")
    return names[-2:] if names[-1] in ("text", "str", "value") else names[-1:]


def _is_text(rows: Sequence[Located], path: str) -> bool:
    """Whether it is a text in the first rows, and not a name of the row or its source."""
    values = [row.get("text") for _, row in islice(apply(rows[:FIRST], {"text": path}), FIRST)]
    name = path.rpartition(".")[2]
    return name not in NAMES and not path.endswith("[0]") and all(isinstance(value, str) for value in values)


def _readable(rows: Sequence[Located], mapping: Mapping[str, str], first: int | None = None) -> int:
    """How many rows the mapping gives; 0 when one (of the `first` ones) cannot be used or has not all fields."""
    count = 0
    try:
        for count, (where, row) in enumerate(apply(rows, mapping), 1):
            if not set(mapping) <= set(row):
                return 0
            if first is not None and count > first:
                continue
            if "text" in mapping and any(name.lower() not in ABOUT for name in unused(row, "text")):
                return 0  # a half that stands alone
            to_example(row, where=where, id="", chosen=mapping)
    except ExpungeError:
        return 0
    return count
