"""How cost grows with forget rows, retain rows and answer length; writes results/linear.json.

A Llama of 2.6 M parameters with random weights, one epoch of npo + retain_nll over the forget rows and an audit of the
suite `scores`, on rows of nonsense that are told apart by their numbers. Every cell is a process of its own on one
thread, cells in turn; CPU seconds of the two calls and peak resident memory, medians. A cell at twice the size is
compared with the one at once the size.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import log, store

import expunge
from expunge.models.tiny import build_subject

CONFIG = {"model_type": "llama", "vocab_size": 4096, "hidden_size": 192, "intermediate_size": 512,
          "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 6, "max_position_embeddings": 1024,
          "tie_word_embeddings": True}
BASE = {"forget": 48, "retain": 48, "words": 24}
HOLDOUT = 8
WORDS = [a + b for a in ("ka", "lo", "mi", "nu", "ra", "se", "to", "vi") for b in ("bel", "dor", "fin", "gas", "lum")]
CALLS = ("forget_s", "audit_s")


def rows(split: str, count: int, words: int) -> list[dict[str, str]]:
    """Question and answer pairs; every answer has as many words as asked."""
    draw = random.Random(split)
    return [{"question": f"What does {split} number {i} say?", "answer": " ".join(draw.choices(WORDS, k=words))}
            for i in range(count)]


def cell(place: Path, sizes: dict[str, int]) -> dict[str, float]:
    """CPU seconds of forgetting and of auditing, and peak bytes of each so far."""
    files = {}
    for split, count in (("forget", sizes["forget"]), ("retain", sizes["retain"]), ("holdout", HOLDOUT)):
        files[split] = place / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows(split, count, sizes["words"])))
    build_subject(CONFIG, [r["answer"] for r in rows("forget", 400, 24)]).save(place / "model")
    expunge.forget(place / "model", method="npo + retain_nll", **files, out=place / "warm", steps=1, batch_size=8)
    found: dict[str, float] = {}
    for name, call in zip(CALLS, (
        lambda: expunge.forget(place / "model", method="npo + retain_nll", **files, out=place / "run", epochs=1,
                               batch_size=8),
        lambda: expunge.audit(place / "run", **files, suite="scores"),
    ), strict=True):
        before = time.process_time()
        call()
        found[name] = time.process_time() - before
        found[name.replace("_s", "_peak_bytes")] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024)
    return found


def measured(sizes: dict[str, int]) -> dict[str, float]:
    """A cell in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run([sys.executable, __file__, "--cell", json.dumps(sizes)], capture_output=True, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1", "EXPUNGE_CACHE": place})
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(repeats: int) -> None:
    kinds: dict[str, dict[str, int]] = {"base": BASE} | {
        f"{factor} x{times}": BASE | {factor: times * BASE[factor]} for factor in BASE for times in (2, 4)}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, sizes in kinds.items():
            times[name].append(measured(sizes))
            log((name, times[name][-1]))
    middle = {name: {key: statistics.median(one[key] for one in found) for key in found[0]}
              for name, found in times.items()}
    table: list[dict[str, Any]] = []
    for factor in BASE:
        steps = ["base", f"{factor} x2", f"{factor} x4"]
        for less, more in pairwise(steps):
            table.append({"what": factor, "from": kinds[less][factor], "to": kinds[more][factor]} | {
                f"{key}_ratio": middle[more][key] / middle[less][key] for key in middle[less]})
    log((store("linear", {"repeats": repeats, "threads": 1, "base": BASE, "cells": middle, "table": table}),))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cell is None:
        main(given.repeats)
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(cell(Path(folder), given.cell)))
