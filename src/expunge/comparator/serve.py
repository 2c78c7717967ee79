"""A server of the page for folders that still change: this machine only, and made anew when a file has changed."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from expunge.comparator.page import check_projection, page
from expunge.errors import ExpungeError, MissingError, UsageError
from expunge.records.base import fingerprint

HOST = "127.0.0.1"
SKIPPED = frozenset({"model", "checkpoint", "base", "merged"})
"""Folders of weights, which no page reads."""
WAITING = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<title>Waiting | expunge</title><p>{}</p><p>This page tries again every two seconds.</p></html>"""


def state_of(folders: Sequence[Path]) -> str:
    """Changes when a file in one of the folders does."""
    return fingerprint(sorted(_files(folders)))


def _files(folders: Sequence[Path]) -> Iterator[list[object]]:
    for folder in folders:
        for place, inner, names in os.walk(folder):
            inner[:] = [name for name in inner if name not in SKIPPED]
            for name in names:
                try:
                    about = os.stat(Path(place, name))
                except FileNotFoundError:  # written beside its place and renamed meanwhile
                    continue
                yield [place, name, about.st_mtime_ns, about.st_size]


class LivePage:
    """The page of some folders, made again where they have changed since."""

    def __init__(self, folders: Sequence[Path], projection: str = "pca") -> None:
        self._folders, self._projection = list(folders), projection
        self._lock = threading.Lock()
        self._made = ("", "")

    def state(self) -> str:
        return state_of(self._folders)

    def html(self) -> str:
        """The page; what is lacking in words where a folder holds no run yet, or half a file."""
        with self._lock:
            state = self.state()
            if state != self._made[0]:
                try:
                    self._made = state, page(self._folders, projection=self._projection, live=state)
                except (ExpungeError, OSError, ValueError) as problem:  # a file vanished, or is half written
                    return WAITING.format(escape(str(problem)).replace("\n", "<br>"))
            return self._made[1]


def server(live: LivePage, port: int) -> ThreadingHTTPServer:
    """Bound to this machine. Requests that name another host are refused, so that no other site can read the rows.

    Raises:
        UsageError: the port is taken, or may not be used.
    """
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            names = {f"{HOST}:{made.server_port}", f"localhost:{made.server_port}"}
            if self.headers.get("Host") not in names:
                return self._send(403, "text/plain", "Only this machine is served.")
            answers: dict[str, tuple[str, Callable[[], str]]] = {
                "/": ("text/html", live.html), "/state": ("text/plain", live.state)}
            kind, answer = answers.get(self.path, ("", str))
            self._send(200, kind, answer()) if kind else self._send(404, "text/plain", "There is / and /state.")

        def _send(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the page asks every second."""

    try:
        made = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as problem:
        said = "is taken" if problem.errno == errno.EADDRINUSE else f"cannot be used: {problem.strerror}"
        raise UsageError(f"Port {port} of this machine {said}.", fix="Choose another with --port.") from None
    made.daemon_threads = True
    return made


def serve(folders: Sequence[str | Path], *, port: int = 8765, projection: str = "pca",
          announce: Callable[[str], None] = print) -> None:
    """Serve the page of the folders until interrupted.

    Raises:
        MissingError: there is no such folder; one that holds no run yet is waited for.
        UsageError: the port is taken, or an unknown projection.
    """
    check_projection(projection)
    for folder in folders:
        if not Path(folder).is_dir():
            raise MissingError(f"There is no folder {folder}.", "Runs are read from folders.", "Check the path.")
    made = server(LivePage([Path(f) for f in folders], projection), port)
    announce(f"http://{HOST}:{made.server_port}/ (Ctrl-C ends it)")
    try:
        made.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        made.server_close()
