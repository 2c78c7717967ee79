"""The server of a page for folders that still change."""

from __future__ import annotations

import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expunge.comparator.serve import HOST, LivePage, serve, server
from expunge.errors import MissingError, UsageError
from expunge.testing.stored_runs import write_runs


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return write_runs(tmp_path / "runs", runs=2, rows=10, inside=False)


@pytest.fixture
def address(runs: list[Path]) -> Iterator[str]:
    made = server(LivePage(runs), 0)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://{HOST}:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


def read(address: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
        return str(answer.read().decode())


def refused(address: str, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        read(address, **headers)
    error.value.close()
    return error.value.code


def test_the_page_follows_the_folders(address: str, runs: list[Path]) -> None:
    page, state = read(address + "/"), read(address + "/state")
    assert "2 runs compared" in page and f'data-live="{state}"' in page
    assert read(address + "/") == page and read(address + "/state") == state
    record = runs[0] / "record.json"
    record.write_text(record.read_text().replace('"ga"', '"ga "').replace("npo + retain_kl", "npo + retain_nll"))
    assert read(address + "/state") != state
    assert "1: npo + retain_nll" in read(address + "/")


def test_a_run_that_has_not_begun_is_waited_for(address: str, runs: list[Path]) -> None:
    for name in ("record.json", "audit.json"):
        (runs[1] / name).rename(runs[1] / f"{name}.later")
    page = read(address + "/")
    assert "is neither a run nor an audit" in page and 'http-equiv="refresh"' in page
    (runs[1] / "record.json").write_text("{", encoding="utf-8")
    assert "is not valid JSON" in read(address + "/")
    (runs[1] / "record.json.later").rename(runs[1] / "record.json")
    assert "2 runs compared" in read(address + "/")


def test_weights_are_not_looked_at(address: str, runs: list[Path]) -> None:
    state = read(address + "/state")
    (runs[0] / "model").mkdir()
    (runs[0] / "model" / "model.safetensors").write_bytes(b"")
    assert read(address + "/state") == state
    (runs[0] / "steps.jsonl").write_text("")
    assert read(address + "/state") != state


def test_other_sites_and_paths_are_refused(address: str) -> None:
    assert refused(address + "/", Host="rows.example") == 403
    assert refused(address + "/record.json") == 404
    assert read(address.replace(HOST, "localhost") + "/state") if _has_localhost() else True


def _has_localhost() -> bool:
    import socket

    try:
        return socket.gethostbyname("localhost") == HOST
    except OSError:
        return False


def test_bad_input(runs: list[Path], address: str, tmp_path: Path, cli: Any) -> None:
    with pytest.raises(MissingError):
        serve([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="taken"):
        serve(runs, port=int(address.rpartition(":")[2]))
    cli.refused("compare", *runs, "--serve", "--page", tmp_path / "p.html", says=["excludes --page"])
    cli.refused("compare", *runs, "--serve", "--projection", "tsne", says=["tsne"])


def test_the_command_ends_quietly(runs: list[Path], cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    said = cli("compare", *runs, "--serve", "--port", 0)
    assert f"http://{HOST}:" in said.err and said.out == ""


def test_what_vanishes_is_no_error(runs: list[Path]) -> None:
    live = LivePage(runs)
    before = live.state()
    shutil.rmtree(runs[1])
    assert live.state() != before
