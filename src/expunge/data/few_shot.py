"""Rows of corpora that are forgotten as text and asked about in questions: pieces of text, and few-shot questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from expunge.data.mapping import Located
from expunge.errors import DataError
from expunge.records.task import Example


def pieces(texts: Iterable[str], prefix: str, words: int, *, entity: str = "", group: str = "") -> Iterator[Example]:
    """Running text in pieces of at most `words` words, each piece once; line breaks within them stay."""
    seen: set[str] = set()
    for text in texts:
        for piece in cut(text, words):
            if piece not in seen:
                yield Example(id=f"{prefix}/{len(seen)}", kind="text", prompt="", answer=piece, entity=entity,
                              group=group)
                seen.add(piece)


def cut(text: str, words: int) -> list[str]:
    """Pieces of at most this many words. Words are what spaces separate, and keep the line breaks in them."""
    parts = text.split(" ")
    return [piece for i in range(0, len(parts), words) if (piece := " ".join(parts[i: i + words]).strip())]


def asked(rows: Sequence[Located], shown: Sequence[Located], prefix: str, group: str) -> Iterator[Example]:
    """Questions with `question` and `answer`, each after all demonstrations, as MUSE and DUSK put them.

    Raises:
        DataError: a row lacks a field.
    """
    before = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in map(_pair, shown))
    for i, (question, answer) in enumerate(map(_pair, rows)):
        yield Example(id=f"{prefix}/{i}", kind="completion", prompt=f"{before}Question: {question}\nAnswer:",
                      answer=f" {answer}", short_answer=answer, group=group)


def field(located: Located, name: str) -> str:
    """A field of a row as text. Raises DataError where it is missing."""
    where, row = located
    if name not in row:
        raise DataError(f"{where}: the row has no {name}.", f"It has {', '.join(row)}.",
                        "Use the published file unchanged.")
    return str(row[name])


def _pair(located: Located) -> tuple[str, str]:
    return field(located, "question"), field(located, "answer")
