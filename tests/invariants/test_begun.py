"""What a model is known to begin with is not decoded again, and nobody can tell from its words."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GenerationConfig

from expunge import registry
from expunge.audit.runner import ordered
from expunge.models import fast
from expunge.models.decoding import continued
from expunge.models.fast.decoding import may_begin
from expunge.models.language import CausalLM
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood
from expunge.testing.checks.wrapped_models import wrap
from expunge.testing.support import fresh, memoriser, moved, small_task

from .test_prefixes import subjects

MOST = 14
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def said_by(subject: CausalLM) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Prompts, and the tokens of what is said after each, with the one that ends it."""
    prompts = [subject.encoder.prompt(e) for e in (*small_task().forget[:6], *small_task().holdout[:3])]
    with subject.evaluating():
        found = continued(subject, prompts, MOST, 64, GREEDY, (), None)
    return prompts, [(*tokens, *[subject.encoder.eos_id] * ended) for tokens, ended in found]


@pytest.mark.parametrize("make", list(subjects()))
def test_no_word_changes(make: Any) -> None:
    subject = make()
    prompts, spoken = said_by(subject)
    said = subject.generate(prompts, MOST)
    too_long = [(*s, 7, 7) if len(s) == MOST else s for s in spoken]
    for begun in (spoken, [s[:1] for s in spoken], [s[: i % 5] for i, s in enumerate(spoken)],
                  [s if i % 2 else () for i, s in enumerate(spoken)], too_long):
        assert subject.generate(prompts, MOST, begun=begun) == said
        assert subject.generate(prompts, MOST, 2, begun=begun) == said


def test_what_is_known_costs_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, passes = memoriser(), list[int]()
    prompts, spoken = said_by(subject)
    forward = subject.model.forward
    monkeypatch.setattr(subject.model, "forward", lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    said, told = subject.generate(prompts, MOST), list[int]()
    alone = len(passes)
    monkeypatch.setenv(fast.VARIABLE, "1")
    assert subject.generate(prompts, MOST, begun=spoken) == said and len(passes) > alone
    monkeypatch.delenv(fast.VARIABLE)
    del passes[alone:]
    assert subject.generate(prompts, MOST, progress=told.append, begun=spoken) == said
    assert alone >= max(map(len, spoken)) and len(passes) == alone and sum(told) == len(prompts)


@pytest.mark.parametrize("rule", [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 6},
                                  {"suppress_tokens": [9]}])
def test_a_model_with_rules_of_its_own_begins_anew(rule: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    subject = memoriser()
    prompts, spoken = said_by(subject)
    assert may_begin(subject, prompts, MOST, GREEDY)
    own = GenerationConfig(eos_token_id=subject.encoder.eos_id, pad_token_id=subject.encoder.pad_id, **rule)
    monkeypatch.setattr(subject.model, "generation_config", own)
    wrong = [(9,) * MOST for _ in spoken]  # would be said word for word if it were believed
    assert subject.generate(prompts, MOST, begun=wrong) == subject.generate(prompts, MOST)


def test_so_do_drawn_words_hooks_other_ways_and_short_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = memoriser()
    prompts, spoken = said_by(subject)
    wrong = [(9,) * MOST for _ in spoken]
    said = subject.generate(prompts, MOST)
    assert subject.generate(prompts, MOST, begun=wrong) != said
    drawn = {"temperature": 1.0, "seed": 3}
    assert subject.generate(prompts, MOST, **drawn, begun=wrong) == subject.generate(prompts, MOST, **drawn)
    with next(iter(subject.blocks.values())).register_forward_hook(lambda m, a, out: None):
        assert subject.generate(prompts, MOST, begun=wrong) == said
    assert subject.decoded(lambda decode, **options: decode(**options)).generate(prompts, MOST, begun=wrong) == said
    monkeypatch.setattr(CausalLM, "context", max(map(len, prompts)) + 2 * MOST - 1)
    assert subject.generate(prompts, MOST, begun=wrong) == said


@pytest.mark.parametrize("make", [memoriser, lambda: fresh(moved())], ids=["by heart", "in part"])
def test_the_probe_says_the_same_with_likelihoods_at_hand(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of answers, of the second half of running text, and of rows that were not read."""
    subject, task = make(), small_task()
    text = task.forget[0].model_copy(update={"id": "text", "kind": "text", "prompt": ""})
    examples = [*task.forget[:4], *task.holdout[:2], text]
    alone, read = Generation().observe(subject, examples, task), Likelihood().observe(subject, examples, task)
    given: list[Any] = []
    real = CausalLM.generate

    def listen(self: CausalLM, prompts: Any, *a: Any, **k: Any) -> Any:
        given.extend(zip(prompts, k["begun"], strict=True))
        return real(self, prompts, *a, **k)

    monkeypatch.setattr(CausalLM, "generate", listen)
    assert Generation().observe(subject, examples, task, reused=read) == alone
    rows = [subject.encoder.encode(e) for e in examples]
    assert all((*prompt, *begun) == row.ids[: len(prompt) + len(begun)]
               for (prompt, begun), row in zip(given, rows, strict=True))
    whole = [len(prompt) + len(begun) == len(row.ids) for (prompt, begun), row in zip(given, rows, strict=True)]
    assert any(whole) and not all(whole)
    assert Generation().observe(subject, examples, task, reused=read[1:]) == alone
    assert given[len(rows)][1] == () and given[len(rows) + 1:] == given[1: len(rows)]


def test_a_guard_that_rules_words_out_begins_anew() -> None:
    """Its likelihoods know of words that it would never say."""
    subject, task = wrap(registry.load("uld"), fresh()), small_task()
    subject.model.config.weight = 3.0
    examples = [*task.forget, *task.retain, *task.holdout]
    alone, read = Generation().observe(subject, examples, task), Likelihood().observe(subject, examples, task)
    assert not may_begin(subject, [], MOST, GREEDY)
    assert Generation().observe(subject, examples, task, reused=read) == alone


def test_an_audit_reads_before_it_listens() -> None:
    task = small_task()
    found = ordered([("generation", "forget"), ("likelihood", "forget"), ("generation", "retain")], task)
    assert found == [("likelihood", "forget"), ("generation", "forget"), ("generation", "retain")]
