"""A row is answered in a batch as it is alone, in every family: what padding changes is found out by trying."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from expunge.errors import UsageError
from expunge.models import behaviour
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.tiny import build_subject
from expunge.testing.support import batch_of, fresh, small_task

SHAPE = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "rwkv": {"attention_hidden_size": 32},
    "minimax": {"num_local_experts": 2, "layer_types": ["linear_attention", "full_attention"], "block_size": 8,
                "head_dim": 16},
    "mamba": {"state_size": 8},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32, "attention_window_size": 16},
}
TOGETHER = {"llama": "any", "minimax": "equal", "rwkv": "one"}
"""Of families whose code is known; RWKV's mixes the rows of a batch while it decodes."""


@cache
def family(name: str) -> CausalLM:
    texts = [r.prompt + " " + r.answer for r in small_task().forget]
    return build_subject(SHAPE | FAMILIES[name] | {"model_type": name}, texts)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_answered_as_they_are_alone(name: str) -> None:
    subject = family(name)
    assert behaviour.decodes_together(subject) == TOGETHER.get(name, behaviour.decodes_together(subject))
    prompts = [subject.encoder.prompt(r) for r in small_task().forget[:5]]
    prompts = [p[: len(p) - cut] for cut, p in enumerate(prompts)]  # of different lengths
    together = subject.generate(prompts, 12)
    assert together == [subject.generate([prompt], 12)[0] for prompt in prompts]


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_scored_as_they_are_alone(name: str) -> None:
    subject, rows = family(name), small_task().forget[:4]
    with subject.evaluating():
        together = subject.answers(batch_of(subject, rows)).logp_N
        alone = torch.cat([subject.answers(batch_of(subject, [row])).logp_N for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


class Counting(LlamaForCausalLM):
    """Its logits depend on how wide the batch is, as if it had room for so many tokens."""

    def forward(self, input_ids: Any = None, **options: Any) -> Any:
        said = super().forward(input_ids=input_ids, **options)
        said.logits = said.logits * (1 + 0.1 * input_ids.shape[1])
        return said


def test_scoring_goes_by_length_where_padding_behind_a_row_is_felt() -> None:
    """Log-probabilities, their gradient and hidden states, in the order of the batch."""
    plain, rows = fresh(), small_task().forget[:4]
    model = Counting(LlamaConfig(**plain.model.config.to_dict())).eval()
    model.load_state_dict(plain.model.state_dict())
    subject = CausalLM(model, plain.encoder)
    assert not subject.pads_right and plain.pads_right
    batch = batch_of(subject, rows)
    assert len({len(row.ids) for row in batch.rows}) > 1
    answers = subject.answers(batch)
    alone = [subject.answers(batch_of(subject, [row])) for row in rows]
    torch.testing.assert_close(answers.logp_N, torch.cat([a.logp_N for a in alone]), rtol=0, atol=1e-4)
    answers.logp_N.sum().backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    states_BTD = subject.hidden(batch, 0)
    torch.testing.assert_close(states_BTD[1, : len(batch.rows[1].ids)],
                               subject.hidden(batch_of(subject, [rows[1]]), 0)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_leak(dtype: torch.dtype) -> None:
    subject = build_subject(SHAPE | {"model_type": "llama", "num_hidden_layers": 6}, ["a b c d e f"])
    subject.model.to(dtype)
    assert behaviour.decodes_together(subject) == "any" and behaviour.pads_right(subject)
    assert behaviour.is_causal(subject)


def test_a_model_that_sees_what_it_predicts_is_refused(tmp_path: Any) -> None:
    """In any family: this one does not say so in its config."""
    subject = build_subject(SHAPE | {"model_type": "bert"}, ["a b c d e f"])
    subject.save(tmp_path / "bert")
    with pytest.raises(UsageError, match="both directions"):
        load_subject(tmp_path / "bert")


def test_it_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = family("llama")
    behaviour.decodes_together(subject)
    monkeypatch.setattr(subject.model, "generate", lambda **options: pytest.fail("tried again"))
    assert behaviour.decodes_together(fresh().around(subject.model)) == "any"
