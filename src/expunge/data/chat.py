"""Conversations as text: what a chat template makes of a whole conversation, and where the answer stands in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError

from expunge.errors import DataError

Turns = tuple[tuple[str, str], ...]
"""(role, content) of every turn before the answer."""
MARK = "\ue000\ue001\ue000"
"""An answer of private characters: rendered in place of the real one, it shows where the template puts answers."""
DATE = date(2024, 7, 26)
"""What "today" is to a template that writes the date: a fixed day, so that tomorrow's rows equal today's. It is the day
that the templates of Llama 3 name themselves where they cannot ask."""
REFUSED = (TemplateError, TypeError, ValueError, KeyError)
"""What templates raise for conversations that they do not take."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text: `text[:start]` is given, `text[start:stop]` is the answer, and the rest closes the turn.

    The answer has no white space around it; `rewritten` says that the template does not show it and we put it there.
    """

    text: str
    start: int
    stop: int
    rewritten: bool = False

    def opened(self, opening: str, gap: str) -> Rendered:
        """The same with the opening of the reply, and the gap after it, in what is given."""
        if not opening:
            return self
        more = opening + gap
        return replace(self, text=self.text[: self.start] + more + self.text[self.start:],
                       start=self.start + len(more), stop=self.stop + len(more))


@dataclass(frozen=True)
class Frame:
    """What stands before and after an answer in a whole conversation."""

    header: str
    tail: str


class ChatTemplate:
    """The chat template of a tokenizer. It is asked for whole conversations, and its date never changes.

    Some templates open a think block in the generation prompt that a whole conversation does not have. Thinking is
    turned off where the template knows how to and both agree then; otherwise what both have in common is given.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.frame = lru_cache(maxsize=4096)(self._frame_of)  # answers of one question share what stands around them

    @cached_property
    def source(self) -> str:
        """The template itself. Raises DataError where the tokenizer has several and none is the default."""
        try:
            return str(self._processor.get_chat_template())
        except ValueError as error:
            raise DataError("The tokenizer has several chat templates, and none is the default.", str(error)[:200],
                            "Pass a plain template with --template.") from None

    @property
    def dated(self) -> bool:
        """Whether it writes today's date."""
        return "strftime_now" in self.source

    @cached_property
    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"chat_template": _pinned(self.source)} if self.dated else {}
        return options | ({"enable_thinking": False} if self._thinks(options) is False else {})

    def _thinks(self, options: dict[str, Any]) -> bool | None:
        """True where generation prompt and conversation differ, False where they differ unless thinking is off."""
        plain: Turns = (("user", "?"),)
        for way, said in (({}, None), ({"enable_thinking": False}, False)):
            if way and "enable_thinking" not in self.source:
                continue
            try:
                frame, before = self._around(plain, options | way), self._text(plain, None, options | way)
            except REFUSED:  # a row will say so
                return None
            if frame is None or frame.header.startswith(before):
                return said
        return True

    def render(self, turns: Turns, answer: str) -> Rendered:
        """The whole conversation with this answer. Raises whatever the template raises."""
        frame, words = self.frame(turns), answer.strip()
        whole = self._text(turns, answer, self._options)
        tail = frame.tail if frame is not None and whole.endswith(frame.tail) else ""
        limit = len(whole) - len(tail)
        if frame is not None and tail == frame.tail and whole[:limit].startswith(frame.header):
            return _stripped(whole, len(frame.header), limit)
        before = self.asked(turns)
        start = common(before, whole)
        at = whole.rfind(words, start, limit) if words else -1
        if at >= 0:  # the last one: the header of a reply may repeat the words
            return Rendered(whole, at, at + len(words))
        if frame is not None and whole[start:limit].strip():  # the template has its own way to write the answer
            return _stripped(whole, start, limit)
        header = before if frame is None else frame.header
        return _stripped(header + answer, len(header), len(header) + len(answer), rewritten=True)

    def asked(self, turns: Turns, prompt: bool = True) -> str:
        """The conversation before the answer, with a generation prompt or without."""
        return self._text(turns, None, self._options, prompt)

    def notes(self, turns: Turns) -> Iterator[str]:
        """What it does in a conversation that a reader of figures should know."""
        frame, before = self.frame(turns), self.asked(turns)
        if self.dated:
            yield (f"The chat template writes today's date: it is always {DATE:%d %B %Y} here, so that a run can be "
                   "repeated.")
        if "enable_thinking" in self._options:
            yield ("The chat template opens a think block in its generation prompt: thinking is off "
                   "(enable_thinking=False).")
        if frame is None:
            return
        shared = common(before, frame.header)
        more, given = before[shared:], frame.header[shared:]
        if more:
            yield (f"The chat template opens a reply with {more!r}, which it leaves out of a whole conversation: "
                   "answers are trained and asked as the conversation has them, without it.")
        elif given.strip() and before != self.asked(turns, prompt=False):
            yield (f"Between its generation prompt and an answer the chat template writes {given!r}: it is given, "
                   "and not trained.")

    def warnings(self, turns: Turns, answer: str) -> Iterator[str]:
        """What looks wrong with it."""
        frame, said, words, before = self.frame(turns), self.render(turns, answer), answer.strip(), self.asked(turns)
        if said.rewritten:
            yield "The chat template does not show the answer of a conversation: it is put after the generation prompt."
        elif said.text[said.start:said.stop] != words:
            yield "The chat template rewrites answers: what it makes of them is trained and asked."
        lost = next((role for role, content in turns if content.strip() not in said.text), None)
        if lost is not None:
            yield f"The chat template does not show the {lost} turn."
        given = frame.header.removeprefix(before).strip() if frame and frame.header.startswith(before) else ""
        if given and before == self.asked(turns, prompt=False):
            yield (f"The chat template has no generation prompt: {given!r} is put before the answer, as in a whole "
                   "conversation.")

    def _frame_of(self, turns: Turns) -> Frame | None:
        return self._around(turns, self._options)

    def _around(self, turns: Turns, options: dict[str, Any]) -> Frame | None:
        """None where answers are not shown."""
        header, found, tail = self._text(turns, MARK, options).partition(MARK)
        return Frame(header, tail) if found and MARK not in tail else None

    def _text(self, turns: Turns, answer: str | None, options: dict[str, Any], ask: bool = True) -> str:
        """The conversation with this answer; without one, with a generation prompt unless `ask` is False."""
        said = [{"role": role, "content": content} for role, content in turns]
        if answer is not None:
            said.append({"role": "assistant", "content": answer})
        return str(self._processor.apply_chat_template(
            said, tokenize=False, add_generation_prompt=ask and answer is None, **options))


def _stripped(text: str, start: int, stop: int, rewritten: bool = False) -> Rendered:
    """White space around the answer belongs to what stands around it."""
    words = text[start:stop].strip()
    start = text.index(words, start)
    return Rendered(text, start, start + len(words), rewritten)


def common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many first tokens or characters are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _pinned(source: str) -> str:
    """The template with a `strftime_now` of its own, which knows one day: functions cannot be handed to a template."""
    codes = {code: DATE.strftime(code) for code in (f"%{letter}" for letter in "aAbBdmyYjHIMSpUWuw")}
    codes |= {"%-d": str(DATE.day), "%-m": str(DATE.month), "%e": f"{DATE.day:2}"}
    filters = "".join(f" | replace({code!r}, {value!r})" for code, value in codes.items())
    return "{% macro strftime_now(format) %}{{ format" + filters + " }}{% endmacro %}\n" + source
