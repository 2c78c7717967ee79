"""Promises of probes.

Legend: T length of one row, V vocabulary.
"""

from __future__ import annotations

import copy

import pytest
import torch

from expunge.models.language import CausalLM
from expunge.probes.base import Probe
from expunge.records.observation import Row
from expunge.records.task import Example

from ..support import memoriser, moved, same_random_state, small_task, weights
from .base import check

LONG = Example(id="long", prompt="", kind="text", answer=" ".join(r.answer for r in small_task().retain[:9]))
FLOATS = ("logp", "mean", "var", "norm", "blocks")


def _asked() -> list[Example]:
    """Questions known, changed and never seen, with an answer much longer than all others."""
    task = small_task()
    return [*task.forget[:4], LONG, *task.retain[:3], *task.holdout[:3]]


def _same(a: Row, b: Row, within: float) -> None:
    assert set(a) == set(b)
    for name, value in a.items():
        if name in FLOATS:
            assert b[name] == pytest.approx(value, abs=within, rel=within)
        else:
            assert b[name] == value, name


def slow_likelihood(subject: CausalLM, ids: tuple[int, ...], prompt: int) -> dict[str, list[float]]:
    """One row, no padding, full logits in float64, token by token as the definitions say."""
    model = copy.deepcopy(subject.model).double().eval()
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([ids])).logits[0]
    found: dict[str, list[float]] = {"logp": [], "mean": [], "var": [], "hit": []}
    for t in range(prompt, len(ids)):
        scores = logits_TV[t - 1]
        p = torch.exp(scores - torch.logsumexp(scores, 0))
        logp = scores - torch.logsumexp(scores, 0)
        mean = float(sum(a * b for a, b in zip(p.tolist(), logp.tolist(), strict=True)))
        found["logp"].append(float(logp[ids[t]]))
        found["mean"].append(mean)
        found["var"].append(float(sum(a * (b - mean) ** 2 for a, b in zip(p.tolist(), logp.tolist(), strict=True))))
        found["hit"].append(int(scores.argmax()) == ids[t])
    return found


@check
def matches_slow_twin(plugin: type[Probe]) -> None:
    """Batched numbers are those of one row at a time with full logits in float64."""
    probe, task = plugin(), small_task()
    for subject in (memoriser(), moved(8)):
        examples = [*task.forget[:2], task.holdout[0]]
        for example in examples:
            for row in probe.observe(subject, [example], task):
                tokens = subject.encoder.encode(example, answer=row["text"])
                slow = slow_likelihood(subject, tokens.ids, tokens.prompt)
                assert ("mean" in row) == ("var" in row) == (row["form"] == "answer"), "moments are of answers only"
                for name in slow.keys() & set(FLOATS) & row.keys():
                    assert row[name] == pytest.approx(slow[name], abs=2e-4, rel=2e-4), name
                assert row["hit"] == slow["hit"]
                assert row["end"] == tokens.end == 1


@check
def ignores_padding_and_order(plugin: type[Probe]) -> None:
    """Alone, in a crowd or in reverse, a row gets the same numbers, in the order it was asked.

    Nothing about the subject changes, and no global random state is used.
    """
    probe, task, examples = plugin(), small_task(), _asked()
    for subject in (memoriser(), moved(8)):
        before = weights(subject)
        with same_random_state():
            together = probe.observe(subject, examples, task)
        assert all(torch.equal(p, before[n]) for n, p in weights(subject).items())
        assert not subject.model.training
        alone = [row for e in examples for row in probe.observe(subject, [e], task)]
        backwards = probe.observe(subject, examples[::-1], task)
        by_key = {(r["id"], r["form"], r.get("index", 0)): r for r in backwards}
        assert [r["id"] for r in together] == [r["id"] for r in alone]
        for a, b in zip(together, alone, strict=True):
            _same(a, b, 2e-5)
            _same(a, by_key[a["id"], a["form"], a.get("index", 0)], 2e-5)
