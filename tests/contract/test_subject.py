"""The subject's verbs beside their slow, literal twins, and what it writes to disk.

Legend: B rows, T padded length, N supervised tokens (flat), V vocabulary, D hidden size.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from expunge.data.text_encoder import TextEncoder, TokenRow, collate
from expunge.errors import DataError
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.probes.likelihood import _moments
from expunge.records.task import Example
from expunge.testing.support import DEPTH, batch_of, fresh, hooks, memoriser, moved, small_task, train


def rows() -> list[Example]:
    """Of very different lengths."""
    task = small_task()
    long = Example(id="long", prompt="", kind="text", answer=" ".join(r.answer for r in task.retain[:6]))
    return [*task.forget[:3], long, *task.holdout[:2]]


def test_answers_are_the_full_logits_at_the_supervised_positions() -> None:
    batch = batch_of(moved(), rows())
    with torch.no_grad():
        found = moved().answers(batch)
        logits_BTV = moved().model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT).logits
    at = [(b, t) for b, row in enumerate(batch.rows) for t in range(row.prompt, len(row.ids))]
    expected_NV = torch.stack([logits_BTV[b, t - 1] for b, t in at])
    torch.testing.assert_close(found.logits_NV, expected_NV, atol=1e-5, rtol=1e-5)
    assert batch.target_N.tolist() == [batch.rows[b].ids[t] for b, t in at]
    assert batch.row_N.tolist() == [b for b, _ in at]
    logp_N = torch.stack([z.log_softmax(-1)[batch.rows[b].ids[t]] for z, (b, t) in zip(expected_NV, at, strict=True)])
    torch.testing.assert_close(found.logp_N, logp_N, atol=1e-5, rtol=1e-5)
    sums_B = found.per_row(found.logp_N)
    for b in range(len(batch)):
        one = sum(float(v) for v, (owner, _) in zip(logp_N, at, strict=True) if owner == b)
        assert sums_B[b].item() == pytest.approx(one, rel=1e-4)


def test_the_head_never_sees_other_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, seen = fresh(), []
    head = subject.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    batch = batch_of(subject, rows())
    subject.answers(batch)
    handle.remove()
    assert seen == [(1, batch.count("tokens"), subject.model.config.vocab_size)]


def test_a_model_without_a_head_module_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, batch = fresh(moved()), batch_of(moved(), rows())
    with torch.no_grad():
        quick = subject.answers(batch).logits_NV
        monkeypatch.setattr(type(subject.model), "get_output_embeddings", lambda self: None)
        torch.testing.assert_close(subject.answers(batch).logits_NV, quick, atol=1e-5, rtol=1e-5)


def test_gradients_through_answers_are_those_of_full_logits() -> None:
    subject, batch = fresh(moved()), batch_of(moved(), rows())
    parameters = tuple(subject.model.requires_grad_(True).parameters())
    quick = torch.autograd.grad(subject.answers(batch).logp_N.sum(), parameters)
    logits_BTV = subject.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT).logits
    picked_NV = logits_BTV.flatten(0, 1)[batch.flat_N].log_softmax(-1)
    slow = torch.autograd.grad(picked_NV.gather(1, batch.target_N[:, None]).sum(), parameters)
    for a, b in zip(quick, slow, strict=True):
        assert float((a - b).norm()) < 1e-5 * float(b.norm())


def test_one_forward_for_several_sides_equals_one_each() -> None:
    task = small_task()
    sides = {"forget": batch_of(moved(), task.forget[:3]), "retain": batch_of(moved(), rows()),
             "refusal": batch_of(moved(), task.retain[:2])}
    with torch.no_grad():
        joint = moved().answers_of(sides)
        assert list(joint) == list(sides)
        for side, batch in sides.items():
            apart = moved().answers(batch)
            torch.testing.assert_close(joint[side].logits_NV, apart.logits_NV, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(joint[side].logp_N, apart.logp_N, atol=1e-5, rtol=1e-5)
            assert joint[side].batch.rows == batch.rows


@pytest.mark.parametrize("block", [0, 1, DEPTH - 1, -1, -2])
def test_hidden_is_the_output_of_its_block(block: int) -> None:
    batch, twin = batch_of(moved(), rows()), fresh(moved()).model
    with torch.no_grad():
        found = moved().hidden(batch, block)
        # Transformers leaves hooks of its own on a model that was asked for these, so a copy is asked.
        out = twin(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, output_hidden_states=True)
        number = block % DEPTH
        if number == DEPTH - 1:  # the last one is handed out behind the final norm
            found = twin.model.norm(found)
    expected = out.hidden_states[number + 1]
    real = batch.attention_BT.bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
    assert hooks(moved()) == []


def test_blocks_are_the_decoder_blocks() -> None:
    assert list(memoriser().blocks) == [f"model.layers.{i}" for i in range(DEPTH)]
    wrapped = train("npo + retain_nll + lora", steps=1).subject
    assert [name.rsplit(".", 1)[-1] for name in wrapped.blocks] == [str(i) for i in range(DEPTH)]


def test_rows_without_a_supervised_token_are_refused() -> None:
    with pytest.raises(DataError, match="no supervised token"):
        collate([TokenRow("good", (1, 2, 3), 1, 1, 1), TokenRow("bad", (1, 2, 3), 3, 0, 0)], 0)
    cut = TextEncoder(memoriser().encoder.processor, max_length=4)
    row = cut.encode(small_task().forget[0])
    assert row.truncated and row.answer + row.end == 0
    with pytest.raises(DataError, match=row.id):
        collate([row], 0)


def test_padding_with_the_end_token_loses_nothing() -> None:
    """Masks come from lengths: any pad id gives the same log-probs."""
    found = [small_task().forget[0], rows()[3]]
    tokens = [memoriser().encoder.encode(r) for r in found]
    with torch.no_grad():
        values = [memoriser().answers(collate(tokens, pad)).logp_N for pad in (0, memoriser().encoder.eos_id or 1, 7)]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


def test_generation_ignores_its_company() -> None:
    """Left padding, other prompts and batch sizes change no word."""
    task = small_task()
    prompts = [memoriser().encoder.prompt(r) for r in (*task.forget[:5], *task.holdout[:4])]
    alone = [memoriser().generate([p], 24)[0] for p in prompts]
    assert memoriser().generate(prompts, 24) == alone
    assert memoriser().generate(prompts, 24, batch_size=2) == alone
    assert memoriser().generate(prompts[::-1], 24) == alone[::-1]
    assert [text for text, _ in alone[:5]] == [r.answer for r in task.forget[:5]]


def test_generation_is_the_arg_max_step_by_step() -> None:
    subject = moved()
    prompt = list(subject.encoder.prompt(small_task().holdout[0]))
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(16):
            ids.append(int(subject.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == subject.encoder.eos_id:
                break
    stopped = ids[-1] == subject.encoder.eos_id
    said = subject.encoder.processor.decode(ids[len(prompt): len(ids) - stopped], skip_special_tokens=True).strip()
    assert subject.generate([prompt], 16) == [(said, stopped)]


def test_moments_stay_finite_where_tokens_are_impossible() -> None:
    """A logit of minus infinity is a token with probability 0, which adds nothing."""
    torch.manual_seed(0)
    logits_NV = torch.randn(4, 9)
    masked = logits_NV.clone()
    masked[:, 5:] = -torch.inf
    of_five = _moments(logits_NV[:, :5].log_softmax(-1))
    for found, expected in zip(_moments(masked.log_softmax(-1)), of_five, strict=True):
        torch.testing.assert_close(found, expected)


def logits_of(model: torch.nn.Module, subject: CausalLM) -> torch.Tensor:
    batch = batch_of(subject, rows())
    with torch.no_grad():
        return model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT).logits


def test_a_saved_model_loads_with_plain_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    subject = train("npo + retain_nll", steps=2).subject
    subject.save(tmp_path)
    assert list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.bin"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits_of(plain, subject), logits_of(subject.model, subject))
    ours = load_subject(tmp_path)
    assert ours.fingerprint == subject.fingerprint
    text = small_task().forget[0]
    assert ours.encoder.encode(text) == subject.encoder.encode(text)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("Who?")["input_ids"] == subject.encoder.processor("Who?")["input_ids"]


def test_a_saved_adapter_loads_with_plain_peft(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    memoriser().save(tmp_path / "base")
    start = load_subject(tmp_path / "base")
    assert start.fingerprint == memoriser().fingerprint
    subject = train("npo + retain_nll + lora(rank=4)", subject=start, steps=3, lr=5e-3).subject
    subject.save(tmp_path / "adapter")
    expected = logits_of(subject.model, subject)
    assert not torch.allclose(expected, logits_of(memoriser().model, subject), atol=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages remark while loading is theirs
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
                                          tmp_path / "adapter").eval()
    assert torch.equal(logits_of(plain, subject), expected)
    assert torch.equal(logits_of(load_subject(tmp_path / "adapter").model, subject), expected)
    assert sum(f.stat().st_size for f in (tmp_path / "adapter").glob("*.safetensors")) < 200_000
