"""What must hold for some recipes: accumulation, references of every kind, masks. The rest is in the contract."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from expunge.data import text_encoder as tokens
from expunge.data.text_encoder import collate
from expunge.errors import ExpungeError
from expunge.models.language import CausalLM
from expunge.models.reference import (
    CachedLikeliest,
    CachedLogProbs,
    CachedStates,
    Likeliest,
    LiveReference,
    Reference,
    build_reference,
    choose_reference,
    verify,
)
from expunge.models.scope import Scope
from expunge.testing.support import (
    batch_of,
    batches_of,
    draws_of,
    fresh,
    memoriser,
    moved,
    small_task,
    stage_of,
    train,
    weights,
)
from expunge.training.step import Step


@pytest.mark.parametrize("recipe", ["npo + retain_kl", "ga", "rmu", "idk"])
def test_accumulation_changes_no_weight(recipe: str) -> None:
    """After three steps too, with means over sequences, tokens, positions and two sides."""
    # eps above the noise of a float32 sum: Adam would turn a sign lost in it into a whole step.
    recipe += " + adamw(lr=1e-3, eps=1e-3, warmup=0)"
    ends = [weights(train(recipe, steps=3, batch_size=size, accumulate=8 // size).subject) for size in (8, 1)]
    for name, value in ends[0].items():
        assert float((value - ends[1][name]).abs().max()) < 1e-6, name


def test_a_term_without_its_reference_says_so() -> None:
    step = Step(moved(), batches_of(moved(), draws_of("npo", moved(), 2)))
    with pytest.raises(ExpungeError, match="no reference"):
        stage_of("npo").objective.terms(step)  # type: ignore[union-attr]


def references() -> list[tuple[str, Reference, CausalLM]]:
    """Every kind, with the subject that was given to it."""
    batch = batch_of(memoriser(), small_task().forget[:3])
    cached, likeliest, states, copied, wrapped = (fresh() for _ in range(5))
    stage_of("npo + retain_nll + lora").scope.apply(wrapped)
    logp, likely, whole, inner = (f"reference.{name}" for name in ("logp", "likeliest", "logits", "hidden"))
    built = [
        build_reference(cached, choose_reference({logp}, adapter=False), batch.rows),
        build_reference(likeliest, choose_reference({logp, likely}, adapter=True), batch.rows,
                        likeliest=(5, batch.rows)),
        build_reference(states, choose_reference({logp, whole}, adapter=False), batch.rows),
        build_reference(copied, choose_reference({whole, inner}, adapter=False), ()),
        build_reference(wrapped, choose_reference({inner}, adapter=True), ()),
    ]
    given = (cached, likeliest, states, copied, wrapped)
    return [(r.kind, r, s) for r, s in zip(built, given, strict=True) if r is not None]


def test_reference_kinds_are_the_cheapest() -> None:
    assert [kind for kind, _, _ in references()] == [
        "cached log-probs", "cached likeliest tokens", "cached states", "frozen copy", "adapter off"]
    assert build_reference(memoriser(), choose_reference({"retain", "questions"}, adapter=False), ()) is None


@pytest.mark.parametrize("number", range(5))
def test_reference_outputs_are_the_originals_without_gradient(number: int) -> None:
    kind, reference, subject = references()[number]
    subject.model.requires_grad_(True)
    batch = batch_of(memoriser(), small_task().forget[:3])
    with torch.no_grad():
        expected = memoriser().answers(batch)
        hidden = memoriser().hidden(batch, 1)
    found = reference.logp(batch)
    torch.testing.assert_close(found, expected.logp_N, atol=1e-5, rtol=1e-5)
    assert not found.requires_grad
    if "log-probs" not in kind:
        _same_likeliest(reference.likeliest(batch, 5), Likeliest.of(expected.source, 5))
    if "log-probs" not in kind and "likeliest" not in kind:
        answers = reference.answers(batch)
        torch.testing.assert_close(answers.logits_NV, expected.logits_NV, atol=1e-5, rtol=1e-5)
        assert not answers.logits_NV.requires_grad
    else:
        with pytest.raises(ExpungeError, match="no full distributions"):
            reference.answers(batch)
    if "cached" in kind:
        with pytest.raises(ExpungeError, match="no hidden states"):
            reference.hidden(batch, 1)
    else:
        held = reference.hidden(batch, 1)
        torch.testing.assert_close(held, hidden, atol=1e-5, rtol=1e-5)
        assert not held.requires_grad


def _same_likeliest(found: Likeliest, expected: Likeliest) -> None:
    """Where two tokens are as likely, either may be named."""
    assert found.ids_NK.shape == expected.ids_NK.shape and not found.logp_NK.requires_grad
    torch.testing.assert_close(found.logp_NK, expected.logp_NK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.rest_N.exp(), expected.rest_N.exp(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("number", range(5))
def test_a_moved_reference_is_noticed(number: int) -> None:
    _, reference, _ = references()[number]
    assert verify(reference) == {"kind": reference.kind, "checksum": reference.checksum, **reference.notes}
    with torch.no_grad():
        if isinstance(reference, CachedLogProbs):
            next(iter(reference._logp.values()))[0] += 1e-3
        elif isinstance(reference, CachedLikeliest):
            next(iter(reference._kept.values()))[0] += 1e-3
        elif isinstance(reference, CachedStates):
            reference._head["weight"][0] += 1e-3
        else:
            assert isinstance(reference, LiveReference)
            frozen = [p for p in reference._subject.model.parameters() if not p.requires_grad]
            frozen[-1].view(-1)[0] += 1e-3
    with pytest.raises(ExpungeError, match="changed during the run"):
        verify(reference)


def test_only_rows_that_ask_are_kept_wide_and_counted() -> None:
    """One number a token is enough for npo; how much the likeliest leave out is told of retain rows alone."""
    rows = small_task()
    forget, retain = ([memoriser().encoder.encode(r) for r in some[:5]] for some in (rows.forget, rows.retain))
    kept = CachedLikeliest(moved(), [*forget, *retain], 4, retain)
    batch = collate(retain, memoriser().encoder.pad_id)
    with torch.no_grad():
        rest_N = Likeliest.of(moved().answers(batch).source, 4).rest_N.exp()
    assert kept.notes == {"others": f"{rest_N.mean():.2g} of 1 on average, {rest_N.max():.2g} at most"}
    assert kept.likeliest(batch, 4).ids_NK.shape == (batch.count("tokens"), 4)
    both = collate([*retain, *forget], memoriser().encoder.pad_id)
    torch.testing.assert_close(kept.logp(both), CachedLogProbs(moved(), both.rows).logp(both), atol=1e-5, rtol=1e-5)
    with pytest.raises(KeyError):
        kept.likeliest(both, 4)
    with pytest.raises(ExpungeError, match="4 likeliest tokens were kept, and 5"):
        kept.likeliest(batch, 5)
    stage = stage_of("dpo + retain_kl_top(k=7)")
    assert stage.likeliest == (7, {"retain"}) and stage.kept_sides == {"forget", "refusal", "retain"}


def test_cached_references_do_not_depend_on_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [memoriser().encoder.encode(r) for r in small_task().forget]
    batch = batch_of(memoriser(), small_task().forget)
    for kind in (CachedLogProbs, partial(CachedLikeliest, count=3, wide=rows[:2]), CachedStates):
        many = kind(memoriser(), rows).logp(batch)
        with monkeypatch.context() as patch:
            patch.setattr(tokens, "POSITIONS", 1)
            torch.testing.assert_close(kind(memoriser(), rows).logp(batch), many, atol=1e-5, rtol=1e-5)


def test_element_masks_hold_under_weight_decay(tmp_path: Path) -> None:
    """(after - before)[~mask] == 0, and everything inside the masks moves."""
    subject = fresh()
    generator = torch.Generator().manual_seed(0)
    before = weights(subject)
    names = tuple(n for n in before if "mlp" in n or "q_proj" in n)
    masks = {n: torch.rand(before[n].shape, generator=generator) < 0.3 for n in names if "mlp" in n}
    stage = stage_of("npo + retain_nll + adamw(lr=1e-3, weight_decay=0.9, warmup=0)")
    object.__setattr__(stage.scope, "apply", lambda s, rows=None: Scope(s, names, masks))
    run = train(stage, subject=subject, steps=5)
    after = weights(subject)
    for name, value in before.items():
        change = after[name] - value
        if name in masks:
            assert bool((change[~masks[name]] == 0).all()), name
            assert bool((change[masks[name]] != 0).float().mean() > 0.9), name
        else:
            assert bool((change != 0).any()) == (name in names), name
    free = sum(int(m.sum()) for m in masks.values()) + sum(before[n].numel() for n in names if n not in masks)
    assert run.scope.counts() == {"total": sum(v.numel() for v in before.values()), "trainable": free}
