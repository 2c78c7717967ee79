"""The engine before and after a change: the same steps by two trees in turn; writes results/before_after.json.

    python experiments/before_after.py --before TREE --models FOLDER [--repeats 10]

TREE is a checkout of the commit before; the code of this checkout is the other side. Each side is one process that
loads the model once. The two take a step in turn (before, after, before, ...) and tell its CPU seconds, on one thread,
so that other work on the machine disturbs both alike. A step is what `npo + retain_kl` asks of the engine: the
log-probs of eight forget rows, the KL divergence of eight retain rows from the original's cached states, the backward
pass and the update by AdamW. Models are those of experiments/peer.py: `tiny` (2.6 M parameters, the TOFU pair's
original) and `deep` (16 M, random weights); EXPUNGE_DATA names the TOFU rows.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import log, store

HERE = Path(__file__).resolve().parents[1]
DEEP = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "head_dim": 64}
"""As in experiments/peer.py, which an older tree cannot import."""


def worker(model: Path, part: str) -> None:
    """Takes a step for every line it reads, and prints its CPU seconds; at the end its peak MB."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from expunge.models.load import load_subject
    from expunge.models.reference import CachedStates

    try:
        from expunge.models import fast

        fast.use_process_wide_tricks()
        from expunge.benchmarks.loading import load_task
        from expunge.methods._lib.divergence import kl
    except ImportError:  # before
        from expunge.methods.divergence import kl  # type: ignore[import-not-found,no-redef]

        from expunge.data.tasks import load_task  # type: ignore[attr-defined,no-redef,unused-ignore]
    torch.set_num_threads(1)
    known: Any = load_subject(model)
    encoder = getattr(known, "encoder", None) or known.tokens
    if part == "deep":
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(model, **DEEP)
        known = type(known)(AutoModelForCausalLM.from_config(config).eval(), encoder)
    collate = sys.modules[type(encoder).__module__].collate  # type: ignore[attr-defined]
    encode = getattr(encoder, "encode", None) or encoder.row
    task = load_task("tofu:forget10")
    batches = [{side: collate([encode(r) for r in rows[at: at + 8]], encoder.pad_id) for side, rows in (
        ("forget", task.forget), ("retain", task.retain))} for at in range(0, 40, 8)]
    original = CachedStates(known, [row for one in batches for row in one["retain"].rows])
    parameters = list(known.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    for number, _ in enumerate(sys.stdin):
        before = time.process_time()
        found = known.answers_of(batches[number % len(batches)])
        towards = original.answers(found["retain"].batch)
        source = "source" if hasattr(towards, "source") else "found"
        kl_N = kl(getattr(towards, source), getattr(found["retain"], source))
        for p, g in zip(parameters, torch.autograd.grad(found["forget"].logp_N.mean() + kl_N.mean(), parameters),
                        strict=True):
            p.grad = g
        optimizer.step()
        print(time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


def commit(tree: Path) -> str:
    return subprocess.run(["git", "-C", str(tree), "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True,
                          text=True).stdout.strip()


def measured(trees: dict[str, Path], models: Path, part: str, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Per tree: CPU seconds and peak MB, one of each per step; the first two steps are left out."""
    sides = {name: subprocess.Popen(
        [sys.executable, __file__, "--worker", part, "--models", str(models)], text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"})
        for name, tree in trees.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
    for _ in range(repeats + 2):
        for name, side in sides.items():
            assert side.stdin is not None and side.stdout is not None
            side.stdin.write("step\n")
            side.stdin.flush()
            seconds, peak = side.stdout.readline().split()
            found[name].append((float(seconds), float(peak)))
        log((part, {name: round(rows[-1][0], 3) for name, rows in found.items()}))
    for side in sides.values():
        side.communicate("")
    return {name: rows[2:] for name, rows in found.items()}


def main(given: argparse.Namespace) -> None:
    trees = {"before": given.before.resolve(), "after": HERE}
    table = []
    for part in given.parts:
        found = measured(trees, given.models, part, given.repeats)
        ratios = [a[0] / b[0] for a, b in zip(found["after"], found["before"], strict=True)]
        table.append({"model": part, "method": "npo + retain_kl", "time_ratio": statistics.median(ratios),
                      "least": min(ratios), "most": max(ratios)} | {
            f"{name}_{key}": statistics.median(row[at] for row in rows)
            for name, rows in found.items() for at, key in enumerate(("step_s", "peak_mb"))})
    log((store("before_after", {"commits": {name: commit(tree) for name, tree in trees.items()},
                                "repeats": given.repeats, "threads": 1, "unit": "CPU seconds", "table": table}),))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, default=HERE)
    parser.add_argument("--models", type=Path, required=True, help="folder with original")
    parser.add_argument("--parts", nargs="+", default=["tiny", "deep"], choices=["tiny", "deep"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.models / "original", options.worker)
    else:
        main(options)
