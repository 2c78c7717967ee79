"""What each trick of `expunge.models.fast` buys; writes results/tricks.json.

    OMP_NUM_THREADS=1 python experiments/tricks.py --models FOLDER [--real FOLDER] [--repeats 3]

The same work is done with every trick on and with one of them off (EXPUNGE_PLAIN=NAME), in turn, on one thread. CPU
seconds are compared, so that other work on the machine disturbs less. Three models:

    2.6 M   the fixed TOFU pair: FOLDER holds `original` and `retrained`, 4k tokens
    16 M    random weights of the shape of experiments/peer.py's `deep`, 4k tokens
    135 M   SmolLM2-135M-Instruct, 49k tokens: the folder that `expunge fetch smollm2-135m` prints

Rows are TOFU's (EXPUNGE_DATA). What needs a process of its own (memory, pages, start-up) runs in one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import RESULTS, log, store
from peer import SETTINGS
from transformers import AutoConfig, AutoModelForCausalLM

from expunge.benchmarks.loading import load_task
from expunge.data.text_encoder import collate
from expunge.methods._lib.divergence import kl
from expunge.methods.optimizers.adamw import AdamW
from expunge.models import fast
from expunge.models.fast import linear
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.reference import CachedStates
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood
from expunge.records.run import environment

Work = Callable[[], object]
Cell = tuple[str, str, str, Work]
"""Trick, model, what is done, and the work; work that runs elsewhere returns its CPU seconds."""
LARGE = 128_256
"""Tokens of a large vocabulary."""


class Bench:
    """A model, rows of TOFU, and what is done with them."""

    def __init__(self, subject: CausalLM, rows: int, batch: int) -> None:
        self.subject, self.task = subject, load_task("tofu:forget10")
        self.asked = list(self.task.probe_rows("forget")[:rows])
        self.sides = {side: collate([subject.encoder.encode(r) for r in some[:batch]], subject.encoder.pad_id)
                      for side, some in (("forget", self.task.forget), ("retain", self.task.retain))}
        with patch.dict(os.environ, {fast.VARIABLE: ""}):  # states can be cached only where the head runs late
            self.original = CachedStates(subject, self.sides["retain"].rows)
        self.parameters = [p for p in subject.model.parameters() if p.requires_grad]

    def step(self, count: int = 2) -> None:
        """Forget and retain rows through the model and back."""
        for _ in range(count):
            found = self.subject.answers_of(self.sides)
            losses = torch.stack([a.logp_N.mean() for a in found.values()])
            torch.autograd.grad(losses.sum(), self.parameters)

    def divergence(self, count: int = 2) -> None:
        """KL from the original's cached states on the retain rows, forwards and backwards."""
        for _ in range(count):
            answers = self.subject.answers(self.sides["retain"])
            kl_N = kl(self.original.answers(answers.batch).source, answers.source)
            torch.autograd.grad(kl_N.mean(), self.parameters)

    def score(self) -> None:
        Likelihood().observe(self.subject, self.asked, self.task)

    def say(self) -> None:
        Generation().observe(self.subject, self.asked, self.task)

    def say_long(self, tokens: int = 200) -> None:
        """A model that does not stop, as after much unlearning."""
        self.subject.generate([self.subject.encoder.prompt(r) for r in self.asked[:16]], tokens)

    def say_known(self) -> Work:
        """Likelihoods are there before words are asked for, as in an audit."""
        read = Likelihood(alternatives=False).observe(self.subject, self.asked, self.task)
        return lambda: Generation().observe(self.subject, self.asked, self.task, reused=read)

    def update(self) -> Work:
        moving = [torch.nn.Parameter(p.detach().clone()) for p in self.parameters]

        def work() -> None:
            optimizer = AdamW(lr=1e-6).build(moving)
            for _ in range(8):
                for p in moving:
                    p.grad = p.detach() * 1e-3
                optimizer.step()

        return work


def random_model(known: CausalLM, **changes: object) -> CausalLM:
    """Random weights in the shape of a known model, but for some settings."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**known.model.config.to_dict() | changes)
    return CausalLM(AutoModelForCausalLM.from_config(config).eval(), known.encoder)


def start() -> float:
    code = ("import time; from expunge.models import fast; fast.use_process_wide_tricks(); import torch; "
            "before = time.process_time(); from transformers.models.llama import modeling_llama; "
            "print(time.process_time() - before)")
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def elsewhere(given: argparse.Namespace, which: str) -> tuple[float, float]:
    """CPU seconds and peak MB of work with a large vocabulary in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--models", str(given.models), "--inner", which], check=True,
                          capture_output=True, text=True)
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), float(peak)


