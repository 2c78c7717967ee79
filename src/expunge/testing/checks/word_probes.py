"""Promises of probes that read words and sentences: contributions of a question's words, confidence by step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from expunge.models.language import CausalLM
from expunge.probes.base import Probe
from expunge.probes.depth import fact_tokens
from expunge.probes.steps import steps_of
from expunge.records.observation import Row
from expunge.records.task import Example

from .. import support
from ..support import memoriser, moved, small_task
from .base import check


def _ask(plugin: type[Probe], subject: CausalLM, examples: list[Example], **options: Any) -> list[Row]:
    beside = memoriser() if plugin.uses_original else None
    return plugin(**options).observe(subject, examples, small_task(), partner=beside)


@check
def contributions_by_hand(plugin: type[Probe]) -> None:
    """One word left out at a time, scored row by row; what is stressed never holds the answer."""
    subject, rows = moved(8), [r for r in small_task().forget if r.kind == "qa"][:3]
    for row, found in zip(rows, _ask(plugin, subject, rows), strict=True):
        words = found["words"]
        assert " ".join(words) == row.prompt
        for key, model in (("own", subject), ("original", memoriser())):
            def mean(prompt: str, row: Example = row, model: CausalLM = model) -> float:
                return -support.loss(model, [row.model_copy(update={"prompt": prompt})])

            whole = mean(row.prompt)
            by_hand = [whole - mean(" ".join(words[:i] + words[i + 1:])) for i in range(len(words))]
            assert found[key] == pytest.approx(by_hand, abs=1e-4)
        assert found["lp"] == pytest.approx(-support.loss(subject, [row]), abs=1e-4)
        assert found["before"] == memoriser().generate([memoriser().encoder.prompt(row)], 60)[0][0]
    same = _ask(plugin, memoriser(), rows)
    assert all(row["own"] == row["original"] and row["said"] == row["before"] for row in same)
    (kept,) = _ask(plugin, subject, rows[:1], blank="_")
    assert len(kept["own"]) == len(kept["words"]) and kept["own"] != _ask(plugin, subject, rows[:1])[0]["own"]


@check
def steps_by_hand(plugin: type[Probe]) -> None:
    """Two sentences, each with its own tokens; the signals of each from the full logits of the row."""
    row = small_task().forget[0]
    two = row.model_copy(update={"answer": f"{row.answer} {small_task().forget[1].answer}"})
    subject = moved(8)
    tokens = subject.encoder.encode(two)
    parts = steps_of(subject.encoder, tokens)
    assert [t for part in parts for t in part] == list(range(tokens.answer)) and len(parts) == 2
    ids = tokens.ids[tokens.prompt: tokens.prompt + tokens.answer]
    assert subject.encoder.processor.decode(ids[parts[0].start: parts[0].stop]).strip() == row.answer
    (found,) = _ask(plugin, subject, [two])
    with subject.evaluating():
        logits_TV = subject.model(torch.tensor([tokens.ids])).logits[0].float()
    span = fact_tokens(subject.encoder, tokens, two.short_answer)
    for part, (mean, sharp, weighed) in zip(parts, found["signals"], strict=True):
        logp, entropy, weight = [], [], []
        for t in part:
            p_V = logits_TV[tokens.prompt + t - 1].log_softmax(-1)
            logp.append(float(p_V[ids[t]]))
            entropy.append(-float((p_V.exp() * p_V).sum()))
            weight.append(1.0 if t in span else 0.1)
        assert mean == pytest.approx(math.exp(sum(logp) / len(logp)), abs=1e-4)
        assert sharp == pytest.approx(1 - sum(entropy) / len(entropy) / math.log(logits_TV.shape[1]), abs=1e-4)
        total = sum(w * x for w, x in zip(weight, logp, strict=True)) / sum(weight)
        assert weighed == pytest.approx(math.exp(total), abs=1e-4)
