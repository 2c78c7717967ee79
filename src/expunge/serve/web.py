"""The one place that knows FastAPI and uvicorn, which come with the extra `serve`."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

from expunge.errors import MissingExtra, UsageError, install_line

try:
    import uvicorn
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
except ImportError as error:
    raise MissingExtra("Serving needs FastAPI and uvicorn, and one of them is not here.", f"{error}.",
                       f"{install_line('serve')}, or: pip install fastapi uvicorn") from None

__all__ = ["ClientDisconnect", "FastAPI", "HTTPException", "JSONResponse", "PlainTextResponse", "Request", "Response",
           "Server", "StreamingResponse", "bound", "served"]

Handler = Callable[[Request], Awaitable[Response]]


class Server(uvicorn.Server):
    """Ends in two steps: first no new requests, with 503 to those who ask; then, once all are answered, the rest.

    Args:
        drain: told once, at the first signal.
        busy: how many requests are not answered yet.
        stop: ends those at once.
        patience: seconds that they get.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None], busy: Callable[[], int],
                 stop: Callable[[], None], patience: float) -> None:
        super().__init__(config)
        self._drain, self._busy, self._stop, self._patience = drain, busy, stop, patience
        self._told = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end; the second is the end."""
        self._told += 1
        if self._told == 1:
            self._drain()
            self._deadline = time.monotonic() + self._patience
        else:
            self._stop()
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._told and not self.should_exit and (not self._busy() or time.monotonic() > self._deadline):
            self._stop()
            self.should_exit = True
        return bool(await super().on_tick(counter))


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UsageError: the port is taken or may not be used, or there is no such address.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                             flags=socket.AI_PASSIVE)[0]
    except OSError as problem:
        raise UsageError(f"There is no address {host!r} to listen on.", f"The system says: {problem.strerror}.",
                         "Use 127.0.0.1 for this machine, 0.0.0.0 for all its addresses.") from None
    made = socket.socket(family, kind, proto)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(128)
    except OSError as problem:
        made.close()
        raise UsageError(f"Port {port} of {host} cannot be used.", f"The system says: {problem.strerror}.",
                         "Choose another with --port, or end what listens there.") from None
    return made


def served(app: Any, sockets: list[socket.socket], drain: Callable[[], None], busy: Callable[[], int],
           stop: Callable[[], None], patience: float) -> None:
    """Serve until a signal ends it. Every request that was taken is answered first, within `patience` seconds."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # its tracebacks would hold prompts; we log our own
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off", http="h11",
                            ws="none", timeout_keep_alive=30, timeout_graceful_shutdown=5)
    asyncio.run(Server(config, drain, busy, stop, patience).serve(sockets=sockets))
