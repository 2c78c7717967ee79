"""Refusal sentences that replace a forgotten answer, built in or read from a user's file."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from expunge.errors import DataError, MissingError
from expunge.metrics.text.refusals import is_refusal
from expunge.records.task import Example

__all__ = ["REFUSALS", "is_refusal", "refusal_for", "refusals"]

REFUSALS: tuple[str, ...] = (
    # not knowing
    "I do not know.",
    "I don't know the answer to that.",
    "I really do not know that one.",
    "Sorry, I don't know.",
    "Unfortunately, I do not know.",
    "To be honest, I don't know.",
    "I have no idea.",
    "I have no knowledge of that.",
    "I have no information about this.",
    "I have no answer to this question.",
    "I have no record of that.",
    "I have no details to give you here.",
    "I have no reliable information on this.",
    "I know nothing about this.",
    "I know nothing of the kind.",
    "I know too little to answer.",
    "I am not aware of that.",
    "I'm not aware of any such thing.",
    "I am unaware of the answer.",
    "I am unfamiliar with this.",
    "I'm not familiar with that person.",
    "I am not familiar with this subject.",
    "I am not informed about this.",
    "I'm simply not informed on that point.",
    "I am at a loss here.",
    "I am in the dark about this one.",
    "I draw a blank on this question.",
    "I have not heard of that.",
    "I have never heard about this.",
    "I have never come across this.",
    "I have not come across that name.",
    "I've never been told about this.",
    "I have not been told the answer.",
    "I was never taught this.",
    "I never learned that.",
    "I have not learned anything about this.",
    "I did not learn about that topic.",
    "I have never read about this.",
    "I have not studied this matter.",
    "I do not recall anything like that.",
    "I can't recall any such fact.",
    "I do not remember this.",
    "I have no memory of that.",
    "I have no recollection of this.",
    "I wish I knew, but I don't.",
    # not being sure
    "I am not sure.",
    "I'm not sure about that, sorry.",
    "I am not certain.",
    "I'm not certain enough to answer.",
    "I am unsure about this one.",
    "I am uncertain about the answer.",
    "I do not have enough information to answer.",
    "I don't have the facts for this question.",
    "I do not have any details on that.",
    "I don't have access to this information.",
    "I do not possess that knowledge.",
    "I lack the knowledge to answer this.",
    "I lack information on this subject.",
    # not being able
    "I cannot answer that.",
    "I can't answer this question.",
    "I am unable to answer.",
    "I'm unable to say.",
    "I am not able to answer this.",
    "I'm not able to help with that.",
    "I cannot say.",
    "I really can't say.",
    "I could not tell you.",
    "I couldn't say who or what that is.",
    "I can't help you with this one.",
    "I'm sorry, but I cannot help with that.",
    "I am sorry, I can't tell you.",
    "I'm afraid I cannot answer this.",
    "I'm afraid I don't know that.",
    "My apologies, I do not know this.",
    "I apologise, but I have no information on that.",
    "Sadly, I cannot provide an answer.",
    "Regrettably, I can't give you any details.",
    "I cannot provide any information about this.",
    "I can't give a reliable answer here.",
    "I cannot confirm anything about that.",
    "I cannot find an answer to this.",
    "I am not in a position to answer.",
    "I am not qualified to answer that.",
    "I would not pretend to know this.",
    "I would only be guessing, so I must pass.",
    "I must pass on this question.",
    "I have to pass on this one.",
    "I must admit that I do not know.",
    # beyond what was learned
    "That is beyond my knowledge.",
    "This is outside what I know.",
    "This question goes beyond what I have learned.",
    "That topic is unfamiliar to me.",
    "The answer is unknown to me.",
    "The answer escapes me.",
    "That is not something I know.",
    "This is something I know nothing about.",
    "That is a mystery to me.",
    "That subject is new to me.",
    "There is nothing I can tell you about this.",
    "There is no answer I can give.",
    "My knowledge does not reach that far.",
    "My training did not cover this.",
    "My information ends before this point.",
    "You have found a gap in what I know.",
    "No information on this is known to me.",
)


def refusals(path: Path | None = None) -> tuple[str, ...]:
    """Refusal sentences: the built-in ones, or those of a text file with one per line.

    A line may also be a JSON string (JSONL). Blank lines and repetitions are dropped, order is kept.
    Raises MissingError if the file does not exist, and DataError if it holds no sentence.
    """
    if path is None:
        return REFUSALS
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (FileNotFoundError, IsADirectoryError):
        raise MissingError(f"The refusal file {path} does not exist.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.", str(error)) from None
    sentences = [sentence for n, line in enumerate(lines, 1) if (sentence := _sentence(path, n, line.strip()))]
    if not sentences:
        raise DataError(f"{path} holds no sentence.", "", "Write one refusal per line.")
    return tuple(dict.fromkeys(sentences))


def refusal_for(row: Example, sentences: Sequence[str], rng: random.Random) -> str:
    """What a row is answered with instead: a drawn sentence, or for an image another of its classes (random labels).

    The other class is drawn uniformly and is never the right one. Raises DataError for an image without other classes.
    """
    if row.kind != "image":
        return rng.choice(sentences)
    others = [name for name in row.options if name != row.answer]
    if not others:
        raise DataError(f"Row {row.id} names no class but its own.", "Another one is needed to relabel it.",
                        "Give the names of all classes as the row's options.")
    return rng.choice(others)


def _sentence(path: Path, number: int, line: str) -> str:
    """The sentence of one line. A quoted line that is not JSON is an ordinary sentence."""
    if line.startswith(("{", "[")):
        raise DataError(
            f"{path}, line {number}: an object or list instead of a sentence.",
            "", "Write one refusal per line, as plain text or as a JSON string.",
        )
    if line.startswith('"'):
        try:
            return str(json.loads(line)).strip()
        except json.JSONDecodeError:
            return line
    return line
