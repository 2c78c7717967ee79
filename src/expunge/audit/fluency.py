"""Whether answers are still language. A model that stammers scores low on every metric of knowledge, which proves
nothing.

Two signs, both set against the original's own answers to the same prompts: answers that repeat themselves, and answers
that the original finds about as likely as tokens drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from expunge.audit.cache import ObservationCache, model_key
from expunge.metrics.text.refusals import is_refusal
from expunge.metrics.text.repetition import repetition
from expunge.models.subject import Subject
from expunge.records.base import fingerprint
from expunge.records.observation import Observations, Row
from expunge.records.task import Split, Task

LOOPS = 0.5
"""Repetition from which an answer counts as looping."""
SHARE = 0.2
"""Share of looping answers, beyond the original's, from which it is said."""
RANDOM = 0.5
"""Share of log(vocabulary) from which a perplexity is that of random tokens rather than of a language."""
ENOUGH = 10
"""Answers below which nothing is said."""
READ: tuple[Split, ...] = ("forget", "retain")
ANSWERS = "observations/subject/generation.{}.jsonl"
"""Where a reader finds them, in the audit's folder."""


def salad_notes(seen: Mapping[str, Observations], unlikely: Mapping[tuple[str, Split], Sequence[float]],
                outcomes: int) -> list[str]:
    """What a reader must know of the subject's answers, a sentence for each set of rows; none where they are language.

    Args:
        seen: observations of the subject, and of the original where there is one.
        unlikely: (role, split) -> nats per token of each answer under the original, refusals left out.
        outcomes: size of the vocabulary; 0 where an endpoint does not tell.
    """
    found = []
    for split in READ:
        answers = _answers(seen["subject"], split)
        if len(answers) < ENOUGH:
            continue
        signs, beside = [], _answers(seen["original"], split) if "original" in seen else []
        loops, others = _looping(answers), _looping(beside)
        if loops - others >= SHARE:
            signs.append(f"{loops:.0%} of them repeat themselves" + (
                f" (of the original's {others:.0%})" if beside else ""))
        mine, theirs = unlikely.get(("subject", split), ()), unlikely.get(("original", split), ())
        judged = outcomes and theirs and len(mine) >= ENOUGH
        if judged and median(mine) > max(RANDOM * math.log(outcomes), 2 * median(theirs)):
            signs.append(f"their median perplexity under the original is {math.exp(median(mine)):,.0f} (of its own "
                         f"answers {math.exp(median(theirs)):.3g}, of random tokens {outcomes:,})")
        if signs:
            found.append(f"The answers to {split} rows read like word salad: {' and '.join(signs)}. Low scores then "
                         f"say that the model is broken, not that it forgot. Read {ANSWERS.format(split)} in the "
                         "audit's folder; if the answers are broken, unlearn anew with a smaller --lr or fewer steps.")
    return found


def judged_by(original: Subject, seen: Mapping[str, Observations], task: Task,
              cache: ObservationCache) -> dict[tuple[str, Split], Sequence[float]]:
    """(role, split) -> `unlikeliness` of the answers of the subject and of the original itself."""
    found: dict[tuple[str, Split], Sequence[float]] = {}
    for role, split in ((role, split) for role in ("subject", "original") for split in READ):
        rows = _answers(seen[role], split)
        if len(rows) < ENOUGH:
            continue
        key = fingerprint(["unlikeliness", model_key(original), task.fingerprint, split,
                           [[r["id"], r["text"]] for r in rows]])
        known = cache.get(key)
        if known is None:
            known = [{"nats": value} for value in unlikeliness(original, rows, task, split)]
            cache.put(key, known)
        found[role, split] = [float(row["nats"]) for row in known]
    return found


def unlikeliness(original: Subject, rows: Iterable[Row], task: Task, split: Split) -> list[float]:
    """Nats per token of generated answers under the original, each after its own prompt; refusals are left out.

    A refusal is unlikely to a model that knows the answer, and is language all the same.
    """
    examples = {e.id: e for e in task.probe_rows(split)}
    encoded = [original.encoder.encode(examples[r["id"]], answer=str(r["text"])) for r in rows
               if r["id"] in examples and str(r["text"]).strip() and not is_refusal(str(r["text"]))]
    encoded = [row for row in encoded if row.supervised]
    found: list[float] = []
    with original.evaluating():
        for chosen in original.encoder.batches(encoded):
            answers = original.answers(original.collate([encoded[i] for i in chosen]))
            found += [-float(v) for v in answers.row_means(answers.logp_N)]
    return found


def _answers(seen: Observations, split: Split) -> list[Row]:
    return list(seen.rows("generation", split, "prompt"))


def _looping(rows: Sequence[Row]) -> float:
    return sum(repetition(str(r["text"])) >= LOOPS for r in rows) / len(rows) if rows else 0.0
