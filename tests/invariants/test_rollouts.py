"""Rows that exist only during training: made from the current model before a step, and asked live of the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from expunge import api, registry
from expunge.errors import DataError, InterruptedRun
from expunge.methods._lib.rollouts import sample_answers
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective
from expunge.methods.plan import Plan
from expunge.methods.recipe import Stage
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.reference import LiveReference, build_reference
from expunge.plugin import Card
from expunge.records.base import read_jsonl
from expunge.records.task import Example, RolledOut
from expunge.testing.support import memoriser, small_task, stage_of
from expunge.training.step import Step, Term

NEW = 8
"""Tokens of a continuation."""


class OwnAnswers(Objective):
    """Pushes down what the model itself says to forget questions, where it says it more surely than the original."""

    card = Card(name="own_answers", kind="objective", summary="ascent on the model's own answers",
                needs=frozenset({"reference.logp"}), model_needs=frozenset({"generate", "logp", "weights"}))
    reads = ("negative",)
    seen: ClassVar[list[list[str]]] = []
    """What was said before each step."""
    asked: ClassVar[list[tuple[list[Example], torch.Tensor]]] = []
    """Rows of every step, and the reference's log-probs of them."""

    def rollout(self, subject: CausalLM, draws: Sequence[Mapping[str, Example]],
                seed: int) -> Sequence[Mapping[str, Example]]:
        said = subject.generate([subject.encoder.prompt(draw["forget"]) for draw in draws], NEW)
        self.seen.append([text for text, _ in said])
        return [{**draw, "negative": draw["forget"].model_copy(update={"answer": text or "nothing"})}
                for draw, (text, _) in zip(draws, said, strict=True)]

    def figures(self) -> dict[str, float]:
        return {"said": float(len(self.seen[-1]))}

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("negative")
        reference_N = step.reference.logp(answers.batch)
        self.asked.append((list(answers.batch.rows), reference_N))
        return {"own": token_mean(torch.relu(answers.logp_N - reference_N + 1), answers, "negative")}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[OwnAnswers]]:
    """The plug-in under its name, as one outside the package would be."""
    entry = registry.Entry("own_answers", "objective", "ascent on own answers", __name__, "OwnAnswers")
    known = registry.entries() | {"own_answers": entry}
    monkeypatch.setattr(registry, "entries", lambda: known)
    OwnAnswers.seen.clear()
    OwnAnswers.asked.clear()
    yield OwnAnswers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("memoriser") / "model"
    memoriser().save(out)
    return out


def run(folder: Path, out: Path, **options: Any) -> Any:
    return api.forget(folder, method="own_answers + retain_nll + adamw(lr=1e-3, warmup=0)", task=small_task(), out=out,
                      steps=4, batch_size=4, keep="last", checkpoint_every=1, **options)


def test_the_plan_says_that_the_reference_is_asked_live(registered: type[OwnAnswers], folder: Path,
                                                        tmp_path: Path) -> None:
    plan = run(folder, tmp_path / "run", dry_run=True)
    assert isinstance(plan, Plan) and plan.reference == ("frozen copy",)
    assert "Rows made during training: the reference is asked live." in plan.notes
    stage: Stage = stage_of("own_answers + lora(rank=2)")
    assert stage.rolls_out and stage.reference == "adapter off" and not stage.kept_sides
    assert not stage_of("npo").rolls_out and stage_of("npo").reference == "cached log-probs"


def test_rows_follow_the_model_and_the_reference_answers_as_the_original(registered: type[OwnAnswers], folder: Path,
                                                                         tmp_path: Path) -> None:
    record = run(folder, tmp_path / "run")
    assert record.reference["kind"] == "frozen copy" and len(registered.seen) == 4
    assert len({tuple(said) for said in registered.seen}) == 4, "the model says the same before every step"
    original = load_subject(folder)
    for rows, reference_N in registered.asked:
        with original.evaluating():
            expected_N = original.answers(original.collate(rows)).logp_N
        torch.testing.assert_close(reference_N, expected_N, rtol=0, atol=1e-5)
    lines = list(read_jsonl(tmp_path / "run" / "steps.jsonl"))
    assert all("own" in line["terms"] and line["said"] == 4 for line in lines)
    live = build_reference(original, "frozen copy", [])
    assert isinstance(live, LiveReference)


def test_a_resumed_run_rolls_out_the_same_rows(registered: type[OwnAnswers], folder: Path, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, tmp_path / "whole")
    whole = list(registered.seen)
    registered.seen.clear()
    rollout, calls = registered.rollout, [0]

    def interrupted(self: OwnAnswers, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise InterruptedRun("Interrupted.", "", "")
        return rollout(self, *args)

    monkeypatch.setattr(registered, "rollout", interrupted)
    with pytest.raises(InterruptedRun):
        run(folder, tmp_path / "cut")
    run(folder, tmp_path / "cut", resume=True)
    assert registered.seen == whole
    one, other = (load_subject(tmp_path / name).fingerprint for name in ("whole", "cut"))
    assert one == other


def test_a_written_row_carries_its_value_and_ends_only_where_its_writer_did() -> None:
    row, encoder = small_task().forget[0], memoriser().encoder
    plain = encoder.encode(row)

    def rolled(answer: str, ended: bool) -> Any:
        return encoder.encode(RolledOut(**{**row.model_dump(), "answer": answer}, value=-0.5, ended=ended))

    whole, cut, empty = rolled(row.answer, True), rolled(row.answer, False), rolled("", False)
    assert whole.ids == plain.ids and whole.key == plain.key and (whole.value, plain.value) == (-0.5, 0.0)
    assert plain.end and cut.ids == plain.ids[: -plain.end] and (cut.supervised, cut.value) == (plain.answer, -0.5)
    assert empty.supervised == empty.end > 0, "a row without any supervised token could not be run"
    assert encoder.encode(row) == plain, "what is remembered of a row is not that of another"


def test_rows_that_only_the_reference_reads_are_kept_too() -> None:
    stage = stage_of("npo")
    assert stage.kept_sides == {"forget"}
    stage.objective.__class__ = type("Elsewhere", (type(stage.objective),), {"asks": ("other",)})
    assert stage.kept_sides == {"other"}


def test_running_text_keeps_its_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the model says nothing after it: then the end alone is supervised, and something predicts it."""
    subject = memoriser()
    row = Example(id="text", kind="text", prompt="", answer="Ann lives in Rome.")
    monkeypatch.setattr(CausalLM, "generate", lambda self, prompts, *rest, **named: [(" sings.", True), ("", True)])
    ((said, silent),) = sample_answers(subject, [row], 2, tokens=4, seed=0)
    first = subject.encoder.processor.decode(subject.encoder.prompt(row))
    assert said.answer == f"{first} sings." and silent.answer == first
    batch = subject.collate([subject.encoder.encode(silent)])
    assert int(batch.flat_N.min()) >= 0 and len(subject.answers(batch).logp_N) == 1
    with pytest.raises(DataError, match="no supervised token"):
        subject.collate([subject.encoder.encode(row.model_copy(update={"answer": ""}))])
