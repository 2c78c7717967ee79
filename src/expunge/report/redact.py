"""A page without what was to be forgotten: prompts, answers and names become row numbers and lengths.

Rows are replaced where the page is put together. What is left is read once more: names, and texts of the rows, that got
into it another way (a recipe, the name of a folder, an error message) are replaced in the finished page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from expunge.records.observation import Observations
from expunge.records.task import SPLITS, Example, Split
from expunge.report import text
from expunge.report.evidence import Answer, Cell
from expunge.report.gather import RunView

LONG = 4
"""Words from which a text of a row is looked for in the finished page; shorter ones stand in any sentence."""
FILE = re.compile(r"'[^']*\.(?:jsonl?|csv|tsv|parquet|txt|gz)'")
CAPITALISED = re.compile(r"[^\W\d_a-z][\w’'-]*(?:[ ]+[^\W\d_a-z][\w’'-]*)+")
TAG = re.compile(r"(<style.*?</style>|<[^>]*>)", re.DOTALL)
ATTRIBUTE = re.compile(r'\b((?:title|aria-label|alt)=")([^"]*)(")')
NAME, ROW = "[name]", "[text of a row]"


class Redaction:
    """What must not be on the page, and what stands there instead."""

    def __init__(self, views: Sequence[RunView]) -> None:
        self._numbers: dict[str, dict[str, int]] = {}
        names: set[str] = set()
        texts: set[str] = set()
        for view in views:
            for split in SPLITS:
                for row in _rows(view, split):
                    self.row(split, row.id)
                    names |= {row.entity, row.short_answer} | set(_capitalised(row) if split == "forget" else ())
                    texts |= set(strings(row))
            for seen in (view.subject, view.original, *view.retrained):
                found, said = _observed(seen)
                names |= found
                texts |= said
        self._names = _pattern(names)
        self._texts = sorted((t for t in map(_spaced, texts) if len(t.split()) >= LONG), key=len, reverse=True)

    def row(self, split: str, identity: str) -> str:
        """`forget row 3`: its place in the rows of the task, not the id that the file gives it."""
        known = self._numbers.setdefault(split, {})
        return f"{split} row {known.setdefault(identity, len(known) + 1)}"

    def answer(self, found: Answer, split: Split) -> Answer:
        """The lengths of a prompt and its answers, and how much of the reference each of them repeats."""
        return Answer(_words(found.prompt), _words(found.reference), tuple(map(_length, found.cells)),
                      self.row(split, found.id))

    def answers(self, blocks: Iterable[tuple[str, list[Answer]]]) -> list[tuple[str, list[Answer]]]:
        """The same of titled blocks, whose titles begin with the split."""
        return [(title, [self.answer(a, "retain" if title.startswith("Retain") else "forget") for a in rows])
                for title, rows in blocks]

    def view(self, view: RunView) -> RunView:
        """The view without the names of files, in which people write whom they are about."""
        record, audit = view.record, view.audit
        if record is not None:
            full = {stage: {term: {k: _no_file(v) for k, v in options.items()} if isinstance(options, dict) else options
                            for term, options in terms.items()} if isinstance(terms, dict) else terms
                    for stage, terms in record.recipe_full.items()}
            record = record.model_copy(update={"task": _task(record.task), "recipe_full": full,
                                               "recipe": FILE.sub("'FILE'", record.recipe)})
        if audit is not None:
            audit = audit.model_copy(update={"task": _task(audit.task)})
        return replace(view, record=record, audit=audit)

    def page(self, page: str) -> str:
        """The finished page without names and texts of rows, in what is read and in what appears on pointing."""
        pieces = TAG.split(page)
        there = _spaced(html.unescape(" ".join(p for p in pieces if not p.startswith("<"))))
        texts = [t for t in self._texts if t in there]

        def clean(piece: str) -> str:
            plain = html.unescape(piece)
            found = self._names.sub(NAME, plain) if self._names else plain
            for secret in texts:
                found = re.sub(r"\s+".join(map(re.escape, secret.split())), ROW, found)
            return piece if found == plain else html.escape(found)

        return "".join(
            ATTRIBUTE.sub(lambda m: m[1] + clean(m[2]) + m[3], piece) if piece.startswith("<") and not
            piece.startswith("<style") else piece if piece.startswith("<") else clean(piece) for piece in pieces)


def still_there(folders: Iterable[Path]) -> list[str]:
    """What of the rows the folders still hold, in words."""
    held = {"task.json": "the rows", "observations": "answers to them", "checkpoint": "a checkpoint of its training",
            "model": "weights", "base": "weights that know the rows"}
    return [f"{folder.name}/{name} ({what})" for folder in folders for name, what in held.items()
            if (folder / name).exists()]


def strings(row: Example) -> Iterator[str]:
    """Every text of a row."""
    yield from (row.prompt, row.answer, *row.paraphrased_prompts, *row.paraphrased_answers, *row.wrong_answers,
                *row.options, *(content for _, content in row.messages))


def _rows(view: RunView, split: Split) -> Sequence[Example]:
    return () if view.rows is None else (*view.rows.split(split), *view.rows.probe_rows(split))


def _observed(seen: Observations) -> tuple[set[str], set[str]]:
    """Names and texts of observed rows, for folders that hold no task."""
    names, texts = set[str](), set[str]()
    for asked in seen.keys():  # noqa: SIM118 (not a mapping)
        for row in seen.rows(*asked):
            names |= {str(row.get("entity", "")), str(row.get("short", ""))}
            texts |= {str(row[key]) for key in ("prompt", "reference", "text") if isinstance(row.get(key), str)}
    return names, texts


def _capitalised(row: Example) -> Iterator[str]:
    """Runs of capitalised words: names, where no field says who a row is about."""
    for said in (row.prompt, row.answer):
        yield from CAPITALISED.findall(said)


def _pattern(names: Iterable[str]) -> re.Pattern[str] | None:
    """Whole names however they are joined (`Ada Byron`, `ada-byron`) and their longer parts; no words of the page."""
    own = _vocabulary()
    kept: set[tuple[str, ...]] = set()
    for name in names:
        words = tuple(re.findall(r"\w+", name))
        if not words or len(words) > 8 or not any(c.isalpha() for c in name) or len("".join(words)) < 3:
            continue
        if any(w.casefold() not in own for w in words):
            kept.add(words)
        kept |= {(w,) for w in words if len(w) >= LONG and w[0].isupper() and w.isalpha() and w.casefold() not in own}
    found = sorted(kept, key=lambda words: -len("".join(words)))
    body = "|".join(r"[\W_]+".join(map(re.escape, words)) for words in found)
    return re.compile(rf"(?<![^\W_])(?:{body})(?![^\W_])", re.IGNORECASE) if body else None


def _vocabulary() -> frozenset[str]:
    """Words of the page itself: its fixed sentences and its templates."""
    said = [" ".join(map(str, (*text.METRICS.items(), *text.WORDS.items(), *text.HEADLINES.items(),
                               *text.GROUP_TITLES.items(), *text.READING.items()))), " ".join(text.COMMON_WORDS)]
    said += [path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "templates").glob("*.j2"))]
    return frozenset(word.casefold() for part in said for word in re.findall(r"\w+", part))


def _length(found: Cell) -> Cell:
    said = "".join(piece for piece, _ in found.pieces)
    if not said:
        return found
    known = len({piece.casefold() for piece, telling in found.pieces if telling})
    return replace(found, pieces=((f"{_words(said)}, {known} telling", known > 0),))


def _words(said: str) -> str:
    count = len(said.split())
    return f"{count} word{'s' * (count != 1)}"


def _spaced(said: str) -> str:
    return " ".join(said.split())


def _task(name: str) -> str:
    return "files" if name.startswith("files:") else name


def _no_file(value: object) -> object:
    return "FILE" if isinstance(value, str) and FILE.fullmatch(f"'{value}'") else value
