"""How a question and its answer stand in one text: told to auditors, who ask log-probabilities of texts."""

from __future__ import annotations

from expunge.data.chat import REFUSED
from expunge.data.text_encoder import TextEncoder
from expunge.errors import DataError
from expunge.records.task import Example, RolledOut
from expunge.serve.texts import one

PROMPT, ANSWER = "\ue000\ue003\ue000", "\ue000\ue004\ue000"
TRIED = ("Where is it?", "Here.")
"""A question and an answer, to see whether the text has the tokens of the row."""


def row_format(encoder: TextEncoder) -> str | None:
    """The text of a row with {prompt} and {answer} in it, and what ends it; None where a text gets other tokens."""
    try:
        tried = encoder.encode(RolledOut(id="", prompt=TRIED[0], answer=TRIED[1]))
        if encoder.chat:
            said = encoder.chat_template.render((("user", PROMPT),), ANSWER)
            before = said.text[: said.start].replace(PROMPT, "{prompt}")
        else:
            before = encoder.template + " "
    except (DataError, *REFUSED):
        return None
    end = "".join(one(encoder.processor, token) for token in tried.ids[tried.prompt + tried.answer:])
    if before.count("{prompt}") != 1 or "{answer}" in before:
        return None
    text = before.replace("{prompt}", TRIED[0]) + TRIED[1] + end
    return before + "{answer}" + end if ids_of(encoder, text) == tried.ids else None


def ids_of(encoder: TextEncoder, text: str) -> tuple[int, ...]:
    """The tokens of a text as it stands."""
    return encoder.encode(as_text(text)).ids


def as_text(text: str) -> Example:
    """A prompt of /v1/completions: read verbatim, never remembered, and without an end."""
    return RolledOut(id="", prompt="", answer=text, kind="text", ended=False)
