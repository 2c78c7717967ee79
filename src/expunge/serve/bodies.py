"""What a client may send, read with suspicion: every mistake is one answer of status 4xx, whatever the bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expunge.metrics.text.units import DENSE
from expunge.records.task import Example, Opened, RolledOut
from expunge.serve.errors import ApiError
from expunge.serve.row_format import as_text

LARGEST = 1_000_000
"""Bytes of a body."""
UNUSED: Mapping[str, Sequence[Any]] = {
    "frequency_penalty": (0, None), "presence_penalty": (0, None), "logit_bias": ({}, None), "best_of": (1, None),
    "suffix": ("", None), "tools": ([], None), "tool_choice": ("none", None),
    "response_format": ({"type": "text"}, None),
    "parallel_tool_calls": (True, False, None), "modalities": (["text"], None), "top_logprobs": (None,),
}
"""Fields of OpenAI that are not built here -> values that ask for nothing."""
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Fields that change no answer."""
COLDEST = 1e-3
"""Temperatures below it are greedy: logits divided by less are infinite."""
Text = Annotated[str, Field(max_length=LARGEST)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class Body(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    max_tokens: int | None = Field(None, ge=0, le=10**9)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: int | None = Field(None, ge=1, le=1024)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]
    name: str | None = None

    @property
    def turn(self) -> tuple[str, str]:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ("system" if self.role == "developer" else self.role), content


class ChatBody(Body):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(None, ge=0, le=10**9)
    logprobs: Literal[False] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionBody(Body):
    """Body of /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1024)]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)


@dataclass(frozen=True)
class ServeRequest:
    """A request that can be carried out."""

    prompts: tuple[Example, ...]
    chat: bool
    n: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False
    """Whether the stream ends with the number of tokens."""
    echo: bool = False
    logprobs: int | None = None


def parsed(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError for anything else."""
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.", "invalid_json") from None
    except ValueError as error:  # of the decoder, of the parser, and of integers with thousands of digits
        raise ApiError(400, f"The body is not valid JSON: {_short(error)}.", "invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, "The body must be a JSON object.", "invalid_json")
    return found


def chat_asked(body: Mapping[str, Any]) -> tuple[str, ServeRequest]:
    """The name of the model, and what is asked of it. Raises ApiError."""
    got = _validated(ChatBody, body)
    turns = tuple(message.turn for message in got.messages)
    goes_on = bool(got.continue_final_message)
    if goes_on and got.add_generation_prompt is not False:
        raise ApiError(400, "continue_final_message needs add_generation_prompt: false.", "invalid_value",
                       "add_generation_prompt")
    if not goes_on and got.add_generation_prompt is False:
        raise ApiError(400, "Without a generation prompt only a final assistant message can be continued "
                            "(continue_final_message: true).", "invalid_value", "add_generation_prompt")
    if goes_on and turns[-1][0] != "assistant":
        raise ApiError(400, "continue_final_message needs a final message of the assistant.", "invalid_value",
                       "messages")
    opening = turns[-1][1] if goes_on else ""
    turns = turns[:-1] if goes_on else turns
    if not turns:
        raise ApiError(400, "There is no message to answer.", "invalid_value", "messages")
    limit = got.max_completion_tokens if got.max_completion_tokens is not None else got.max_tokens
    if limit == 0:
        raise ApiError(400, "max_tokens must be at least 1.", "invalid_value", "max_tokens")
    return got.model, ServeRequest((_conversation(turns, opening),), True, max_tokens=limit, **_common(got))


def completion_asked(body: Mapping[str, Any]) -> tuple[str, ServeRequest]:
    """The name of the model, and what is asked of it. Raises ApiError."""
    got = _validated(CompletionBody, body)
    echo = bool(got.echo)
    if got.max_tokens == 0 and not echo:
        raise ApiError(400, "max_tokens: 0 needs echo: true, else there is nothing to answer.", "invalid_value",
                       "max_tokens")
    if got.stream and (echo or got.logprobs is not None):
        raise ApiError(400, "echo and logprobs are not streamed. Ask without stream.", "unsupported_value", "stream")
    prompts = [got.prompt] if isinstance(got.prompt, str) else got.prompt
    if not all(prompts):
        raise ApiError(400, "A prompt is empty.", "invalid_value", "prompt")
    rows = tuple(map(as_text, prompts))
    return got.model, ServeRequest(rows, False, max_tokens=got.max_tokens, echo=echo, logprobs=got.logprobs,
                                   **_common(got))


def _conversation(turns: tuple[tuple[str, str], ...], opening: str) -> Example:
    """One question of a user is a row of kind qa, as tasks have it; anything else a conversation.

    Without an answer a row has no end of its prompt: see `TextEncoder.prompt`.
    """
    plain = len(turns) == 1 and turns[0][0] == "user"
    row = {"id": "", "prompt": turns[-1][1], "answer": "A", "kind": "qa" if plain else "messages",
           "messages": () if plain else turns}
    if not opening:
        return RolledOut(**row)
    gap = "" if DENSE.match(opening[-1]) else " "
    return Opened(**row, opening=opening.rstrip(), gap=gap)


def _common(got: Body) -> dict[str, Any]:
    stops = [got.stop] if isinstance(got.stop, str) else got.stop or []
    if not all(stops) or any(len(stop) > 256 for stop in stops):
        raise ApiError(400, "A stop string has 1 to 256 characters.", "invalid_value", "stop")
    heat = 1.0 if got.temperature is None else got.temperature
    return {"n": got.n or 1, "temperature": heat if heat >= COLDEST else 0.0,
            "top_p": got.top_p or 1.0, "seed": got.seed, "stops": tuple(stops), "stream": bool(got.stream),
            "usage": bool(got.stream_options and got.stream_options.include_usage)}


Kind = TypeVar("Kind", bound=Body)


def _validated(kind: type[Kind], body: Mapping[str, Any]) -> Kind:
    own = {name: value for name, value in body.items() if name not in IGNORED}
    for name in [name for name in own if name in UNUSED and name not in kind.model_fields]:
        if not any(own[name] == value and type(own[name]) in (type(value), float) for value in UNUSED[name]):
            raise ApiError(400, f"{name} is not supported here. Leave it out.", "unsupported_parameter", name)
        del own[name]
    _check_text(own)
    try:
        return kind.model_validate(own)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        at = ".".join(str(part) for part in first["loc"])[:80]
        if first["type"] == "extra_forbidden":
            raise ApiError(400, f"There is no parameter {at!r}.", "unknown_parameter", at) from None
        if first["type"] == "missing":
            raise ApiError(400, f"{at} is missing.", "missing_parameter", at) from None
        raise ApiError(400, f"{at}: {_short(first['msg'])}.", "invalid_value", at) from None


def _check_text(value: Any) -> None:
    """Raises ApiError for half a character of UTF-16, which no tokenizer takes."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            if any("\ud800" <= c <= "\udfff" for c in one):
                raise ApiError(400, "A text holds half a surrogate pair, which is no character.", "invalid_value")
        elif isinstance(one, dict):
            stack += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            stack += one


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _short(problem: object) -> str:
    text = " ".join(str(problem).split())[:160].rstrip(".")
    return text.encode("utf-8", "replace").decode()
