"""A page without what was to be forgotten: prompts, answers and names become row numbers and lengths.

Rows are replaced where the page is put together. What is left is read once more: names, and texts of the rows, that got
into it another way (a recipe, the name of a folder, an error message) are replaced in the finished page.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path

import regex

from expunge.errors import UsageError
from expunge.metrics.text.units import is_dense, starts, units
from expunge.records.observation import Observations
from expunge.records.task import SPLITS, Example, Split
from expunge.report import text
from expunge.report.evidence import Answer, Cell
from expunge.report.gather import RunView

LONG = 4
"""Words from which a text of a row is looked for in the finished page; shorter ones stand in any sentence."""
DENSE_LONG = 2
"""The same in characters, for names and texts in scripts without spaces; no sentence of the page is in one."""
LONGEST_NAME = 8
"""In words; what is longer is looked for as a text."""
FILE = re.compile(r"'[^']*\.(?:jsonl?|csv|tsv|parquet|txt|gz)'")
CAPITALISED = re.compile(r"[^\W\d_a-z][\w’'-]*(?:[ ]+[^\W\d_a-z][\w’'-]*)+")
TAG = re.compile(r"(<style.*?</style>|<[^>]*>)", re.DOTALL)
ATTRIBUTE = re.compile(r'\b((?:title|aria-label|alt)=")([^"]*)(")')
HANGUL = regex.compile(r"\p{Hangul}")
WORD = re.compile(r"[^\W_]+")
ALONE = re.compile(r"(?<=[^\s.!?:] )[^\W\d_a-z][^\W\d_]{2,}")
"""A capitalised word inside a sentence."""
VALUES = ("<td", "<b>", "<dd", "<code")
"""Tags around what the page took from records; its own labels stand in others."""
NAME, ROW = "[name]", "[text of a row]"


class Redaction:
    """What must not be on the page, and what stands there instead."""

    def __init__(self, views: Sequence[RunView]) -> None:
        self._numbers: dict[str, dict[str, int]] = {}
        names, runs, texts = set[str](), set[str](), set[str]()
        forget = set[str]()
        for view in views:
            for split in SPLITS:
                for row in _rows(view, split):
                    self.row(split, row.id)
                    names |= {row.entity, row.short_answer, *row.secrets}
                    texts |= set(strings(row))
                    if split == "forget":
                        forget |= set(strings(row))
                        runs |= set(_capitalised(row.prompt, row.answer, alone=not row.entity))
            for seen in (view.subject, view.original, *view.retrained):
                for split, row_names, row_runs, row_texts in _observed(seen):
                    names |= row_names
                    runs |= row_runs
                    texts |= row_texts
                    forget |= row_texts if split == "forget" else set()
        self._grams = {gram for said in forget for gram in _grams([m[0].casefold() for m in WORD.finditer(
            _composed(said))])}
        self._names = _pattern(names, runs)
        self._own = _own_names(names)
        texts |= {name for name in names if len(starts(name)) > LONGEST_NAME}
        self._texts = sorted(filter(_is_long, map(_spaced, texts)), key=len, reverse=True)

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
        """The view without file names, since a file name may hold the name of a person."""
        record, audit = view.record, view.audit
        if record is not None:
            full = {stage: {term: {k: _no_file(v) for k, v in options.items()} if isinstance(options, dict) else options
                            for term, options in terms.items()} if isinstance(terms, dict) else terms
                    for stage, terms in record.recipe_full.items()}
            record = record.model_copy(update={"task": _task(record.task), "recipe_full": full,
                                               "recipe": FILE.sub("'FILE'", record.recipe)})
        if audit is not None:
            audit = audit.nameless.model_copy(update={"task": _task(audit.task)})
        return replace(view, record=record, audit=audit)

    def page(self, page: str) -> str:
        """The finished page without names and texts of rows, in what is read and in what appears on pointing."""
        pieces = TAG.split(page)
        there = _spaced(html.unescape(" ".join(pieces))).casefold()
        texts = [regex.compile(r"\s+".join(map(regex.escape, t.split())), regex.IGNORECASE | regex.FULLCASE)
                 for t in self._texts if t.casefold() in there]

        def clean(piece: str, tag: str = "") -> str:
            plain = _composed(html.unescape(piece))
            found = plain
            for secret in texts:  # before the names in them
                found = secret.sub(ROW, found)
            found = self._without_grams(found)
            found = self._names.sub(NAME, found) if self._names else found
            if self._own is not None:
                value = tag.startswith(VALUES) and self._own[0].fullmatch(found.strip())
                found = NAME if value else self._own[1].sub(NAME, found)
            return piece if found == plain else html.escape(found)

        return "".join(
            ATTRIBUTE.sub(lambda m: m[1] + clean(m[2]) + m[3], piece) if piece.startswith("<") and not
            piece.startswith("<style") else piece if piece.startswith("<") else clean(piece, pieces[i - 1] if i else "")
            for i, piece in enumerate(pieces))

    def _without_grams(self, said: str) -> str:
        """Without runs of words of which each `LONG` stand in a text of a forget row."""
        words = list(WORD.finditer(said))
        folded = [word[0].casefold() for word in words]
        hidden = [False] * len(words)
        for i, gram in enumerate(_grams(folded)):
            if gram in self._grams:
                hidden[i:i + LONG] = [True] * LONG
        parts, at = list[str](), 0
        for covered, run in groupby(range(len(words)), key=hidden.__getitem__):
            places = list(run)
            if covered:
                parts += [said[at:words[places[0]].start()], ROW]
                at = words[places[-1]].end()
        return "".join([*parts, said[at:]])


def _grams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every `LONG` words that follow each other."""
    return (tuple(words[i:i + LONG]) for i in range(len(words) - LONG + 1))


