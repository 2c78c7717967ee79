"""Two processes under a launcher end with the weights of one, and fail together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

LAUNCHED = Path(__file__).resolve().parents[1] / "launched.py"
STEPS = ("--steps", 6, "--lr", "1e-4", "--eval-every", 2, "--checkpoint-every", 2, "--keep", "best")
TRAINED: dict[str, tuple[object, ...]] = {
    "full": ("npo + retain_kl", "--batch-size", 4),
    "lora": ("npo + retain_kl + lora(rank=2)", "--batch-size", 4),
    "odd": ("npo + retain_kl", "--batch-size", 3),
    "accumulated": ("npo + retain_kl + lora(rank=2)", "--batch-size", 3, "--accumulate", 2),
    "fewer rows than processes": ("npo + retain_kl", "--batch-size", 1, "--accumulate", 3),
    "apart and twice": ("npo + retain_kl + gu + sam(rho=0.01)", "--batch-size", 3),
    "no gradients": ("npo + retain_kl + zeroth_order(radius=0.1)", "--batch-size", 3),
    "stages": ("simnpo + retain_nll >> npo + retain_kl + lora(rank=2)", "--batch-size", 3),
    "recomputed": ("npo + retain_kl + lora(rank=2)", "--batch-size", 4, "--gradient-checkpointing"),
}
"""What runs in one process and in two; the forget rows are four."""
REFUSED: dict[str, tuple[int, tuple[object, ...]]] = {
    "an edit": (3, ("forget", "MODEL", "--method", "ssd")),
    "a builder": (3, ("forget", "MODEL", "--method", "whp")),
    "an existing folder": (2, ("forget", "MODEL", "--method", "npo", "--steps", 1)),
    "an audit": (2, ("audit", "MODEL")),
}


def launch(*words: object, precision: str = "no", processes: int = 2,
           environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # On a processor too it is --multi_gpu that starts several processes; --cpu leaves that to MPI.
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
         "--num_machines", "1", "--mixed_precision", precision, "--dynamo_backend", "no",
         "--main_process_port", str(port), *(str(word) for word in words)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}))


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == code, f"{out}\n{err}"
    return out, err


def distance(a: Path, b: Path) -> float:
    """Largest difference between the weights of two runs."""
    one, other = ({f.name: load_file(f) for f in sorted((place / "model").glob("*.safetensors"))} for place in (a, b))
    assert one.keys() == other.keys() and one
    return max(float((one[file][name] - other[file][name]).abs().max()) for file in one for name in one[file])


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "steps.jsonl").read_text(encoding="utf-8").splitlines()]


def same(a: Path, b: Path) -> None:
    """The same run but for rounding."""
    assert distance(a, b) < 1e-6
    one, other = log(a), log(b)
    assert len(one) == len(other) == 6
    for x, y in zip(one, other, strict=True):
        assert x.keys() == y.keys() and x["terms"].keys() == y["terms"].keys()
        assert y["loss"] == pytest.approx(x["loss"], rel=1e-5, abs=1e-6)
        assert y["grad_norm"] == pytest.approx(x["grad_norm"], rel=1e-3)
        assert y.get("forget_nll") == pytest.approx(x.get("forget_nll"), rel=1e-5)
        assert y.get("eval", {}) == pytest.approx(x.get("eval", {}), rel=1e-4)
    records = [json.loads((place / "record.json").read_text()) for place in (a, b)]
    assert records[0]["status"] == records[1]["status"] == "finished"
    assert records[0]["best"]["kept"]["step"] == records[1]["best"]["kept"]["step"]
    assert not (b / "checkpoint").exists()


def forget(model: Path, rows: Any, out: Path, method: object, *options: object) -> list[str]:
    return [str(word) for word in ("forget", model, *rows.words, "--method", method, "--out", out, *STEPS, *options)]


@pytest.fixture(scope="module")
def both(cli: Any, model: Path, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one/NAME and two/NAME for every run, and what each of two processes met in process-RANK.json."""
    import expunge.training.loop as loop

    folder = tmp_path_factory.mktemp("both")
    jobs = []
    for name, (method, *options) in TRAINED.items():
        cli(*forget(model, rows, folder / "one" / name, method, *options))
        jobs.append({"words": forget(model, rows, folder / "two" / name, method, *options)})
    unfinished = forget(model, rows, folder / "two" / "resumed", *TRAINED["full"])
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(3, patch, loop)
        cli(*unfinished, code=4)
    jobs.append({"words": [*unfinished, "--resume"]})
    for name, (_, words) in REFUSED.items():
        place = folder / "two" / ("full" if name == "an existing folder" else name)
        jobs.append({"words": [str(model if w == "MODEL" else w) for w in (*words, *rows.words, "--out", place)]})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    out, err = finish(launch(LAUNCHED, folder / "jobs.json", folder))
    (folder / "out.txt").write_text(out, encoding="utf-8")
    (folder / "err.txt").write_text(err, encoding="utf-8")
    return folder


