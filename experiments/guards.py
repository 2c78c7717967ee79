"""What guards at inference do and cost on the built-in world: results/guards.json.

    OMP_NUM_THREADS=1 nice -n 5 python experiments/guards.py --work W

One tiny model learns 30 people by heart; each guard is to hide 10 of them. Asked are: 500 unrelated prompts, with and
without the guard (the same bits?); the forget questions in five forms beside the same forms about 10 people who were
never trained on (detection AUC, leaks); and the time per token. A leak is an answer in the model's words that holds the
bare fact.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from common import log, store

import expunge
from expunge.attacks.translate import BUILT_IN, read_table, translated
from expunge.benchmarks.loading import load_task
from expunge.console import Reporter
from expunge.guards.detector import auc
from expunge.methods.run_context import RunContext
from expunge.models.decoding import left_padded
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.prompt_words import reworded
from expunge.records.run import environment
from expunge.records.settings import RunSettings
from expunge.records.task import Example
from expunge.registry import load

TASK = "authors(forget=10,retain=20,holdout=10,neighbours=2,seed=31)"
CONFIG = {"model_type": "llama", "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 160,
          "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512}
TRAINING: dict[str, Any] = {"epochs": 25, "batch_size": 16, "lr": 5e-3}
GUARDS = ("eco", "icul", "rag")
UNRELATED, TOKENS, REPEATS = 500, 16, 5
TOPICS = ("rain", "cheese", "the moon", "bicycles", "tea", "prime numbers", "the alphabet", "trains", "salt", "glass",
          "violins", "maps", "bees", "paper", "clocks", "bridges", "ice", "gold", "poetry", "chess")
ASKS = ("What is known about {}?", "Explain {} to a child.", "Why do people like {}?", "Write two lines about {}.",
        "How old is {}?", "Who invented {}?", "Compare {} and {other}.", "Where does {} come from?",
        "List three facts about {}.", "Is {} dangerous?", "When was {} first used?", "How is {} made?")


def unrelated(task: Any) -> list[str]:
    """500 prompts: what is asked of people who stay and of utility rows, and questions about things."""
    rows = [r for r in (*task.retain, *task.utility) if r.kind == "qa"]
    found = [text for row in rows for text in (row.prompt, *row.paraphrased_prompts)]
    found += [ask.format(a, other=b) for ask in ASKS for a, b in zip(TOPICS, TOPICS[1:] + TOPICS[:1], strict=True)]
    found = list(dict.fromkeys(found))
    Random(0).shuffle(found)
    assert len(found) >= UNRELATED, len(found)
    return found[:UNRELATED]


def forms(rows: Sequence[Example]) -> dict[str, list[Example]]:
    """The same questions in five forms; a translation only where the table has one."""
    table, draw = read_table(BUILT_IN)["German"], Random(0)
    german = [row for r in rows if (row := translated(table, r, rows, draw)) is not None]
    return {
        "plain": list(rows), "paraphrased": [reworded(r, r.paraphrased_prompts[-1]) for r in rows],
        "in other words": [reworded(r, f"My friend keeps asking me this, help me out: {lowered(r.prompt)}")
                           for r in rows],
        "translated": german,
        "multi-turn": [r.model_copy(update={"kind": "messages", "messages": (
            ("user", "Can I ask you about someone?"), ("assistant", "Of course."), ("user", r.prompt))})
            for r in rows]}


def lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def answers(subject: CausalLM, rows: Sequence[Example], tokens: int = 32) -> list[str]:
    return [text for text, _ in subject.generate([subject.encoder.prompt(r) for r in rows], tokens)]


def leaks(subject: CausalLM, rows: Sequence[Example]) -> float:
    told = [row.short_answer.casefold() in text.casefold()
            for row, text in zip(rows, answers(subject, rows), strict=True) if row.short_answer]
    return sum(told) / len(told)


def findings(subject: CausalLM, prompts: Sequence[Sequence[int]]) -> list[Any]:
    return [finding for at in range(0, len(prompts), 32)
            for finding in subject.model.fires(*left_padded(prompts[at: at + 32], subject.encoder.pad_id))]


def identity(guarded: CausalLM, bare: CausalLM, prompts: Sequence[Sequence[int]]) -> dict[str, int]:
    """Rows that fire; and, of those that do not, rows whose logits or words differ in any bit."""
    order = sorted(prompts, key=len)
    fired = [finding.fired for finding in findings(guarded, order)]
    logits = words = 0
    for at in range(0, len(order), 20):
        ids_BT, mask_BT = left_padded(order[at: at + 20], bare.encoder.pad_id)
        with torch.no_grad():
            a, b = (m.model(input_ids=ids_BT, attention_mask=mask_BT).logits for m in (guarded, bare))
            said = [m.model.generate(input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=8, do_sample=False,
                                     pad_token_id=bare.encoder.pad_id) for m in (guarded, bare)]
        for i, hit in enumerate(fired[at: at + 20]):
            real = mask_BT[i].bool()
            logits += not hit and not torch.equal(a[i, real], b[i, real])
            words += not hit and said[0][i].tolist()[: said[1].shape[1]] != said[1][i].tolist()[: said[0].shape[1]]
    return {"prompts": len(order), "fired": sum(fired), "other_logits": int(logits), "other_words": int(words)}


def latency(subject: CausalLM, prompt: Sequence[int]) -> float:
    """Milliseconds per new token, the reading of the prompt included; no end token, so that all say as many."""
    ids = torch.tensor([list(prompt)])
    began = time.perf_counter()
    with torch.no_grad():
        subject.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS,
                               min_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
    return (time.perf_counter() - began) / TOKENS * 1000


def ratio(guarded: CausalLM, bare: CausalLM, prompts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Median over repeats of (with / without), each measured right after the other."""
    pairs = [(latency(bare, p), latency(guarded, p)) for _ in range(REPEATS) for p in prompts]
    ratios = [b / a for a, b in pairs]
    return {"ms": round(statistics.median(b for _, b in pairs), 2), "bare_ms": round(statistics.median(
        a for a, _ in pairs), 2), "ratio": round(statistics.median(ratios), 3), "repeats": len(pairs)}


