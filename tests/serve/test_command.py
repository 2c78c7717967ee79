"""`expunge serve`: what it says at the start, and what it refuses before it listens."""

from __future__ import annotations

import builtins
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expunge.console import Reporter
from expunge.records.serving import ServeSettings
from expunge.serving import Served, called, prepared, screen


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def test_no_such_run(cli: Any, tmp_path: Path) -> None:
    cli.refused("serve", tmp_path / "nothing", says=["There is no model at"])


def test_a_port_that_is_taken(cli: Any, model: Path, taken: int) -> None:
    cli.refused("serve", model, "--port", taken, says=[f"Port {taken} of 127.0.0.1 cannot be used", "--port"])


def test_no_such_address(cli: Any, model: Path) -> None:
    cli.refused("serve", model, "--host", "no.such.host.invalid", "--no-key", says=["There is no address"])


def test_beyond_this_machine_a_key_is_needed(cli: Any, model: Path) -> None:
    cli.refused("serve", model, "--host", "0.0.0.0", says=["reaches beyond this machine", "--api-key-file", "--no-key"])


def test_keys_that_others_can_read(cli: Any, model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("k" * 30, encoding="utf-8")
    keys.chmod(0o644)
    cli.refused("serve", model, "--api-key-file", keys, says=["is open to others", "chmod 600"])
    cli.refused("serve", model, "--api-key-file", tmp_path / "none", says=["There is no key file"])
    cli.refused("serve", model, "--api-key-file", keys, "--no-key", says=["--no-key excludes --api-key-file"])


def test_without_the_extra(cli: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] in ("fastapi", "uvicorn"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "expunge.serve.web", raising=False)
    monkeypatch.delattr(sys.modules["expunge.serve"], "web", raising=False) if "expunge.serve" in sys.modules else None
    monkeypatch.setattr(builtins, "__import__", without)
    cli.refused("serve", model, says=["Serving needs FastAPI and uvicorn", "[serve]"])


@pytest.mark.parametrize(("guard", "says"), [("npo", "is not one guard"), ("uld >> npo", "is not one guard"),
                                             ("uldd", "uldd"), ("uld", "remembers none")])
def test_a_guard_that_is_none(cli: Any, model: Path, guard: str, says: str) -> None:
    cli.refused("serve", model, "--port", 0, "--guard", guard, says=[says])


@pytest.mark.parametrize("words", [["--port", "70000"], ["--rate", "-1"], ["--wait", "0"], ["--max-tokens", "0"]])
def test_options_out_of_range(cli: Any, model: Path, words: list[str]) -> None:
    assert "Traceback" not in cli("serve", model, *words, code=2).err


def test_an_endpoint_is_no_model_to_change(cli: Any) -> None:
    cli.refused("serve", "http://127.0.0.1:1/v1", says=["is an endpoint", "expunge audit"])


@pytest.mark.parametrize(("keys", "more"), [(None, {}), (2, {"api_key_file": Path("keys.txt"), "log_prompts": True})])
def test_what_is_said_fits_one_screen(model: Path, keys: int | None, more: dict[str, Any]) -> None:
    from tests.serve.asking import loaded

    made = Served(loaded(model), "m", "")
    lines = screen(model, made, ServeSettings(**more), keys, 8000, True)
    text = "\n".join(lines)
    assert len(lines) <= 12
    for word in ("http://127.0.0.1:8000/v1", "fingerprint", "Guard: none", "curl -s", "expunge audit", "Logs:"):
        assert word in text
    assert ("Bearer $EXPUNGE_API_KEY" in text) == (keys is not None)
    assert ("WITH prompts" in text) == ("log_prompts" in more)


def test_a_run_is_served_as_it_was_made(model: Path, tmp_path: Path) -> None:
    made = prepared(model, reporter=Reporter(quiet=True))
    assert (made.name, made.guard) == ("plain", "") and called(tmp_path / "a b:c") != ""


@pytest.mark.parametrize(("busy", "says"), [(0, "has its answer"), (1, "Ended with 1 request broken off"),
                                            (2, "Ended with 2 requests broken off")])
def test_the_end_says_how_many_were_broken_off(cli: Any, model: Path, monkeypatch: pytest.MonkeyPatch, busy: int,
                                               says: str) -> None:
    from expunge.serve import service, web

    made: list[service.Service] = []

    class Watched(service.Service):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            made.append(self)

    def served(app: Any, sockets: Any, drain: Any, busy_now: Any, stop: Any, patience: float) -> None:
        made[0].open = busy
        stop()
        made[0].open = 0  # they were told that the server ends

    monkeypatch.setattr(service, "Service", Watched)
    monkeypatch.setattr(web, "served", served)
    assert says in cli("serve", model, "--port", 0).err


def test_nobody_is_told_to_come_back_too_early() -> None:
    from expunge.serve.errors import ApiError

    def told(left: float) -> str:
        return ApiError(429, "Later.", "rate_limit_exceeded", retry=left).headers["Retry-After"]

    assert [told(left) for left in (0.2, 1.0, 1.4, 59.01)] == ["1", "1", "2", "60"]
