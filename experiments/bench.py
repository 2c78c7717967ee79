"""Speed and memory of what a person waits for; writes results/bench.json.

Start-up (`expunge --help`), the demo with nothing cached and with the test bed cached, an audit of its run
under each suite, and the peak memory of preference methods against grad_diff on a model large enough for a second
copy to show.
Whole processes, several interleaved repeats, medians; nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, log, store

EXPUNGE = [sys.executable, "-m", "expunge.cli.main"]
LARGE = {"model_type": "llama", "vocab_size": 2048, "hidden_size": 768, "intermediate_size": 2048,
         "num_hidden_layers": 8, "num_attention_heads": 12, "num_key_value_heads": 12,
         "max_position_embeddings": 256, "tie_word_embeddings": True}
"""58 M parameters, 233 MB in float32: a second copy cannot hide."""
MEMORY = {"grad_diff": "grad_diff", "npo": "npo + retain_nll", "dpo": "dpo + retain_nll",
          "grad_diff lora": "grad_diff + lora(rank=8)", "npo kl lora": "npo + retain_kl + lora(rank=8)",
          "undial lora": "undial + retain_nll + lora(rank=8)", "npo kl (cached states)": "npo + retain_kl"}


def run(command: list[str], cache: str) -> float:
    """Wall seconds of one process. Fails loudly when the command fails."""
    before = time.perf_counter()
    child = subprocess.Popen(command, env=os.environ | {"EXPUNGE_CACHE": cache}, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE)
    _, errors = child.communicate()
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
    return time.perf_counter() - before


def peak(command: list[str], cache: str) -> int:
    """Peak resident bytes of a command, measured in a fresh parent so that runs do not mix."""
    code = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    done = subprocess.run([sys.executable, "-c", code, *command], env=os.environ | {"EXPUNGE_CACHE": cache},
                          capture_output=True, text=True, check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def summary(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def startup(repeats: int, cache: str) -> dict[str, Any]:
    """Seconds of commands that only print."""
    times: dict[str, list[float]] = {"--help": [], "ls": []}
    for _ in range(repeats):
        for name, seconds in times.items():
            seconds.append(run([*EXPUNGE, name], cache))
    return {name: summary(seconds) for name, seconds in times.items()}


def demo(repeats: int) -> dict[str, Any]:
    """Seconds of `expunge demo`, first with nothing cached, then again."""
    cold, warm = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as place:
            command = [*EXPUNGE, "demo", "--out", f"{place}/run"]
            cold.append(run(command, f"{place}/cache"))
            warm.append(run(command, f"{place}/cache"))
            log(("demo", cold[-1], warm[-1]))
    return {"nothing cached": summary(cold), "test bed cached": summary(warm)}


def audits(repeats: int) -> dict[str, Any]:
    """Seconds of an audit of the demo run under each suite, with no observation cached and the twins trained; wall, and
    of all threads together, which says more where other work keeps the cores busy."""
    found: dict[str, list[float]] = {"quick": [], "standard": []}
    busy: dict[str, list[float]] = {suite: [] for suite in found}
    with tempfile.TemporaryDirectory() as place:
        run([*EXPUNGE, "demo", "--out", f"{place}/run"], f"{place}/cache")
        twin = json.loads(Path(place, "run", "audit.json").read_text())["retrained"][0]["path"]
        for number in range(repeats):
            for suite, seconds in found.items():
                command = [*EXPUNGE, "audit", f"{place}/run", "--task", "authors", "--retrained", twin,
                           "--suite", suite, "--out", f"{place}/{suite}-{number}"]
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds.append(run(command, f"{place}/empty-{suite}-{number}"))
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                busy[suite].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
                log(("audit", suite, seconds[-1], busy[suite][-1]))
    return {name: summary(values) | {"cpu": summary(busy[name])} for name, values in found.items()}


def memory(repeats: int, cache: str) -> dict[str, Any]:
    """Peak bytes of four steps of each recipe, interleaved."""
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "large.json"
        config.write_text(json.dumps(LARGE))
        world = ["--task", "authors", "--limit", "16", "--batch-size", "4", "--steps", "4"]
        run([*EXPUNGE, "train", str(config), *world[:-1], "1", "--out", f"{place}/model"], cache)
        found: dict[str, list[float]] = {name: [] for name in MEMORY}
        for number in range(repeats):
            for name, recipe in MEMORY.items():
                out = f"{place}/{name.replace(' ', '_')}-{number}"
                command = [*EXPUNGE, "forget", f"{place}/model", *world, "--keep", "last", "--checkpoint-every", "99",
                           "--method", recipe, "--out", out]
                found[name].append(peak(command, cache))
                log((name, found[name][-1] / 1e6))
    base = {"": statistics.median(found["grad_diff"]), "lora": statistics.median(found["grad_diff lora"])}
    return {name: summary(values) | {
        "recipe": MEMORY[name],
        "ratio_to_grad_diff": statistics.median(values) / base["lora" if "lora" in name else ""],
    } for name, values in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["startup_s", "peak_memory_bytes", "demo_s", "audit_s"])
    options = parser.parse_args()
    stored = RESULTS / "bench.json"
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    with tempfile.TemporaryDirectory() as shared:
        parts = {"startup_s": lambda: startup(max(options.repeats, 5), shared),
                 "peak_memory_bytes": lambda: memory(options.repeats, shared), "demo_s": lambda: demo(options.repeats),
                 "audit_s": lambda: audits(options.repeats)}
        for part in options.parts:
            results[part] = parts[part]()
            kept = {name: results[name] for name in parts if name in results}
            print(store("bench", {"cores": os.cpu_count(), "repeats": options.repeats, **kept}))
