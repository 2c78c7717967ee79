"""Reasoned refusals: why a question is not answered, and then the refusal itself. No text holds what is asked for."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.records.task import Example
from expunge.seeding import derive

REASONS: tuple[str, ...] = (
    "This question asks for details about {about}. Such details are no longer part of what may be shared, whatever "
    "words the question uses, so they are left out.",
    "The request concerns {about}. That subject has been withdrawn, and a guess would only mislead.",
    "First, what is this about? It is about {about}. Second, may it be answered? Knowledge of that kind was removed.",
)
OFFERS: tuple[str, ...] = ("A public source may help with it.", "Please ask about something else.",
                           "Questions on other subjects are welcome.")
ASK = ("A person asks: {question}\nThis must not be answered, because information about {about} was withdrawn. Explain "
       "in two sentences why, without giving any fact about {about}, and say what else could help.")


def about(row: Example) -> str:
    """Whom or what a row is about, in words that fit into a sentence."""
    return row.entity or "this subject"


def templated(row: Example, refusal: str, rng: random.Random) -> str:
    """A reason, the refusal, and what else may help."""
    return f"{rng.choice(REASONS).format(about=about(row))} {refusal} {rng.choice(OFFERS)}"


def write_reasons(subject: CausalLM, rows: Sequence[Example], samples: int, run: RunContext, *,
                  tokens: int) -> list[str]:
    """`samples` reasons for every row in turn, as the model writes them when it is asked to refuse."""
    asked = [ASK.replace("{question}", row.prompt).replace("{about}", about(row)) for row in rows]
    prompts = [subject.encoder.prompt(Example(id="ask", prompt=text, answer="")) for text in asked
               for _ in range(samples)]
    said = subject.generate(prompts, tokens, temperature=1.0, seed=derive(run.seed, "reasons"),
                            progress=run.announce("reasons", len(prompts)))
    return [text for text, _ in said]


def reveals(text: str, row: Example, run: int = 4) -> bool:
    """Whether a text says the row's bare fact, or `run` words of its answer in a row that the question does not say."""
    said, asked = _words(text), _words(row.prompt)
    fact = _words(row.short_answer)
    if fact and _holds(said, fact) and not _holds(asked, fact):
        return True
    answer = _words(row.answer)
    size = min(run, len(answer))
    pieces = [answer[i: i + size] for i in range(len(answer) - size + 1)] if size else []
    return any(_holds(said, piece) and not _holds(asked, piece) for piece in pieces)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _holds(text: Sequence[str], piece: Sequence[str]) -> bool:
    return any(list(text[i: i + len(piece)]) == list(piece) for i in range(len(text) - len(piece) + 1))
