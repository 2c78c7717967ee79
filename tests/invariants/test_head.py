"""The output head run late, in blocks and with its gradient written over its logits, against whole logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from expunge.data.text_encoder import collate
from expunge.errors import ExpungeError
from expunge.methods._lib.divergence import cross_entropy, kl
from expunge.models import fast
from expunge.models.fast import block_gradients
from expunge.models.fast.block_gradients import TokenLogP
from expunge.models.head import LazyLogits, LogitSource, blocks, token_logp
from expunge.models.language import CausalLM
from expunge.models.reference import CachedStates
from expunge.testing.support import fresh, moved
from tests.invariants.test_passes import LENGTHS, made, whole

WIDTH, VOCABULARY = 12, 37


@pytest.fixture(params=["kept", "made again"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The gradient kept for the backward pass, or made again block by block; the caches hold two rows."""
    monkeypatch.setattr(block_gradients, "CELLS", {"cpu": 2 * VOCABULARY})
    monkeypatch.setattr(block_gradients, "MIN_ROWS", 3)
    monkeypatch.setattr(block_gradients, "MAX_KEPT", 1 << 20 if request.param == "kept" else 0)
    return str(request.param)


def given(n: int, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, Tensor, Tensor]:
    """A head, n states that want a gradient, and their targets."""
    torch.manual_seed(n)
    return (nn.Linear(WIDTH, VOCABULARY, bias=bias, dtype=dtype),
            (3 * torch.randn(n, WIDTH)).to(dtype).requires_grad_(), torch.randint(0, VOCABULARY, (n,)))


def under(layer: nn.Linear, states: Tensor) -> LazyLogits:
    return LazyLogits.from_states(states, layer.weight, layer.bias)


def slow(layer: nn.Linear, states: Tensor, target: Tensor) -> Tensor:
    return layer(states).float().log_softmax(-1).gather(1, target[:, None])[:, 0]


def logp(source: LogitSource, target: Tensor) -> Tensor:
    return token_logp(source, target)


def near(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [0, 1, 3, 40])
def test_values_and_gradients_are_those_of_whole_logits(n: int, bias: bool) -> None:
    layer, states, target = given(n, bias)
    final = under(layer, states)
    wanted, weight = (states, *layer.parameters()), torch.randn(n)
    found, expected = logp(final, target), slow(layer, states, target)
    near((found, final.logits(), torch.cat(list(blocks(final)))), (expected, layer(states), layer(states).detach()))
    slopes = torch.autograd.grad((expected * weight).sum(), wanted, retain_graph=True)
    near(torch.autograd.grad((found * weight).sum(), wanted, retain_graph=True), slopes)
    near(torch.autograd.grad((found * weight).sum(), wanted), slopes)  # those that were kept are used up by then


@pytest.mark.usefixtures("room")
def test_gradients_of_states_alone_and_of_weights_alone() -> None:
    layer, states, target = given(7)
    both = torch.autograd.grad(slow(layer, states, target).sum(), (states, layer.weight))
    near(torch.autograd.grad(logp(under(layer, states.detach()), target).sum(), layer.weight), both[1:])
    layer.requires_grad_(False)
    near(torch.autograd.grad(logp(under(layer, states), target).sum(), states), both[:1])


@pytest.mark.usefixtures("room")
def test_second_derivatives_are_those_of_whole_logits() -> None:
    layer, states, target = given(5)

    def curvature(value: Tensor) -> tuple[Tensor, ...]:
        slope, = torch.autograd.grad(value.square().sum(), states, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (states, *layer.parameters()))

    near(curvature(logp(under(layer, states), target)), curvature(slow(layer, states, target)))


@pytest.mark.usefixtures("room")
def test_coarse_states_give_fine_log_probs() -> None:
    layer, states, target = given(6, dtype=torch.bfloat16)
    found = logp(under(layer, states), target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, slow(layer, states, target))
    slope, = torch.autograd.grad(found.sum(), states)
    expected, = torch.autograd.grad(slow(layer, states, target).sum(), states)
    assert slope.dtype == torch.bfloat16
    torch.testing.assert_close(slope, expected, atol=0.05, rtol=0.05)


def test_it_runs_with_the_gradient_there_was_to_be() -> None:
    layer, states, target = given(4)
    with torch.no_grad():
        final = under(layer, states)
    assert not logp(final, target).requires_grad and not final.logits().requires_grad
    graded = under(layer, states)
    with torch.no_grad():
        assert logp(graded, target).requires_grad and graded.logits().requires_grad


@pytest.mark.parametrize("change", [lambda layer: layer.weight.mul_(2), lambda layer: layer.bias.add_(5),
                                    lambda layer: setattr(layer.weight, "data", layer.weight.clone())])
def test_a_head_that_changed_meanwhile_is_noticed(change: Callable[[nn.Linear], object]) -> None:
    layer, states, target = given(4)
    final = under(layer, states)
    with torch.no_grad():
        change(layer)
    for ask in (final.logits, lambda: logp(final, target), lambda: list(blocks(final))):
        with pytest.raises(ExpungeError, match="has changed"):
            ask()


def test_looking_at_blocks_leaves_gradients_on() -> None:
    layer, states, _ = given(9)
    for block in blocks(under(layer, states)):
        assert torch.is_grad_enabled() and not block.requires_grad


