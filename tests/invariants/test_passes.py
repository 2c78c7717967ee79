"""The passes of a step: what they give, what they keep and when, against the whole model run at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from expunge.data.text_encoder import TokenBatch, TokenRow, collate
from expunge.methods._lib.divergence import kl
from expunge.methods.stage import StageMethod
from expunge.models import fast
from expunge.models.language import CausalLM
from expunge.models.reference import CachedLogProbs, CachedStates, LiveReference
from expunge.testing.support import fresh, gradient, moved, small_task, stage_of
from expunge.training import gradients as training
from expunge.training.gradients import _one_by_one, make_step
from expunge.training.step import Step

LENGTHS = ([9, 41, 10, 40, 3, 12, 39], [5], [7, 7, 7], [2, 60], [30, 2, 2, 2, 29])
"""Odd numbers of rows, one row, equal ones, and rows with a single supervised token (length 2)."""


def made(lengths: Sequence[int]) -> list[TokenRow]:
    """Rows of these lengths; a third of each is the prompt."""
    draw = torch.Generator().manual_seed(sum(lengths))
    found = []
    for i, length in enumerate(lengths):
        ids = torch.randint(5, 90, (length,), generator=draw).tolist()
        prompt = max(length // 3, 1)
        found.append(TokenRow(f"row {i}", tuple(ids), prompt, length - prompt, 0))
    return found


def whole(subject: CausalLM, batch: TokenBatch) -> torch.Tensor:
    """The slow twin: all rows in one pass, every layer and the head at every position."""
    logits_BTV: torch.Tensor = subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT).logits
    return logits_BTV.flatten(0, 1)[batch.flat_N]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_answers_and_gradients_are_those_of_whole_logits(lengths: list[int]) -> None:
    subject = fresh(moved())
    batch = collate(made(lengths), subject.encoder.pad_id)
    parameters = tuple(subject.model.requires_grad_(True).parameters())
    found = subject.answers_of({"forget": batch, "retain": batch})["retain"]
    slow_NV = whole(subject, batch)
    torch.testing.assert_close(found.logits_NV, slow_NV, atol=1e-5, rtol=1e-5)
    slow_N = slow_NV.log_softmax(-1).gather(1, batch.target_N[:, None])[:, 0]
    torch.testing.assert_close(found.logp_N, slow_N, atol=1e-5, rtol=1e-5)
    weight_B = torch.linspace(0.5, 2.0, len(batch))
    quick = torch.autograd.grad((found.per_row(found.logp_N) * weight_B).sum(), parameters)
    slow = torch.autograd.grad((found.per_row(slow_N) * weight_B).sum(), parameters)
    for a, b in zip(quick, slow, strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm())


@pytest.mark.parametrize("lengths", LENGTHS)
def test_divergence_from_cached_states_is_that_from_a_second_model(lengths: list[int]) -> None:
    subject, original = fresh(moved()), fresh()
    rows = made(lengths)
    batch = collate(rows, subject.encoder.pad_id)
    assert CachedStates.fits(original, rows)
    cached, live = CachedStates(original, rows), LiveReference(original, adapter=False)
    with torch.no_grad():
        answers = subject.answers_of({"": batch})[""]
        quick, slow = (kl(r.answers(batch).logits_NV, answers.logits_NV) for r in (cached, live))
        log_q = live.answers(batch).logits_NV.log_softmax(-1)
        definition = (log_q.exp() * (log_q - answers.logits_NV.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(quick, slow, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(quick, definition, atol=1e-5, rtol=1e-5)


def test_a_hook_sees_all_rows_at_once() -> None:
    subject = fresh(moved())
    batch = collate(made(LENGTHS[0]), subject.encoder.pad_id)
    seen: list[int] = []
    with next(iter(subject.blocks.values())).register_forward_hook(lambda m, a, out: seen.append(len(a[0]))):
        subject.answers_of({"": batch})
    assert seen == [len(batch)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_mlps_see_what_is_read_and_nothing_else(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    subject = fresh(moved())
    batch = collate(made(lengths), subject.encoder.pad_id)
    seen: list[int] = []
    blocks: list[Any] = list(subject.blocks.values())
    real = [block.mlp.forward for block in blocks]

    class Counting:
        """Hooks would be noticed."""

        def __init__(self, forward: Any) -> None:
            self.forward = forward

        def __call__(self, x: torch.Tensor) -> Any:
            seen.append(x.shape[0] * x.shape[1])
            return self.forward(x)

    for block, forward in zip(blocks, real, strict=True):
        monkeypatch.setattr(block.mlp, "forward", Counting(forward))
    with torch.no_grad():
        quick = subject.answers(batch).logits_NV
        assert seen == [batch.count("positions")] * (len(blocks) - 1) + [batch.count("tokens")]
        seen.clear()
        subject.hidden(batch, 0)
        assert seen == [batch.count("positions")]
        seen.clear()
        with blocks[0].register_forward_hook(lambda m, a, out: None):
            subject.answers(batch)
        assert seen == [batch.ids_BT.numel()] * len(blocks)
        seen.clear()
        monkeypatch.setenv(fast.VARIABLE, "real_positions")
        torch.testing.assert_close(subject.answers(batch).logits_NV, quick, atol=1e-5, rtol=1e-5)
        assert seen == [batch.ids_BT.numel()] * len(blocks)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in subject.model.modules())


def test_a_model_of_several_modalities_answers() -> None:
    """It tells its depth in the settings of a part, so that its blocks are not known."""
    text = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64, "max_position_embeddings": 256}
    seeing = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=seeing, mm_tokens_per_image=4)
    subject = CausalLM(AutoModelForCausalLM.from_config(config).eval(), moved().encoder)
    assert getattr(subject.model.config, "num_hidden_layers", None) is None
    batch = collate(made(LENGTHS[0]), subject.encoder.pad_id)
    torch.testing.assert_close(subject.answers(batch).logits_NV, whole(subject, batch), atol=1e-5, rtol=1e-5)


TURNS = ("grad_diff", "npo + retain_kl", "dpo + retain_nll", "rmu(layer=1) + activation_match(layer=1) + all",
         "npo + retain_nll + pcgrad")


@contextmanager
def at_once() -> Iterator[None]:
    """The slow twin: while it lasts, methods are made that run all sides before the way back."""
    real = StageMethod.__init__

    def made(method: StageMethod, *arguments: Any) -> None:
        real(method, *arguments)
        method.disjoint = False

    with patch.object(StageMethod, "__init__", made):
        yield


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("recipe", TURNS)
def test_roles_that_take_turns_find_the_gradient_of_both_at_once(recipe: str, separate: bool) -> None:
    quick = gradient(recipe, moved(), separate=separate)
    with at_once():
        slow = gradient(recipe, moved(), separate=separate)
    for figures in ("values", "losses", "nll"):
        found, expected = getattr(quick, figures), getattr(slow, figures)
        assert found.keys() == expected.keys() and found == pytest.approx(expected, rel=1e-5)
    for a, b in zip((*quick.forget, *quick.retain, *quick.together), (*slow.forget, *slow.retain, *slow.together),
                    strict=True):
        assert float((a - b).norm()) <= 1e-5 * max(float(b.norm()), 1e-3)


class Kept:
    """A tensor that is kept for the way back."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


