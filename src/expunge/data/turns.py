"""Conversations: OpenAI's `messages`, ShareGPT's `conversations`, contents in parts, calls of tools.

A row keeps (role, content) of every turn before the last one, which must be the assistant's: that is the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from expunge.errors import DataError

ROLES: Mapping[str, str] = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "observation": "tool", "function": "tool", "function_call": "assistant",
}
"""Names of roles in ShareGPT, LLaMA-Factory and Gemini files -> the one that chat templates know."""


def read_turns(value: Any, name: str, where: str) -> tuple[tuple[str, str], ...]:
    """(role, content) of every turn.

    Raises:
        DataError: the value is no conversation, a part of it is no text, or the last turn is not an answer.
    """
    if isinstance(value, str):  # a CSV cell
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    turns, turn, keys = [], {}, []
    for turn in value if isinstance(value, list) and value else [{}]:
        keys = [(role, content) for role, content in (("role", "content"), ("from", "value"), ("role", "parts"))
                if isinstance(turn, Mapping) and role in turn and (content in turn or _calls(turn))]
        if not keys:
            raise DataError(f"{where}: {name!r} must be a list of {{role, content}} or {{from, value}} objects.")
        role, content = keys[0]
        if not isinstance(turn[role], str) or not turn[role].strip():
            raise DataError(f"{where}: {role!r} of a turn in {name!r} must be text.")
        turns.append((ROLES.get(turn[role], turn[role]), _content(turn, content, where)))
    last, answer = turns[-1]
    if last != "assistant":
        raise DataError(f"{where}: the last message must be from the assistant.",
                        f"It is from {last!r}; there is nothing to learn or forget after it.")
    if _calls(turn):
        raise DataError(f"{where}: the last message calls a tool.", "The answer that is forgotten or kept is text.",
                        "End the conversation with the assistant's reply, or leave the row out.")
    if not answer.strip():
        raise DataError(f"{where}: {keys[0][1]!r} is empty in the last turn.", fix="Fill it in, or leave the row out.")
    return tuple(turns)


def _content(turn: Mapping[str, Any], name: str, where: str) -> str:
    """The text of a turn; parts under each other (as vLLM joins them), then calls of tools as JSON."""
    value = turn.get(name)
    parts = value if isinstance(value, list) else [] if value is None else [value]
    found = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(parts):
        wrong = next(part for part, text in zip(parts, found, strict=True) if not isinstance(text, str))
        kind = wrong.get("type", "no text") if isinstance(wrong, Mapping) else type(wrong).__name__
        raise DataError(f"{where}: {name!r} holds a part that is no text ({kind}).",
                        "Rows of a conversation are text.", "Leave the part out, or leave the row out.")
    return "\n".join([*texts, *_calls(turn)])


def _calls(turn: Mapping[str, Any]) -> list[str]:
    """What the assistant asks of tools, one JSON object {name, arguments} per call."""
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    made = []
    for call in calls if isinstance(calls, list) else [calls]:
        called = call.get("function", call) if isinstance(call, Mapping) else {"name": call}
        arguments = called.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except json.JSONDecodeError:
                arguments = {"text": arguments}
        made.append(json.dumps({"name": called.get("name"), "arguments": arguments}, ensure_ascii=False, default=str))
    return made
