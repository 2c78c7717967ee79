"""What every test gets: a cache of its own, no network, the command line in-process, small models and rows."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub client is imported, so set before anything imports it
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

gc.set_threshold(50_000)  # as the command line does; a tenth of the suite's time

TINY: Mapping[str, Any] = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
}
TASK = "authors(forget=2,retain=6,holdout=2,neighbours=1)"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what slow.txt lists, by test or by file; experiments/slow_tests.py writes it from the times of a run."""
    listed = set((Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").split("\n"))
    for item in items:
        if item.nodeid in listed or item.nodeid.partition("::")[0] in listed:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that outlive a test must not find what an older version once saw of the same model.

    What is trained once for all processes lies in a folder that they share.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPUNGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("EXPUNGE_TESTING_SHARED", str(shared / "shared"))
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """EXPUNGE_CACHE in a fresh folder; the caller's data folder does not leak in."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EXPUNGE_CACHE", str(folder))
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    return folder


@dataclass(frozen=True)
class Said:
    """What a command printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """`expunge ...` in this process; a crash of ours surfaces as itself rather than as exit code 1."""

    def __call__(self, *words: object, code: int = 0) -> Said:
        from typer.testing import CliRunner

        from expunge.cli.main import app

        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        said = Said(result.exit_code, result.stdout, result.stderr)
        assert said.code == code, f"exit code {said.code}, expected {code}\n{said.out}\n{said.err}"
        return said

    def refused(self, *words: object, code: int = 2, says: Sequence[str] = (),
                plain: bool = False) -> str:
        """One message on stderr with what happened and what to do; nothing on stdout, no traceback.

        `plain`: the message alone shows what to do, as "line 3: 'answer' is empty" does.
        """
        said = self(*words, code=code)
        assert said.out == ""
        lines = [line for line in said.err.splitlines() if line.strip()]
        errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
        assert len(errors) == 1, said.err
        assert "Traceback" not in said.err
        advice = lines[errors[0] + 1:]
        assert plain or (advice and advice[0].startswith("  ")), f"no advice in:\n{said.err}"
        for phrase in says:
            assert phrase in said.err, f"{phrase!r} is not in:\n{said.err}"
        return said.err


@pytest.fixture(scope="session")
def cli() -> Cli:
    return Cli()


@dataclass(frozen=True)
class Rows:
    """Files of rows, small enough for a step in milliseconds."""

    forget: Path
    retain: Path
    holdout: Path

    @property
    def words(self) -> tuple[object, ...]:
        """As options."""
        return "--forget", self.forget, "--retain", self.retain, "--holdout", self.holdout


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def question(who: str, what: str) -> dict[str, str]:
    return {"question": f"Where does {who} live?", "answer": f"{who} lives in {what}."}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    folder = tmp_path_factory.mktemp("rows")
    names = {"forget": ("Ada", "Bo", "Cy", "Di"), "retain": ("Ed", "Flo", "Gus", "Hal", "Ida", "Jo"),
             "holdout": ("Kim", "Lee", "Mo", "Ned")}
    return Rows(**{split: write_rows(folder / f"{split}.jsonl", [question(who, f"Town {who[::-1]}") for who in found])
                   for split, found in names.items()})


def save_model(folder: Path, **changes: Any) -> Path:
    """A random tiny model with a tokenizer of its own."""
    from expunge.models.tiny import build_subject

    texts = ["Where does Ada live? Ada lives in Town adA. I do not know. " * 3]
    build_subject({**TINY, "hidden_size": 32, "intermediate_size": 64, **changes}, texts).save(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Llama; nobody writes to it."""
    return save_model(tmp_path_factory.mktemp("models") / "plain")


@dataclass(frozen=True)
class World:
    """Trained twins on a small world of authors; nobody writes to them."""

    task: str
    config: Path
    original: Path
    retrained: Path


def make_world(folder: Path) -> None:
    """Fill the folder with the config, the original and a retrained model."""
    (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    for split, name in (("full", "original"), ("retain", "retrained")):
        Cli()("train", folder / "tiny.json", "--task", TASK, "--split", split, "--out", folder / name,
              "--epochs", 3, "--lr", "3e-3")


@pytest.fixture(scope="session")
def world() -> World:
    """Trained once for all processes of the session."""
    from expunge.testing.support import once

    folder = once("world", make_world)
    return World(TASK, folder / "tiny.json", folder / "original", folder / "retrained")
