"""Promises of `rag`: what is retrieved, from what on, and that an item can be taken out again."""

from __future__ import annotations

import pytest
import torch

from expunge.guards.base import PromptGuard
from expunge.guards.bm25 import Bm25
from expunge.guards.detector import Finding
from expunge.guards.rag import Rag
from expunge.guards.retriever import fused
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.records.settings import RunSettings

from ..support import fresh, memoriser, small_task
from .base import check
from .prompt_guards import guarded, said, scored


@check(trains=True)
def removal_is_reversible(plugin: type[PromptGuard]) -> None:
    """Without its item a question is answered as by the bare model, bit for bit; without any item, all are."""
    task = small_task()
    subject = Rag(threshold=0.99).build(fresh(), task, RunContext(settings=RunSettings()))[0]
    assert isinstance(subject, CausalLM)
    first, other, before = task.forget[:1], task.forget[1:2], subject.model.digest.clone()
    assert not torch.equal(scored(subject, first), scored(memoriser(), first))
    guarded_before = scored(subject, other)
    subject.model.forget_item(0)
    assert torch.equal(scored(subject, first), scored(memoriser(), first))
    assert said(subject, first, 6) == said(memoriser(), first, 6)
    assert torch.equal(scored(subject, other), guarded_before)
    assert not torch.equal(subject.model.digest, before), "another store is another model"
    for item in range(1, len(task.forget)):
        subject.model.forget_item(item)
    assert torch.equal(scored(subject, task.forget), scored(memoriser(), task.forget))
    assert all(held.count == 0 for held in subject.model.store.held)


@check(trains=True)
def hits_are_counted_beside_false_hits(plugin: type[PromptGuard]) -> None:
    """Wordings that the store does not hold, and questions about people who stay, from strict to loose thresholds."""
    task, retrieve = small_task(), guarded(plugin).model.retrieve
    wanted = [f"Tell me, please: {row.paraphrased_prompts[-1]}" for row in task.forget]
    unwanted = [row.prompt for row in task.holdout]
    hits = [retrieve(text).score for text in wanted]
    false = [retrieve(text).score for text in unwanted]
    rates = [(sum(s >= t for s in hits) / len(hits), sum(s >= t for s in false) / len(false))
             for t in (1.01, 0.8, 0.6, 0.4, 0.2, -1.0)]
    assert rates == sorted(rates) and rates[0] == (0.0, 0.0) and rates[-1] == (1.0, 1.0)
    assert all(hit >= wrong for hit, wrong in rates) and max(hit - wrong for hit, wrong in rates) > 0.8


@check(trains=True)
def obedience_is_apart_from_retrieval(plugin: type[PromptGuard]) -> None:
    """A reader that says what stands in its prompt unless a clause forbids it leaks exactly where nothing is found."""
    task, model = small_task(), guarded(plugin).model
    known = {row.prompt: row.answer for row in task.forget}

    def reader(context: str, question: str) -> str:
        return "I do not know." if context.startswith(model._clause) else known[question]

    for threshold in (0.0, 0.75, 1.01):
        found: list[Finding] = [Finding(f.score >= threshold, f.score, f.item) for f in map(model.retrieve, known)]
        told = [reader(model.context(None, f) if f.fired else "", q) for f, q in zip(found, known, strict=True)]
        hit = sum(f.fired for f in found) / len(found)
        assert sum(text == "I do not know." for text in told) / len(told) == hit


@check
def bm25_matches_the_package(plugin: type[PromptGuard]) -> None:
    """To six digits, for queries with repeated and unknown words; and ranks are joined as by hand."""
    texts = ["the fox sees the dog", "a dog", "birds sing in the morning", "the the fox"]
    own, package = Bm25(texts), Bm25(texts, "bm25s")
    for query in ("the dog", "fox fox", "nothing known", "morning birds of the fox", ""):
        assert own.scores(query) == pytest.approx(package.scores(query), rel=1e-5, abs=1e-6), query
    joined = fused([{0: 0.9, 1: 0.5}, {0: 1.0, 1: 1.0}])
    assert joined == pytest.approx({0: 2 / 61, 1: 1 / 62 + 1 / 61})
