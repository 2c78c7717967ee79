"""One thread that owns the model. Requests wait in a bounded line; those that may go together are decoded together.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from expunge.data.text_encoder import TokenRow
from expunge.errors import ExpungeError
from expunge.models.language import CausalLM
from expunge.records.serving import ServeSettings
from expunge.serve.bodies import ServeRequest
from expunge.serve.errors import ApiError, place_of
from expunge.serve.logprobs import logprobs_of
from expunge.serve.texts import Pieces, decoder

LONGEST_TOKEN = 64
"""Characters of a token, on average, above which a prompt is refused before it is read."""


@dataclass
class AnswerChoice:
    """One continuation: what it begins with, and what has come of it."""

    index: int
    row: TokenRow
    prompt: str
    """The text of a completion's prompt."""
    limit: int
    pieces: Pieces
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish: Literal["stop", "length"] = "length"
    logprobs: dict[str, Any] | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to a job: it began, a piece of text came, it is done, or it failed."""

    kind: Literal["begun", "piece", "done", "failed"]
    choice: int = 0
    text: str = ""
    error: ApiError | None = None


class Job:
    """A request on its way. Its events are read by the event loop that handed it in.

    Args:
        loop: None: nobody waits for its events.
    """

    def __init__(self, asked: ServeRequest, loop: asyncio.AbstractEventLoop | None) -> None:
        self.asked, self._loop = asked, loop
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.choices: list[AnswerChoice] = []
        self.prompt_tokens = 0
        self.cancelled = False
        self.entered, self.began = time.monotonic(), 0.0

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.tokens) for choice in self.choices)

    @property
    def together(self) -> tuple[Any, ...] | None:
        """Jobs of which this is equal may be decoded in one batch; None: alone, since a seed is for one batch."""
        asked = self.asked
        if asked.temperature == 0:
            return ("greedy",)
        return None if asked.seed is not None else ("drawn", asked.temperature, asked.top_p)

    def tell(self, event: Event) -> None:
        """From the thread of the model to the event loop."""
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop is closed: nobody reads
            self.cancelled = True

    def cancel(self) -> None:
        """Its client has gone: it leaves the line, or ends at the next token."""
        self.cancelled = True


class Engine:
    """The model and its line of requests.

    Args:
        failed: is told of errors that are ours: type, and where it was raised.
    """

    def __init__(self, subject: CausalLM, settings: ServeSettings,
                 failed: Callable[[str, str, str], None] = lambda kind, where, trace: None) -> None:
        self.subject, self.settings, self._failed = subject, settings, failed
        self._line: deque[Job] = deque()
        self._now: list[Job] = []
        self._change = threading.Condition()
        self.draining = self._ended = False
        self._decode = decoder(subject.encoder.processor)
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread of the model runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def active(self) -> int:
        """Requests that wait or are answered now."""
        return len(self._line) + len(self._now)

    @cached_property
    def pieces_show(self) -> bool:
        """Whether tokens may be shown as they come. Where something stands between the model's tokens and its answer,
        such as a guard that looks at the whole of it, the answer is sent in one piece, once it is finished."""
        from transformers import GenerationMixin

        model = self.subject.model
        inner = model.get_base_model() if hasattr(model, "peft_config") else model
        return (type(self.subject).generate is CausalLM.generate and self.subject.decode is None
                and getattr(type(inner), "generate", None) is GenerationMixin.generate)

    @cached_property
    def _watchable(self) -> bool:
        return "watch" in inspect.signature(self.subject.generate).parameters

    def put(self, job: Job) -> None:
        """Take a job in line. Raises ApiError when the line is full, or the server is being stopped."""
        count = job.asked.n * len(job.asked.prompts)
        if count > self.settings.batch:
            raise ApiError(400, f"{count} choices are too many: at most {self.settings.batch} in one request.",
                           "invalid_value", "n")
        with self._change:
            if self.draining:
                raise ApiError(503, "The server is shutting down.", "shutting_down", retry=10)
            if len(self._line) >= self.settings.queue:
                raise ApiError(503, f"{self.settings.queue} requests are waiting already. Ask again later.",
                               "overloaded", retry=2)
            self._line.append(job)
            self._change.notify()

    def leave(self, job: Job) -> None:
        """Take a job out of the line, or end it where it is being answered."""
        job.cancel()
        with self._change:
            if job in self._line:
                self._line.remove(job)

    def drain(self) -> None:
        """Take no new jobs; those in line are still answered."""
        with self._change:
            self.draining = True

    def stop(self) -> None:
        """End everything at the next token, and the thread with it."""
        with self._change:
            self.draining = self._ended = True
            for job in [*self._line, *self._now]:
                job.cancel()
                job.tell(Event("failed", error=ApiError(503, "The server is shutting down.", "shutting_down")))
            self._line.clear()
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._line and not self._ended:
                    self._change.wait()
                if self._ended:
                    return
            jobs: list[Job] = []
            try:
                jobs = self._pick()
                self._answer(jobs)
            except Exception as error:  # the thread must live on, whatever one request does
                problem = self._ours(error)
                for job in jobs or self._emptied():
                    job.tell(Event("failed", error=problem))
            finally:
                with self._change:
                    self._now = []

    def _emptied(self) -> list[Job]:
        """All jobs in line, which leave it: where picking failed, nobody knows for which of them."""
        with self._change:
            line = list(self._line)
            self._line.clear()
        return line

    def _ours(self, error: Exception) -> ApiError:
        """A mistake of ours: told by its type and place alone, since its text may quote a prompt."""
        self._failed(type(error).__name__, place_of(error), "".join(traceback.format_exception(error)))
        return ApiError(500, "The server could not answer this request.", "internal_error")

    def _pick(self) -> list[Job]:
        """The first job in line, and those behind it that may go with it; jobs that cannot be answered are told so."""
        with self._change:
            line = list(self._line)
        chosen: list[Job] = []
        done: list[Job] = []
        for job in line:
            if job.cancelled:
                done.append(job)
            elif not job.choices and (problem := self._prepare(job)) is not None:
                job.tell(Event("failed", error=problem))
                done.append(job)
            elif not chosen or self._fit(chosen, job):
                chosen.append(job)
            if sum(len(one.choices) for one in chosen) >= self.settings.batch or (chosen and not chosen[0].together):
                break
        with self._change:
            self._line = deque(job for job in self._line if job not in chosen and job not in done)
            self._now = chosen
        return chosen

    def _fit(self, chosen: Sequence[Job], job: Job) -> bool:
        """Whether a job may be decoded with others: chosen in the same way, and no row short of room in the context."""
        rows = [choice for one in (*chosen, job) for choice in one.choices]
        context = self.subject.context
        return (job.together is not None and job.together == chosen[0].together and len(rows) <= self.settings.batch
                and (context is None or max(len(c.row.ids) for c in rows) + max(c.limit for c in rows) <= context))

    def _prepare(self, job: Job) -> ApiError | None:
        """Make the tokens of a job's prompts, and one choice for each answer. Returns why it cannot be answered."""
        asked, encoder, settings = job.asked, self.subject.encoder, self.settings
        context = self.subject.context
        longest = min(settings.max_prompt, context or settings.max_prompt)
        where = "messages" if asked.chat else "prompt"
        for number, example in enumerate(asked.prompts):
            size = len(example.prompt) + len(example.answer) + sum(len(text) for _, text in example.messages)
            if size > LONGEST_TOKEN * longest:  # not worth its tokens
                return ApiError(400, f"The prompt has {size} characters: far too long for {longest} tokens.",
                                "context_length_exceeded", where)
            try:
                row = encoder.encode(example)
            except ExpungeError as error:
                return ApiError(400, f"{error.what} {error.why}".strip()[:300], "invalid_prompt", where)
            except Exception as error:  # of a tokenizer
                return self._ours(error)
            if asked.chat:
                row = TokenRow("", row.ids[: row.prompt], row.prompt, 0, 0)
            size = len(row.ids)
            if not size:
                return ApiError(400, "The prompt has no token.", "invalid_prompt", where)
            if size > longest:
                return ApiError(400, f"The prompt has {size} tokens, and {longest} are the most.",
                                "context_length_exceeded", where)
            room = settings.max_tokens if context is None else min(settings.max_tokens, context - size)
            wanted = settings.max_tokens if asked.max_tokens is None else asked.max_tokens
            if room < 1 <= wanted:
                return ApiError(400, f"The prompt has {size} tokens: they fill the context of {context}.",
                                "context_length_exceeded", where)
            job.prompt_tokens += size
            prompt = "" if asked.chat else example.answer
            job.choices += [AnswerChoice(number * asked.n + k, row, prompt, min(wanted, room),
                                         Pieces(self._decode, asked.stops, strip=asked.chat)) for k in range(asked.n)]
        return None

    def _answer(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.began = time.monotonic()
            job.tell(Event("begun"))
        owners = [(job, choice) for job in jobs for choice in job.choices]
        going = [(job, choice) for job, choice in owners if choice.limit]
        if going:
            self._continue(going)
        for job in jobs:
            if job.asked.logprobs is not None and not job.cancelled:
                for choice in job.choices:
                    choice.logprobs = logprobs_of(self.subject, choice.row.ids, choice.prompt, choice.tokens,
                                                  job.asked.logprobs, echo=job.asked.echo)
        for job in jobs:
            job.tell(Event("done"))

    def _continue(self, going: Sequence[tuple[Job, AnswerChoice]]) -> None:
        asked = going[0][0].asked
        shows = self.pieces_show

        def watch(place: int, tokens: list[int]) -> bool:
            job, choice = going[place]
            choice.tokens = tokens[: choice.limit]
            if shows and (job.asked.stream or job.asked.stops):
                piece = choice.pieces.feed(choice.tokens)
                if piece and job.asked.stream:
                    job.tell(Event("piece", choice.index, piece))
            return job.cancelled or self._ended or choice.pieces.stopped or len(tokens) >= choice.limit

        way: dict[str, Any] = {"watch": watch} if self._watchable else {}
        if asked.temperature > 0:
            seed = random.SystemRandom().getrandbits(63) if asked.seed is None else asked.seed
            way |= {"temperature": asked.temperature, "seed": seed}
            way |= {"top_p": asked.top_p} if asked.top_p < 1 else {}
        said = self.subject.generate([choice.row.ids for _, choice in going], max(c.limit for _, c in going),
                                     self.settings.batch, **way)
        for (job, choice), (text, ended) in zip(going, said, strict=True):
            self._finish(job, choice, text, ended)

    def _finish(self, job: Job, choice: AnswerChoice, text: str, ended: bool) -> None:
        """The last piece of a choice, and why it ended."""
        if not self.pieces_show:  # what the subject says it says: its tokens may be others
            choice.tokens = list(self.subject.encoder.processor(text, add_special_tokens=False)["input_ids"])
            if len(choice.tokens) > choice.limit:
                choice.tokens, ended = choice.tokens[: choice.limit], False
                text = self._decode(choice.tokens)
        else:
            text = self._decode(choice.tokens)
        piece = choice.pieces.close(text)
        choice.text = choice.pieces.sent
        choice.finish = "stop" if ended or choice.pieces.stopped else "length"
        if piece and job.asked.stream:
            job.tell(Event("piece", choice.index, piece))
