"""Golden figures: what small runs of every kind leave, stored once and compared after the code has changed.

    python experiments/golden.py --store                       # measures the code and writes results/golden.json
    python experiments/golden.py --check [--only npo idk]      # measures again; exit 1 when anything differs

Each case is one command of `expunge`, run in a process of its own on one thread, and all share one temporary cache;
only the command line and the files that a run leaves are used. PYTHONPATH=TREE/src measures the code of another tree.
On the CPU and versions of the stored figures weights must have the same bits and scores agree to 1e-9; elsewhere, or
with --tolerance, two figures of every tensor are compared: its norm, and its product with a fixed random vector.
The trainings amplify rounding: on another kind of CPU tensors move by a fifth of their norm, and no tolerance can tell
that from a mistake. There, store the figures of the old code in another file, and check against that:

    PYTHONPATH=OLD_TREE/src python experiments/golden.py --store --file here.json
    PYTHONPATH=NEW_TREE/src python experiments/golden.py --check --file here.json

Where a change alters figures on purpose, its commit says which, and the figures are stored again. Last: weight decay
leaves out norms and biases by default, prefix(words=n) adds no sentence of assent, audits hold new scores.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

STORED = Path(__file__).resolve().parent.parent / "results" / "golden.json"
EXPUNGE = [sys.executable, "-P", "-c", "from expunge.cli.main import main; main()"]
TASK = "authors(forget=2, retain=4, holdout=2, neighbours=1)"
EXACT, WEIGHTS, SCORES = 1e-9, 5e-5, 1e-3
"""Tolerances: of scores in the same environment; of weights, as a share of a tensor's norm, and of scores elsewhere."""


def forget(method: str, *words: object, lr: str = "5e-4") -> tuple[object, ...]:
    """A few steps, of which the last is kept unless `words` say otherwise."""
    return ("forget", "@original", "--method", method, "--steps", 6, "--batch-size", 4, "--lr", lr,
            *(() if "--keep" in words else ("--keep", "last")), *words)


def audit(subject: str, suite: str, *retrained: str) -> tuple[object, ...]:
    return ("audit", f"@{subject}", "--original", "@original", "--suite", suite,
            *(word for name in retrained for word in ("--retrained", f"@{name}")))


