"""Sites in every family: what is there, what is read, what a write reaches, where a pass ends.

Legend: B rows, T columns, D hidden size, E experts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import UsageError
from expunge.models.adapter import add_adapter
from expunge.models.language import CausalLM
from expunge.models.sites import (
    Site,
    SparseAutoencoder,
    is_watched,
    read,
    stop_after,
    substitute,
    watch_calls,
    write,
)
from expunge.models.slots import Slot, place_of, slots_of
from expunge.models.tiny import build_subject
from expunge.testing.support import hooks
from expunge.training.recomputing import recomputing

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = SHAPE | {"num_key_value_heads": 2, "intermediate_size": 32}
"""As wide inside as outside, so that sizes do not tell which projection is the last."""
EXPERTS = GATED | {"num_experts_per_tok": 2}
OLD = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GATED, "mistral": GATED, "qwen2": GATED, "stablelm": GATED, "olmo2": GATED, "cohere": GATED,
    "phi3": GATED, "phi": SHAPE | {"intermediate_size": 48}, "gpt_neox": SHAPE | {"intermediate_size": 48},
    "qwen3": GATED | {"head_dim": 8}, "gemma": GATED | {"head_dim": 8}, "gemma2": GATED | {"head_dim": 8},
    "gemma3_text": GATED | {"head_dim": 8}, "opt": SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4}, "falcon": SHAPE, "gpt2": OLD, "gpt_bigcode": OLD,
    "gptj": OLD | {"rotary_dim": 4}, "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    "mixtral": EXPERTS | {"num_local_experts": 4}, "olmoe": EXPERTS | {"num_experts": 4},
    "qwen3_moe": EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},
    "gpt_oss": EXPERTS | {"num_local_experts": 4, "head_dim": 8},
}
MIXTURES = ("mixtral", "olmoe", "qwen3_moe", "gpt_oss")
WIDE = {"phi": 48, "gpt_neox": 48, "opt": 48, "bloom": 128, "falcon": 128, "gpt2": 128, "gpt_bigcode": 128,
        "gptj": 128, "mpt": 128}
"""Inputs of the output projection where they are not as many as the hidden states have."""
IDS_BT = torch.arange(10).view(2, 5) + 3


@cache
def subject_of(family: str) -> CausalLM:
    torch.manual_seed(0)
    return build_subject({"model_type": family} | FAMILIES[family], ["Ada lives in the town of Ada."])


def run(subject: CausalLM, **options: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = subject.model(input_ids=IDS_BT, use_cache=False, **options).logits
    return logits


def expected(family: str) -> list[Slot]:
    if family == "mamba":
        return ["block", "norm"]
    return ["block", "norm", "attention", "mlp", *(("router", "expert") if family in MIXTURES else ("mlp_hidden",))]


def sites_of(subject: CausalLM) -> list[Site]:
    return [*(Site(1, slot) for slot in slots_of(subject, 1)), *(Site(None, slot) for slot in slots_of(subject, None))]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_parts(family: str) -> None:
    subject = subject_of(family)
    for block in (0, 2, -1):
        assert sorted(slots_of(subject, block)) == sorted(expected(family))
    assert slots_of(subject, None) == ["embedding", "norm", "head"]


@pytest.mark.parametrize("family", FAMILIES)
def test_read(family: str) -> None:
    """Shapes, and that the values are those that transformers gives out."""
    subject, sites = subject_of(family), sites_of(subject_of(family))
    with read(subject, sites) as values:
        logits_BTV = run(subject)
    assert not is_watched(subject.model)
    shapes = {"router": (2, 5, 4), "mlp_hidden": (2, 5, WIDE.get(family, 32))}
    for site, kept in zip(sites, values, strict=True):
        assert len(kept) == 1 and kept[0].shape == shapes.get(site.slot, (2, 5, 32)), site
    of = {(site.block, site.slot): kept[0] for site, kept in zip(sites, values, strict=True)}
    asked: Any = subject.clone().model  # transformers leaves hooks on a model that it was once asked the states of
    with torch.no_grad():
        own = asked(input_ids=IDS_BT, use_cache=False, output_hidden_states=True)
        assert any(torch.equal(of[1, "block"], states_BTD) for states_BTD in own.hidden_states[1:])
        assert torch.equal(of[None, "norm"], own.hidden_states[-1])
        assert torch.equal(of[None, "norm"], of[None, "head"])
        if family not in ("cohere", "gemma2"):  # which scale or cap what the head gives
            assert torch.equal(place_of(subject, "head", None).module(of[None, "head"]), logits_BTV)


@pytest.mark.parametrize("family", FAMILIES)
def test_writing_what_is_there_changes_no_bit(family: str) -> None:
    subject = subject_of(family)
    plain_BTV = run(subject)
    for site in sites_of(subject):
        with write(subject, site, lambda given, value: value):
            assert torch.equal(run(subject), plain_BTV), site
    assert torch.equal(run(subject), plain_BTV) and hooks(subject) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_what_follows(family: str) -> None:
    """The model says something else, and the part that comes next is given what was written."""
    subject = subject_of(family)
    plain_BTV = run(subject)
    for site in sites_of(subject):
        with read(subject, [site]) as before, write(subject, site, lambda given, value: value.flip(1) + 1), read(
                subject, [site, Site(2), Site(slot="head")]) as values:
            assert not torch.equal(run(subject), plain_BTV), site
        if site.slot != "router":  # a router is run again to choose by what was written
            assert torch.equal(values[0][0], before[0][0].flip(1) + 1), site
    given: list[Tensor] = []
    next_block = list(subject.blocks.values())[2]
    noise_BTD = torch.randn(2, 5, 32)
    with write(subject, Site(1), lambda given, value: noise_BTD), watch_calls(
            [next_block], lambda module, args, kwargs: given.append(args[0] if args else next(iter(kwargs.values())))):
        run(subject)
    assert torch.equal(given[0], noise_BTD)
    with write(subject, Site(slot="head"), lambda given, value: noise_BTD):
        written_BTV = run(subject)
    with write(subject, Site(slot="norm"), lambda given, value: noise_BTD):
        assert torch.equal(run(subject), written_BTV)
    if "mlp_hidden" in expected(family):
        hidden_BTK = torch.randn(2, 5, WIDE.get(family, 32))
        with write(subject, Site(1, "mlp_hidden"), lambda given, value: hidden_BTK), read(
                subject, [Site(1, "mlp")]) as values:
            run(subject)
        place = place_of(subject, "mlp_hidden", 1)
        if family != "mpt" and family != "bloom":  # whose MLPs add the residual themselves
            torch.testing.assert_close(values[0][0], place.module(hidden_BTK).detach())


@pytest.mark.parametrize("family", MIXTURES)
def test_a_written_router_chooses_the_experts(family: str) -> None:
    """Logits that favour expert 3 and then 0 send every token there, with the weights the family gives them."""
    subject = subject_of(family)
    told: list[tuple[Any, ...]] = []
    experts = place_of(subject, "expert", 1).module
    logits_E = torch.tensor([4.0, 0.0, 1.0, 6.0])
    with write(subject, Site(1, "router"), lambda given, value: logits_E.expand_as(value)), watch_calls(
            [experts], lambda module, args, kwargs: told.append((*args, *kwargs.values()))):
        run(subject)
    _, chosen, weights = told[0]
    assert chosen.tolist() == [[3, 0]] * 10 and bool((weights[:, 0] > weights[:, 1]).all())
    whole = logits_E.softmax(-1)[[3, 0]]
    normed = family in ("mixtral", "gpt_oss") or subject.model.config.norm_topk_prob
    torch.testing.assert_close(weights[0], whole / whole.sum() if normed else whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_stop_after(family: str) -> None:
    """Blocks above do not run, nor does the head; the value is the one a whole pass has."""
    subject = subject_of(family)
    for site in sites_of(subject):
        with read(subject, [site]) as values:
            run(subject)
        ran: list[nn.Module] = []
        head, blocks = place_of(subject, "head", None).module, list(subject.blocks.values())
        watched = watch_calls([*blocks, head], lambda module, args, kwargs, ran=ran: ran.append(module))  # type: ignore[misc]
        with watched, stop_after(subject, site) as found:
            run(subject)
            raise AssertionError("the pass went on")
        assert len(found) == 1 and torch.equal(found[0], values[0][0]), site
        reached = {"embedding": 0, "norm": 3, "head": 3}.get(site.slot, 2) if site.block is None else 2
        assert [m for m in ran if m is not head] == blocks[:reached], site
        assert (head in ran) == (site.slot == "head"), "a head that is stopped at its input is called and does not run"
    assert hooks(subject) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_substituted_blocks_do_not_run(family: str) -> None:
    subject = subject_of(family)
    with read(subject, [Site(0), Site(1)], raw=True) as values:
        plain_BTV = run(subject)
    ran: list[nn.Module] = []
    inside = [place_of(subject, "norm", 1).module]
    with substitute(subject, [kept[0] for kept in values]), watch_calls(
            inside, lambda module, args, kwargs: ran.append(module)):
        assert torch.equal(run(subject), plain_BTV)
    assert not ran and not any("forward" in vars(block) for block in subject.blocks.values())


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_oss", "falcon"])
def test_adapters(family: str) -> None:
    """A PEFT wrapper hides no part, and its layers are what is written to."""
    adapted = subject_of(family).clone()
    add_adapter(adapted, rank=2)
    assert sorted(slots_of(adapted, 1)) == sorted(expected(family))
    plain_BTV = run(adapted)
    for site in sites_of(adapted):
        with write(adapted, site, lambda given, value: value):
            assert torch.equal(run(adapted), plain_BTV)
        with write(adapted, site, lambda given, value: value + 1):
            assert not torch.equal(run(adapted), plain_BTV) or site.slot == "router"


def test_a_missing_part_is_one_clear_error() -> None:
    for family, site, has in (("llama", Site(1, "router"), "block, norm, attention, mlp, mlp_hidden"),
                              ("mamba", Site(0, "attention"), "block, norm"), ("llama", Site(2, "head"), "block, norm"),
                              ("mixtral", Site(0, "mlp_hidden"), "router, expert"),
                              ("llama", Site(None, "mlp"), "embedding, norm, head")):
        subject = subject_of(family)
        for context in (read(subject, [site]), write(subject, site, lambda g, v: v), stop_after(subject, site)):
            with pytest.raises(UsageError, match=f"(?s)no slot '{site.slot}'.*{has}") as caught, context:
                pass
            assert "\n" not in caught.value.what
    for block in (3, -4):
        with pytest.raises(UsageError, match=f"(?s)no block {block}.*It has 3"):
            Site(block).place(subject_of("llama"))
    with pytest.raises(UsageError, match="needs an autoencoder"):
        Site(0, "sae").place(subject_of("llama"))


def test_chosen_tokens() -> None:
    subject = subject_of("llama")
    mask_BT = torch.zeros(2, 5, dtype=torch.bool)
    mask_BT[0, 1] = mask_BT[1, 3] = True
    site, whole = Site(1, tokens=mask_BT), Site(1)
    with read(subject, [site, whole]) as values:
        run(subject)
    assert torch.equal(values[0][0], values[1][0][mask_BT])
    with write(subject, site, lambda given, value_ND: torch.zeros_like(value_ND)), read(subject, [whole]) as written:
        run(subject)
    assert not written[0][0][mask_BT].any() and torch.equal(written[0][0][~mask_BT], values[1][0][~mask_BT])


def test_features_of_an_autoencoder() -> None:
    """A write moves the activations by what it changes in the features, and keeps what those cannot express."""
    subject = subject_of("llama")
    encoder_FD = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    sae = SparseAutoencoder(lambda x: (x @ encoder_FD.T).relu(), lambda z: z @ encoder_FD)
    plain_BTV, site = run(subject), Site(1, "sae", sae=sae)
    with read(subject, [site, Site(1)]) as values:
        run(subject)
    assert torch.equal(values[0][0], sae.encode(values[1][0]))
    with write(subject, site, lambda given, z: z):
        assert torch.equal(run(subject), plain_BTV)
    with write(subject, site, lambda given, z: z.index_fill(-1, torch.tensor([2]), 0)), read(
            subject, [Site(1)]) as written:
        run(subject)
    torch.testing.assert_close(values[1][0] - written[0][0], values[0][0][..., 2:3] * encoder_FD[2])


def test_everything_comes_back_through_an_exception() -> None:
    subject = subject_of("opt")
    plain_BTV, site = run(subject), Site(1, "mlp_hidden")
    with pytest.raises(ZeroDivisionError), read(subject, [site]), write(subject, site, lambda g, v: v / (1 // 0)), \
            stop_after(subject, Site(2)):
        run(subject)
    with pytest.raises(ZeroDivisionError), substitute(subject, [None]), write(
            subject, Site(slot="embedding"), lambda given, value: value, inputs=lambda ids: ids.where(ids < 1, 0)):
        raise ZeroDivisionError
    with pytest.raises(UsageError), read(subject, [Site(1), Site(9)]):
        pass
    assert hooks(subject) == [] and torch.equal(run(subject), plain_BTV)


def test_contexts_may_be_nested() -> None:
    """Writes in the order they were opened; a stop inside or around another ends its own block alone."""
    subject = subject_of("llama")
    seen: list[Tensor] = []

    def note(given: Tensor, value: Tensor) -> Tensor:
        seen.append(value)
        return value

    with write(subject, Site(1), lambda given, value: value * 0), write(subject, Site(1), note):
        run(subject)
    assert not seen[0].any()
    with stop_after(subject, Site(2)) as outer:
        with stop_after(subject, Site(1)) as inner, read(subject, [Site(1)]) as values:
            run(subject)
        assert len(inner) == len(values[0]) == 1 and not outer, "what is read is read before the pass ends"
        run(subject)
    assert len(outer) == len(inner) == 1
    with stop_after(subject, Site(1, "mlp_hidden")) as found, read(subject, [Site(1, "mlp_hidden")]) as values:
        run(subject)
    assert torch.equal(values[0][0], found[0])


def test_ids_beyond_the_table_may_be_written_over() -> None:
    """Placeholders are looked up as another id; the function is given them as they stood."""
    subject = subject_of("gpt2")
    size = subject.model.get_input_embeddings().weight.shape[0]
    given: list[Tensor] = []

    def fill(ids_BT: Tensor, vectors_BTD: Tensor) -> Tensor:
        given.append(ids_BT)
        return vectors_BTD

    with write(subject, Site(slot="embedding"), fill, inputs=lambda ids_BT: ids_BT.where(ids_BT < size, 0)):
        subject.model(input_ids=IDS_BT + size)
    assert torch.equal(given[0], IDS_BT + size)


def test_checkpointed_blocks_may_be_left_early() -> None:
    subject = subject_of("llama").clone()
    subject.model.train()
    blocks: list[Any] = list(subject.blocks.values())
    with recomputing(subject, True):
        for site in (Site(1), Site(1, "mlp_hidden")):
            with stop_after(subject, site) as values:
                subject.model(input_ids=IDS_BT, use_cache=False)
            gradients = torch.autograd.grad(values[0].square().mean(), [
                block.self_attn.q_proj.weight for block in blocks], allow_unused=True)
            assert [g is not None for g in gradients] == [True, True, False]
            assert all(block.gradient_checkpointing for block in blocks)
    assert not is_watched(subject.model)
