"""`expunge purge` and the store of a guard: listed with what it holds, and emptied when asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import DataError, MissingError
from expunge.federated.simulator import MOMENTS
from expunge.guards.store import FILE, Held, Store, read_store
from expunge.purging import purge
from expunge.records.run import RunFolder, RunRecord
from expunge.records.settings import RunSettings

SECRET = "Rosalba was born in Brasken."


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run whose model has a store with one row; no weights, which purge leaves alone."""
    record = RunRecord(kind="forget", recipe="rag", recipe_full={}, settings=RunSettings(), model="m",
                       model_fingerprint="0", task="t", task_fingerprints={}, seed=0, environment={}, status="finished")
    record.write(RunFolder(tmp_path).record)
    (tmp_path / "model").mkdir()
    Store("rag", {"items": [SECRET]}, (Held("forget rows", 1, "in clear"),)).write(tmp_path / "model")
    return tmp_path


def test_what_it_holds_is_said_and_stays(run: Path) -> None:
    kept = purge(run).kept
    assert any(line.startswith("model/guard.json: 1 forget rows in clear (can be read)") and "--guards" in line
               for line in kept)
    assert SECRET in (run / "model" / FILE).read_text() and read_store(run / "model").guard == "rag"


def test_moments_of_a_federated_server_go_with_the_rows(run: Path) -> None:
    place = run / MOMENTS
    place.write_bytes(b"a trace")
    assert purge(run).removed == (MOMENTS,) and not place.exists()


def test_it_is_emptied_when_asked(run: Path, cli: Any) -> None:
    planned = purge(run, dry_run=True, guards=True)
    assert SECRET in (run / "model" / FILE).read_text()
    said = cli("purge", run, "--guards", "--json").json
    assert said["removed"] == list(planned.removed) == ["model/guard.json: what the guard held"]
    assert said["removed_bytes"] > 0 and not any("guard.json" in line for line in said["kept"])
    assert not any(SECRET in path.read_text() for path in run.rglob("*") if path.is_file())
    with pytest.raises(MissingError, match="emptied"):
        read_store(run / "model")
    assert purge(run, guards=True).found == 0


def test_a_store_that_is_none_is_refused(run: Path) -> None:
    place = run / "model" / FILE
    place.write_text(json.dumps({"schema": "other"}))
    with pytest.raises(DataError, match="not the store"):
        read_store(run / "model")
    place.unlink()
    with pytest.raises(MissingError, match="without its guard"):
        read_store(run / "model")