def test_a_detached_log_prob_makes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = fresh(moved())
    batch = collate(made([5, 9]), subject.encoder.pad_id)
    subject.model.requires_grad_(True)
    expected = subject.answers(batch).logp_N.detach()
    writing: list[bool] = []
    real = TokenLogP.block
    monkeypatch.setattr(TokenLogP, "block", lambda self, logits, rows, write: (
        writing.append(write), real(self, logits, rows, write))[1])
    answers = subject.answers(batch)
    found = answers.detached_logp()
    assert torch.equal(found, expected) and not any(writing) and not found.requires_grad
    assert answers.logp_N.requires_grad and writing[-1]
    assert torch.equal(answers.detached_logp(), expected) and len(writing) == 2


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("relative", [True, False])
def test_divergences_from_states_are_those_from_logits(relative: bool) -> None:
    """Block by block, with both sides in the same rows."""
    (layer, states, _), (other, teacher, _) = given(11), given(12)
    teacher = teacher[:11]
    divergence = kl if relative else cross_entropy
    expected = divergence(other(teacher), layer(states))
    slopes = torch.autograd.grad(expected.square().sum(), (states, layer.weight))
    found = under(layer, states)
    towards = other(teacher)
    for target in (under(other, teacher), towards):
        for mine in (found, layer(states)):
            value = divergence(target, mine)
            near((value,), (expected,))
            near(torch.autograd.grad(value.square().sum(), (states, layer.weight)), slopes)


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("lengths", LENGTHS)
def test_answers_are_those_of_the_whole_model(lengths: list[int]) -> None:
    subject = fresh(moved())
    batch = collate(made(lengths), subject.encoder.pad_id)
    answers, slow_NV = subject.answers(batch), whole(subject, batch)
    assert isinstance(answers.source, LazyLogits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(fast.VARIABLE, "1")
        plain = subject.answers(batch)
        assert isinstance(plain.source, Tensor)
        near((plain.logp_N, plain.logits_NV), (answers.logp_N, answers.logits_NV))
    near((answers.logp_N,), (slow_NV.log_softmax(-1).gather(1, batch.target_N[:, None])[:, 0],))
    near((torch.cat(list(blocks(answers.source))), answers.logits_NV), (slow_NV.detach(), slow_NV))


SCALED = {"granite": {"logits_scaling": 4.0}, "cohere": {"logit_scale": 0.0625},
          "gemma2": {"final_logit_softcapping": 30.0, "head_dim": 16}}


@pytest.mark.parametrize("family", SCALED)
def test_a_head_that_is_not_all_runs_within_the_model(family: str) -> None:
    config = AutoConfig.for_model(family, vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                  num_key_value_heads=1, intermediate_size=64, max_position_embeddings=256,
                                  pad_token_id=0, bos_token_id=1, eos_token_id=2, **SCALED[family])
    subject = CausalLM(AutoModelForCausalLM.from_config(config).eval(), moved().encoder)
    batch = collate(made(LENGTHS[0]), subject.encoder.pad_id)
    answers, slow_NV = subject.answers_of({"": batch})[""], whole(subject, batch)
    assert isinstance(answers.source, Tensor)
    slow_N = slow_NV.log_softmax(-1).gather(1, batch.target_N[:, None])[:, 0]
    near((answers.logp_N, answers.detached_logp()), (slow_N, slow_N.detach()))
    near((torch.cat(list(blocks(answers.source))), answers.logits_NV), (slow_NV.detach(), slow_NV))
    assert not CachedStates.fits(subject, batch.rows)


def test_a_hook_or_another_model_is_seen() -> None:
    subject, other = fresh(moved()), fresh()
    batch = collate(made([5, 9]), subject.encoder.pad_id)
    assert isinstance(subject.answers(batch).source, LazyLogits)
    with subject.model.get_output_embeddings().register_forward_hook(lambda m, a, out: 2 * out):
        doubled = subject.answers(batch)
        assert not isinstance(doubled.source, LazyLogits)
    near((doubled.logits_NV,), (2 * subject.answers(batch).logits_NV,))
    forward = type(other.model).forward

    def louder(self: nn.Module, *args: object, **options: object) -> object:
        out = forward(self, *args, **options)
        out.logits = 3 * out.logits
        return out

    other.model.forward = louder.__get__(other.model)
    subject.model = other.model
    assert not isinstance(subject.answers(batch).source, LazyLogits)


def test_the_first_look_changes_no_bit() -> None:
    """Else a resumed run, whose first step is the first look, would part from one that was never interrupted."""
    subject = fresh(moved())
    batch = collate(made(LENGTHS[0]), subject.encoder.pad_id)
    first, second = subject.answers(batch), subject.answers(batch)
    assert isinstance(first.source, LazyLogits) and isinstance(second.source, LazyLogits)
    assert torch.equal(first.logp_N, second.logp_N) and torch.equal(first.logits_NV, second.logits_NV)


def test_sides_that_shared_a_pass_are_split() -> None:
    """As an accelerator runs them."""
    subject = fresh(moved())
    sides = {side: collate(made(lengths), subject.encoder.pad_id) for side, lengths in
             (("forget", LENGTHS[0]), ("retain", LENGTHS[3]))}
    apart = subject.answers_of(sides)
    for late in (True, False):
        subject._seen = subject.model, late
        joint = subject.answers(subject.encoder.concat(list(sides.values())))
        for (side, batch), answers in zip(sides.items(), joint.split(list(sides.values())), strict=True):
            assert isinstance(answers.source, LazyLogits) == late and answers.batch is batch
            near((answers.logp_N, answers.logits_NV), (apart[side].logp_N, apart[side].logits_NV))
