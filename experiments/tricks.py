"""What each trick buys: the same work with it and without it, in turn, on one thread; writes results/tricks.json.

    OMP_NUM_THREADS=1 python experiments/tricks.py --models FOLDER

The model is the fixed TOFU pair's original (2.6 M parameters, 4k vocabulary), the rows are TOFU's (EXPUNGE_DATA).
Each trick has a twin that gives the same numbers (tests/invariants/test_prefixes.py and the contract suite).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import log, store
from transformers import AutoConfig, AutoModelForCausalLM

import expunge.cli  # noqa: F401  what the command line asks of PyTorch holds here, too
from expunge.data import text_encoder as tokens
from expunge.data.tasks import load_task
from expunge.data.text_encoder import collate
from expunge.methods._lib.divergence import kl
from expunge.models import decoding
from expunge.models.fast import linear, prefixes, room
from expunge.models.head import whole
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.reference import CachedLogProbs, CachedStates, LiveReference
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood

Work = Callable[[], object]


@contextmanager
def without(*patches: Any) -> Iterator[None]:
    """While they last."""
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def large(folder: Path) -> float:
    """CPU seconds of four steps of a model with random weights and 128k tokens, in this process."""
    known = load_subject(folder / "original")
    config = AutoConfig.from_pretrained(folder / "original", vocab_size=128_256)
    subject, task = CausalLM(AutoModelForCausalLM.from_config(config), known.encoder), load_task("tofu:forget10")
    sides = {side: collate([subject.encoder.encode(r) for r in some[:8]], subject.encoder.pad_id)
             for side, some in (("forget", task.forget), ("retain", task.retain))}
    before = 0.0
    for step in range(6):
        before = before if step != 2 else time.process_time()
        found = subject.answers_of(sides)
        torch.autograd.grad(sum(a.logp_N.mean() for a in found.values()),  # type: ignore[arg-type]
                            list(subject.model.parameters()))
    return time.process_time() - before


def tricks(subject: CausalLM, retrained: CausalLM, given: argparse.Namespace,
           ) -> Mapping[str, tuple[Work, Callable[[], Any]]]:
    """Name -> the work, and what takes the trick away. Work that is timed elsewhere returns its seconds."""
    rows = given.rows
    task = load_task("tofu:forget10")
    asked = list(task.probe_rows("forget")[:rows])
    forget = collate([subject.encoder.encode(r) for r in task.forget[:8]], subject.encoder.pad_id)
    retain = collate([subject.encoder.encode(r) for r in task.retain[:8]], subject.encoder.pad_id)
    parameters = [p for p in subject.model.parameters() if p.requires_grad]
    cached = CachedLogProbs(subject, (*forget.rows, *retain.rows))
    live = LiveReference(subject, adapter=False)
    asked_of: dict[str, Any] = {"reference": cached, "whole": CachedStates(subject, retain.rows), "towards": kl,
                                "speaker": retrained, "read": (), "first": "gc.disable()"}
    moving = [p.detach().clone().requires_grad_() for p in parameters]
    asked_of["optimizer"] = torch.optim.AdamW(moving, lr=1e-6, fused=True)
    one_by_one = torch.optim.AdamW(moving, lr=1e-6, foreach=False)

    def instead(**others: Any) -> Any:
        return patch.dict(asked_of, others)

    def score() -> object:
        return Likelihood().observe(subject, asked, task)

    def apart() -> object:
        with patch.object(prefixes, "_beginnings", lambda rows, chosen: ()):
            return score()

    def say() -> object:
        return Generation().observe(asked_of["speaker"], asked, task, reused=asked_of["read"])

    def step() -> object:
        """Forget and retain rows through the model and back, eight times."""
        for _ in range(8):
            found = subject.answers_of({"forget": forget, "retain": retain})
            torch.autograd.grad(sum(a.logp_N.mean() for a in found.values()), parameters)  # type: ignore[arg-type]
        return None

    def refer() -> object:
        return [asked_of["reference"].logp(forget) for _ in range(16)]

    def hidden() -> object:
        for _ in range(8):
            loss = subject.hidden(forget, 1).square().mean()
            torch.autograd.grad(loss, parameters, allow_unused=True)
        return None

    def all_blocks(self: CausalLM, batch: Any, block: int) -> Any:
        return self.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False,
                          output_hidden_states=True).hidden_states[block + 1]

    @contextmanager
    def tokenised_anew() -> Iterator[None]:
        build = tokens.Tokens._build

        def row(self: Any, example: Any, *, answer: str | None = None, prompt: str | None = None) -> Any:
            return build(self, example, example.prompt if prompt is None else prompt,
                         example.answer if answer is None else answer)

        with without(patch.object(tokens.TextEncoder, "row", row)):
            yield

    def held() -> object:
        """KL from the original on eight rows, forwards and backwards, eight times."""
        for _ in range(8):
            answers = subject.answers_of({"retain": retain})["retain"]
            kl_N = asked_of["towards"](asked_of["whole"].answers(answers.batch).found, answers.found)
            torch.autograd.grad(kl_N.mean(), parameters)
        return None

    def definition(target: Any, found: Any) -> Any:
        log_q, log_p = (whole(f).log_softmax(-1) for f in (target, found))
        return (log_q.exp() * (log_q - log_p)).sum(-1)

    def remembered() -> object:
        """A model says answers that it knows by heart."""
        with instead(speaker=subject):
            return say()

    def read_by(speaker: CausalLM, listen: Work) -> Work:
        """Its likelihoods are known, as they are in an audit."""
        rows = Likelihood(alternatives=False).observe(speaker, asked, task)

        def work() -> object:
            with instead(read=rows):
                return listen()

        return work

    def optimise() -> object:
        for _ in range(8):
            for p in moving:
                p.grad = p.detach() * 1e-3
            asked_of["optimizer"].step()
        return None

    def start() -> float:
        code = (f"import gc, time, torch; before = time.process_time(); {asked_of['first']}\n"
                "from transformers.models.llama import modeling_llama; print(time.process_time() - before)")
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    def elsewhere() -> float:
        """Pages are settled at the first allocation of a process."""
        done = subprocess.run([sys.executable, __file__, "--models", str(given.models), "--large"], check=True,
                              capture_output=True, text=True)
        return float(done.stdout)

    headless = patch.object(type(subject.model), "get_output_embeddings", lambda self: None)
    if not linear._is_quicker():
        log(("Products stay with PyTorch in this process (see models/linear.py): that trick is left out.",))
    products = {f"products by numpy's library ({what})": (work, lambda: without(patch.object(linear, "LEAST", 1 << 62)))
                for what, work in (("training", step), ("scoring", score)) if linear._is_quicker()}
    return products | {
        "prompts shared by answers run once (scoring)": (score, lambda: without(
            patch.object(prefixes, "_beginnings", lambda rows, chosen: ()))),
        "words that several answers begin with run once (scoring)": (score, lambda: without(patch.object(
            prefixes, "_best", lambda rows, members, prompt: (prefixes.Beginning(tuple(members), prompt), 0)))),
        "the last token of a row is not read (scoring whole rows)": (apart, lambda: without(
            patch.object(prefixes, "collate_read", collate))),
        "batches of 1k positions rather than 8k (scoring)": (score, lambda: without(
            patch.object(tokens, "POSITIONS", 8192))),
        "logits only where supervised (scoring)": (score, lambda: without(headless)),
        "logits only where supervised (training)": (step, lambda: without(headless)),
        "one product of the head for a side, slopes where logits lay (training)": (step, lambda: without(
            patch("expunge.models.language.is_plain", lambda head, device: False))),
        "logits looked at in blocks (scoring)": (score, lambda: without(
            patch("expunge.models.language.is_plain", lambda head, device: False))),
        "what hits tell is not decoded (generation, known by heart)": (read_by(subject, remembered), lambda: without(
            patch.object(decoding, "_is_plain", lambda subject: False))),
        "what hits tell is not decoded (generation, never seen)": (read_by(retrained, say), lambda: without(
            patch.object(decoding, "_is_plain", lambda subject: False))),
        "rows tokenised once (scoring)": (score, tokenised_anew),
        "rows that ended leave (generation)": (say, lambda: without(patch.object(decoding, "STRETCH", 1 << 30))),
        "new keys and values written behind the others (generation)": (say, lambda: without(patch.object(
            room, "preallocate", lambda cache: None))),
        "no garbage looked for (importing a model's code)": (start, lambda: instead(first="")),
        "the original's distributions from cached states (retain_kl)": (held, lambda: instead(whole=live)),
        "a divergence that writes down its slope once (retain_kl)": (held, lambda: instead(towards=definition)),
        "large pages (training, 128k tokens)": (elsewhere, lambda: patch.dict(os.environ, THP_MEM_ALLOC_ENABLE="0")),
        "fused AdamW (the update alone)": (optimise, lambda: instead(optimizer=one_by_one)),
        "reference log-probs cached": (refer, lambda: instead(reference=live)),
        "no layer above the one asked for (hidden states of block 1 of 4)": (hidden, lambda: without(
            patch.object(CausalLM, "hidden", all_blocks))),
    }


def seconds(work: Work) -> float:
    before = time.process_time()
    found = work()
    return found if isinstance(found, float) else time.process_time() - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder with original and retrained")
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.large:
        print(large(given.models))
        sys.exit()
    subject, retrained = (load_subject(given.models / name) for name in ("original", "retrained"))
    table = []
    for name, (work, lacking) in tricks(subject, retrained, given).items():
        seconds(work)  # caches are warm for both
        pairs = []
        for _ in range(given.repeats):
            with_it = seconds(work)
            with lacking():
                pairs.append((with_it, seconds(work)))
        ratios = [b / a for a, b in pairs]
        table.append({"trick": name, "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
                      "with_s": statistics.median(a for a, _ in pairs),
                      "without_s": statistics.median(b for _, b in pairs)})
        log((name, {k: round(v, 3) for k, v in table[-1].items() if isinstance(v, float)}))
    log((store("tricks", {"rows": given.rows, "repeats": given.repeats, "threads": 1, "table": table}),))
