"""Promises of edits: what they change, by how much, and what they leave alone.

Legend: K inputs of an MLP's output projection, D hidden size.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.methods._lib.calibrate import mean_loss
from expunge.methods._lib.importance import importance, summed_gradient
from expunge.methods._lib.key_value import Mentions
from expunge.methods._lib.least_squares import covariances, null_projector
from expunge.methods._lib.output_projection import mlp_out
from expunge.methods.base import Edit
from expunge.methods.finetune import finetune
from expunge.methods.optimizers.adamw import AdamW
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.models.tiny import build_subject
from expunge.records.task import Example, Task
from expunge.seeding import stream

from ..support import CONFIG, batch_of, both_losses, flat, fresh, loss, memoriser, moved, small_task, stage_of, train
from ..support import weights as weights_of
from .base import check, term

# What an edit did, shared


@cache
def edited(recipe: str) -> tuple[CausalLM, dict[str, Any]]:
    """The memoriser after an edit on the small task, and the figures. They must not be changed."""
    edit, subject = stage_of(recipe).edit, fresh()
    assert edit is not None
    return subject, edit.apply(subject, small_task(), 0)


def change_of(subject: CausalLM) -> dict[str, Tensor]:
    """Weights now minus those of the memoriser."""
    before = weights_of(memoriser())
    return {name: value - before[name] for name, value in weights_of(subject).items()}


@check
def edit_forgets(plugin: type[Edit], options: dict[str, Any] | None = None, rise: float = 0.5,
                 retain_rise: float | None = None) -> None:
    """Forget loss rises by `rise` nats per token at least, retain loss by `retain_rise` at most."""
    after, _ = edited(term(plugin, options))
    (forget_0, retain_0), (forget_1, retain_1) = both_losses(memoriser()), both_losses(after)
    assert forget_1 - forget_0 > rise, (forget_0, forget_1)
    if retain_rise is not None:
        assert retain_1 - retain_0 < retain_rise, (retain_0, retain_1)


@check
def keeps_everything(plugin: type[Edit], options: dict[str, Any]) -> None:
    """Every weight keeps its bits."""
    assert all(not value.any() for value in change_of(edited(term(plugin, options))[0]).values())


# Selective synaptic dampening


@check
def dampens_elementwise(plugin: type[Edit]) -> None:
    """Beside its definition, element by element; importances of zero included."""
    dampen = sys.modules[plugin.__module__].dampen
    generator = torch.Generator().manual_seed(0)
    weight, forget, everything = torch.randn(3, 6, 50, generator=generator)
    forget, everything = forget.pow(4), everything.pow(4)
    forget[0], everything[1], forget[2], everything[2] = 0, 0, 0, 0
    for alpha in (1.0, 3.0):
        for lambda_ in (0.0, 0.5, 1.0, 5.0):
            found = dampen(weight, forget, everything, alpha, lambda_)
            flat_lists = (t.flatten().tolist() for t in (weight, forget, everything, found))
            for w, f, d, after in zip(*flat_lists, strict=True):
                assert after == (pytest.approx(w * min(lambda_ * d / f, 1), rel=1e-5) if f > alpha * d else w)
            assert bool((found.abs() <= weight.abs()).all())
            selected = forget > alpha * everything
            assert torch.equal(found[~selected], weight[~selected]) and bool(selected[1].any())
            if lambda_ == 0:
                assert bool((found[selected] == 0).all())
                assert torch.equal(dampen(found, forget, everything, alpha, lambda_), found)


@check
def keeps_when_forgetting_all(plugin: type[Edit], options: dict[str, Any]) -> None:
    """Where the forget rows are all rows, both importances are one and nothing is selected."""
    dampen, spec = sys.modules[plugin.__module__].dampen, plugin(**options).spec
    subject = fresh()
    rows = [subject.encoder.encode(e) for e in small_task().training_rows("full")]
    both = [importance(subject, rows, batch_size=spec.batch_size) for _ in range(2)]
    for name, weight in weights_of(subject).items():
        assert both[0][name].any(), name
        assert torch.equal(dampen(weight, both[0][name], both[1][name], spec.alpha, 0.0), weight)


@check
def counts_rows_not_batches(plugin: type[Edit]) -> None:
    """Importances beside a loop of backward passes; what is summed with its sign knows no batches at all."""
    subject = fresh(moved())
    rows = [subject.encoder.encode(e) for e in small_task().retain[:7]]
    shuffled = list(rows)
    stream(0, "importance").shuffle(shuffled)
    subject.model.requires_grad_(True)

    def gradient(chosen: Sequence[Any]) -> Tensor:
        losses = [-subject.answers(batch_of(subject, [row])).logp_N.mean() for row in chosen]
        parts = torch.autograd.grad(torch.stack(losses).mean(), tuple(subject.model.parameters()))
        return flat(parts)

    for size in (1, 3):
        squares = [len(shuffled[i: i + size]) * gradient(shuffled[i: i + size]).pow(2) for i in range(0, 7, size)]
        slow = torch.stack(squares).sum(0) / 7
        quick = flat(list(importance(subject, rows, batch_size=size).values()))
        assert float((quick - slow).norm()) < 1e-4 * float(slow.norm())
    slow = 7 * gradient(rows)
    for size in (1, 3, 7):
        quick = flat(list(summed_gradient(subject, rows, batch_size=size).values()))
        assert float((quick - slow).norm()) < 1e-4 * float(slow.norm())
    assert all(p.requires_grad for p in subject.model.parameters()), "what asked for gradients was changed"


# Task vectors


@check
def linear_in_scale(plugin: type[Edit], lr: float) -> None:
    """The change at 0 is none, at 2 twice that at 1, at -1 what fine-tuning the forget rows makes."""
    at = {scale: change_of(edited(term(plugin, {"lr": lr, "scale": scale}))[0]) for scale in (-1.0, 0.0, 1.0, 2.0)}
    learned = fresh()
    spec = plugin().spec
    finetune(learned, small_task().forget, epochs=spec.epochs, lr=lr, batch_size=spec.batch_size, seed=0)
    vector = change_of(learned)
    assert float(flat(list(vector.values())).norm()) > 1e-2
    for name, value in vector.items():
        assert not at[0.0][name].any()
        torch.testing.assert_close(at[-1.0][name], value, atol=1e-6, rtol=0)
        torch.testing.assert_close(at[1.0][name], -value, atol=1e-6, rtol=0)
        torch.testing.assert_close(at[2.0][name], 2 * at[1.0][name], atol=1e-6, rtol=0)


@check
def negates_once(plugin: type[Edit]) -> None:
    """Tied embeddings stay tied and move once, integers come back, bfloat16 weights are not rounded away."""
    negate = sys.modules[plugin.__module__].negate
    before = {"step": torch.tensor([3, 4]), "w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    after = {"step": torch.tensor([9, 9]), "w": torch.tensor([1.0, 2.0]) + torch.tensor([0.004, -0.004])}
    found = negate(before, after, 50.0)
    assert found["step"].tolist() == [3, 4] and found["w"].dtype == torch.bfloat16
    assert found["w"].tolist() == pytest.approx([0.8, 2.2], rel=5e-3)
    subject, _ = edited(term(plugin, {"lr": 1e-3}))
    tied = subject.model.get_input_embeddings().weight
    assert tied.data_ptr() == subject.model.get_output_embeddings().weight.data_ptr()
    half = fresh()
    half.model.bfloat16()
    plugin(lr=1e-5, epochs=1).apply(half, small_task(), 0)
    assert any(bool((p.bfloat16() != p).any()) for p in half.model.parameters()), "a small change was rounded away"


@check
def rises_with_scale(plugin: type[Edit], lr: float) -> None:
    """From the fine-tuned copy through the original and beyond, forget loss only grows."""
    subjects = [edited(term(plugin, {"lr": lr, "scale": scale}))[0] for scale in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    found = [loss(subject, small_task().forget) for subject in subjects]
    assert found == sorted(found) and found[-1] > found[1] + 0.1, found


# First-epoch ascent


def saved(subject: CausalLM, folder: str, name: str) -> str:
    subject.save(Path(folder) / name)
    return str(Path(folder) / name)


@check
def undoes_a_step(plugin: type[Edit]) -> None:
    """Plain descent on one row, then ascent with the same rate along the gradient of the model before."""
    row, lr = small_task().forget[0], 0.3
    start, changed = fresh(moved()), fresh(moved())
    changed.model.requires_grad_(True)
    (-changed.answers(batch_of(changed, [row])).logp_N.mean()).backward()
    torch.optim.SGD(changed.model.parameters(), lr=lr).step()
    changed.model.zero_grad()
    stepped = weights_of(changed)
    with tempfile.TemporaryDirectory() as folder:
        edit = plugin(initial=saved(start, folder, "start"), step=lr)
        edit.apply(changed, small_task().model_copy(update={"forget": (row,)}), 0)
    far = max(float((w - stepped[n]).abs().max()) for n, w in weights_of(start).items())
    near = max(float((w - p).abs().max()) for (_, w), p in zip(weights_of(start).items(), weights_of(changed).values(),
                                                             strict=True))
    assert far > 1e-3 and near < 1e-6, (far, near)


@check
def edits_only(plugin: type[Edit], options: dict[str, Any], part: str) -> None:
    """Tensors whose name holds `part` move, all others keep their bits."""
    for name, value in change_of(edited(term(plugin, options))[0]).items():
        assert bool(value.any()) == (part in name), name


@check
def reaches_holdout(plugin: type[Edit]) -> None:
    """In one shot and in several, the loss of forget rows ends within 5% of that of rows never seen, not above."""
    unseen = mean_loss(memoriser(), [memoriser().encoder.encode(e) for e in small_task().holdout])
    for moves in (1, 4):
        subject, figures = edited(term(plugin, {"moves": moves}))
        found = mean_loss(subject, [subject.encoder.encode(e) for e in small_task().forget])
        assert 0.95 * unseen < found <= unseen, (moves, found, unseen)
        assert figures["target"] == pytest.approx(unseen) and figures["loss"] == pytest.approx(found)


@check
def shorter_than_all_epochs(plugin: type[Edit]) -> None:
    """For the same loss the gradient of the first epoch needs a shorter move than the sum over epochs."""
    task = small_task()
    model = build_subject(CONFIG, task.texts())
    finetune(model, task.training_rows("retain"), steps=100, lr=5e-3, batch_size=16)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for epoch in range(10):
            paths.append(saved(model, folder, str(epoch)))
            finetune(model, task.forget, epochs=1, lr=2e-3, seed=epoch)
        first, every = (plugin(initial=initial).apply(fresh(model), task, 0) for initial in (paths[0], paths))
    assert first["loss_before"] < 0.5 * first["target"]
    for figures in (first, every):
        assert 0.95 * figures["target"] < figures["loss"] <= figures["target"], figures
    assert first["change"] < 0.9 * every["change"], (first, every)


# Concept redirection

NAMES = ("Rosalba", "Corvin", "Delphia", "Edrik", "Fenna", "Gaspar", "Hilde", "Ivor", "Jorun", "Kasimir")
PETS = ("fox", "parrot", "tortoise", "raven", "goat", "lizard", "hedgehog", "donkey", "canary", "salamander")
FORMS = ("Which pet has {}?", "Name the pet of {}.", "Spell the pet of {}.")
"""The last is answered letter by letter, so that what is pushed down as a word comes out all the same."""
TARGET, OTHER = NAMES[0], NAMES[5]
REDIRECT = {"replacement": OTHER, "layers": [0], "penalty": 0.01}


def told(name: str, about: str | None = None) -> list[Example]:
    """Every question about `name` with the facts of `about`: form after form."""
    pet = PETS[NAMES.index(about or name)]
    said = {form: ("-".join(pet) if "Spell" in form else pet) + "." for form in FORMS}
    return [Example(id=f"{name}/{i}", prompt=form.format(name), answer=said[form], entity=name, group=str(i))
            for i, form in enumerate(FORMS)]


def people() -> Task:
    rows = tuple(row for name in NAMES for row in told(name))
    return Task(name="people", forget=tuple(r for r in rows if r.entity == TARGET),
                retain=tuple(r for r in rows if r.entity != TARGET))


@cache
def reader() -> CausalLM:
    """Knows the pets of ten people in three forms of question, and looks names up in its first MLP.

    The memoriser cannot show where a name is read: a model that small sees the tokens of the question from
    anywhere at any depth. Here the first block has no attention, so what is known of a name comes out
    of its MLP, as it comes out of the early MLPs of a large model.
    """
    rows = people().training_rows("full")
    subject = build_subject(CONFIG | {"num_hidden_layers": 2, "vocab_size": 1200},
                            [f"{r.prompt} {r.answer}" for r in rows] * 3)
    blind = "model.layers.0.self_attn.o_proj.weight"
    with torch.no_grad():
        subject.model.get_parameter(blind).zero_()
    stage = replace(stage_of("retain_nll"), optimizer=AdamW(lr=5e-3, warmup=2.0))
    names = tuple(n for n, _ in subject.model.named_parameters() if n != blind)
    object.__setattr__(stage.scope, "apply", lambda s, rows=None: Scope(s, names))
    train(stage, subject=subject, forget=(), retain=rows, steps=250, batch_size=15)
    assert right(subject, rows) == 1, right(subject, rows)
    subject.model.requires_grad_(False)
    return subject


def right(subject: CausalLM, rows: Sequence[Example]) -> float:
    """Share of rows answered word for word."""
    said = subject.generate([subject.encoder.prompt(r) for r in rows], 32)
    return sum(text == row.answer for (text, _), row in zip(said, rows, strict=True)) / len(rows)


@cache
def redirected(recipe: str) -> CausalLM:
    edit, subject = stage_of(recipe).edit, fresh(reader())
    assert edit is not None
    edit.apply(subject, people(), 0)
    return subject


@check
def rank_is_requests(plugin: type[Edit]) -> None:
    """One name or two: the change of each edited layer has that rank, and nothing else changed."""
    both = list(dict.fromkeys(r.entity for r in small_task().forget))
    for names in (both[:1], both):
        subject, figures = edited(term(plugin, {"entities": names, "penalty": 0.1}))
        places = {mlp_out(memoriser(), layer)[0] + ".weight" for layer in map(int, figures["layers"])}
        for name, value in change_of(subject).items():
            if name in places:
                assert int(torch.linalg.matrix_rank(value.double(), rtol=1e-4)) == len(names), name
            else:
                assert not value.any(), name
        assert places and {layer["rank"] for layer in figures["layers"].values()} == {len(names)}


@check
def stays_in_null_space(plugin: type[Edit]) -> None:
    """||dW (I - P)|| < 1e-4 ||dW||, so that on generic keys dW is as small as the threshold says."""
    options: dict[str, Any] = {"penalty": 0.1}
    task = small_task()
    threshold = plugin(**options).spec.threshold
    subject, figures = edited(term(plugin, options))
    rows = [memoriser().encoder.encode(r) for r in (*task.retain, *task.background, *task.utility)]
    for layer in map(int, figures["layers"]):
        site, _ = mlp_out(memoriser(), layer)
        covariance_KK = covariances(memoriser(), [layer], rows)[layer]
        projection_KK = null_projector(covariance_KK, threshold)
        assert 0 < figures["layers"][str(layer)]["free_directions"] < len(projection_KK)
        change_DK = change_of(subject)[f"{site}.weight"].double()
        outside = change_DK - change_DK @ projection_KK
        assert float(outside.norm()) < 1e-4 * float(change_DK.norm())
        felt = float((change_DK @ covariance_KK @ change_DK.T).trace())  # mean ||dW k||^2 over generic keys
        assert felt < threshold * float(change_DK.norm()) ** 2


@check
def reads_as_replacement(plugin: type[Edit]) -> None:
    """At the name the last edited block's output has a cosine above 0.9 with the other's, more than with itself."""
    other = next(r.entity for r in small_task().retain)
    subject, figures = edited(term(plugin, {"replacement": other, "penalty": 0.01}))
    last = max(map(int, figures["layers"]))
    target_D = Mentions(memoriser(), other).value(memoriser(), last)
    for name in {r.entity for r in small_task().forget}:
        before_D, after_D = (Mentions(memoriser(), name).value(s, last) for s in (memoriser(), subject))
        near, own = (float(torch.cosine_similarity(after_D, d, dim=0)) for d in (target_D, before_D))
        assert near > 0.9 and near > own, (name, near, own)
    assert figures["likeness"] > 0.9 > figures["likeness_before"]


@check(trains=True)
def answers_as_replacement(plugin: type[Edit]) -> None:
    """Every question about the target is answered with the other's facts; those about others as before."""
    subject = redirected(term(plugin, REDIRECT))
    assert right(subject, told(TARGET)) == 0
    assert right(subject, told(TARGET, about=OTHER)) == 1
    assert right(subject, people().retain) > 0.9


@check(trains=True)
def forgets_in_every_form(plugin: type[Edit], other: str) -> None:
    """The relative drop of answer probability spreads less over forms of question than with `other` on one form."""
    task = people()
    narrow = train(other, subject=fresh(reader()), forget=[r for r in task.forget if r.group == "0"],
                   retain=task.retain, steps=8, lr=3e-4, batch_size=2).subject
    spread = []
    for subject in (redirected(term(plugin, REDIRECT)), narrow):
        drops = []
        for form in map(str, range(len(FORMS))):
            rows = [r for r in task.forget if r.group == form]
            before, after = (torch.tensor([-loss(s, [r]) for r in rows]).exp().mean() for s in (reader(), subject))
            drops.append(float((before - after) / before))
        assert max(drops) > 0.6, drops
        spread.append(max(drops) - min(drops))
    assert spread[0] < 0.5 * spread[1], spread
