"""Eight methods on tofu:forget01 with the fixed pair tofu_tiny, by `expunge bench`; writes results/bench_tofu.json.

    python experiments/bench_tofu.py --work FOLDER          # runs, or goes on where it was killed
    python experiments/bench_tofu.py --work FOLDER --collect   # also while runs are missing

The pair and TOFU's files come from EXPUNGE_DATA. Two learning rates are tried for each method, those between which the
league on the built-in world chose for most of them. Five epochs are those of the TOFU paper. The time of every call is
kept beside the folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from common import log, store, study_parser

import expunge
from expunge.records.base import read_json, write_json
from expunge.records.bench import Bench, BenchTable

TASK, MODEL, SEEDS = "tofu:forget01", "tofu_tiny", 2
METHODS = ("ga", "grad_diff", "npo + retain_nll", "simnpo + retain_nll", "dpo + retain_nll", "undial + retain_nll",
           "wga + retain_nll", "rmu")
RATES = (3e-4, 1e-3)
OPTIONS = ("--model", MODEL, "--methods", ", ".join(METHODS), "--seeds", str(SEEDS), "--epochs", "5",
           *(word for rate in RATES for word in ("--lr", f"{rate:g}")))


def run(work: Path) -> None:
    out, times = work / "bench", work / "times.json"
    began, load = time.time(), os.getloadavg()[0]
    words = [sys.executable, "-m", "expunge", "bench", TASK, *OPTIONS, "--out", str(out)]
    done = subprocess.run([*words, *(["--resume"] if (out / Bench.FILE).exists() else [])], check=False)
    known = read_json(times) if times.exists() else []
    write_json(times, [*known, {"seconds": round(time.time() - began), "load_at_start": round(load, 1),
                                "load_at_end": round(os.getloadavg()[0], 1), "exit_code": done.returncode}])
    log((done.returncode, read_json(times)[-1]))


def collect(work: Path) -> None:
    """Score the runs again and store the table; while runs are missing, that of those which are there."""
    table = expunge.bench(TASK, out=work / "table", submissions=[work / "bench"], overwrite=(work / "table").exists())
    whole = (work / "bench" / BenchTable.FILE).exists()
    log((store("bench_tofu", {"task": TASK, "command": ["expunge", "bench", TASK, *OPTIONS], "cores": os.cpu_count(),
                              "calls": read_json(work / "times.json") if whole else [], "table": table.to_json()}),
         table.rescored))


if __name__ == "__main__":
    given = study_parser(__doc__).parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    collect(given.work) if given.collect else run(given.work)
