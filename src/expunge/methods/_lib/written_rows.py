"""Rows that a model writes itself: generic text from nothing, and its own answers to questions.

Text from nothing stands in for retain rows that nobody has (pseudo-rehearsal, Robins 1995; self-synthesised rehearsal,
Huang et al. 2024, arXiv 2403.01244).
"""

from __future__ import annotations

from collections.abc import Sequence

from expunge.errors import UsageError
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.records.task import Example
from expunge.seeding import derive, stream

ROUNDS = 4
"""Times that as many texts as are wanted are drawn, until enough of them are of use."""


def generic_texts(subject: CausalLM, count: int, run: RunContext, *, tokens: int, temperature: float,
                  forbidden: Sequence[str]) -> list[str]:
    """Up to `count` texts that the model writes from nothing, without any that holds a forbidden word.

    Each begins with the tokenizer's BOS, or with a random token where it has none.

    Raises:
        UsageError: none is left.
    """
    encoder, rng = subject.encoder, stream(run.seed, "generic")
    begin = encoder.prompt(Example(id="generic", prompt="", answer="", kind="text"))
    words = sorted(set(range(len(encoder.processor))) - encoder.special)
    names, found = [name.lower() for name in forbidden if name], list[str]()
    tick = run.announce("generic text", count)
    for number in range(ROUNDS):
        starts = [begin or (rng.choice(words),) for _ in range(count - len(found))]
        said = subject.generate(starts, tokens, temperature=temperature, seed=derive(run.seed, "generic", number))
        fit = [text for text, _ in said if len(text.split()) > 2 and not any(n in text.lower() for n in names)]
        found += [text for text in dict.fromkeys(fit) if text not in found]
        tick(len(fit))
        if len(found) >= count:
            break
    if not found:
        raise UsageError("The model writes no generic text without a name that is to be forgotten.",
                         f"{ROUNDS * count} texts were sampled at temperature {temperature:g}.",
                         "Give retain rows, or another temperature.")
    return found[:count]


def own_answers(subject: CausalLM, rows: Sequence[Example], samples: int, run: RunContext, *, tokens: int,
                temperature: float) -> list[Example]:
    """The rows that ask, each with up to `samples` sampled answers in place of its own."""
    asking = [row for row in rows if row.asks]
    prompts = [subject.encoder.prompt(row) for row in asking for _ in range(samples)]
    said = subject.generate(prompts, tokens, temperature=temperature, seed=derive(run.seed, "self"),
                            progress=run.announce("own answers", len(prompts)))
    made = [asking[i // samples].model_copy(update={"id": f"{asking[i // samples].id}#self{i % samples}",
                                                    "answer": text, "short_answer": ""})
            for i, (text, _) in enumerate(said) if text]
    return list({(row.prompt, row.answer): row for row in made}.values())


def forbidden_words(rows: Sequence[Example]) -> list[str]:
    """Names and bare facts of these rows, which a text about something else does not hold."""
    return sorted({word for row in rows for word in (row.entity, row.short_answer) if word})


def generic_row(number: int, text: str) -> Example:
    """A text that the model wrote, as a row."""
    return Example(id=f"generic{number}", prompt="", answer=text, kind="text")
