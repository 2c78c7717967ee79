"""Killed at any moment, a run goes on to the very same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

STEPS = 80
"""Enough that a look at the log now and then finds the run under way."""
FEW = 16
"""For deaths at a chosen point."""
SCOPES = ("all", "lora(rank=2)")


class Killed(BaseException):
    """Stands for SIGKILL inside this process; no handler of ours catches it."""


def command(model: Path, rows: Any, scope: str, out: Path, steps: int = STEPS) -> list[str]:
    return [str(word) for word in (
        "forget", model, *rows.words, "--method", f"npo + retain_kl + {scope}", "--steps", steps, "--batch-size", 2,
        "--lr", "1e-3", "--checkpoint-every", 2, "--eval-every", 3, "--keep", "best", "--out", out)]


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "expunge.cli.main", *words], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})


def wait_for_steps(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """Until the log has `count` lines, or the process is through."""
    log = out / "steps.jsonl"
    while process.poll() is None:
        if log.exists() and log.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.002)


def weights(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((out / "model").glob("*.safetensors"))}


def logged(out: Path) -> list[dict[str, Any]]:
    """The log without the clock."""
    found = [json.loads(line) for line in (out / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


@pytest.fixture(scope="module")
def whole(cli: Any, model: Path, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The uninterrupted run of a scope and length, made once."""
    folder = tmp_path_factory.mktemp("whole")

    @cache
    def make(scope: str, steps: int = STEPS) -> Path:
        out = folder / f"{SCOPES.index(scope)}-{steps}"
        cli(*command(model, rows, scope, out, steps))
        return out

    return make


def same(out: Path, whole: Path) -> None:
    assert weights(out) == weights(whole)
    assert logged(out) == logged(whole)
    record, before = (json.loads((place / "record.json").read_text()) for place in (out, whole))
    assert record["status"] == "finished" and record["best"] == before["best"]
    assert not (out / "checkpoint").exists() and not (out / ".model.new").exists()


@pytest.mark.parametrize("scope", SCOPES)
def test_the_same_command_gives_the_same_bits(cli: Any, model: Path, rows: Any, whole: Callable[..., Path], scope: str,
                                              tmp_path: Path) -> None:
    cli(*command(model, rows, scope, tmp_path / "run", FEW))
    same(tmp_path / "run", whole(scope, FEW))


@pytest.mark.parametrize(("scope", "moments"), [
    ("all", (1, 26)), pytest.param("lora(rank=2)", (17,), marks=pytest.mark.slow)])
def test_kill_9(cli: Any, model: Path, rows: Any, whole: Callable[..., Path], tmp_path: Path, scope: str,
                moments: tuple[int, ...]) -> None:
    """Killed again and again, each time a little later; where exactly within a step is up to the machine."""
    out = tmp_path / "run"
    words = command(model, rows, scope, out)
    for i, moment in enumerate(moments):
        process = start([*words, "--resume"] if i else words)
        wait_for_steps(process, out, moment)
        process.kill()
        process.communicate()
        if i and process.returncode == 0:  # this machine left no time between two looks at the log
            break
        assert process.returncode == -signal.SIGKILL
        assert json.loads((out / "record.json").read_text())["status"] == "running"
        assert not (out / "model").exists()
    cli(*words, "--resume")
    same(out, whole(scope))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupting(cli: Any, model: Path, rows: Any, whole: Callable[..., Path], tmp_path: Path,
                      number: signal.Signals) -> None:
    out = tmp_path / "run"
    words = command(model, rows, "all", out)
    process = start(words)
    wait_for_steps(process, out, 5)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 4, err
    assert "error: Interrupted after step" in err and "same command with --resume" in err and "Traceback" not in err
    record = json.loads((out / "record.json").read_text())
    assert record["status"] == "interrupted" and record["reason"].startswith("Interrupted after step")
    done = len(logged(out))
    assert (out / "checkpoint" / f"step-{done}").is_dir() and done < STEPS
    cli(*words, "--resume")
    same(out, whole("all"))


