"""Answers in the shape of OpenAI: whole ones, and streams of server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from expunge.serve.engine import AnswerChoice, Event, Job
from expunge.serve.errors import ApiError


@dataclass(frozen=True)
class Heading:
    """What every part of one answer begins with."""

    id: str
    created: int
    model: str
    fingerprint: str
    chat: bool

    def part(self, choices: list[dict[str, Any]], stream: bool = False, **more: Any) -> dict[str, Any]:
        kind = ("chat.completion" + ".chunk" * stream) if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model,
                "system_fingerprint": self.fingerprint, "choices": choices} | more


def whole(heading: Heading, job: Job) -> dict[str, Any]:
    """The answer of a job that is done."""
    return heading.part([_choice(heading, job, choice) for choice in job.choices], usage=usage(job))


def _choice(heading: Heading, job: Job, choice: AnswerChoice) -> dict[str, Any]:
    found: dict[str, Any] = {"index": choice.index, "finish_reason": choice.finish, "logprobs": choice.logprobs}
    if heading.chat:
        return found | {"message": {"role": "assistant", "content": choice.text}}
    return found | {"text": choice.prompt * job.asked.echo + choice.text}


def usage(job: Job) -> dict[str, int]:
    """Tokens: a prompt counts once, whatever the number of its choices."""
    told, said = job.prompt_tokens, job.completion_tokens
    return {"prompt_tokens": told, "completion_tokens": said, "total_tokens": told + said}


@dataclass
class Stream:
    """The events of one stream, as the job goes on. `ended` says whether its last event was made."""

    heading: Heading
    job: Job
    ended: bool = False
    error: ApiError | None = None

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events; the last is [DONE], or an error where the answer broke off."""
        if self.heading.chat:
            for choice in self.job.choices:
                yield _event(self._part(choice.index, {"role": "assistant", "content": ""}, None))
        while True:
            event: Event = await self.job.events.get()
            if event.kind == "piece":
                said = {"content": event.text} if self.heading.chat else event.text
                yield _event(self._part(event.choice, said, None))
            elif event.kind == "failed" and event.error is not None:
                self.error, self.ended = event.error, True
                yield _event(event.error.body)
                return
            elif event.kind == "done":
                break
        for choice in self.job.choices:
            yield _event(self._part(choice.index, {} if self.heading.chat else "", choice.finish))
        if self.job.asked.usage:
            yield _event(self.heading.part([], stream=True, usage=usage(self.job)))
        self.ended = True
        yield "data: [DONE]\n\n"

    def _part(self, index: int, said: Any, finish: str | None) -> dict[str, Any]:
        own = {"delta": said} if self.heading.chat else {"text": said}
        return self.heading.part([{"index": index, "finish_reason": finish, "logprobs": None} | own], stream=True)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"
