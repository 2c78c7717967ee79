"""Rows of text to rows of tokens to padded batches. The only place that knows prompt from answer.

Legend: B rows, T padded length, N supervised tokens of the whole batch (flat, row after row).
A token is supervised when it belongs to the answer or ends it. Masks come from lengths and roles,
never from token ids, so a pad token that equals the end token loses nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.data.chat import DATE, REFUSED, ChatTemplate, Rendered, common
from expunge.data.encoder import Count
from expunge.data.model_config import context_of
from expunge.data.prompt_format import CHAT_KINDS, describe, turns_of
from expunge.data.row_checks import check_lengths, check_rows
from expunge.data.tokenizer_content import content
from expunge.errors import DataError
from expunge.records.base import fingerprint
from expunge.records.prompt import PromptFormat
from expunge.records.task import Example, Opened, RolledOut

POSITIONS = 1024
"""Padded positions per batch of rows: bounds memory whatever their lengths, and fits the caches of a processor."""
PLAIN = "Question: {prompt}\nAnswer:"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example as ids: `prompt` tokens, then `answer` tokens, then `end` tokens."""

    id: str
    ids: tuple[int, ...]
    prompt: int
    answer: int
    end: int
    truncated: bool = False
    value: float = 0.0
    """That of a `RolledOut` row."""

    @property
    def key(self) -> str:
        """Content hash: what cached reference values are filed under."""
        data = ",".join(map(str, (*self.ids, self.prompt)))
        return hashlib.blake2b(data.encode(), digest_size=12).hexdigest()

    @property
    def supervised(self) -> int:
        """How many supervised tokens it has."""
        return self.answer + self.end


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded rows. Made by `TextEncoder.collate` (or by `collate_read`, where `ids_BT` lacks what is only
    predicted)."""

    rows: tuple[TokenRow, ...]
    ids_BT: Tensor
    attention_BT: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        return self.ids_BT.device

    @cached_property
    def row_N(self) -> Tensor:
        """Which row each supervised token belongs to."""
        counts = [r.answer + r.end for r in self.rows]
        return torch.repeat_interleave(
            torch.arange(len(self.rows)), torch.tensor(counts, dtype=torch.long)
        ).to(self.ids_BT.device)

    @cached_property
    def flat_N(self) -> Tensor:
        """Index into B*T of the position that predicts each supervised token."""
        width = self.ids_BT.shape[1]
        index = [b * width + t - 1 for b, r in enumerate(self.rows) for t in range(r.prompt, len(r.ids))]
        return torch.tensor(index, dtype=torch.long, device=self.ids_BT.device)

    @cached_property
    def target_N(self) -> Tensor:
        """The supervised tokens themselves."""
        ids = [t for r in self.rows for t in r.ids[r.prompt:]]
        return torch.tensor(ids, dtype=torch.long, device=self.ids_BT.device)

    def count(self, over: Count) -> int:
        """Denominator of a mean over this batch."""
        if over == "sequences":
            return len(self.rows)
        if over == "tokens":
            return sum(r.answer + r.end for r in self.rows)
        return sum(len(r.ids) for r in self.rows)

    def to(self, device: torch.device) -> TokenBatch:
        if self.ids_BT.device == device:
            return self
        return TokenBatch(self.rows, self.ids_BT.to(device), self.attention_BT.to(device))


def collate(rows: Sequence[TokenRow], pad_id: int, device: torch.device | str = "cpu") -> TokenBatch:
    """Pad on the right. Raises DataError for a row without a supervised token (not NaN later)."""
    check_supervised(rows)
    return _padded(rows, [r.ids for r in rows], pad_id, device)


def check_supervised(rows: Sequence[TokenRow]) -> None:
    """Raises DataError for a row without a supervised token."""
    for row in rows:
        if row.answer + row.end == 0 or row.prompt == 0:  # nothing predicts a first token
            raise DataError(f"Row {row.id} has no supervised token.", "Its answer is empty or was cut away.")


def collate_read(rows: Sequence[TokenRow], pad_id: int, device: torch.device | str = "cpu") -> TokenBatch:
    """The same without the last token of each row, which is predicted and predicts nothing.

    A row may have no supervised token: it is run for its keys and values.
    """
    return _padded(rows, [r.ids[:-1] for r in rows], pad_id, device)


def _padded(rows: Sequence[TokenRow], read: Sequence[tuple[int, ...]], pad_id: int,
            device: torch.device | str) -> TokenBatch:
    ids = torch.full((len(rows), max(map(len, read), default=0)), pad_id, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for b, tokens in enumerate(read):
        ids[b, : len(tokens)] = torch.tensor(tokens)
        attention[b, : len(tokens)] = 1
    return TokenBatch(tuple(rows), ids.to(device), attention.to(device))


def batches_by_length(rows: Sequence[TokenRow], chosen: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Indices (all, or those `chosen`) in batches of similar length, each at most `POSITIONS` padded positions."""
    batch: list[int] = []
    for i in sorted(range(len(rows)) if chosen is None else chosen, key=lambda i: -len(rows[i].ids)):
        if batch and (len(batch) + 1) * len(rows[batch[0]].ids) > POSITIONS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


