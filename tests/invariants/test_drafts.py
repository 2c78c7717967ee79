"""Drafts of what a model may say change no word of it, whatever they hold."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GenerationConfig

from expunge import registry
from expunge.benchmarks.audit import ordered
from expunge.models import decoding
from expunge.models.subject import Subject
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood

from ..contract.test_wraps import wrap
from ..support import fresh, memoriser, moved, small_task
from .test_prefixes import subjects

MOST = 14


def asked(subject: Subject) -> tuple[list[tuple[int, ...]], dict[str, list[tuple[int, ...]]]]:
    """Prompts, and drafts of several kinds: right, wrong from somewhere on, too long, one token, none at all."""
    rows = [subject.tokens.row(e) for e in (*small_task().forget[:6], *small_task().holdout[:3])]
    prompts, answers = [r.ids[: r.prompt] for r in rows], [r.ids[r.prompt:] for r in rows]
    spoilt = [(*a[: i % 5], 7, *a[i % 5 + 1:]) for i, a in enumerate(answers)]
    return prompts, {"the answers": answers, "spoilt answers": spoilt, "one token": [a[:1] for a in answers],
                     "too long": [a + a + a for a in answers], "none": [()] * len(rows),
                     "some": [a if i % 2 else () for i, a in enumerate(answers)],
                     "each other's": [*answers[1:], answers[0]]}


@pytest.mark.parametrize("make", list(subjects()))
def test_no_word_changes(make: Any) -> None:
    subject = make()
    prompts, drafts = asked(subject)
    said = subject.generate(prompts, MOST)
    for kind, guess in drafts.items():
        assert subject.generate(prompts, MOST, drafts=guess) == said, kind
        assert subject.generate(prompts, MOST, 2, drafts=guess) == said, kind


def test_a_guard_that_rules_words_out_is_not_read_ahead() -> None:
    """It scores what it would never say."""
    subject = wrap(registry.find("uld"), fresh())
    subject.model.config.weight = 3.0
    rows = [subject.tokens.row(e) for e in (*small_task().forget, *small_task().retain, *small_task().holdout)]
    prompts, drafts = [r.ids[: r.prompt] for r in rows], [r.ids[r.prompt:] for r in rows]
    assert subject.generate(prompts, MOST, drafts=drafts) == subject.generate(prompts, MOST)
    subject.model.decodes_as_it_scores = True
    assert subject.generate(prompts, MOST, drafts=drafts) != subject.generate(prompts, MOST), "else nothing was shown"


def test_its_own_words_cost_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, passes = memoriser(), list[int]()
    prompts, _ = asked(subject)
    said = subject.generate(prompts, MOST)
    spoken = [tuple(subject.tokens.processor(text, add_special_tokens=False)["input_ids"]) for text, _ in said]
    full = [(*ids, subject.tokens.eos_id) for ids in spoken]
    subject.generate(prompts, MOST, drafts=full)  # by now the head has been looked at
    forward = subject.model.forward
    monkeypatch.setattr(subject.model, "forward", lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    assert subject.generate(prompts, MOST) == said
    alone = len(passes)
    passes.clear()
    assert subject.generate(prompts, MOST, drafts=full) == said
    longest = max(len(subject.tokens.processor(text, add_special_tokens=False)["input_ids"]) for text, _ in said)
    assert alone >= longest and len(passes) <= 2


@pytest.mark.parametrize("rule", [{"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 6},
                                  {"suppress_tokens": [9]}])
def test_a_model_with_rules_of_its_own_is_not_read_ahead(rule: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    subject = memoriser()
    prompts, drafts = asked(subject)
    own = GenerationConfig(eos_token_id=subject.tokens.eos_id, pad_token_id=subject.tokens.pad_id, **rule)
    monkeypatch.setattr(subject.model, "generation_config", own)
    monkeypatch.setattr(decoding, "_agreed", lambda *a: pytest.fail("read ahead"))
    ruled = subject.generate(prompts, MOST, drafts=drafts["the answers"])
    assert ruled == subject.generate(prompts, MOST)


def test_nor_where_words_are_drawn_or_somebody_looks_on_or_the_room_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = memoriser()
    prompts, drafts = asked(subject)
    answers = drafts["the answers"]
    monkeypatch.setattr(decoding, "_agreed", lambda *a: pytest.fail("read ahead"))
    assert subject.generate(prompts, MOST, temperature=1.0, seed=3, drafts=answers) == subject.generate(
        prompts, MOST, temperature=1.0, seed=3)
    with next(iter(subject.blocks.values())).register_forward_hook(lambda m, a, out: None):
        subject.generate(prompts, MOST, drafts=answers)
    other = subject.decoded(lambda decode, **options: decode(**options))
    other.generate(prompts, MOST, drafts=answers)
    monkeypatch.setattr(Subject, "context", max(map(len, prompts)) + MOST + 1)
    subject.generate(prompts, MOST, drafts=answers)


@pytest.mark.parametrize("known", [True, False])
def test_the_probe_hands_in_what_stands_after_its_prompts(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, and the second half of running text; and its rows are the same without, and with rows read before."""
    subject, task = memoriser() if known else fresh(moved()), small_task()
    text = task.forget[0].model_copy(update={"id": "text", "kind": "text", "prompt": ""})
    examples = [*task.forget[:4], *task.holdout[:2], text]
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "_is_plain", lambda subject: False)
        plain = Generation().observe(subject, examples, task)
    given: list[Any] = []
    real, readings = Subject.generate, list[int]()

    def listen(self: Subject, prompts: Any, *a: Any, **k: Any) -> Any:
        given.append((prompts, k["drafts"], k["agreed"]))
        return real(self, prompts, *a, **k)

    agreed = decoding._agreed
    monkeypatch.setattr(decoding, "_agreed", lambda *a: (readings.append(1), agreed(*a))[1])
    monkeypatch.setattr(Subject, "generate", listen)
    assert Generation().observe(subject, examples, task) == plain and len(readings) == 1
    read = Likelihood().observe(subject, examples, task)
    assert Generation().observe(subject, examples, task, read=read) == plain and len(readings) == 1
    assert Generation().observe(subject, examples, task, read=read[1:]) == plain and len(readings) == 2
    (prompts, drafts, nothing), (_, again, counts), _ = given
    assert nothing is None and drafts == again and all(0 <= n <= len(d) for n, d in zip(counts, drafts, strict=True))
    whole = [n == len(d) for n, d in zip(counts, drafts, strict=True)]
    assert any(whole) and not all(whole)
    for example, prompt, draft in zip(examples, prompts, drafts, strict=True):
        assert draft and ((*prompt, *draft) == subject.tokens.row(example).ids or example is text)


def test_an_audit_reads_before_it_listens() -> None:
    task = small_task()
    found = ordered([("generation", "forget"), ("likelihood", "forget"), ("generation", "retain")], task)
    assert found == [("likelihood", "forget"), ("generation", "forget"), ("generation", "retain")]