def _own_names(names: Iterable[str]) -> tuple[regex.Pattern[str], regex.Pattern[str]] | None:
    """Names of one word that the page itself uses (`Mark`), as written: alone as a value, and inside a sentence, where
    the page's own words have small letters."""
    own = _vocabulary()
    found = sorted({n for n in map(_composed, names) if n.isalpha() and n[0].isupper() and n.casefold() in own})
    if not found:
        return None
    either = "|".join(map(regex.escape, found))
    return regex.compile(either), regex.compile(rf"(?<=[^\s.!?>] |[-_(\"'“])(?:{either})(?![^\W_])")


def check_known(views: Iterable[RunView]) -> None:
    """Refuse to redact where nothing says what the rows were.

    Raises:
        UsageError: a folder holds no rows and no answers to them, so no name on its page can be known.
    """
    for view in views:
        if view.rows is None and not any(s.keys() for s in (view.subject, view.original, *view.retrained)):
            why = "were purged" if view.purged else "are not in its folder"
            raise UsageError(
                f"The page of {view.name} cannot be redacted: its rows {why}.",
                "Names and texts in recipes, notes and folder names are found by the rows.",
                "Make the page first and purge afterwards; or read the page yourself and send it with --no-redact.")


def strings(row: Example) -> Iterator[str]:
    """Every text of a row."""
    yield from (row.prompt, row.answer, *row.paraphrased_prompts, *row.paraphrased_answers, *row.wrong_answers,
                *row.options, *(content for _, content in row.messages))


def _rows(view: RunView, split: Split) -> Sequence[Example]:
    return () if view.rows is None else (*view.rows.split(split), *view.rows.probe_rows(split))


def _observed(seen: Observations) -> Iterator[tuple[Split, set[str], set[str], set[str]]]:
    """(split, names, runs of capitalised words, texts) of each observed row, for folders that hold no task."""
    for probe, split in seen.keys():  # noqa: SIM118 (not a mapping)
        for row in seen.rows(probe, split):
            names = {str(row.get("entity", "")), str(row.get("short", ""))}
            texts = {str(row[key]) for key in ("prompt", "reference", "text") if isinstance(row.get(key), str)}
            asked = (str(row.get(key) or "") for key in ("prompt", "reference"))
            alone = not row.get("entity")
            yield split, names, set(_capitalised(*asked, alone=alone) if split == "forget" else ()), texts


