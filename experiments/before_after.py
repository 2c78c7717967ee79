"""The engine before and after a change: the same commands by two trees in turn; writes results/before_after.json.

    python experiments/before_after.py --before TREE --models FOLDER [--repeats 3]

TREE is a checkout of the commit before; the code of this checkout is the other side. Both run as whole processes on one
thread with the same model, rows, recipe and seed. CPU seconds are compared, in turn (before, after, before, ...), so
that other work on the machine disturbs less. The time of a step is that of a longer run less that of a shorter one, so
that start-up does not count. Models are those of experiments/peer.py: `tiny` (2.6 M parameters, the TOFU pair's
original) and `deep` (16 M, random weights); EXPUNGE_DATA names the TOFU rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import RESULTS, log, store
from peer import SETTINGS
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parents[1]
STEPS = {"tiny": (4, 24), "deep": (3, 9)}
"""Of the shorter and of the longer run."""
METHODS = ("npo + retain_kl",)
WORDS = ("--task", "tofu:forget10", "--batch-size", "8", "--lr", "1e-4", "--keep", "last", "--eval-every", "999",
         "--limit", "40")


def save_deep(models: Path, folder: Path) -> Path:
    """Random weights in the shape of `deep`, with the pair's tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(models / "original", **SETTINGS["deep"].config)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(models / "original").save_pretrained(folder)
    return folder


def spent(tree: Path, place: str, *words: str) -> tuple[float, float]:
    """CPU seconds and peak MB of one command by the code of a tree."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1",
                                "EXPUNGE_CACHE": f"{place}/cache"}
    child = subprocess.Popen([sys.executable, "-m", "expunge.cli.main", *words], env=environment, cwd=place,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(words)} failed:\n{errors.decode()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def commit(tree: Path) -> str:
    return subprocess.run(["git", "-C", str(tree), "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True,
                          text=True).stdout.strip()


def measured(trees: dict[str, Path], model: Path, method: str, steps: tuple[int, int],
             repeats: int) -> dict[str, dict[str, list[float]]]:
    """Per tree: CPU seconds of a step and peak MB, one of each per repeat."""
    found: dict[str, dict[str, list[float]]] = {name: {"step_s": [], "peak_mb": []} for name in trees}
    for _ in range(repeats):
        for name, tree in trees.items():
            times = []
            for count in steps:
                with tempfile.TemporaryDirectory() as place:
                    seconds, peak = spent(tree, place, "forget", str(model), "--method", method, "--steps", str(count),
                                          *WORDS, "--out", f"{place}/run")
                times.append(seconds)
            found[name]["step_s"].append((times[1] - times[0]) / (steps[1] - steps[0]))
            found[name]["peak_mb"].append(peak)
            log((model.name, method, name, found[name]["step_s"][-1], peak))
    return found


def main(given: argparse.Namespace) -> None:
    trees = {"before": given.before.resolve(), "after": HERE}
    stored = RESULTS / "before_after.json"
    table = [row for row in json.loads(stored.read_text())["table"] if row["model"] not in given.parts] if (
        stored.exists()) else []
    with tempfile.TemporaryDirectory() as place:
        folders = {"tiny": given.models / "original", "deep": Path(place) / "deep"}
        save_deep(given.models, folders["deep"])
        for part in given.parts:
            for method in METHODS:
                found = measured(trees, folders[part], method, STEPS[part], given.repeats)
                ratios = [a / b for a, b in zip(found["after"]["step_s"], found["before"]["step_s"], strict=True)]
                table.append({"model": part, "method": method, "time_ratio": statistics.median(ratios),
                              "least": min(ratios), "most": max(ratios)} | {
                    f"{name}_{key}": statistics.median(values) for name, one in found.items()
                    for key, values in one.items()})
                log((store("before_after", {"commits": {name: commit(tree) for name, tree in trees.items()},
                                            "repeats": given.repeats, "threads": 1, "unit": "CPU seconds",
                                            "table": table}),))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="folder with original")
    parser.add_argument("--parts", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--repeats", type=int, default=3)
    main(parser.parse_args())
