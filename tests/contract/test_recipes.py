"""What must hold for any recipe, one small recipe per plug-in.

Legend: B rows of one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge import registry
from expunge.data import text_encoder as tokens
from expunge.data.text_encoder import TokenBatch, collate
from expunge.errors import ExpungeError
from expunge.methods.base import TermPlugin
from expunge.methods.recipe import Stage
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
from expunge.plugin import METHODS
from expunge.records.task import Example
from expunge.registry import Entry
from expunge.testing.support import (
    batch_of,
    batches_of,
    distance,
    draws_of,
    flat,
    fresh,
    gradient,
    hooks,
    memoriser,
    moved,
    reference_for,
    same_random_state,
    small_task,
    stage_of,
    step_for,
    token_rows,
    train,
    weights,
)
from expunge.training.gradients import Movement
from expunge.training.step import Step

REQUIRED = {"layers": "layers(index=1)"}
"""Plug-ins that cannot be named without an option."""


def recipe_of(entry: Entry) -> str:
    """The plug-in in the smallest recipe it can be part of."""
    text = REQUIRED.get(entry.name, entry.name)
    if entry.kind in ("objective", "edit", "preset"):
        return text
    return f"npo + {text}" if entry.kind == "retain" else f"npo + retain_nll + {text}"


ENTRIES = [e for e in registry.of_kind(*METHODS) if e.kind not in ("edit", "guard", "exact")]
every_recipe = pytest.mark.parametrize("recipe", list(dict.fromkeys(map(recipe_of, ENTRIES))))
every_term = pytest.mark.parametrize(
    "recipe", [recipe_of(e) for e in ENTRIES if e.kind in ("objective", "retain", "preset")])


def sums(stage: Stage, draws: Sequence[dict[str, Example]]) -> dict[str, Tensor]:
    """Per-sample sums of every term, for a model that has moved away from its reference."""
    parts: list[TermPlugin] = [p for p in (stage.objective, *stage.retain) if p is not None]
    with torch.no_grad():
        step = step_for(stage, moved(), batches_of(moved(), draws), memoriser())
        return {name: t.sum_B for part in parts for name, t in part.terms(step).items()}


@every_term
def test_neighbours_in_a_batch_change_nothing(recipe: str) -> None:
    """A row's sum is the same alone, behind longer rows and in another order."""
    stage = stage_of(recipe)
    draws = draws_of(stage, moved(), 5)
    long = draws[0] | {side: e.model_copy(update={"id": f"long {side}", "answer": e.answer * 4})
                       for side, e in draws[0].items()}
    if stage.objective is not None and stage.objective.builds:  # it may know the rows of its task only
        long = max(draws_of(stage, moved(), 12), key=lambda d: max(len(e.answer) for e in d.values()))
    crowd = [long, *reversed(draws)]
    together = sums(stage, crowd)
    for i, draw in enumerate(draws):
        for name, alone_B in sums(stage, [draw]).items():
            there = together[name][len(crowd) - 1 - i]
            assert there.item() == pytest.approx(alone_B.item(), abs=1e-5, rel=1e-5), name


@every_term
def test_terms_are_sums_per_row(recipe: str) -> None:
    """One finite value per row of the side a term names."""
    draws = draws_of(recipe, moved(), 3)
    for value_B in sums(stage_of(recipe), draws).values():
        assert value_B.shape == (3,) and bool(value_B.isfinite().all())


@every_term
def test_accumulation_changes_no_gradient(recipe: str) -> None:
    """One micro-batch of eight rows, or eight of one: the same gradient."""
    draws = draws_of(recipe, moved(), 8)
    whole = gradient(recipe, moved(), original=memoriser(), batches=[batches_of(moved(), draws)])
    parts = gradient(recipe, moved(), original=memoriser(), batches=[batches_of(moved(), [d]) for d in draws])
    assert distance(whole.total(), parts.total()) < 1e-5
    assert float((flat(whole.total()) - flat(parts.total())).abs().max()) < 1e-6 * max(flat(whole.total()).norm(), 1)
    assert parts.values == pytest.approx(whole.values, rel=1e-5)
    assert parts.nll == pytest.approx(whole.nll, rel=1e-5)


