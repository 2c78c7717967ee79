"""Requests to a service without a network: its application is called as a server would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.records.serving import ServeSettings
from expunge.serve.bodies import chat_asked
from expunge.serve.service import Service


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        assert set(found) == {"message", "type", "param", "code"} and found["message"].strip()
        return found

    @property
    def events(self) -> list[Any]:
        """The data of a stream; [DONE] as it is."""
        parts = self.body.decode().split("\n\n")
        assert parts.pop() == "" and all(part.startswith("data: ") for part in parts)
        return [part[6:] if part[6:] == "[DONE]" else json.loads(part[6:]) for part in parts]


async def call(app: Any, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {},
               leave_after: int | None = None, parts: int = 1) -> Reply:
    """One request. `leave_after`: the client goes away after so many parts of the answer."""
    sent: list[Any] = []
    size = -(-len(body) // parts) or 1
    pieces = [body[i: i + size] for i in range(0, len(body), size)] or [b""]
    gone = asyncio.Event()
    if leave_after == 0:
        gone.set()

    async def receive() -> dict[str, Any]:
        if pieces:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if leave_after is not None and len(sent) > leave_after:
            gone.set()

    lines = {"host": "127.0.0.1:8000", "content-type": "application/json"} | {k.lower(): v for k, v in headers.items()}
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
             "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
             "headers": [(k.encode(), v.encode()) for k, v in lines.items()], "client": ("127.0.0.1", 1),
             "server": ("127.0.0.1", 8000)}
    await app(scope, receive, send)
    starts = [m for m in sent if m["type"] == "http.response.start"]
    found = {k.decode(): v.decode() for k, v in starts[0]["headers"]} if starts else {}
    return Reply(starts[0]["status"] if starts else 0, found,
                 b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body"))


class Client:
    """A service whose thread runs, and ways to ask it."""

    def __init__(self, service: Service) -> None:
        self.service, self.app = service, service.app()

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return asyncio.run(call(self.app, method, path, raw, **options))

    def service_asked(self, said: str, most: int) -> Any:
        """A greedy question, as the service reads it."""
        return chat_asked({"model": self.service.name, "messages": [{"role": "user", "content": said}],
                           "temperature": 0, "max_tokens": most})[1]

    def completion(self, prompt: Any = "Where does Ada live?", **options: Any) -> Reply:
        return self("POST", "/v1/completions", {"model": self.service.name, "prompt": prompt, "temperature": 0,
                                                "max_tokens": 6} | options)

    def chat(self, said: str = "Where does Ada live?", **options: Any) -> Reply:
        return self("POST", "/v1/chat/completions", {
            "model": self.service.name, "messages": [{"role": "user", "content": said}], "temperature": 0,
            "max_tokens": 6} | options)


@contextmanager
def serving(subject: Any, started: bool = True, **options: Any) -> Iterator[Client]:
    """A client of a service of this subject."""
    own = {name: options.pop(name) for name in ("guard", "keys", "log") if name in options}
    service = Service(subject, ServeSettings(**options), name="m", **own)
    if started:
        service.engine.start()
    try:
        yield Client(service)
    finally:
        service.engine.stop()


def loaded(place: Path) -> Any:
    from expunge.models.load import load_subject

    return load_subject(place)