def most_kept(recipe: str) -> int:
    """Numbers kept for the way back at once, at the most."""
    sizes: list[int] = []
    peak = 0

    def pack(x: torch.Tensor) -> Kept:
        nonlocal peak
        kept = Kept(x)
        sizes.append(x.numel())
        weakref.finalize(kept, sizes.remove, x.numel())
        peak = max(peak, sum(sizes))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.x):
        gradient(recipe, moved())
    return peak


@pytest.mark.parametrize("recipe", TURNS)
def test_what_one_role_keeps_is_gone_before_the_other_runs(recipe: str) -> None:
    turns = most_kept(recipe)
    with at_once():
        assert turns < 0.75 * most_kept(recipe)


def test_nothing_of_one_turn_is_left_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither logits nor what made them."""
    made: list[weakref.ref[Step]] = []

    def step(*given: Any, **options: Any) -> Step:
        assert all(one() is None for one in made)
        fresh = make_step(*given, **options)
        made.append(weakref.ref(fresh))
        return fresh

    monkeypatch.setattr(training, "make_step", step)
    gradient("undial + retain_kl", moved())
    assert len(made) == 2


@pytest.mark.parametrize(("recipe", "cpu", "cuda"), [
    ("npo + retain_nll", True, False), ("npo + retain_nll + pcgrad", True, True), ("undial", False, False),
    ("rmu(layer=1) + activation_match(layer=1)", True, True)])
def test_sides_that_share_a_pass_do_not_take_turns(recipe: str, cpu: bool, cuda: bool) -> None:
    task = small_task()
    method = StageMethod(stage_of(recipe), moved(), task, task.forget, task.retain, 0)
    assert (_one_by_one(method, torch.device("cpu")), _one_by_one(method, torch.device("cuda"))) == (cpu, cuda)


@pytest.mark.parametrize(("reads", "apart"), [(("forget",), True), (("forget", "retain"), False)])
def test_roles_that_read_one_side_run_together(reads: tuple[str, ...], apart: bool) -> None:
    stage, task = stage_of("npo + retain_nll"), small_task()
    with patch.object(type(stage.objective), "reads", reads):
        assert StageMethod(stage, moved(), task, task.forget, task.retain, 0).disjoint is apart


def test_an_empty_side_has_empty_answers() -> None:
    subject = fresh(moved())
    none, some = collate([], subject.encoder.pad_id), collate(made([5, 9]), subject.encoder.pad_id)
    vocabulary = subject.model.config.vocab_size
    for sides in ({"forget": some, "retain": none}, {"retain": none}):
        empty = subject.answers_of(sides)["retain"]
        assert empty.logits_NV.shape == (0, vocabulary) and empty.per_row(empty.logp_N).shape == (0,)
    assert subject.hidden(none, 0).shape == (0, 0, subject.width)
    for kind in (CachedLogProbs, CachedStates):
        assert kind(subject, some.rows).logp(none).shape == (0,)
    assert LiveReference(subject, adapter=False).logp(none).shape == (0,)
