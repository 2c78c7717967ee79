"""One fact asked in other forms: choosing a letter, or spelling the answer."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

LETTERS = "ABCD"
SPELL = ("Spell the answer letter by letter, with a hyphen between letters.\n"
         "Question: What is the capital of France?\nAnswer: P-a-r-i-s\nQuestion: {query}\nAnswer:")
CHOOSE = "Complete the sentence with the right option, and reply with its letter.\n{query}\n{options}"


def spelled(answer: str) -> str:
    """The letters of every word with hyphens between them."""
    return " ".join("-".join(word) for word in answer.split())


def choice(query: str, answer: str, answers: Sequence[str], id: str) -> tuple[str, str] | None:
    """A question with four lettered options and the right letter; None where there are too few other answers."""
    others = [other for other in answers if other.lower() != answer.lower()]
    if len(others) < len(LETTERS) - 1:
        return None
    rng = Random(id)
    shown = [answer, *rng.sample(others, len(LETTERS) - 1)]
    rng.shuffle(shown)
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, shown, strict=True))
    return CHOOSE.format(query=query, options=listed), LETTERS[shown.index(answer)]