@pytest.mark.slow
def test_kill_9_at_the_end(cli: Any, model: Path, rows: Any, whole: Callable[..., Path], tmp_path: Path) -> None:
    """Once the last step is logged, what remains is saving: nothing half-written may pass for a model."""
    out = tmp_path / "run"
    words = command(model, rows, "all", out)
    process = start(words)
    wait_for_steps(process, out, STEPS)
    process.kill()
    process.communicate()
    if (out / "model").exists():
        assert weights(out) == weights(whole("all"))
    cli(*words, "--resume")
    same(out, whole("all"))


def die_in(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Arrange that the process dies at one point of the saving."""
    import expunge.runs as runs
    import expunge.saving as saving

    save, replace, rmtree, write = saving.save_in, os.replace, shutil.rmtree, runs.RunRecord.write

    def half(subject: Any, folder: Path, *rest: Any) -> None:
        save(subject, folder, *rest)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        raise Killed

    def no_replace(source: Any, target: Any) -> None:
        if Path(target).name == "model":
            raise Killed
        replace(source, target)

    def no_record(self: Any, path: Path) -> None:
        if self.status == "finished":
            raise Killed
        write(self, path)

    def half_removed(path: Any, *args: Any, **options: Any) -> None:
        if Path(path).name == "checkpoint":
            next(Path(path).glob("step-*/state.pt")).unlink()
            raise Killed
        rmtree(path, *args, **options)

    changes: dict[str, tuple[Any, str, Callable[..., None]]] = {
        "half the weights": (saving, "save_in", half),
        "before the rename": (os, "replace", no_replace),
        "before the record": (runs.RunRecord, "write", no_record),
        "while the checkpoint goes": (shutil, "rmtree", half_removed),
    }
    monkeypatch.setattr(*changes[place])


@pytest.mark.parametrize("place", ["half the weights", "before the rename", "before the record",
                                   "while the checkpoint goes"])
def test_dying_while_saving(cli: Any, model: Path, rows: Any, whole: Callable[..., Path], tmp_path: Path, place: str,
                            monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    words = command(model, rows, "all", out, FEW)
    with monkeypatch.context() as patch:
        die_in(patch, place)
        with pytest.raises(Killed):
            cli(*words)
    if place in ("half the weights", "before the rename"):
        assert not (out / "model").exists()
    else:
        assert weights(out) == weights(whole("all", FEW))
    cli(*words, "--resume")
    assert weights(out) == weights(whole("all", FEW)) and logged(out) == logged(whole("all", FEW))
    assert json.loads((out / "record.json").read_text())["status"] == "finished"


def test_dying_in_a_checkpoint(cli: Any, model: Path, rows: Any, whole: Callable[..., Path], tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-written checkpoint is never taken for a whole one."""
    from expunge.training import checkpoint

    out = tmp_path / "run"
    words = command(model, rows, "all", out, FEW)
    plain, calls = checkpoint.write_json, []

    def dies(path: Path, data: Any) -> None:
        calls.append(path)
        if len(calls) == 7:
            raise Killed
        plain(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", dies)
        with pytest.raises(Killed):
            cli(*words)
    assert {p.name for p in (out / "checkpoint").iterdir()} == {"step-12", "step-14.new"}
    cli(*words, "--resume")
    same(out, whole("all", FEW))


def test_training_resumes_too(cli: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import expunge.training.loop as loop
    from expunge.errors import InterruptedRun

    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1,
                                  "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}))
    words = ("train", config, *rows.words[:4], "--steps", 8, "--batch-size", 4, "--out")
    cli(*words, tmp_path / "whole")
    plain, calls = loop.json.dumps, []

    def stop(line: Any) -> str:
        calls.append(line)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return str(plain(line))

    class Json:
        dumps = staticmethod(stop)

    monkeypatch.setattr(loop, "json", Json)
    cli(*words, tmp_path / "run", code=InterruptedRun.exit_code)
    monkeypatch.undo()
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    cli(*words, tmp_path / "run", "--resume")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_nothing_left_before_the_first_step_is_resumable(cli: Any, model: Path, rows: Any, whole: Callable[..., Path],
                                                         tmp_path: Path) -> None:
    """--resume without anything to resume simply begins."""
    cli(*command(model, rows, "all", tmp_path / "run", FEW), "--resume")
    same(tmp_path / "run", whole("all", FEW))
