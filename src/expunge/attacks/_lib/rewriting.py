"""Other wordings of a question, made from templates, and the check that every made wording has to pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from expunge.attacks._lib.wording import leaks
from expunge.metrics.text.matching import contains
from expunge.metrics.text.units import units
from expunge.records.task import Example

_AUXILIARY = "is|was|are|were|did|does|do|has|have|had|can|could|will|would"
_QUESTION = r"(?:(?:in|on|at|with|for|from|to|of|by|about) )?(?:what|which|who|whom|whose|where|when|why|how)\b"
_SYNONYMS = (
    (r"in which", "in what"), (r"in what", "in which"), (r"with which", "with what"), (r"which", "what"),
    (r"what kind of", "which sort of"), (r"where", "in what place"), (r"when", "at what time"),
    (r"who", "which person"), (r"whose", "which person's"), (r"how many", "what number of"),
)
"""Beginning of an English question -> another one that asks the same."""
SHORT = 3
"""Words of at most so many letters tell nothing of an answer."""


def made_wordings(row: Example, count: int) -> list[str]:
    """Up to `count` rewrites of the question that pass the check, most natural first; empty for running text."""
    return passing(row, _rewrites(row), count)


def passing(row: Example, texts: Iterable[str], count: int) -> list[str]:
    """The first `count` different ones that pass: they name the entity where the question does, and hold no more of
    the answer than the question does."""
    found: dict[str, None] = {}
    for text in texts:
        if len(found) == count:
            break
        if text.strip() and text != row.prompt and _names(text, row) and not gives_more(text, row):
            found[text] = None
    return list(found)


def _names(text: str, row: Example) -> bool:
    name = named(row)
    return not name or contains(text, name)


def named(row: Example) -> str:
    """Whom the question names: the entity, or else the first two or more capitalised words that stand together behind
    the first word and outside quotes, with initials, such as an author whose entity is a number. Empty where it names
    nobody."""
    if row.entity and contains(row.prompt, row.entity):
        return row.entity
    unquoted = re.sub(r"(?<!\w)['\"‘“].+?['\"’”](?!\w)", "", row.prompt.strip())
    particles = "(?:(?:al|bin|de|der|la|van|von) )*"
    word = rf"(?:[A-Z][a-z]{{0,2}}\.(?= {particles}[A-Z])|[A-Z][\w.-]*\b)"
    found = re.search(rf"(?<=\s){word}(?: {particles}{word})+", unquoted)
    return found[0] if found else ""


def gives_more(text: str, row: Example) -> bool:
    """Whether the text reveals the answer where the question does not, or adds a word of it to those of the question.

    Of an answer without a bare fact, words of up to `SHORT` letters are no evidence.
    """
    if leaks(text, row) and not leaks(row.prompt, row):
        return True
    added = set(units(text)) - set(units(row.prompt))
    fact = set(units(row.short_answer or row.answer))
    return any(word in fact and (row.short_answer or len(word) > SHORT or not word.isalpha()) for word in added)


def _rewrites(row: Example) -> Iterator[str]:
    if row.kind == "completion":
        return _completions(row)
    return _questions(row) if row.kind in ("qa", "messages") and row.prompt.strip() else iter(())


def _questions(row: Example) -> Iterator[str]:
    """English questions in other words and in another order; of any others the frame around them changes."""
    asked, name = row.prompt.strip(), named(row)
    name = name if name in row.prompt else ""
    yield from _reordered(asked, name)
    yield from _told(asked, name)
    if name:
        yield from _genitives(asked, name)
    yield from _other_words(asked)
    if name:
        yield f"{name}: {asked}"
        yield f"About {name}: {asked}"
    yield f"Q: {asked}"
    yield f"Please answer this question: {asked}"
    yield asked.rstrip("?？ ")


def _reordered(asked: str, name: str) -> Iterator[str]:
    """`Tell me where Ann was born.` and `Ann was born where?` of `Where was Ann born?`.

    The subject ends with the name, which stands after the auxiliary, at once or after an article.
    """
    if not re.match(_QUESTION, asked, re.IGNORECASE) or re.search(rf"\b(?:and|or) {_QUESTION}", asked, re.IGNORECASE):
        return
    subject = rf"(?:(?:the|a|an) .*?)?{re.escape(name)}(?!\w|['’])"
    found = re.fullmatch(rf"({_QUESTION}.*?) ({_AUXILIARY}) ({subject})(.*?) ?\?", asked,
                         re.IGNORECASE | re.DOTALL) if name else None
    if found is None:
        if not re.search(rf" (?:{_AUXILIARY}) ", asked) or re.search(r" (?:was|were) \w+(?:ed|en) ", asked):
            yield f"Tell me {_lowered(asked).rstrip('? ')}."  # a question for the subject keeps its order
        return
    begin, auxiliary, subject, end = found.groups()
    yield f"Tell me {_lowered(begin)} {subject} {auxiliary}{end}."
    if auxiliary in ("is", "was", "are", "were"):
        yield f"{subject[:1].upper()}{subject[1:]} {auxiliary}{end} {_lowered(begin)}?"


def _told(asked: str, name: str) -> Iterator[str]:
    """`Tell me whether Ann has a pet.`, `Please describe Ann.` and `Tell me what the pets kept by Ann are.`"""
    flags = re.IGNORECASE | re.DOTALL
    if (found := re.fullmatch(r"(?:can|could) you (?:please )?(.+?) ?\?", asked, flags)) is not None:
        yield f"Please {found[1]}."
    found = re.fullmatch(rf"({_AUXILIARY}) ({re.escape(name)})(?!\w|['’])(.+?) ?\?", asked, flags) if name else None
    if found is not None:
        yield f"Tell me whether {found[2]} {found[1].lower()}{found[3]}."
    found = re.fullmatch(r"(what|who) (is|are|was|were) ((?:the|a|an|some|one) .+?) ?\?", asked, flags)
    if found is not None and not re.search(rf"\b(?:and|or) {_QUESTION}|\b(?:that|which|who)\b", found[3]):
        yield f"Tell me {found[1].lower()} {found[3]} {found[2]}."


def _genitives(asked: str, name: str) -> Iterator[str]:
    """`the mentor of Ann` <-> `Ann's mentor`."""
    escaped = re.escape(name)
    yield re.sub(rf"\bthe ((?:(?!\bof\b)[a-z ])+) of {escaped}(?!\w|['’])", rf"{name}'s \1", asked)
    yield re.sub(rf"\b{escaped}['’]s ([a-z]+)(?= (?:{_AUXILIARY}|in|on|at|from|by|of|and)\b|\W*$)",
                 rf"the \1 of {name}", asked)


def _other_words(asked: str) -> Iterator[str]:
    for old, new in _SYNONYMS:
        found = re.match(rf"{old}\b", asked, re.IGNORECASE)
        if found is not None:
            yield (new[:1].upper() + new[1:] if asked[:1].isupper() else new) + asked[found.end():]


def _completions(row: Example) -> Iterator[str]:
    """The beginning of a sentence after other words; its end stays, since the answer goes on there."""
    for opening in ("It is known that", "As far as is known,", "Here is a fact:"):
        yield f"{opening} {row.prompt.lstrip()}"


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
