"""Two audited runs made from records, keys, and certificates of them; nobody writes to them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from expunge.certify.keys import KeyEntry, KeyList, new_key
from expunge.certifying import certify
from expunge.ledger.store import DeletionLedger
from expunge.models.load import load_subject
from expunge.records.run import RunRecord
from expunge.records.score import Audit
from expunge.records.task import Example, Task
from expunge.testing.stored_runs import write_runs

from ..conftest import save_model

NAME = "Zoë Quist"
ROWS = tuple(Example(id=f"forget/{n}", prompt=f"Where does {NAME} live in year {n}?", answer=f"In town number {n}.",
                     entity=NAME) for n in range(4))


@dataclass(frozen=True)
class Office:
    """What a team keeps."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "run1"

    @property
    def other(self) -> Path:
        return self.folder / "runs" / "run2"

    @property
    def key(self) -> Path:
        return self.folder / "keys" / "ops.key"

    @property
    def keys(self) -> Path:
        return self.folder / "keys" / "keys.json"

    @property
    def ledger(self) -> Path:
        return self.folder / "deletions.db"

    @property
    def cert(self) -> Path:
        """Of `run`."""
        return self.folder / "cert.json"

    @property
    def later(self) -> Path:
        """Another one, of the same run."""
        return self.folder / "later.json"

    @property
    def salt(self) -> Path:
        return self.folder / "cert.json.salt"

    def change_key(self, **changes: str) -> None:
        """Write the list again with another key of this name."""
        known = KeyList.read(self.keys)
        KeyList(keys=tuple(KeyEntry(**{**k.to_json(), **changes}) for k in known.keys)).write(self.keys)


def make_office(folder: Path) -> Office:
    made = Office(folder)
    before = save_model(folder / "before", hidden_size=16, intermediate_size=32)
    for place, width in zip(write_runs(folder / "runs", runs=2, rows=20, inside=False), (32, 48), strict=True):
        save_model(place / "model", hidden_size=width)
        Task(name="files:zoe", forget=ROWS).write(place / "task.json")
        audit, record = Audit.read(place), RunRecord.read(place)
        first = load_subject(before).fingerprint
        assert audit.original is not None
        audit.model_copy(update={
            "original": audit.original.model_copy(update={"fingerprint": first}),
            "subject": audit.subject.model_copy(update={"fingerprint": load_subject(place).fingerprint}),
            "notes": (f"A row says: {ROWS[0].answer}",), "task_fingerprint": Task.read(place / "task.json").fingerprint,
        }).write(place / "audit.json")
        rows = Task.read(place / "task.json").fingerprints()
        record.model_copy(update={"model": str(before), "model_fingerprint": first,
                                   "task_fingerprints": rows}).write(place / "record.json")
    new_key(folder / "keys" / "ops", 365)
    history = DeletionLedger.create(made.ledger)
    for number in range(5):
        history.append("request", {"number": number})
    certify(made.run, key=made.key, ledger=made.ledger, out=made.cert, request=3)
    certify(made.run, key=made.key, ledger=made.ledger, out=made.later)
    history.append("request", {"number": 5})
    return made


@pytest.fixture(scope="package")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return make_office(tmp_path_factory.mktemp("office"))


@pytest.fixture
def office(kept: Office, tmp_path: Path) -> Office:
    """A copy of all but the runs, that a test may change."""
    return Office(Path(shutil.copytree(kept.folder, tmp_path / "office", ignore=lambda *_: ("runs", "before"))))


@pytest.fixture
def with_runs(kept: Office, tmp_path: Path) -> Office:
    """A copy of everything."""
    return Office(Path(shutil.copytree(kept.folder, tmp_path / "office")))
