"""Weight decay on all but norms and biases: the same parameters as under the Hugging Face Trainer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Trainer

from expunge.methods.optimizers.adamw import AdamW
from expunge.models.scope import Scope
from expunge.registry import load, of_kind

SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "max_position_embeddings": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SMALL, "qwen3": SMALL | {"head_dim": 8}, "gemma2": SMALL | {"head_dim": 8}, "phi": SMALL,
    "gpt2": {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "opt": {"vocab_size": 64, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 32, "word_embed_proj_dim": 16},
    "gpt_neox": SMALL, "bloom": {"vocab_size": 64, "hidden_size": 16, "n_layer": 2, "n_head": 2},
}


def scope_of(model: torch.nn.Module) -> Scope:
    subject: Any = SimpleNamespace(model=model)
    return Scope(subject, tuple(name for name, _ in model.named_parameters()))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_decays_is_what_decays_under_the_trainer(family: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family]))
    theirs = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    scope = scope_of(model)
    assert scope.norms_and_biases() == set(scope.names) - theirs
    assert scope.norms_and_biases()


@pytest.mark.parametrize("name", [entry.name for entry in of_kind("optimizer")])
def test_only_weights_decay(name: str) -> None:
    """Without a gradient a step multiplies weights by 1 - lr * decay, and leaves norms and biases to the bit."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)).double()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    made: Any = load(name, "optimizer")(lr=0.125, weight_decay=0.5, decay="weights")
    optimizer = made.build_for(scope_of(model))
    for group in optimizer.param_groups:
        group.update(lr=0.125, estimated=False)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        spared = name.endswith("bias") or name.startswith("1.")
        expected = before[name] if spared else before[name] * (1 - 0.125 * 0.5)
        torch.testing.assert_close(parameter.detach(), expected, rtol=0 if spared else 1e-12, atol=0)


def test_all_is_one_group() -> None:
    scope = scope_of(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)))
    assert len(AdamW(decay="all").build_for(scope).param_groups) == 1
    assert len(AdamW(decay="weights", weight_decay=0.0).build_for(scope).param_groups) == 1
    assert [g["weight_decay"] for g in AdamW().build_for(scope).param_groups] == [0.01, 0.0]
