"""Many clients at once ask a served model: latencies, errors and the growth of memory.

    python experiments/serve_load.py MODEL [--clients 50] [--seconds 120]

The server is a process of its own, started as a person would, with a key. Each client asks one request after another:
chats, streams, drawn answers and log-probabilities. Memory is read from /metrics; the first tenth of the time is for
warming up. Written to results/serve.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = ("who", "where", "when", "what", "is", "was", "born", "wrote", "lives", "the", "a", "of", "in", "city", "book")
TOKENS = 16


@dataclass(frozen=True)
class Running:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    key: str
    name: str
    log: Path

    def ask(self, path: str, body: Any = None, key: str | None = None) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            return request(connection, path, body, self.key if key is None else key)
        finally:
            connection.close()

    @property
    def resident(self) -> float:
        """Bytes of memory, as the server says."""
        text = self.ask("/metrics")[1].decode()
        return float(re.findall(r"^expunge_resident_memory_bytes (\S+)$", text, re.MULTILINE)[0])


def request(connection: http.client.HTTPConnection, path: str, body: Any, key: str) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    raw = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("GET" if raw is None else "POST", path, raw, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


@contextmanager
def running(model: Path, folder: Path, *options: str) -> Iterator[Running]:
    """Start `expunge serve` with a key, wait until it listens, and end it gracefully."""
    key = secrets.token_hex(24)
    keys = folder / "keys.txt"
    keys.touch(mode=0o600)
    keys.write_text(key + "\n", encoding="utf-8")
    said, log = folder / "said.txt", folder / "log.jsonl"
    with said.open("w") as err, log.open("w") as out:
        words = ["serve", str(model), "--port", "0", "--api-key-file", str(keys), *options]
        process = subprocess.Popen([sys.executable, "-m", "expunge", *words], stdout=out, stderr=err, text=True)
    try:
        while not (found := re.search(r"as '(.+?)' at http://127.0.0.1:(\d+)/v1", said.read_text(encoding="utf-8"))):
            if process.poll() is not None:
                raise SystemExit(f"The server did not start:\n{said.read_text(encoding='utf-8')}")
            time.sleep(0.1)
        made = Running(process, int(found[2]), key, found[1], log)
        while not _ready(made):
            time.sleep(0.1)
        yield made
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _ready(server: Running) -> bool:
    try:
        return server.ask("/readyz")[0] == 200
    except OSError:
        return False


def bodies(name: str, draw: random.Random) -> tuple[str, str, dict[str, Any]]:
    """(kind, path, body) of the next request of a client."""
    text = " ".join(draw.choices(WORDS, k=draw.randint(3, 20))) + "?"
    chat = {"model": name, "messages": [{"role": "user", "content": text}], "max_tokens": TOKENS, "temperature": 0}
    texts = {"model": name, "prompt": text, "max_tokens": TOKENS, "temperature": 0}
    kind = draw.choices(("chat", "stream", "drawn", "log-probabilities"), (60, 25, 10, 5))[0]
    if kind == "chat":
        return kind, "/v1/chat/completions", chat
    if kind == "stream":
        return kind, "/v1/completions", texts | {"stream": True}
    if kind == "drawn":
        return kind, "/v1/chat/completions", chat | {"temperature": 1.0, "n": 2}
    return kind, "/v1/completions", texts | {"max_tokens": 0, "echo": True, "logprobs": 1}


def sound(kind: str, status: int, raw: bytes) -> str:
    """What is wrong with an answer; empty where nothing is."""
    if status != 200:
        return f"status {status}"
    if kind == "stream":
        return "" if raw.endswith(b"data: [DONE]\n\n") else "a stream without its end"
    return "" if json.loads(raw)["choices"][0]["finish_reason"] else "no reason to end"


def load(server: Running, clients: int, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Every client asks until the time is over. Returns counts, latencies in seconds and memory in bytes."""
    took: list[float] = []
    errors: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    memory: list[tuple[float, float]] = []
    began = time.monotonic()

    def client(number: int) -> None:
        draw = random.Random(seed * 1000 + number)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
        while time.monotonic() - began < seconds:
            kind, path, body = bodies(server.name, draw)
            start = time.monotonic()
            try:
                wrong = sound(kind, *request(connection, path, body, server.key))
            except (OSError, http.client.HTTPException, ValueError) as error:
                wrong = type(error).__name__
                connection.close()
            took.append(time.monotonic() - start)
            kinds[kind] += 1
            if wrong:
                errors[wrong] += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - began, server.resident))
        time.sleep(min(1.0, seconds / 20))
    memory.append((time.monotonic() - began, server.resident))
    ranked = sorted(took)
    warm = [size for at, size in memory if at >= seconds / 10]
    return {
        "clients": clients, "seconds": seconds, "requests": len(took), "per_second": len(took) / seconds,
        "kinds": dict(kinds), "errors": dict(errors),
        "latency_s": {f"p{q}": ranked[min(int(len(ranked) * q / 100), len(ranked) - 1)] for q in (50, 90, 95, 99)}
        | {"most": ranked[-1]},
        "memory_bytes": {"warm": warm[0], "most": max(warm), "end": warm[-1], "growth": max(warm) - warm[0]},
    }


def main() -> None:
    from common import store  # beside this file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(given.model, Path(folder), "--rate", "0") as server:
        found = load(server, given.clients, given.seconds)
        refused = server.ask("/v1/models", key="wrong" * 8)[0]
    found |= {"model": given.model.parent.name + "/" + given.model.name, "cores": os.cpu_count(),
              "load_average": os.getloadavg()[0], "new_tokens": TOKENS, "status_without_key": refused}
    print(json.dumps(found, indent=1))
    store("serve", found)


if __name__ == "__main__":
    main()
