"""Families whose parts have other names, shapes or places: the text part is found, an adapter sits where it fits."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expunge.data.model_config import context_of, depth_of, vocabulary_of
from expunge.errors import UsageError
from expunge.models.adapter import add_adapter, stacks_to_adapt
from expunge.models.language import CausalLM
from expunge.models.sites import Site, read
from expunge.testing.families import FAMILIES, STEPS, small_model, try_family
from expunge.testing.support import small_task

TEXTS = [f"Where does {who} live? {who} lives in Town {who[::-1]}." for who in ("Ada", "Bo", "Cy", "Di", "Ed")]
ADAPTED = ("gemma3", "llama4", "gpt_oss", "mamba", "nemotron_h", "rwkv", "mpt")


@cache
def made(family: str) -> CausalLM:
    return small_model(family, TEXTS)


def logits(subject: CausalLM) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = subject.model(input_ids=torch.tensor([[7, 8, 9, 10, 11]]), use_cache=False).logits
    return found


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft, when it reads one back
@pytest.mark.parametrize("family", ADAPTED)
def test_an_adapter_moves_reads_back_and_merges(family: str, tmp_path: Path) -> None:
    from peft import PeftModel

    subject = made(family).clone()
    before = logits(subject)
    scope = add_adapter(subject, rank=2)
    assert torch.equal(logits(subject), before)
    with torch.no_grad():
        for name, parameter in scope.parameters.items():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    moved = logits(subject)
    assert (moved - before).abs().max() > 1e-3
    subject.model.save_pretrained(tmp_path)
    again = made(family).around(PeftModel.from_pretrained(made(family).clone().model, tmp_path).eval())
    torch.testing.assert_close(logits(again), moved, rtol=0, atol=1e-5)
    with subject.model.disable_adapter():
        assert torch.equal(logits(subject), before)
    subject.model = subject.model.merge_and_unload()
    torch.testing.assert_close(logits(subject), moved, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ADAPTED)
def test_every_half_of_an_adapter_gets_a_gradient(family: str) -> None:
    """None sits where it is never asked. Experts that no token chose get none."""
    subject = made(family).clone()
    scope = add_adapter(subject, rank=2)
    ids = torch.tensor([list(range(6, 40))])
    subject.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    idle = [n for n, p in scope.parameters.items() if "lora_B" in n and (p.grad is None or not p.grad.abs().sum())]
    assert not idle


def test_multimodal_models_are_their_text_part() -> None:
    for family in ("gemma3", "llama4"):
        subject = made(family)
        config = subject.model.config
        assert (depth_of(config), context_of(config)) == (2, 256) and vocabulary_of(config)
        assert all("language_model" in name or "vision" not in name for name in subject.blocks)
        names = [n for n, m in subject.clone().model.named_modules() if isinstance(m, nn.Linear)]
        scope = add_adapter(subject.clone(), rank=2)
        assert any("vision" in n for n in names) or family == "llama4"
        assert not any("vision" in n for n in scope.parameters)
        with read(subject, [Site(1)]) as values:
            logits(subject)
        assert values[0][-1].shape[-1] == subject.width == 32


def test_a_vision_tower_of_the_same_depth_comes_first_and_is_not_taken() -> None:
    subject = made("gemma3")
    lists = [n for n, m in subject.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == 2]
    assert any("vision" in n for n in lists) and not any("vision" in n for n in subject.blocks)


@pytest.mark.parametrize(("family", "stacks"), [
    ("gpt_oss", 2), ("mixtral", 2), ("llama4", 2), ("jetmoe", 2), ("llama", 0)])
def test_stacks_of_experts(family: str, stacks: int) -> None:
    assert len(stacks_to_adapt(made(family))) == stacks


def test_routers_only_when_asked() -> None:
    for family, router in (("mixtral", "gate"), ("llama4", "router"), ("gpt_oss", "router")):
        asked, default = made(family).clone(), made(family).clone()
        assert not any(router in n.split(".") for n in add_adapter(default, rank=2).parameters)
        assert all(router in n.split(".") for n in add_adapter(asked, rank=2, targets=router).parameters)
        assert logits(asked).isfinite().all()
    with pytest.raises(UsageError, match="fits no module"):
        add_adapter(made("llama").clone(), rank=2, targets="router")


def test_names_of_a_length_limit() -> None:
    """MPT stops at max_seq_len, which is checked before any work."""
    from transformers import AutoConfig

    for family, name in (("mpt", "max_seq_len"), ("gpt2", "n_positions"), ("llama", "max_position_embeddings")):
        assert context_of(AutoConfig.for_model(family, **{name: 77})) == 77
    encoder, row = made("mpt").encoder, small_task().forget[0]
    short = AutoConfig.for_model("mpt", max_seq_len=4, vocab_size=400)
    assert "context of 4 tokens" in encoder.check([encoder.encode(row)], short, "forget")[0].what


@pytest.mark.parametrize("family", ["gemma3", "rwkv"])
def test_from_end_to_end(family: str, rows: Any, tmp_path: Path) -> None:
    made(family).save(tmp_path / "model")
    files = {"forget": rows.forget, "retain": rows.retain, "holdout": rows.holdout}
    found = try_family(tmp_path / "model", files, tmp_path / "out", ("full", "lora", "generate", "reload"))
    assert all(result.startswith("ok") for result in found.values()), found


def test_the_card_of_the_weights_says_what_is_adapted(cli: Any, rows: Any, tmp_path: Path) -> None:
    made("gpt_oss").save(tmp_path / "model")
    cli("forget", tmp_path / "model", *rows.words, "--method", "npo + retain_kl + lora(rank=2)", "--steps", 1, "--lr",
        "1e-3", "--out", tmp_path / "run")
    card = (tmp_path / "run/model/README.md").read_text()
    assert "it sits on: experts.down_proj, experts.gate_up_proj, k_proj, o_proj, q_proj, v_proj" in card


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of families in transformers
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family(family: str, rows: Any, tmp_path: Path) -> None:
    """Through everything, or refused with a reason."""
    small_model(family, TEXTS).save(tmp_path / "model")
    files = {"forget": rows.forget, "retain": rows.retain, "holdout": rows.holdout}
    found = try_family(tmp_path / "model", files, tmp_path / "out")
    assert "refused" in found or all(found[step].startswith(("ok", "refused: ")) for step in STEPS), found
    assert found.get("full", "ok").startswith("ok") and not any(said.startswith("failed") for said in found.values())


def test_rwkv_has_the_same_weights_in_training_and_evaluation() -> None:
    """Its class halves some of them in place, from the seventh block on."""
    from expunge.models.subject import checksum

    subject = made("rwkv")
    rescaled = CausalLM(type(subject.model)(type(subject.model.config)(**subject.model.config.to_dict() | {
        "num_hidden_layers": 8, "rescale_every": 6})), subject.encoder)
    before = checksum(rescaled.model.state_dict())
    with rescaled.evaluating():
        logits(rescaled)
    assert checksum(rescaled.model.state_dict()) == before
