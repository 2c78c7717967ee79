"""A text as units: words, and single characters in scripts that put no spaces between words."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import regex

SCRIPTS = ("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Javanese",
           "Balinese", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet")
"""Scripts without spaces between words. Tibetan separates syllables, and Yi and Bopomofo write one syllable each."""
_DENSE = "".join(rf"\p{{scx={name}}}" for name in SCRIPTS)
DENSE = regex.compile(rf"(?=\w)[{_DENSE}]")
"""One letter of such a script."""
UNIT = regex.compile(rf"(?=\w)(?=[{_DENSE}])\X|\p{{Hangul}}+|(?:(?!\p{{Hangul}}|[{_DENSE}])\w)+")
"""A character with its marks in a script without spaces; a run of Hangul; a word of any other script. `\\w` of this
library holds combining marks, which Python's own leaves out."""
_FORMAT = regex.compile(r"\p{Cf}+")


@lru_cache(maxsize=65536)
def normalised(text: str) -> str:
    """Without differences of case, of composition (NFKC, which holds NFC), and of invisible format characters."""
    if text.isascii():
        return text.casefold()
    plain = unicodedata.normalize("NFKC", _FORMAT.sub("", text)).casefold()
    return unicodedata.normalize("NFKC", plain)


@lru_cache(maxsize=65536)
def units(text: str) -> tuple[str, ...]:
    """The units of the normalised text, in order; punctuation is left out."""
    return tuple(UNIT.findall(normalised(text)))


def starts(text: str) -> list[int]:
    """Where each unit of `text` begins; a word begins after white space, with the punctuation that belongs to it.

    In English text these are the beginnings of the words of `text.split()`.
    """
    found = []
    for word in regex.finditer(r"\S+", text):
        inner = [m.start() for m in UNIT.finditer(word[0]) if DENSE.match(m[0])]
        if not inner:
            found.append(word.start())
            continue
        first = next(UNIT.finditer(word[0])).start()
        after = [m.start() for m in UNIT.finditer(word[0]) if m.start() > first]
        found += [word.start(), *(word.start() + at for at in after)]
    return found


def is_dense(text: str) -> bool:
    """Whether at least half of the units are single characters of a script without spaces."""
    found = units(text)
    return bool(found) and 2 * sum(DENSE.match(unit) is not None for unit in found) >= len(found)
