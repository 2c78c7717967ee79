"""A model behind an address: it answers in words, and may tell log-probabilities. There are no weights to look at.

What identifies its answers is the address, the name of the model, what the endpoint tells of it, and the day: weights
behind an address may change, and nobody here would notice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch

from expunge.errors import DataError, UsageError
from expunge.models.answers import ToldScores
from expunge.models.decoding import stripped
from expunge.models.endpoint_client import Refused
from expunge.models.endpoint_rows import EndpointConfig, EndpointEncoder, EndpointRow, Turn, ask_logps, no_weights
from expunge.models.subject import Subject
from expunge.needs import ModelNeed
from expunge.records.base import fingerprint

AT_ONCE = 8
"""Requests that are under way together; an endpoint answers several in one batch."""
UNKNOWN = ("What was asked is an address: the weights behind it are unknown, and its fingerprint is that of address, "
           "model name and day. The verdict holds of what it answered then.")


class Endpoint(Subject):
    """A model behind an address, as a subject without weights."""

    modality: ClassVar[str] = "text"
    has_weights: ClassVar[bool] = False
    encoder: EndpointEncoder

    def __init__(self, config: EndpointConfig) -> None:
        self.model, self.config = None, config
        self.encoder, self.path = EndpointEncoder(config), f"{config.client.base}#{config.model}"
        self._drawn: dict[str, Any] = {}

    @classmethod
    def offers(cls, config: Any) -> frozenset[ModelNeed]:
        found: frozenset[ModelNeed] = config.offered
        return found

    @property
    def offered(self) -> frozenset[ModelNeed]:
        return self.config.offered

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def bare(self) -> bool:
        return True

    @property
    def outcomes(self) -> int:
        """The vocabulary where it is told, else 0."""
        told = self.config.told.get("vocabulary")
        return told if isinstance(told, int) else 0

    @cached_property
    def fingerprint(self) -> str:
        """Of address, model name, what is told of it, and the day: not of weights."""
        config = self.config
        return fingerprint([config.client.base, config.model, {k: config.told[k] for k in sorted(config.told)},
                            config.day])[:16]

    @property
    def intact(self) -> bool:
        """Nothing here can be changed."""
        return True

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        yield

    def clone(self) -> NoReturn:
        no_weights("changed")

    def save(self, folder: Path) -> NoReturn:
        no_weights("saved")

    def decoded(self, way: Any) -> NoReturn:
        raise UsageError("An endpoint decodes in its own way, token by token out of reach.", "",
                         "Ask for sample, which an endpoint does itself, or audit the model where its weights are.")

    def sampled(self, temperature: float, top_p: float, top_k: int, seed: int) -> Endpoint:
        """The same, drawing its answers. Raises UsageError for a cut that the shape of OpenAI does not know."""
        if top_k:
            raise UsageError("An endpoint does not draw from the top_k likeliest tokens.", "", "Use top_p.")
        other = copy.copy(self)
        other._drawn = {"temperature": temperature, "top_p": top_p, "seed": seed % 2**31}
        return other

    def generate(self, prompts: Sequence[Sequence[Turn]], max_new_tokens: int, batch_size: int = 64,
                 progress: Callable[[int], None] | None = None, *, temperature: float | None = None, seed: int = 0,
                 begun: Sequence[Any] = (), keep_lines: bool = False) -> list[tuple[str, bool]]:
        """Continuations in the order given: (text, whether the answer ended by itself). `begun` is not used.

        Raises:
            UsageError: the endpoint refuses a request.
        """
        drawn = self._drawn or ({"temperature": temperature, "seed": seed % 2**31} if temperature is not None else {})
        ask = partial(self._said, tokens=max_new_tokens, way=drawn or {"temperature": 0})
        return [(stripped(text, keep_lines), ended) for text, ended in self._each(ask, prompts, progress)]

    def _said(self, turns: Sequence[Turn], tokens: int, way: Mapping[str, Any]) -> tuple[str, bool]:
        body: dict[str, Any] = {"model": self.config.model, "max_tokens": tokens, **way}
        if turns[0].role == "text":
            choice = self._choice("/completions", body | {"prompt": turns[0].said})
            text = choice.get("text")
        else:
            forced = turns[-1].role == "opening"
            body["messages"] = [{"role": "assistant" if t.role == "opening" else t.role, "content": t.said}
                                for t in turns]
            body |= {"add_generation_prompt": False, "continue_final_message": True} if forced else {}
            choice = self._choice("/chat/completions", body)
            text = (choice.get("message") or {}).get("content")
        return str(text or ""), choice.get("finish_reason") == "stop"

    def _choice(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            found = self.config.client.ask(path, body)
        except Refused as refused:
            raise UsageError(f"The endpoint refuses a request to {path}: {refused.message}",
                             f"It answers with status {refused.status}.") from None
        try:
            choice = found["choices"][0]
            assert isinstance(choice, dict)
        except (KeyError, IndexError, TypeError, AssertionError):
            raise DataError(f"{self.config.client.base}{path} answers without a choice.",
                            "An answer in the shape of OpenAI's has one.", "Check what runs there.") from None
        return choice

    def answers_in_parts(self, rows: Sequence[Any],
                         chosen: Sequence[int]) -> Iterator[tuple[list[tuple[int, ...]], Any]]:
        """As its parent's, with `ToldScores` of one row at a time."""
        for i, scores in zip(chosen, self._each(self._scored, [rows[i] for i in chosen], None), strict=True):
            yield [(i,)], scores

    def _scored(self, row: EndpointRow) -> ToldScores:
        if row.given is None:
            raise UsageError("The endpoint does not say how it puts a conversation, so its log-probabilities are not "
                             "asked for.")
        text, begin = row.given + row.said, len(row.given.rstrip(" "))
        config = self.config
        try:
            values, ends, hits = ask_logps(config.client, config.model, config.scores, text)
        except Refused as refused:
            raise UsageError(f"The endpoint refuses to score a row: {refused.message}") from None
        kept = [k for k, end in enumerate(ends) if end > begin and values[k] is not None]
        return ToldScores([values[k] or 0.0 for k in kept], [hits[k] for k in kept])

    def _each(self, ask: Callable[[Any], Any], rows: Sequence[Any],
              progress: Callable[[int], None] | None) -> Iterator[Any]:
        """What each row is answered, in order, several at once."""
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            waiting = [pool.submit(ask, row) for row in rows]
            try:
                for one in waiting:
                    yield one.result()
                    if progress:
                        progress(1)
            finally:
                for one in waiting:
                    one.cancel()