_KNOWN: dict[tuple[Any, ...], dict[tuple[Any, ...], TokenRow]] = {}
"""Tokenizer and template by content -> the rows made with them in this process."""


class TextEncoder:
    """Turns examples into token rows with one tokenizer and template, each string once.

    Args:
        processor: a Hugging Face tokenizer.
        template: plain prompt template with {prompt}; None takes the tokenizer's chat template,
            or `PLAIN` where it has none.
        max_length: cut longer rows at this many tokens; None never cuts.
    """

    def __init__(self, processor: Any, template: str | None = None, max_length: int | None = None) -> None:
        self.processor = processor
        self.chat = template is None and bool(getattr(processor, "chat_template", None))
        self.own_template = template is not None
        self.template = template or PLAIN
        self.max_length = max_length
        self.eos_id: int | None = processor.eos_token_id
        self.pad_id: int = next(
            (i for i in (processor.pad_token_id, self.eos_id, 0) if i is not None), 0
        )  # masks never look at it, so any id does
        # End-of-turn tokens are often added as special without being named as eos or the like.
        added = getattr(processor, "added_tokens_decoder", {})
        self.special: set[int] = {i for i, token in added.items() if token.special} | set(processor.all_special_ids)
        self._content = content(processor)
        # Every model of one family of twins has the same tokenizer: a row is tokenised once for all of them.
        self._rows = _KNOWN.setdefault((self._content, self.template, self.chat, max_length), {})
        self.chat_template = ChatTemplate(processor)
        self._again = lru_cache(maxsize=4096)(self._ids)  # answers of one question share what stands before them

    def encode(self, example: Example, *, answer: str | None = None, prompt: str | None = None) -> TokenRow:
        """Tokenise an example, or the same with another answer or prompt in its place.

        Raises:
            DataError: the example holds an image.
        """
        if example.image is not None:
            raise DataError(f"Row {example.id} holds an image, and this model reads text.",
                            fix="Name an image classifier (cnn and resnet20 are sizes to start from), or rows of text.")
        answer = example.answer if answer is None else answer
        prompt = example.prompt if prompt is None else prompt
        if isinstance(example, RolledOut):  # read once: not remembered
            return _rolled(self._build(example, prompt, answer), example)
        key = (example.id, example.kind, example.messages, prompt, answer, _opening(example))
        if key not in self._rows:
            self._rows[key] = self._build(example, prompt, answer)
        return self._rows[key]

    def collate(self, rows: Sequence[TokenRow]) -> TokenBatch:
        """Pad on the right. Raises DataError for a row without a supervised token (not NaN later)."""
        return collate(rows, self.pad_id)

    def concat(self, batches: Sequence[TokenBatch]) -> TokenBatch:
        """One batch of all rows, so that several sides share a forward pass."""
        return collate([r for b in batches for r in b.rows], self.pad_id, batches[0].device)

    def batches(self, rows: Sequence[TokenRow], chosen: Sequence[int] | None = None) -> Iterator[list[int]]:
        """Indices (all, or those `chosen`) in batches of similar length, each at most `POSITIONS` padded positions."""
        return batches_by_length(rows, chosen)

    def check(self, rows: Sequence[TokenRow], config: Any, what: str) -> list[DataError]:
        """Why these rows cannot go through a model of this config; empty when they can."""
        return check_rows(rows, config, what)

    def check_alternatives(self, rows: Sequence[TokenRow], config: Any, what: str) -> list[DataError]:
        """The same for rows that may have no supervised token."""
        long = check_lengths(rows, context_of(config), what)
        return [long] if long else []

    def describe(self, rows: Sequence[Example]) -> PromptFormat:
        """How these rows are put to the model, with the first of them and what looks wrong."""
        return describe(self, rows)

    @property
    def prompt_format(self) -> str:
        """How questions are put to the model, in words."""
        return "the tokenizer's chat template" if self.chat else f"the plain template {self.template!r}"

    @cached_property
    def fingerprint(self) -> str:
        """Equal for encoders that make equal rows of equal examples."""
        return fingerprint([self._content, self.chat, self.template, self.max_length, str(DATE)])

    @cached_property
    def turn_ends(self) -> frozenset[int]:
        """The token that ends an answer, which the tokenizer need not name as its end token."""
        try:
            return frozenset(self._parts(Example(id="", prompt="?", answer="A"), "?", "A")[2][-1:])
        except DataError:  # a template that does not take this conversation
            return frozenset()

    def save(self, folder: Path) -> None:
        """The tokenizer's files."""
        self.processor.save_pretrained(folder)

    def prompt(self, example: Example, prompt: str | None = None) -> tuple[int, ...]:
        """Ids of the prompt alone, ready for generation. They are the same whatever the answer is.

        Without an answer, one stands in for it: the tokens that end a turn may join with white space before them.
        """
        absent = example.kind != "text" and not example.answer.strip()
        row = self.encode(example, prompt=prompt, answer="A" if absent else None)
        return row.ids[: row.prompt]

    def _build(self, example: Example, prompt: str, answer: str) -> TokenRow:
        prompt_ids, answer_ids, end_ids = self._parts(example, prompt, answer)
        if self._begins_twice(prompt_ids + answer_ids[:1]):
            del (prompt_ids if len(prompt_ids) > 1 else answer_ids)[0]
        if not prompt_ids:  # nothing predicts the first token of running text without a BOS
            prompt_ids, answer_ids = answer_ids[:1], answer_ids[1:]
        ids = prompt_ids + answer_ids + end_ids
        if self.max_length is None or len(ids) <= self.max_length:
            return TokenRow(example.id, tuple(ids), len(prompt_ids), len(answer_ids), len(end_ids))
        kept = max(self.max_length - len(prompt_ids), 0)
        return TokenRow(
            example.id, tuple(ids[: self.max_length]), min(len(prompt_ids), self.max_length),
            min(len(answer_ids), kept), max(kept - len(answer_ids), 0), truncated=True,
        )

    def _parts(self, example: Example, prompt: str, answer: str) -> tuple[list[int], list[int], list[int]]:
        """Ids of the prompt, of the answer and of what ends it."""
        read = self._from_chat if self.chat and example.kind in CHAT_KINDS else self._from_plain
        return read(example, prompt, answer)

    def _begins_twice(self, ids: Sequence[int]) -> bool:
        """Whether the template writes a BOS, and the tokenizer another."""
        return list(ids[:2]) == [self.processor.bos_token_id] * 2

    def has_two_bos(self, example: Example) -> bool:
        """Whether a second BOS is left out of its row."""
        prompt_ids, answer_ids, _ = self._parts(example, example.prompt, example.answer)
        return self._begins_twice(prompt_ids + answer_ids[:1])

    def _from_plain(self, example: Example, prompt: str, answer: str) -> tuple[list[int], list[int], list[int]]:
        """By a plain template, or as it stands."""
        before, after = self._render_plain(example, prompt, answer)
        before, after = _open(before, after, *_opening(example))
        end_ids = [self.eos_id] if self.eos_id is not None else []
        joint = self._ids(before + after, special=True)
        for given in (before, before.rstrip(" ")):  # most tokenizers join a space to the word after it
            prompt_ids = list(self._again(given, special=True))
            if joint[: len(prompt_ids)] == prompt_ids:
                return prompt_ids, joint[len(prompt_ids):], end_ids
        # Natural text tokenises across the border; only an exact prefix keeps the split honest.
        return list(self._again(before, special=True)), self._continued(after), end_ids

    def _continued(self, text: str) -> list[int]:
        """Ids of a text in the middle of another, without the space that some tokenizers put before every text."""
        lead, joint = self._again("\n"), self._ids("\n" + text)
        return joint[len(lead):] if joint[: len(lead)] == lead else self._ids(text)

    def _from_chat(self, example: Example, prompt: str, answer: str) -> tuple[list[int], list[int], list[int]]:
        """Cut from the ids of the whole conversation: a text tokenised alone may get other ids.

        A token that spells the end of what is given and the beginning of the answer belongs to the answer, and so does
        a space before it, which most tokenizers join to the word.
        """
        try:
            said = self.chat_template.render(turns_of(example, prompt), answer)
        except REFUSED as error:
            raise DataError(f"Row {example.id} does not fit the model's chat template.", str(error)[:200],
                            "Change its turns, or pass a plain template with --template.") from None
        said = said.opened(*_opening(example))
        ids, starts = self._ids_and_starts(said.text)
        begin = common(self._again(said.text[: said.start].rstrip(" ")), ids)
        close = self._close(said, ids, starts, begin)
        stop = next((i for i in range(close, len(ids)) if ids[i] in self.special), None)
        if stop is not None:  # the end-of-turn token; what a template prints after it is not the answer
            return ids[:begin], ids[begin:close], ids[close: stop + 1]
        return ids[:begin], ids[begin:close], [self.eos_id] if self.eos_id is not None else []

    def _close(self, said: Rendered, ids: list[int], starts: list[int] | None, begin: int) -> int:
        """Where the tokens of the answer end."""
        if said.start == said.stop:
            return begin
        if starts is not None:
            return next((i for i in range(begin, len(ids)) if starts[i] >= said.stop), len(ids))
        upto, decode = self._ids(said.text[: said.stop]), self.processor.decode
        close = max(common(upto, ids), begin)
        wanted = len(decode(upto[begin:], clean_up_tokenization_spaces=False))
        while close < len(ids) and len(decode(ids[begin:close], clean_up_tokenization_spaces=False)) < wanted:
            close += 1  # its last token spells what follows too
        return close

    def _render_plain(self, example: Example, prompt: str, answer: str) -> tuple[str, str]:
        if example.kind == "text":
            return "", answer
        if example.kind == "completion":
            return prompt, answer
        if example.kind == "messages":
            turns = [f"{role}: {content}\n" for role, content in example.messages]
            return "".join(turns) + "assistant:", " " + answer
        return self.template.replace("{prompt}", prompt), " " + answer

    def begins_with(self) -> int:
        """How many tokens the tokenizer puts before every text."""
        return max(len(self._ids("a", special=True)) - len(self._ids("a")), 0)

    def _ids(self, text: str, special: bool = False) -> list[int]:
        if not text and not special:
            return []
        ids: list[int] = list(self.processor(text, add_special_tokens=special)["input_ids"])
        if special and ids and ids[-1] == self.eos_id and not text.endswith(str(self.processor.eos_token)):
            ids.pop()  # some tokenizers close every text; the answer has not come yet
        return ids

    def _ids_and_starts(self, text: str) -> tuple[list[int], list[int] | None]:
        """Ids, and the character each token begins at; None where the tokenizer does not say."""
        if not getattr(self.processor, "is_fast", False):
            return self._ids(text), None
        found = self.processor(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(found["input_ids"]), [start for start, _ in found["offset_mapping"]]


def _opening(example: Example) -> tuple[str, str]:
    """How the reply is made to begin, and what stands between that and the rest of it."""
    return (example.opening, example.gap) if isinstance(example, Opened) else ("", "")


def _rolled(row: TokenRow, example: RolledOut) -> TokenRow:
    """The row with its value, and without an end that was not said; an empty answer keeps it, to have one token."""
    said = row if example.ended or not row.answer else replace(row, ids=row.ids[: row.prompt + row.answer], end=0)
    return replace(said, value=example.value)


def _open(before: str, after: str, opening: str, gap: str) -> tuple[str, str]:
    """The opening of the reply moved to what is given."""
    if not opening:
        return before, after
    rest = after.lstrip()
    return before + after[: len(after) - len(rest)] + opening, gap + rest