@pytest.mark.parametrize("recipe", ["npo + retain_kl", "ga", "rmu", "idk"])
def test_accumulation_changes_no_weight(recipe: str) -> None:
    """After three steps too, with means over sequences, tokens, positions and two sides."""
    # eps above the noise of a float32 sum: Adam would turn a sign lost in it into a whole step.
    recipe += " + adamw(lr=1e-3, eps=1e-3, warmup=0)"
    ends = [weights(train(recipe, steps=3, batch_size=size, accumulate=8 // size).subject) for size in (8, 1)]
    for name, value in ends[0].items():
        assert float((value - ends[1][name]).abs().max()) < 1e-6, name


@every_recipe
def test_reference_never_moves(recipe: str) -> None:
    """Its checksum after the run is that of a reference taken before it."""
    stage = stage_of(recipe)
    run = train(stage, steps=2)  # ends with `verify`
    wanted = {n for n in stage.needs if n.startswith("reference.")}
    assert bool(run.reference) == bool(wanted)
    if run.reference:
        kind = "cached log-probs" if wanted == {"reference.logp"} \
            else "cached likeliest tokens" if wanted <= {"reference.logp", "reference.likeliest"} \
            else "adapter off" if stage.scope.adapter \
            else "frozen copy" if "reference.hidden" in wanted else "cached states"
        assert run.reference["kind"] == kind
    if run.reference.get("kind") == "frozen copy":
        copied = LiveReference(fresh(), adapter=False)
        assert run.reference["checksum"] == copied.checksum


@every_term
def test_needs_are_what_is_asked(recipe: str) -> None:
    """A term asks its reference for what its card names, and reads the answers it says it reads."""
    stage = stage_of(recipe)
    batches = batches_of(moved(), draws_of(stage, moved(), 2))
    held = reference_for(stage, memoriser(), batches)
    for part in (p for p in (stage.objective, *stage.retain) if p is not None):
        asked: set[str] = set()

        class Watched:
            logp = lambda self, batch: asked.add("reference.logp") or held.logp(batch)  # noqa: B023, E731
            answers = lambda self, batch: asked.add("reference.logits") or held.answers(batch)  # noqa: B023, E731
            likeliest = lambda self, *a: asked.add("reference.likeliest") or held.likeliest(*a)  # noqa: B023, E731
            hidden = lambda self, *a: asked.add("reference.hidden") or held.hidden(*a)  # noqa: B023, E731

        step = Step(moved(), batches, Watched())  # type: ignore[arg-type]
        with torch.no_grad():
            part.terms(step)
        assert asked == {n for n in part.card.needs if n.startswith("reference.")}
        assert set(step._answers) == set(part.reads)


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
        _same_likeliest(reference.likeliest(batch, 5), Likeliest.of(expected.found, 5))
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
        rest_N = Likeliest.of(moved().answers(batch).found, 4).rest_N.exp()
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


@every_recipe
def test_a_run_leaves_no_trace(recipe: str) -> None:
    """No hooks, evaluation mode, parameters outside the scope as they were."""
    subject = train(recipe, steps=2).subject
    assert hooks(subject) == []
    assert not subject.model.training
    assert all(p.grad is None for p in subject.model.parameters())


class Boom(Exception):
    """What the tests throw."""


@every_recipe
@pytest.mark.parametrize("where", ["forward", "terms"])
def test_an_exception_leaves_no_trace(recipe: str, where: str) -> None:
    """Through a term or from the middle of a forward: hooks gone, evaluation mode, weights as they were."""
    subject, before = fresh(), {}

    def boom(*args: Any, **options: Any) -> Any:
        raise Boom

    def prepare(scope: Scope, method: Any) -> None:
        before.update(weights(subject))
        if where == "terms":
            real = method.terms
            method.terms = lambda step, only=None: (real(step), boom())
        else:
            next(iter(subject.blocks.values())).mlp.forward = boom  # type: ignore[method-assign]

    with pytest.raises(Boom):
        train(recipe, subject=subject, steps=2, prepare=prepare)
    assert hooks(subject) == []
    assert not subject.model.training
    assert all(torch.equal(p, before[n]) for n, p in weights(subject).items())


@every_recipe
def test_same_seed_same_weights(recipe: str) -> None:
    """Whatever the global random state was before; another seed gives other weights."""
    ends = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        ends.append(weights(train(recipe, steps=2, seed=seed).subject))
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
    assert any(not torch.equal(ends[0][n], ends[2][n]) for n in ends[0])


@every_recipe
def test_choosing_rows_and_parameters_draws_from_no_global_state(recipe: str) -> None:
    stage, subject = stage_of(recipe), fresh()
    changed, original = moved(), memoriser()  # trained on first use, which seeds everything
    with same_random_state():
        draws_of(stage, subject)
        scope = stage.scope.apply(subject, token_rows(subject))
        Movement(scope, seed=0)
        batches: dict[str, TokenBatch] = batches_of(subject, draws_of(stage, subject, 2))
        step = step_for(stage, changed, batches, original)
        with torch.no_grad():
            for part in (p for p in (stage.objective, *stage.retain) if p is not None):
                part.terms(step)


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
