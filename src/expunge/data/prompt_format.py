"""What a person should know about the way rows become tokens: the format, the first row, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from expunge.data.chat import DATE, Turns
from expunge.metrics.text.units import DENSE
from expunge.records.prompt import PromptFormat
from expunge.records.task import Example

if TYPE_CHECKING:
    from expunge.data.text_encoder import TextEncoder, TokenRow

LONGEST = 1200
"""Characters of the first row that are shown; of a longer one the middle is left out."""
CHAT_TOKENS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|user|>", "<|assistant|>", "[INST]",
               "<|start|>", "<｜User｜>", "<|START_OF_TURN_TOKEN|>", "<|start_of_role|>")
"""Tokens that only vocabularies of chat models have."""
CHAT_KINDS = ("qa", "messages")


def describe(encoder: TextEncoder, rows: Sequence[Example]) -> PromptFormat:
    """The format of these rows, with the first of them as the model reads it."""
    kinds = {row.kind for row in rows}
    chats = encoder.chat and not kinds.isdisjoint(CHAT_KINDS)
    words = [encoder.prompt_format] if kinds & set(CHAT_KINDS) or not rows else []
    words += ["completions as they stand, without a template"] if "completion" in kinds else []
    words += ["running text as it stands, without a template"] if "text" in kinds else []
    first = shown(encoder, encoder.encode(rows[0])) if rows else ""
    asked = [row for row in rows if row.kind in CHAT_KINDS][:1] if chats else []
    return PromptFormat(
        format="; ".join(words), first_row=first, date=str(DATE) if chats and encoder.chat_template.dated else "",
        notes=tuple(note for row in asked for note in encoder.chat_template.notes(turns_of(row, row.prompt))),
        warnings=(*_format_warnings(encoder, rows), *(w for row in asked for w in _chat_warnings(encoder, row)),
                  *_row_warnings(rows)),
        encoder=encoder.fingerprint)


def turns_of(example: Example, prompt: str) -> Turns:
    """The turns before the answer."""
    return example.messages or (("user", prompt),)


def _chat_warnings(encoder: TextEncoder, row: Example) -> Iterator[str]:
    turns = turns_of(row, row.prompt)
    yield from encoder.chat_template.warnings(turns, row.answer)
    said, end = encoder.chat_template.render(turns, row.answer), encoder.processor.eos_token
    after = encoder.processor(said.text[said.stop:], add_special_tokens=False)["input_ids"]
    if not said.rewritten and encoder.special.isdisjoint(after):
        yield ("The chat template ends an answer with no special token: "
               f"{f'{end} is put there' if end else 'nothing ends it'}.")


def shown(encoder: TextEncoder, row: TokenRow) -> str:
    """The text of a row with [[ ]] around what is supervised."""
    text, given = (encoder.processor.decode(list(ids), clean_up_tokenization_spaces=False)
                   for ids in (row.ids, row.ids[: row.prompt]))
    if not text.startswith(given):  # a decoder that joins over the border
        text = given + encoder.processor.decode(list(row.ids[row.prompt:]), clean_up_tokenization_spaces=False)
    marked = f"{given}[[{text[len(given):]}]]"
    half, more = LONGEST // 2, len(marked) - LONGEST
    return marked if more <= 0 else f"{marked[:half]} ... {more} characters ... {marked[-half:]}"


def _format_warnings(encoder: TextEncoder, rows: Sequence[Example]) -> Iterator[str]:
    asks = any(row.kind in CHAT_KINDS for row in rows)
    if asks and not encoder.chat and not encoder.own_template:
        known = encoder.processor.get_vocab()
        of_chats = next((token for token in CHAT_TOKENS if token in known), None)
        why = f", although its vocabulary has {of_chats}" if of_chats else ""
        yield (f"The tokenizer has no chat template{why}: questions are put in {encoder.prompt_format}. If the model "
               "was tuned on another format, name it with --template.")
    for kind in dict.fromkeys(row.kind for row in rows):
        if encoder.has_two_bos(next(row for row in rows if row.kind == kind)):
            token = encoder.processor.bos_token
            yield f"The template writes {token} and so does the tokenizer: one is left out. Take it from the template."
            break


def _row_warnings(rows: Sequence[Example]) -> Iterator[str]:
    met = [row for row in rows if row.kind == "completion" and _meet(row.prompt, row.answer)]
    if met:
        yield (f"In {len(met)} of {len(rows)} rows nothing separates prompt and completion, such as {met[0].id}: "
               "they are read as one word. Put a space at the beginning of the completions.")


def _meet(prompt: str, answer: str) -> bool:
    """Whether two words of a script with spaces stand side by side."""
    if not prompt or not answer:
        return False
    before, after = prompt[-1], answer[0]
    if DENSE.match(before) or DENSE.match(after):
        return False
    return after.isalnum() and (before.isalnum() or before in ".,;:!?)]}")