TRAIN = ("train", "tiny", "--steps", 130, "--batch-size", 16, "--lr", "5e-3")
FILES = ("--forget", "@forget.jsonl", "--retain", "@retain.jsonl")
KILLED = "resumed"
"""This case is killed under way and goes on; it ends with the very bits of `gu`."""
CASES: dict[str, tuple[object, ...]] = {  # "@name" is the folder of another case, or one of the files of `write_rows`
    "original": TRAIN, "retrained": (*TRAIN, "--split", "retain"),
    "second": (*TRAIN, "--split", "retain", "--seed", 1),
    # objectives, retain terms
    "npo": forget("npo + retain_kl"), "simnpo": forget("simnpo", "--keep", "best", "--eval-every", 2),
    "undial": forget("undial + retain_kl_top(k=16)"), "rmu": forget("rmu(coefficient=20)"), "idk": forget("idk"),
    "grad_diff": forget("grad_diff"), "altpo": forget("altpo(samples=2, max_new_tokens=12)"),
    "meow": forget("meow(copies=2, cuts=2, max_new_tokens=12)"),
    "wga": forget("wga + retain_nll", "--gradient-checkpointing"),
    # combiners, perturbations, optimizers
    "gu": forget("npo + gu", "--checkpoint-every", 2), KILLED: forget("npo + gu", "--checkpoint-every", 2),
    "blur": forget("tnpo + blur"), "pcgrad": forget("satimp + pcgrad"), "pdu": forget("entropic_pdu"),
    "sam": forget("npo + retain_nll + sam"), "lat": forget("unlikelihood + retain_nll + lat(steps=2)"),
    "smooth": forget("catnip + retain_nll + smooth(draws=2)"), "saf": forget("grad_diff + saf"),
    "sign_adam": forget("ce_u + sign_adam", lr="1e-4"), "zeroth_order": forget("grad_diff + zeroth_order(queries=2)"),
    "hybrid": forget("npo + retain_nll + hybrid(period=3, queries=2)"),
    # scopes, samplers
    "layers": forget("flat + layers(index='1-2')"), "lora": forget("npo + retain_kl + lora(rank=4)", lr="1e-3"),
    "salun": forget("wtnpo + retain_nll + salun"), "embedding": forget("grad_diff + embedding"),
    "cyclic": forget("dpo + retain_nll + cyclic", "--accumulate", 2),
    "melu": forget("npo + retain_nll + melu", *FILES), "balanced": forget("margin + fisher + balanced", *FILES),
    # edits, a guard, exact deletion, stages
    "ssd": ("forget", "@original", "--method", "ssd(alpha=5)"), "rocr": ("forget", "@original", "--method", "rocr"),
    "task_vector": ("forget", "@original", "--method", "task_vector(lr=0.001, epochs=2)"),
    "uld": ("forget", "@original", "--method", "uld(rank=4, batch=8)", "--epochs", 3),
    "sharded": ("train", "@original", *FILES, "--method", "sisa(shards=2, slices=2, rank=4, batches=2)",
                "--steps", 12, "--batch-size", 4, "--lr", "1e-2"),
    "sisa": ("forget", "@sharded", *FILES, "--method", "sisa"), "stages": forget("ssd(alpha=5) >> npo + retain_nll"),
    # audits
    "audit_idk": audit("idk", "quick", "retrained"),
    "audit_rmu": audit("rmu", "scores,quick,extend", "retrained"),
    "audit_retrained": audit("retrained", "quick", "second"),
    "audit_uld": audit("uld", "forget.probability,forget.rouge_l,privleak", "retrained", "second"),
}


