"""Prompts that several answers share run once, and nobody can tell from the numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from expunge import registry
from expunge.data import text_encoder as tokens
from expunge.data.text_encoder import TokenRow
from expunge.errors import DataError
from expunge.models import fast
from expunge.models.adapter import add_adapter
from expunge.models.fast import decoding, prefixes
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject
from expunge.records.task import Example
from expunge.testing.checks.wrapped_models import wrap
from expunge.testing.support import fresh, hooks, memoriser, small_task

from ..contract.test_wraps import MORE
from ..journey.test_families import FAMILIES, GATED

SCALED = {
    "gemma2": {"model_type": "gemma2", **GATED, "head_dim": 16, "final_logit_softcapping": 0.05},
    "cohere": {"model_type": "cohere", **GATED, "logit_scale": 0.0625, "tie_word_embeddings": True},
    "granite": {"model_type": "granite", **GATED, "logits_scaling": 8.0},
}
"""Families that do something to the logits of their head, and would be scored otherwise were it forgotten."""


def rows_of(subject: CausalLM) -> list[TokenRow]:
    """Shared prompts of several lengths, lone ones, running text, a single supervised token, odd lengths."""
    task = small_task()
    found = [subject.encoder.encode(e, answer=text) for e in task.forget[:5]
             for text in (e.answer, *e.wrong_answers[:3], e.answer.split()[0])]
    found += [subject.encoder.encode(e) for e in (*task.holdout[:2], Example(
        id="text", prompt="", kind="text", answer=" ".join(r.answer for r in task.retain[:4])))]
    one = found[0]
    return [*found, TokenRow("one", one.ids[: one.prompt + 1], one.prompt, 1, 0)]


def alone(subject: CausalLM, row: TokenRow) -> Tensor:
    """The honest twin: one row, whole, by itself, through nothing but the model."""
    logits_BTV = subject.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits
    return logits_BTV[0, row.prompt - 1: -1]


def found_for(subject: CausalLM, rows: Sequence[TokenRow], chosen: Sequence[int]) -> dict[int, Tensor]:
    found: dict[int, list[Tensor]] = {i: [] for i in chosen}
    ended = set[int]()
    with subject.evaluating():
        for owners, answers in subject.answers_in_parts(rows, chosen):
            parts = answers.logits_NV.split([r.answer + r.end for r in answers.batch.rows])
            for members, part in zip(owners, parts, strict=True):
                assert ended.isdisjoint(members), "nothing comes behind the last part"
                ended |= set(members) if len(members) == 1 else set()
                for i in members:
                    found[i].append(part)
    assert ended == set(found), "each row has a part of its own"
    return {i: torch.cat(parts) for i, parts in found.items()}


def subjects() -> Iterator[Any]:
    for family in (*FAMILIES, *MORE):
        config = {"model_type": family} | (FAMILIES | MORE)[family]
        yield pytest.param(lambda c=config: build_subject(c, small_task().texts()), id=family)
    for family, config in SCALED.items():
        yield pytest.param(lambda c=config: build_subject(c, small_task().texts()), id=f"{family}-scaled")
    yield pytest.param(adapted, id="lora")
    for name in ("uld", "sisa"):
        yield pytest.param(lambda n=name: wrap(registry.load(n), fresh()), id=name)


def adapted() -> CausalLM:
    subject = fresh(memoriser())
    scope = add_adapter(subject, rank=2, seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(scope.parameters.values()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.05)
    return subject


@pytest.mark.parametrize("positions", [200, 8192])
@pytest.mark.parametrize("make", list(subjects()))
def test_shared_prompts_are_whole_rows(make: Any, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make()
    rows = rows_of(subject)
    monkeypatch.setattr(tokens, "POSITIONS", positions)
    seen: list[tuple[int, ...]] = []
    forward = subject.model.forward
    monkeypatch.setattr(subject.model, "forward", lambda *a, **k: (seen.append(tuple(k["input_ids"].shape)),
                                                                   forward(*a, **k))[1])
    found = found_for(subject, rows, range(len(rows)))
    assert sorted(found) == list(range(len(rows)))
    cost = sum(b * t for b, t in seen)
    seen.clear()
    with monkeypatch.context() as apart:
        apart.setenv(fast.VARIABLE, "1")
        found_for(subject, rows, range(len(rows)))
    assert cost < sum(b * t for b, t in seen), "nothing was shared"
    with subject.evaluating():
        for i, logits in found.items():
            torch.testing.assert_close(logits, alone(subject, rows[i]), atol=1e-5, rtol=1e-5)
    assert hooks(subject) == []


def test_words_that_several_answers_begin_with_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer positions than sharing questions alone; also of an answer twice, and of one that another goes on from."""
    subject, example = memoriser(), small_task().forget[0]
    long = " ".join(r.answer for r in small_task().forget[1:4])
    texts = [f"{long} {word}" for word in ("one", "two two", "three")] + [long, long, "no", "not that", example.answer]
    rows = [subject.encoder.encode(example, answer=text) for text in texts]
    seen: list[int] = []
    forward = subject.model.forward
    monkeypatch.setattr(subject.model, "forward",
                        lambda *a, **k: (seen.append(k["input_ids"].numel()), forward(*a, **k))[1])
    found = found_for(subject, rows, range(len(rows)))
    cost = sum(seen)
    assert cost < 2 * len(rows[0].ids) + 3 * len(rows[-1].ids), "five long answers cost hardly more than one"
    with subject.evaluating():
        for i, logits in found.items():
            torch.testing.assert_close(logits, alone(subject, rows[i]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_beginnings_are_what_their_rows_share(seed: int) -> None:
    """Random rows over three tokens: nothing in two beginnings, each keeps something to read and to predict."""
    draw = random.Random(seed)
    rows = []
    for i in range(40):
        prompt = tuple(draw.choices(range(3), k=draw.randint(0, 3)))
        answer = tuple(draw.choices(range(3), k=draw.randint(1, 6)))
        rows.append(TokenRow(str(i), (*prompt, *answer), len(prompt), len(answer), 0))
    chosen = draw.sample(range(40), 35)
    found = list(prefixes._beginnings(rows, chosen))
    taken = [i for one in found for i in one.members]
    assert found and len(taken) == len(set(taken)) and set(taken) <= set(chosen)
    for one in found:
        first = rows[one.members[0]]
        assert len(one.members) > 1 and one.length >= first.prompt - 1
        for i in one.members:
            assert rows[i].ids[: one.length + 1] == first.ids[: one.length + 1] and rows[i].prompt == first.prompt
            begun, rest = prefixes._first(rows[i], one.length + 1), prefixes._rest(rows[i], one.length)
            assert begun.answer + rest.answer == rows[i].answer and rest.answer > 0 and begun.answer >= 0
            assert begun.ids + rest.ids[1:] == rows[i].ids and begun.ids[-1] == rest.ids[0]
    lone = [i for i in chosen if i not in taken and rows[i].prompt > 1]
    assert len({rows[i].ids[: rows[i].prompt] for i in lone}) == len(lone), "whoever shares a prompt shares its run"


def test_thousands_of_rows_of_one_prompt_are_compared_with_few() -> None:
    """Running text under a tokenizer that opens with two tokens of its own: each row asks for a bounded search."""
    draw, rows = random.Random(0), []
    for i in range(3000):
        answer = tuple(draw.choices(range(4), k=12))
        rows.append(TokenRow(str(i), (8, 9, *answer), 2, 12, 0))
    compared, common = 0, prefixes._common

    def counted(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        nonlocal compared
        compared += 1
        return common(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "_common", counted)
        found = list(prefixes._beginnings(rows, range(len(rows))))
    assert compared < prefixes.NEIGHBOURS * len(rows) and sum(len(one.members) for one in found) > 2900


@pytest.mark.parametrize("end", [0, 1, 3])
def test_end_tokens_are_shared_like_others(end: int) -> None:
    subject = memoriser()
    rows = [replace(row, answer=row.answer + row.end - end, end=end) for row in rows_of(subject)[:5] * 2]
    with subject.evaluating():
        for i, logits in found_for(subject, rows, range(len(rows))).items():
            torch.testing.assert_close(logits, alone(subject, rows[i]), atol=1e-5, rtol=1e-5)
    for owners, answers in subject.answers_in_parts(rows, range(len(rows))):
        assert len(owners) == len(answers.batch) and all(min(r.answer, r.end) >= 0 for r in answers.batch.rows)


def test_a_row_without_a_supervised_token_is_refused() -> None:
    subject = memoriser()
    row = replace(rows_of(subject)[0], answer=0, end=0)
    with pytest.raises(DataError, match="no supervised token"):
        list(subject.answers_in_parts([row], [0]))


def test_an_empty_choice_and_a_single_row() -> None:
    subject = memoriser()
    rows = rows_of(subject)
    assert found_for(subject, rows, []) == {}
    assert list(found_for(subject, rows, [3])) == [3]


def test_a_hook_sees_whole_rows() -> None:
    """Somebody who counts positions or rows must not meet a part of one."""
    subject, widths = memoriser(), set()
    rows = rows_of(subject)
    handle = next(iter(subject.blocks.values())).register_forward_hook(
        lambda module, args, output: widths.add((output[0] if isinstance(output, tuple) else output).shape[1]))
    found = found_for(subject, rows, range(10))
    handle.remove()
    assert min(widths) >= min(len(rows[i].ids) for i in range(10)) and len(found) == 10


@pytest.mark.parametrize("make", list(subjects()))
def test_rows_that_have_ended_leave_and_nobody_can_tell(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word what one long call says, with fewer positions decoded."""
    subject = make()
    prompts = [subject.encoder.prompt(e) for e in (*small_task().forget[:4], *small_task().holdout[:3])]
    monkeypatch.setattr(decoding, "STRETCH", 3)
    said = subject.generate(prompts, 14)
    monkeypatch.setenv(fast.VARIABLE, "1")
    assert said == subject.generate(prompts, 14)


def test_fewer_rows_are_decoded_once_some_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a model that knows when to stop."""
    subject, seen = memoriser(), list[int]()
    prompts = [subject.encoder.prompt(e) for e in small_task().forget[:6]]
    long = [*prompts, tuple(i for p in prompts for i in p)[:60]]  # nonsense, after which it need not stop
    monkeypatch.setattr(decoding, "STRETCH", 4)
    forward = subject.model.forward
    monkeypatch.setattr(subject.model, "forward",
                        lambda *a, **k: (seen.append(len(k["input_ids"])), forward(*a, **k))[1])
    found = subject.generate(long, 40)
    if not all(ended for _, ended in found):
        assert min(seen) < len(long) and seen[0] == len(long)
    monkeypatch.setenv(fast.VARIABLE, "1")
    assert found == subject.generate(long, 40)


HYBRID = {"model_type": "lfm2", "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 2, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}
"""A layer of it remembers a convolution's state, which is no keys and values."""


RWKV = {"model_type": "rwkv", "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2,
        "attention_hidden_size": 32}
"""Keeps a state and no keys and values at all."""
BEGINNINGS = [{"begin_suppress_tokens": [5, 6, 7]}, {"exponential_decay_length_penalty": (3, 1.8)},
              {"min_new_tokens": 6}, {"forced_eos_token_id": 2}, {}]


@pytest.mark.parametrize("rule", BEGINNINGS, ids=lambda rule: next(iter(rule), "none"))
@pytest.mark.parametrize("config", [RWKV, HYBRID, None], ids=["rwkv", "lfm2", "llama"])
def test_what_counts_from_the_beginning_counts_from_the_beginning(
        config: dict[str, Any] | None, rule: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word what one call says, where rows cannot leave or settings ask where the decoding began."""
    subject = fresh(memoriser()) if config is None else build_subject(config, small_task().texts())
    own, eos_id = subject.model.generation_config, subject.encoder.eos_id
    if "forced_eos_token_id" in rule:
        rule = {"forced_eos_token_id": eos_id}
    monkeypatch.setattr(subject.model, "generation_config", GenerationConfig(**own.to_diff_dict() | rule))
    prompts = [subject.encoder.prompt(e) for e in (*small_task().forget[:4], *small_task().holdout[:3])]
    monkeypatch.setattr(decoding, "STRETCH", 3)
    said = subject.generate(prompts, 14)
    monkeypatch.setenv(fast.VARIABLE, "1")
    assert said == subject.generate(prompts, 14)


def test_a_model_that_remembers_more_than_keys_and_values_runs_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = build_subject(HYBRID, small_task().texts())
    rows = rows_of(subject)
    found = found_for(subject, rows, range(len(rows)))
    assert sorted(found) == list(range(len(rows)))
    with subject.evaluating():
        for i, logits in found.items():
            torch.testing.assert_close(logits, alone(subject, rows[i]), atol=1e-5, rtol=1e-5)
    prompts = [subject.encoder.prompt(r) for r in small_task().forget[:4]]
    said = [subject.generate([prompt], 12)[0] for prompt in prompts]
    monkeypatch.setattr(decoding, "STRETCH", 3)
    assert [subject.generate([prompt], 12)[0] for prompt in prompts] == said