def inner(given: argparse.Namespace) -> None:
    bench = Bench(random_model(load_subject(given.models / "original"), vocab_size=LARGE), 8, 8)
    work = {"step": bench.step, "divergence": bench.divergence, "score": bench.score}[given.inner]
    work()
    before = time.process_time()
    work()
    print(time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    small = Bench(load_subject(given.models / "original"), given.rows, 8)
    forgetful = Bench(load_subject(given.models / "retrained"), given.rows, 8)
    deep = Bench(random_model(small.subject, **SETTINGS["deep"].config), given.rows // 4, 8)
    places = [("2.6 M", small, 2), ("16 M", deep, 1)]
    if given.real:
        places.append(("135 M", Bench(load_subject(given.real), 2, 2), 1))
    for name, bench, count in places:
        if linear._is_faster():
            yield "numpy_products", name, "training", lambda b=bench, n=count: b.step(n)
            yield "numpy_products", name, "scoring", bench.score
        yield "real_positions", name, "training", lambda b=bench, n=count: b.step(n)
        yield "late_head,block_gradients", name, "training", lambda b=bench, n=count: b.step(n)
        yield "late_head,block_gradients", name, "retain_kl", lambda b=bench, n=count: b.divergence(n)
        yield "late_head,block_gradients", name, "scoring", bench.score
        yield "shared_prefixes", name, "scoring", bench.score
        yield "fused_adamw", name, "the update alone", bench.update()
    yield "known_tokens", "2.6 M", "generation, known by heart", small.say_known()
    yield "known_tokens", "2.6 M", "generation, never seen", forgetful.say_known()
    yield "ended_rows", "2.6 M", "generation, never seen", forgetful.say
    yield "preallocated_cache", "2.6 M", "generation, never seen", forgetful.say
    yield "preallocated_cache", "16 M", "generation of 200 tokens", deep.say_long
    yield "garbage_collection", "none", "importing a model's code", start


def seconds(work: Work) -> float:
    before = time.process_time()
    found = work()
    return found if isinstance(found, float) else time.process_time() - before


def compared(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Median ratio of what it takes without the trick to what it takes with it, and its range."""
    ratios = [without / with_it for with_it, without in pairs]
    return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
            "with": statistics.median(a for a, _ in pairs), "without": statistics.median(b for _, b in pairs)}


def keep(part: str, row: dict[str, Any]) -> None:
    """Write one row of the results, in place of an older one of the same work; others stay as they are."""
    path = RESULTS / "tricks.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    key = [row["trick"], row.get("model"), row["work"]]
    rows = [old for old in stored.get(part, []) if [old["trick"], old.get("model"), old["work"]] != key]
    parts = {"table": stored.get("table", []), "memory": stored.get("memory", [])}
    parts[part] = [*rows, row | {"commit": environment()["commit"]}]
    store("tricks", {"threads": 1, "unit": "CPU seconds", **parts})
    log((part, row))


def main(given: argparse.Namespace) -> None:
    fast.use_process_wide_tricks()
    for trick, model, what, work in cells(given):
        if given.only and f"{trick}:{model}" not in given.only:
            continue
        seconds(work)  # caches are warm for both
        pairs = []
        for _ in range(given.repeats):
            with_it = seconds(work)
            with patch.dict(os.environ, {fast.VARIABLE: trick}):
                pairs.append((with_it, seconds(work)))
        keep("table", {"trick": trick, "model": model, "work": what, "repeats": given.repeats} | compared(pairs))
    for trick, which in (("late_head,block_gradients", "step"), ("late_head,block_gradients", "divergence"),
                         ("late_head,block_gradients", "score"), ("large_pages", "step")):
        if given.only and f"{trick}:{which}" not in given.only:
            continue
        with_it, without = [], []
        for _ in range(given.memory_repeats):
            with_it.append(elsewhere(given, which))
            with patch.dict(os.environ, {fast.VARIABLE: trick}):
                without.append(elsewhere(given, which))
        keep("memory", {"trick": trick, "work": which, "tokens": LARGE, "repeats": given.memory_repeats,
                        "time": compared([(a[0], b[0]) for a, b in zip(with_it, without, strict=True)]),
                        "peak_mb": compared([(a[1], b[1]) for a, b in zip(with_it, without, strict=True)])})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder with original and retrained")
    parser.add_argument("--real", type=Path, help="what `expunge fetch smollm2-135m` prints")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-repeats", type=int, default=1, help="of what runs in a process of its own")
    parser.add_argument("--only", nargs="+", metavar="TRICK:MODEL", help="these alone, such as 'fused_adamw:16 M', or "
                                                                          "TRICK:WORK of the table of memory")
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.inner:
        fast.use_process_wide_tricks()
        inner(options)
    else:
        main(options)