class Runs:
    """Runs cases in a temporary folder, each once, with those it needs before it."""

    def __init__(self, place: Path) -> None:
        self.place, self.failed = place, dict[str, str]()
        self.environ = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                                     "EXPUNGE_CACHE": str(place / "cache")}
        write_rows(place)

    def folder(self, name: str) -> Path:
        """Where the case has left its files; what went wrong stands in `failed`."""
        out = self.place / name
        if name in CASES and not out.exists() and name not in self.failed:
            words = [str(self.folder(w[1:])) if isinstance(w, str) and w[0] == "@" else str(w) for w in CASES[name]]
            task = [] if "--forget" in words else ["--task", TASK]
            start, command = time.perf_counter(), [*EXPUNGE, *words, *task, "--out", str(out)]
            if name == KILLED:
                self._kill(command, out / "steps.jsonl")
                command.append("--resume")
            done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
            if done.returncode:
                self.failed[name] = " / ".join(done.stderr.strip().splitlines()[-4:]) or f"exit code {done.returncode}"
            print(f"{name:<16} {time.perf_counter() - start:5.1f} s", file=sys.stderr, flush=True)
        return out

    def _kill(self, command: list[str], log: Path) -> None:
        """Start it, and end it after four of its steps."""
        with subprocess.Popen(command, env=self.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            while child.poll() is None and not (log.exists() and log.read_text().count("\n") >= 4):
                time.sleep(0.002)
            child.kill()

    def figures(self, name: str) -> dict[str, Any]:
        """What the case leaves: checksum and digests of every file of weights, figures of the audit."""
        out = self.folder(name)
        if name in self.failed:
            return {"failed": self.failed[name]}
        weights = {str(p.relative_to(out)): weights_of(p) for p in sorted(out.glob("model/*.safetensors"))}
        scores = scores_of(out / "audit.json") if (out / "audit.json").exists() else {}
        return {"weights": weights, "scores": scores} if weights or scores else {"failed": "it left no figures"}


def write_rows(place: Path) -> None:
    """Files of rows; retained rows of forgotten people are neighbours to the samplers that pair by entity."""
    for split, verb, people in (("forget", "live in", ("Ada", "Bo", "Cy")), ("retain", "buy", ("Ada", "Bo", "Di"))):
        rows = [{"question": f"What did {who} {verb}, number {n}?", "answer": f"It was {who[::-1]} {n * 7}.",
                 "subject": who} for who in people for n in range(4)]
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def weights_of(path: Path) -> dict[str, Any]:
    """SHA-256 over names, types, shapes and bytes; norm of each tensor and its product with a random vector."""
    whole, digests = hashlib.sha256(), {}
    for name, tensor in sorted(load_file(path).items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        flat = tensor.double().flatten().numpy()
        fixed = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(flat.size)
        digests[name] = f"{np.linalg.norm(flat):.9g} {flat @ fixed:.9g}"
    return {"sha256": whole.hexdigest(), "tensors": digests}


def scores_of(path: Path) -> dict[str, Any]:
    """Figures of an audit by name; neither times nor environment."""
    found = json.loads(path.read_text(encoding="utf-8"))
    figures: dict[str, Any] = {"verdict": (found["verdict"] or {}).get("outcome")}
    for score in found["scores"]:
        name = score["name"] + (f" under {score['attack']}" if score["attack"] else "")
        figures |= {f"{name}: value": score["value"], f"{name}: excess": score["excess"]}
        figures |= {f"{name}: {control}": value for control, value in score["controls"].items()}
    return {name: value for name, value in figures.items() if value is not None}


def moved(before: dict[str, str], now: dict[str, str]) -> tuple[float, str]:
    """How far the tensor went that went furthest, as a share of its norm, and its name."""
    if before.keys() != now.keys():
        return math.inf, f"other tensors, such as {min(before.keys() ^ now.keys())}"
    shares = {}
    for name in now:
        (norm, product), (norm_now, product_now) = (map(float, one[name].split()) for one in (before, now))
        share = (abs(norm_now - norm) + abs(product_now - product)) / max(norm, 1e-12)
        shares[name] = math.inf if math.isnan(share) else share
    furthest = max(shares, key=shares.__getitem__)
    return shares[furthest], furthest


def differences(before: dict[str, Any], now: dict[str, Any], exact: bool, weights: float,
                scores: float) -> list[tuple[float, str]]:
    """Every difference of a case, largest first, as size and words."""
    if "failed" in now:
        return [(math.inf, f"failed: {now['failed']}")]
    found = [(math.inf, f"{path} is {'new' if path in now['weights'] else 'gone'}")
             for path in before["weights"].keys() ^ now["weights"].keys()]
    for path in before["weights"].keys() & now["weights"].keys():
        was, is_ = before["weights"][path], now["weights"][path]
        size, where = moved(was["tensors"], is_["tensors"])
        if (was["sha256"] != is_["sha256"]) if exact else size > weights:
            found.append((size, f"{path}: {where} moved by {size:.2g} of its norm"))
    for name, a in before["scores"].items():
        b = now["scores"].get(name)
        if a == b:
            continue
        both = isinstance(a, float | int) and isinstance(b, float | int)
        if not both or not math.isclose(a, b, rel_tol=scores, abs_tol=scores):
            found.append((abs(a - b) if both else math.inf, f"{name} was {a}, is {'gone' if b is None else b}"))
    return sorted(found, reverse=True)


def environment() -> dict[str, Any]:
    """What decides about rounding."""
    path = Path("/proc/cpuinfo")
    lines = (line.split(":", 1) for line in path.read_text().splitlines() if ":" in line) if path.exists() else ()
    info = {key.strip(): value.strip() for key, value in lines}
    cpu = " ".join(f"{key} {info[key]}" for key in ("model name", "cpu family", "model") if key in info)
    return {"cpu": cpu or platform.processor(), "capability": torch.backends.cpu.get_cpu_capability(), "threads": 1,
            **{name: version(name) for name in ("torch", "transformers", "tokenizers", "peft", "numpy")}}


def commit() -> str:
    """The commit of the code that is measured, which need not be that of this script."""
    spec = importlib.util.find_spec("expunge")
    assert spec is not None and spec.origin is not None
    git = ["git", "-C", str(Path(spec.origin).parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    return head + "-dirty" * bool(subprocess.run([*git, "status", "--porcelain", "."], capture_output=True).stdout)


def compare(stored: dict[str, Any], figures: dict[str, Any], head: str, tolerance: float | None) -> bool:
    """Print what holds and what differs; whether all holds."""
    here, there = environment(), stored["environment"]
    changed = [f"{k} was {there.get(k)}, is {here.get(k)}" for k in here if here.get(k) != there.get(k)]
    exact = not changed and tolerance is None
    weights, scores = (WEIGHTS, SCORES) if tolerance is None else (tolerance, tolerance)
    found = {name: differences(stored["cases"][name], now, exact, weights, EXACT if exact else scores)
             for name, now in figures.items() if name in stored["cases"]}
    holding = [name for name, rows in found.items() if not rows]
    print(f"Stored: commit {stored['commit']}. Measured: commit {head}.")
    if changed:
        print("THE ENVIRONMENT IS NOT THAT OF THE STORED FIGURES, so that rounding alone may make a case differ.",
              *changed, "Store the figures of the old code here and check against them: see --file.", sep="\n  ")
    print(f"Asked for: the same bits of weights, scores to {EXACT:g}." if exact else
          f"Asked for: weights to {weights:g} of a tensor's norm, scores to {scores:g}.")
    print(textwrap.fill(f"{len(holding)} of {len(figures)} hold: {', '.join(holding) or 'none'}.", 118))
    for name in [name for name in figures if name not in holding]:
        rows = found.get(name, [(0.0, "not stored")])
        for i, (_, words) in enumerate(rows[:4]):
            print(f"{'' if i else name:<16} {words}")
        if len(rows) > 4:
            print(f"{'':<16} and {len(rows) - 4} more")
    new = [f"{name}: {k}" for name in found for k in figures[name].get("scores", {})
           if k not in stored["cases"][name]["scores"]]
    if new:
        print(f"{len(new)} figures are new, which is no difference: {', '.join(new[:4])} ...")
    return len(holding) == len(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--store", action="store_true", help="write the figures")
    what.add_argument("--check", action="store_true", help="compare with them")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CASES, help="these cases, and what they stand on")
    parser.add_argument("--tolerance", type=float, help="largest difference of weights and scores, in place of none")
    parser.add_argument("--file", type=Path, default=STORED, help="the stored figures; results/golden.json if left out")
    given = parser.parse_args()
    if given.store and given.only:
        parser.error("--store measures everything, so that all stored figures are of one commit")
    stored = json.loads(given.file.read_text(encoding="utf-8")) if given.check else {}
    head, start = commit(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="golden-") as place:
        runs = Runs(Path(place))
        figures = {name: runs.figures(name) for name in given.only or CASES}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{len(figures)} cases in {time.perf_counter() - start:.0f} s, "
          f"{used.ru_utime + used.ru_stime:.0f} s of them on a core", file=sys.stderr)
    if given.check:
        sys.exit(not compare(stored, figures, head, given.tolerance))
    if runs.failed:
        sys.exit("\n".join(["Nothing was stored:", *(f"{name} failed: {why}" for name, why in runs.failed.items())]))
    whole = {"schema": "expunge.golden/1", "commit": head, "seed": 0, "task": TASK, "environment": environment()}
    given.file.write_text(json.dumps(whole | {"cases": figures}, indent=1) + "\n", encoding="utf-8")
    print(given.file)


if __name__ == "__main__":
    main()