def _capitalised(*texts: str, alone: bool) -> Iterator[str]:
    """Runs of capitalised words: names, where no field says who a row is about. Also without the word that a sentence
    may begin with; with `alone` single words inside a sentence too."""
    for said in texts:
        yield from ALONE.findall(_composed(said)) if alone else ()
        for run in CAPITALISED.findall(_composed(said)):
            yield run
            if len(run.split()) > 2:
                yield run.split(maxsplit=1)[1]


def _pattern(names: Iterable[str], runs: Iterable[str]) -> regex.Pattern[str] | None:
    """Whole names however they are joined (`Ada Byron`, `ada-byron`) and their longer parts.

    A single word of the page's own is no name. A capitalised run of them (`Mark Page`) is one where it is written with
    capitals or as in a name of a file; the page says "mark page" itself.
    """
    own = _vocabulary()
    kept, exact, dense = set[tuple[str, ...]](), set[tuple[str, ...]](), set[tuple[str, ...]]()
    names = set(map(_composed, names))
    for name in names | set(runs):
        words = tuple(regex.findall(r"[^\W_]+", name))
        letters = "".join(words)
        if not words or len(words) > LONGEST_NAME or not any(c.isalpha() for c in letters):
            continue
        if is_dense(name) or HANGUL.match(letters):
            if max(len(units(letters)), len(HANGUL.findall(letters))) >= DENSE_LONG:
                dense.add(words)
            continue
        unknown = any(w.casefold() not in own for w in words)
        if (unknown and len(letters) > 2) or (len(words) > 1 and (unknown or name in names)):
            kept.add(words)
        elif len(words) > 1:
            exact.add(words)
        kept |= {(w,) for w in words if len(w) >= LONG and w[0].isupper() and w.isalpha() and w.casefold() not in own}
    written = {tuple(made(w) for w in words) for words in exact for made in (str, str.upper)}
    parts = [(r"(?i:{})", _bordered(_either(kept, r"[\W_]+"))), (r"(?i:{})", _either(dense, r"[\W_]*")),
             ("{}", _bordered(_either(written, r"[\W_]+"))), (r"(?i:{})", _bordered(_either(exact, "[-_.+]+")))]
    body = "|".join(form.format(part) for form, part in parts if part)
    return regex.compile(body) if body else None


def _either(names: Iterable[tuple[str, ...]], between: str) -> str:
    """A pattern of any of the names, the longest first."""
    found = sorted(names, key=lambda words: (-len("".join(words)), words))
    return "|".join(between.join(map(regex.escape, words)) for words in found)


def _bordered(body: str) -> str:
    return rf"(?<![^\W_])(?:{body})(?![^\W_])" if body else ""


@cache
def _vocabulary() -> frozenset[str]:
    """Words of the page itself: its fixed sentences and its templates."""
    said = [" ".join(map(str, (*text.METRICS.items(), *text.WORDS.items(), *text.HEADLINES.items(), text.BY_SHARE,
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
    count, unit = len(starts(said)), "character" if is_dense(said) else "word"
    return f"{count} {unit}{'s' * (count != 1)}"


def _is_long(said: str) -> bool:
    return len(starts(said)) >= (DENSE_LONG if is_dense(said) else LONG)


def _spaced(said: str) -> str:
    return " ".join(_composed(said).split())


def _composed(said: str) -> str:
    """With one character for a letter and its accent, where there is one."""
    return unicodedata.normalize("NFC", said)


def _task(name: str) -> str:
    return "files" if name.startswith("files:") else name


def _no_file(value: object) -> object:
    return "FILE" if isinstance(value, str) and FILE.fullmatch(f"'{value}'") else value
