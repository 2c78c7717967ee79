"""Requests to an OpenAI-shaped endpoint: a key where one is needed, patience where it is busy, and clear words where
it does not answer."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.errors import DataError, MissingError, UsageError

KEY = "EXPUNGE_API_KEY"
"""Environment variable with the key."""
TRIES = 8
"""How often a busy endpoint is asked before that is told."""
LONGEST_WAIT = 60.0
TIMEOUT = 300.0
"""Seconds that one answer may take."""
BUSY = (408, 429, 500, 502, 503, 504)


def is_endpoint(place: object) -> bool:
    """Whether what a person named as a model is the address of an endpoint."""
    return isinstance(place, str) and place.lower().startswith(("http://", "https://"))


def read_key(file: Path | None) -> str | None:
    """The key of a file (its first line; of NAME KEY the key), else of the environment; None without any.

    Raises:
        MissingError: there is no such file.
        DataError: it holds no key.
    """
    if file is None:
        return os.environ.get(KEY) or None
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise MissingError(f"There is no key file {file}.", "", f"Name another, or set {KEY}.") from None
    except (OSError, UnicodeDecodeError):
        raise DataError(f"The key file {file} cannot be read.", "", "Check that you may read it.") from None
    keys = [words[-1] for words in lines if words and not words[0].startswith("#")]
    if not keys:
        raise DataError(f"The key file {file} holds no key.", "", f"Write one into it, or set {KEY}.")
    return keys[0]


class Refused(Exception):
    """The endpoint says that a request is wrong: it will not help to ask again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class EndpointClient:
    """One endpoint, asked by JSON.

    Args:
        base: its address up to /v1.
        key: what it is shown; never written down.
    """

    base: str
    key: str | None = field(default=None, repr=False)
    sleep: Callable[[float], None] = time.sleep

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What it answers; a POST where there is a body. A busy endpoint is asked again, later and later.

        Raises:
            Refused: the request is wrong.
            UsageError: the key is.
            MissingError: nothing answers there, or it stays busy.
            DataError: what answers is not JSON.
        """
        said = ""
        for attempt in range(TRIES):
            try:
                return self._asked(path, body)
            except urllib.error.HTTPError as error:
                said, wait = _message(error), _wait(error, attempt)
                if error.code in (401, 403):
                    raise UsageError(f"{self.base} refuses the key." if self.key else f"{self.base} asks for a key.",
                                     said, f"Set {KEY}, or give --api-key-file FILE.") from None
                if error.code not in BUSY:
                    raise Refused(error.code, said) from None
                said = f"It answers with status {error.code}: {said}"
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = getattr(error, "reason", error)
                said, wait = f"The system says: {reason}.", 2.0**attempt / 4
                if attempt >= 3:  # nobody is there; a busy endpoint would say so
                    break
            if attempt < TRIES - 1:
                self.sleep(min(wait, LONGEST_WAIT))
        raise MissingError(f"The endpoint {self.base} does not answer.", said,
                           "Check the address, and that the server runs; then go on with --resume.")

    def _asked(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        request = urllib.request.Request(self.base + path, method="GET" if body is None else "POST", headers={
            "Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})},
            data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            raw = answer.read()
        try:
            found = json.loads(raw)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DataError(f"{self.base}{path} answers something else than JSON.", f"It begins: {raw[:80]!r}.",
                            "Check the address: it must be an endpoint in the shape of OpenAI's.")
        return found


def _message(error: urllib.error.HTTPError) -> str:
    """What the endpoint says, in one line of at most 300 characters."""
    try:
        found = json.loads(error.read(100_000))
        inner = found.get("error", found)
        said = inner.get("message", "") if isinstance(inner, dict) else inner
    except (ValueError, AttributeError, OSError):
        said = ""
    return " ".join(str(said or error.reason).split())[:300]


def _wait(error: urllib.error.HTTPError, attempt: int) -> float:
    try:
        return float(error.headers.get("Retry-After", ""))
    except ValueError:
        return 2.0**attempt / 2


def split_address(place: str) -> tuple[str, str]:
    """The address up to /v1, and the name of the model behind # where there is one."""
    address, _, name = place.partition("#")
    parts = urllib.parse.urlsplit(address)
    if not parts.netloc or parts.query:
        raise UsageError(f"{place} is not the address of an endpoint.", "",
                         "Write it like http://127.0.0.1:8000/v1, with #MODEL where it has several.")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}", name
