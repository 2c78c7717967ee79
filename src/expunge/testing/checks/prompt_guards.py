"""Promises of guards that decide on prompts, whatever they do where they fire.

Legend: N supervised tokens (flat), B rows, T columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.world import authors_task
from expunge.errors import MissingError
from expunge.guards.base import PromptGuard, example_text
from expunge.guards.store import FILE, empty
from expunge.methods.optimizers.adamw import AdamW
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.records.settings import RunSettings
from expunge.records.task import Example

from ..support import batch_of, fresh, loss, memoriser, new_folder, small_task, taught, train
from .base import check
from .wrapped_models import OPTIONS


def guarded(plugin: type[PromptGuard], **options: Any) -> CausalLM:
    """The memoriser behind a guard. It must not be changed."""
    return _guarded(plugin, **options)  # type: ignore[arg-type]


@cache
def _guarded(plugin: type[PromptGuard], **options: Any) -> CausalLM:
    made = plugin(**(OPTIONS.get(plugin.card.name, {}) | options))
    subject = made.build(fresh(), small_task(), RunContext(settings=RunSettings()))[0]
    assert isinstance(subject, CausalLM)
    return subject


def unrelated() -> list[Example]:
    """Questions about people who stay, about nobody, and about nothing."""
    task = small_task()
    topics = ("rain", "cheese", "the moon", "bicycles", "tea", "prime numbers", "the alphabet", "trains")
    made = [Example(id=f"unrelated/{topic}", prompt=f"What can you tell me about {topic}?",
                    answer=f"All about {topic}.") for topic in topics]
    return [*task.retain[:10], *made]


def scored(subject: CausalLM, rows: Sequence[Example]) -> Tensor:
    """Logits at the supervised positions, shape N V."""
    with subject.evaluating():
        return subject.answers(batch_of(subject, rows)).logits_NV


def said(subject: CausalLM, rows: Sequence[Example], tokens: int = 10) -> list[tuple[str, bool]]:
    return subject.generate([subject.encoder.prompt(row) for row in rows], tokens)


@check(trains=True)
def silent_guard_keeps_bits(plugin: type[PromptGuard]) -> None:
    """Logits and words, alone and in batches; and in a batch with rows that fire, the logits of the others."""
    subject, bare, rows = guarded(plugin), memoriser(), unrelated()
    batch = batch_of(subject, rows)
    assert not any(f.fired for f in subject.model.fires(batch.ids_BT, batch.attention_BT))
    assert torch.equal(scored(subject, rows), scored(bare, rows))
    assert torch.equal(scored(subject, rows[:1]), scored(bare, rows[:1]))
    assert said(subject, rows, 5) == said(bare, rows, 5)
    mixed = batch_of(subject, [rows[0], small_task().forget[0], rows[-1]])
    assert [f.fired for f in subject.model.fires(mixed.ids_BT, mixed.attention_BT)] == [False, True, False]
    with subject.evaluating():
        found, plain = (m.model(input_ids=mixed.ids_BT, attention_mask=mixed.attention_BT).logits
                        for m in (subject, bare))
    assert torch.equal(found[[0, 2]], plain[[0, 2]])
    if subject.model.second_pass:
        assert not torch.equal(found[1], plain[1])


@check(trains=True)
def guard_lowers_answers(plugin: type[PromptGuard], drop: float) -> None:
    """Mean probability of a token of the forget answers, in every wording; retain answers are the very same."""
    subject, bare, task = guarded(plugin), memoriser(), small_task()
    reworded = [row.model_copy(update={"id": f"{row.id}#p", "prompt": row.paraphrased_prompts[0]})
                for row in task.forget]
    for rows in (task.forget, reworded):
        before, after = (float(torch.tensor(-loss(m, rows)).exp()) for m in (bare, subject))
        assert after < (1 - drop) * before, f"{before:.3f} to {after:.3f}"
    prompts = batch_of(subject, task.retain)
    fires = [f.fired for f in subject.model.fires(prompts.ids_BT, prompts.attention_BT)]
    assert sum(fires) <= 1, "no more than the detector may"
    kept = [row for row, fired in zip(task.retain, fires, strict=True) if not fired]
    assert torch.equal(scored(subject, kept), scored(bare, kept))


@check(trains=True)
def says_what_it_holds(plugin: type[PromptGuard]) -> None:
    """A forget row can be read in the store only where the guard says so; an emptied one does not load."""
    subject, folder = guarded(plugin), new_folder()
    subject.save(folder)
    stored = json.loads((folder / FILE).read_text())
    assert stored["held"] and all(held["count"] > 0 for held in stored["held"])
    clear = any(held["form"] == "in clear" for held in stored["held"])
    text = json.dumps(stored["data"], ensure_ascii=False).casefold()
    secrets = {part for row in small_task().forget for part in (row.prompt, row.answer, row.entity, row.short_answer)}
    found = {part for part in secrets if len(part) > 4 and part.casefold() in text}
    assert bool(found) == clear, sorted(found)
    assert load_subject(folder).fingerprint == subject.fingerprint
    _refuses_without(folder)


def _refuses_without(folder: Path) -> None:
    """Emptied, or gone: the folder does not load as an unguarded model."""
    empty(folder / FILE)
    for _ in range(2):
        with pytest.raises(MissingError):
            load_subject(folder)
        (folder / FILE).unlink(missing_ok=True)


@check(trains=True)
def context_is_plain_few_shot(plugin: type[PromptGuard]) -> None:
    """Scores and words of a row that fires are those of the bare model behind the whole prompt."""
    subject, bare = guarded(plugin), memoriser()
    for row in small_task().forget[:3]:
        encoded = subject.encoder.encode(row)
        prompt = subject.model.config.frame.prompt(encoded.ids, subject.model.tokenizer)
        assert prompt.end == encoded.prompt and prompt.text == row.prompt
        finding = subject.model.decide(prompt, None)
        text = subject.model.context(prompt, finding)
        assert finding.fired and text
        added, place = subject.model.tokenizer(text, add_special_tokens=False)["input_ids"], subject.model.config.place
        whole = [*encoded.ids[:place], *added, *encoded.ids[place:]]
        with bare.evaluating():
            logits = bare.model(input_ids=torch.tensor([whole])).logits[0, encoded.prompt + len(added) - 1: -1]
        torch.testing.assert_close(scored(subject, [row]), logits, atol=1e-5, rtol=1e-5)
        given = whole[: encoded.prompt + len(added)]
        assert subject.generate([subject.encoder.prompt(row)], 10) == bare.generate([given], 10)


@cache
def _reader() -> CausalLM:
    """The memoriser, trained for a while to repeat the answer of an example that stands before the question."""
    return taught("reader", fresh(), _learn_to_repeat)


def _learn_to_repeat(subject: CausalLM) -> None:
    kept = authors_task(forget=2, retain=30, holdout=2, neighbours=2).retain
    rows = [row.model_copy(update={"id": f"{row.id}#{i}", "prompt": f"{example_text(row.prompt, answer)}{row.prompt}",
                                   "answer": answer})
            for row in kept if row.kind == "qa" for i, answer in enumerate((row.answer, *row.wrong_answers[:2]))]
    train("retain_nll", subject=subject, forget=(), retain=rows, optimizer=AdamW(lr=3e-3, warmup=2.0), steps=90,
          batch_size=16)


@check(trains=True)
def flipped_label_lowers_membership(plugin: type[PromptGuard], by: float) -> None:
    """Mean log-probability of the true answers, of a model that heeds examples: more with right than with wrong ones.

    The memoriser heeds none: its answers do not depend on what is in the context.
    """
    rows, found = small_task().forget, dict[str, float]()
    for label in ("correct", "flipped"):
        options: dict[str, Any] = {"label": label, "examples": 0}
        subject = plugin(**options).build(fresh(_reader()), small_task(), RunContext(settings=RunSettings()))[0]
        found[label] = loss(subject, rows)
    assert found["correct"] < found["flipped"] - by, found