def interrupt_after(step: int, patch: pytest.MonkeyPatch, loop: Any) -> None:
    """A Ctrl-C while this step is logged."""

    class Json:
        @staticmethod
        def dumps(line: Any) -> str:
            if line["step"] == step:
                os.kill(os.getpid(), signal.SIGINT)
            return json.dumps(line)

    patch.setattr(loop, "json", Json)


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_give_the_weights_of_one(both: Path, name: str) -> None:
    same(both / "one" / name, both / "two" / name)


def test_recomputed_adapters_move(both: Path) -> None:
    found = load_file(both / "two" / "recomputed" / "model" / "adapter_model.safetensors")
    assert all(float(t.abs().max()) > 0 for n, t in found.items() if "lora_B" in n)
    assert distance(both / "one" / "lora", both / "one" / "recomputed") < 1e-6


def test_two_processes_go_on_where_one_stopped(both: Path) -> None:
    same(both / "one" / "full", both / "two" / "resumed")


def test_what_cannot_be_shared_is_refused_everywhere(both: Path) -> None:
    for rank in (0, 1):
        met = json.loads((both / f"process-{rank}.json").read_text())
        assert met["count"] == 2
        assert met["codes"] == [0] * (len(TRAINED) + 1) + [code for code, _ in REFUSED.values()]
    said = (both / "err.txt").read_text(encoding="utf-8")
    assert "ssd takes no steps that could be shared" in said and "whp builds rows" in said
    assert "An audit works in one process, and 2 were started." in said
    assert not (both / "two" / "an edit").exists()


def test_only_the_main_process_speaks(both: Path) -> None:
    said = (both / "err.txt").read_text(encoding="utf-8")
    finished = [line for line in said.splitlines() if line.startswith("finished: ")]
    assert len(finished) == len(TRAINED) + 1


@pytest.mark.slow
def test_bf16_and_the_command_itself(model: Path, rows: Any, tmp_path: Path) -> None:
    out, err = finish(launch("-m", "expunge.cli.main", *forget(model, rows, tmp_path / "run", *TRAINED["lora"]),
                             "--json", precision="bf16"))
    assert json.loads(out)["status"] == "finished" and err.count("error") == 0
    found = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    assert all(t.isfinite().all() for t in found.values())
    assert all(float(t.abs().max()) > 0 for n, t in found.items() if "lora_B" in n)


@pytest.mark.slow
def test_one_message_ends_all(model: Path, rows: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    _, err = finish(launch("-m", "expunge.cli.main", *forget(model, rows, tmp_path / "run", *TRAINED["full"])), 1)
    assert err.count("error: The output folder") == 1
    assert "exitcode  : 2" in err  # the launcher has one of its own, and tells ours


@pytest.mark.parametrize("way", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_weights_are_refused(cli: Any, model: Path, rows: Any, tmp_path: Path, way: str,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(way, "true")
    cli.refused(*forget(model, rows, tmp_path / "run", *TRAINED["full"]), says=["cannot run under", "--multi_gpu"])
    assert not (tmp_path / "run").exists()


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    while process.poll() is None and not happened():
        time.sleep(0.01)


@pytest.mark.slow
def test_interrupted_killed_and_resumed(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """The launcher passes a SIGTERM on to all; a process that is killed takes the others with it."""
    long = ("--steps", 120)
    words = forget(model, rows, tmp_path / "two", *TRAINED["odd"], *long)
    cli(*forget(model, rows, tmp_path / "one", *TRAINED["odd"], *long))

    process = launch("-m", "expunge.cli.main", *words)
    steps = tmp_path / "two" / "steps.jsonl"
    wait_for(process, lambda: steps.exists() and steps.read_bytes().count(b"\n") > 4)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("error: Interrupted after step") == 1
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    assert record["status"] == "interrupted"
    done = len(log(tmp_path / "two"))
    assert (tmp_path / "two" / "checkpoint" / f"step-{done}").is_dir() and done < 120

    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps([{"words": [*words, "--resume"], "die_at": done + 5}]))
    _, err = finish(launch(LAUNCHED, jobs, tmp_path), 1)
    assert "SIGKILL" in err
    assert json.loads((tmp_path / "two" / "record.json").read_text())["status"] in ("failed", "running")

    finish(launch("-m", "expunge.cli.main", *words, "--resume"))
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-5  # rounding of 120 steps
    assert [line["step"] for line in log(tmp_path / "two")] == list(range(1, 121))