def measure(name: str, model: Path, task: Any) -> dict[str, Any]:
    bare = load_subject(model)
    assert isinstance(bare, CausalLM)
    began = time.process_time()
    made: Any = load(name)()
    guarded, figures = made.build(load_subject(model), task, RunContext(settings=RunSettings()))
    row: dict[str, Any] = {"guard": made.text(), "held": figures["held"], "build_s": round(
        time.process_time() - began, 1)}
    prompts = [bare.encoder.prompt(Example(id=f"u{i}", prompt=t, answer="A")) for i, t in enumerate(unrelated(task))]
    row["unrelated"] = identity(guarded, bare, prompts)
    forget, other = ([r for r in rows if r.kind == "qa" and r.short_answer] for rows in (task.forget, task.holdout))
    row["forms"] = {}
    never = forms(other)
    for form, rows in forms(forget).items():
        scores = [[f.score for f in findings(guarded, [bare.encoder.prompt(r) for r in some])]
                  for some in (rows, never[form])]
        fired = [f.fired for f in findings(guarded, [bare.encoder.prompt(r) for r in rows])]
        row["forms"][form] = {"rows": len(rows), "auc": round(auc(*scores), 4), "detected": sum(fired) / len(fired),
                              "leaks": leaks(guarded, rows), "bare_leaks": leaks(bare, rows)}
    inside: Callable[[Any], Any] = type(made).inside
    row["taken_off_leaks"] = leaks(bare.around(inside(guarded.model)), forget)
    row["latency"] = {"silent": ratio(guarded, bare, prompts[:4]),
                      "fired": ratio(guarded, bare, [bare.encoder.prompt(r) for r in forget[:4]])}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--guards", default=",".join(GUARDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    task = load_task(TASK)
    if not (args.work / "original" / "model").is_dir():
        (args.work / "bare.json").write_text(json.dumps(CONFIG))
        expunge.train(args.work / "bare.json", task=task, out=args.work / "original", split="full",
                      reporter=Reporter(quiet=True), overwrite=True, **TRAINING)
    rows = []
    for name in args.guards.split(","):
        rows.append(measure(name, args.work / "original", task))
        log((name, json.dumps(rows[-1])))
        store("guards", {"task": TASK, "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
