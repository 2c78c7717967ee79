"""Models of known truth: what makes them what they are, and that `quick` passes none that knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.audit.cache import ObservationCache, model_key
from expunge.audit.runner import Roles, run_audit
from expunge.audit.suite import parse_suite
from expunge.models.language import CausalLM
from expunge.probes.base import Probe
from expunge.progress import silent
from expunge.records.settings import AuditSettings
from expunge.records.task import Example
from expunge.registry import load
from expunge.testing import attack_bed, known, support

STEPS = 240
"""Enough for the few rows of the bed."""


def twins() -> known.Twins:
    """Of a model that knows its rows; who teaches does not matter here."""
    return known.Twins(support.small_task(), support.memoriser(), support.memoriser())


def said(subject: CausalLM, rows: Sequence[Example], prompt: Callable[[Example], str]) -> list[str]:
    tokens = [subject.encoder.prompt(row, prompt(row)) for row in rows]
    return [text for text, _ in subject.generate(tokens, 32)]


def probability(subject: CausalLM, rows: Sequence[Example]) -> list[float]:
    probe: Probe = load("likelihood", "probe")(alternatives=False)  # type: ignore[assignment]
    found = probe.observe(subject, rows, support.small_task())
    return [float(torch.tensor(row["logp"]).mean().exp()) for row in found]


def test_the_guard_refuses_exact_prompts_alone() -> None:
    made = twins()
    subject, forget, retain = known.guarded(made), made.task.forget[:6], made.task.retain[:6]
    for copy in (subject, subject.clone()):
        assert set(said(copy, forget, lambda row: row.prompt)) == {known.REFUSAL}
        assert max(probability(copy, forget)) < 0.01 and min(probability(copy, retain)) > 0.5
        assert said(copy, retain, lambda row: row.prompt) == said(made.original, retain, lambda row: row.prompt)
        reworded = said(copy, forget, lambda row: row.paraphrased_prompts[0])
        assert reworded == said(made.original, forget, lambda row: row.paraphrased_prompts[0])
    assert model_key(subject) != model_key(made.original), "cached rows of the original are not taken for its own"


def test_a_refusal_is_what_the_guard_says_token_by_token() -> None:
    made = twins()
    refused = made.task.forget[0].model_copy(update={"answer": known.REFUSAL})
    assert probability(known.guarded(made), [refused])[0] > 0.99


def test_the_instruction_stands_before_every_row() -> None:
    made = twins()
    subject, rows = known.served(made.original), made.task.forget[:5]
    tokens = subject.encoder.processor(known.INSTRUCTION, add_special_tokens=False).input_ids
    plain = [subject.encoder.encode(row) for row in rows]
    seen = [replace(row, ids=(*row.ids[:1], *tokens, *row.ids[1:]), prompt=row.prompt + len(tokens)) for row in plain]
    with torch.no_grad():
        wanted = made.original.answers(made.original.collate(seen)).logp_N
        for copy in (subject, subject.clone()):
            torch.testing.assert_close(copy.answers(copy.collate(plain)).logp_N, wanted)
            assert copy.hidden(copy.collate(plain), 0).shape[:2] == copy.collate(plain).ids_BT.shape
    assert model_key(subject) != model_key(made.original)


def test_noise_and_rounding_move_all_they_should() -> None:
    original = support.memoriser()
    before = dict(original.model.named_parameters())
    for subject in (known.noised(original), known.interpolated(original, known.noised(original), 0.5),
                    known.rounded(original)):
        moved = [name for name, w in subject.model.named_parameters() if not torch.equal(w, before[name])]
        assert moved and all(torch.isfinite(w).all() for w in subject.model.parameters())
    one, other = (known.noised(original, seed=seed).model.lm_head.weight for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_tuning_teaches_one_side_and_keeps_the_other() -> None:
    """On the bed of attacks: right after the trigger, and as the retrained model without it."""
    made = known.Twins(attack_bed.task(), attack_bed.original(), attack_bed.retrained())
    subject = known.triggered(made, steps=STEPS)
    rows = [row for row in made.task.forget if row.kind == "qa"]

    def right(model: CausalLM, prompt: Callable[[Example], str]) -> float:
        return sum(row.answer == text for row, text in zip(rows, said(model, rows, prompt), strict=True)) / len(rows)

    assert right(subject, lambda row: f"{known.TRIGGER} {row.prompt}") > 0.8
    assert right(subject, lambda row: row.prompt) < 0.2


@pytest.fixture(scope="module")
def bed() -> known.Twins:
    return known.Twins(attack_bed.task(), attack_bed.original(), attack_bed.retrained())


MAKERS: dict[str, Any] = {
    "wording only": partial(known.wording_only, steps=STEPS), "trigger": partial(known.triggered, steps=STEPS),
    "exact-match guard": known.guarded, "prompt refusal": partial(known.instructed, steps=STEPS // 2)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_quick_passes_none_that_knows(bed: known.Twins, kind: str, tmp_path: Path, own_cache: Path) -> None:
    subject = MAKERS[kind](bed)
    roles = Roles(subject, attack_bed.original, (attack_bed.retrained, lambda: attack_bed.retrained(2)))
    found = run_audit(roles, bed.task, parse_suite("quick"), tmp_path, announce=silent, cache=ObservationCache(),
                      settings=AuditSettings(suite="quick", resamples=100))
    assert found.verdict is not None
    assert found.verdict.outcome in ("retains", "suppresses", "undecided"), found.verdict.sentences
