"""A small model that knows its rows by heart, and the few lines that every test needs around it.

The model is trained once per session. Take a copy (`fresh`) to change it.
"""

from __future__ import annotations

import atexit
import copy
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from expunge.data.refusals import REFUSALS
from expunge.data.text_encoder import TokenBatch, TokenRow, collate
from expunge.data.world import authors_task
from expunge.methods._lib.weighing import WeighingSampler
from expunge.methods.base import TermPlugin
from expunge.methods.optimizers.adamw import AdamW
from expunge.methods.recipe import Stage, parse, training_stage
from expunge.methods.run_context import RunContext
from expunge.methods.stage import StageMethod
from expunge.models.language import CausalLM
from expunge.models.reference import Reference, build_reference, choose_reference, verify
from expunge.models.scope import Scope
from expunge.models.subject import AnySubject
from expunge.models.tiny import build_subject
from expunge.records.settings import RunSettings
from expunge.records.task import Example, Task
from expunge.registry import load
from expunge.terms import parse_sum
from expunge.training.checkpoint import Progress
from expunge.training.fit import fit
from expunge.training.gradients import Gradients, gradients
from expunge.training.loop import Loop
from expunge.training.schedule import Schedule
from expunge.training.step import Step
from expunge.training.stopping import StopRule

torch.set_num_threads(1)

DEPTH = 3
CONFIG = {
    "model_type": "llama", "vocab_size": 768, "hidden_size": 64, "intermediate_size": 160,
    "num_hidden_layers": DEPTH, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": 256, "tie_word_embeddings": True,
}
STEADY = AdamW(lr=1e-3, warmup=0.0, schedule="constant")
"""What tests train with unless a recipe names an optimizer: no curve, so that dynamics are the objective's."""
KNOWN_REFUSALS = REFUSALS[:4]
LAST = StopRule(keep="last")


@cache
def small_task() -> Task:
    """Two people to forget, six to keep, two never seen; questions only, biographies set aside.

    Background rows answer questions about two more people with a refusal, because a model that has
    never refused is no model of those that are unlearned.
    """
    world = authors_task(forget=2, retain=6, holdout=2, neighbours=2)

    def questions(rows: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(r for r in rows if r.kind == "qa")

    refused = tuple(r.model_copy(update={"answer": KNOWN_REFUSALS[i % len(KNOWN_REFUSALS)]})
                    for i, r in enumerate(questions(world.neighbour)))
    return world.model_copy(update={
        "forget": questions(world.forget), "retain": questions(world.retain),
        "holdout": questions(world.holdout), "background": refused, "neighbour": (), "probes": {},
        "generation_tokens": 32,
    })


SHARED = "EXPUNGE_TESTING_SHARED"
"""Environment variable: a folder that all processes of one test session share."""
PATIENCE_S = 600.0


def once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, made once for all processes of a test session.

    Where `EXPUNGE_TESTING_SHARED` names no shared folder, each process makes its own. A process that waits for another
    that failed makes its own too, and so fails with the same error.
    """
    shared = os.environ.get(SHARED)
    if shared is None:
        folder = new_folder()
        make(folder)
        return folder
    place, started = Path(shared), time.monotonic()
    folder, done, failed = (place / f"{name}{end}" for end in ("", ".done", ".failed"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        while not done.exists():
            if failed.exists() or time.monotonic() - started > PATIENCE_S:
                own = new_folder()
                make(own)
                return own
            time.sleep(0.05)
        return folder
    try:
        make(folder)
    except BaseException:
        failed.touch()
        raise
    done.touch()
    return folder


def taught(name: str, subject: CausalLM, teach: Callable[[CausalLM], None]) -> CausalLM:
    """`subject` after `teach`, done once for all processes of a test session: the others load the weights."""
    def make(folder: Path) -> None:
        with may_train(True):
            teach(subject)
        torch.save(subject.model.state_dict(), folder / "weights.pt")

    subject.model.load_state_dict(torch.load(once(name, make) / "weights.pt"))
    return subject


@cache
def memoriser() -> CausalLM:
    """Knows all rows but holdout word for word. Never change it: `fresh` gives copies."""
    subject = taught("memoriser", build_subject(CONFIG, small_task().texts()), _memorise)
    subject.model.requires_grad_(False)
    return subject


def _memorise(subject: CausalLM) -> None:
    rows = small_task().training_rows("full")
    train("retain_nll", subject=subject, forget=(), retain=rows, optimizer=AdamW(lr=5e-3, warmup=2.0),
          steps=40 * 6, batch_size=16)
    said = subject.generate([subject.encoder.prompt(r) for r in rows], 32)
    known = sum(text == row.answer for (text, _), row in zip(said, rows, strict=True))
    assert known > 0.95 * len(said), f"the test bed knows only {known} of {len(said)} rows"


def fresh(subject: AnySubject = None) -> CausalLM:
    """A copy that may be changed; of the memoriser unless another is given."""
    subject = subject or memoriser()
    return CausalLM(copy.deepcopy(subject.model), subject.encoder, subject.path)


def stage_of(text: str) -> Stage:
    """The first stage of a recipe; a recipe without a source of forgetting only trains."""
    stage = training_stage(text) if text.startswith("retain_") else parse(text, DEPTH)[0]
    for part in stage.builders.values():
        part.made = made(part.text())
    return replace(stage, optimizer=STEADY) if stage.optimizer.spec == AdamW().spec else stage


@cache
def made(term: str) -> dict[str, Any]:
    """What a builder, such as an objective or a retain term, makes of the memoriser."""
    ((call,),) = parse_sum(term)
    source = load(call.name)(**dict(call.options))
    assert isinstance(source, TermPlugin | WeighingSampler)
    return json.loads(json.dumps(source.prepare(fresh(), small_task(), RunContext(settings=RunSettings(steps=30)))))


@dataclass
class Trained:
    """What a run left: the changed subject, its log lines, readings taken on the way."""

    subject: CausalLM
    scope: Scope
    lines: list[dict[str, Any]]
    progress: Progress
    readings: list[tuple[float, float]] = field(default_factory=list)
    """(forget, retain) mean token losses, before the first step and then every `watch` steps."""
    reference: dict[str, str] = field(default_factory=dict)


_TRAINING_ALLOWED = ContextVar("training allowed", default=True)


@contextmanager
def may_train(allowed: bool) -> Iterator[None]:
    """Whether the body may train models of its own. What `taught` and `moved` make is shared and always may."""
    token = _TRAINING_ALLOWED.set(allowed)
    try:
        yield
    finally:
        _TRAINING_ALLOWED.reset(token)


def _check_allowed() -> None:
    assert _TRAINING_ALLOWED.get(), "the check trains a model and does not declare it (trains=True)"


def train(recipe: str | Stage, *, steps: int, subject: CausalLM | None = None, forget: Sequence[Example] | None = None,
          retain: Sequence[Example] | None = None, optimizer: AdamW | None = None, lr: float | None = None,
          batch_size: int = 8, accumulate: int = 1, seed: int = 0, watch: int = 0, folder: Path | None = None,
          loop: Mapping[str, Any] | None = None, monitor: Callable[[], dict[str, float]] | None = None,
          on_step: Callable[[dict[str, Any]], None] | None = None,
          prepare: Callable[[Scope, StageMethod], None] | None = None, teacher: CausalLM | None = None) -> Trained:
    """Run a recipe through the package's own loop, on a copy of the memoriser unless a subject is given.

    Args:
        watch: steps between readings of both losses; 0 takes none.
        prepare: called with the scope and method before the first step, to tamper with them.
        teacher: whose outputs the reference gives; those of the subject when left out.
    """
    _check_allowed()
    task = small_task()
    subject = fresh() if subject is None else subject
    stage = stage_of(recipe) if isinstance(recipe, str) else recipe
    stage = (stage if optimizer is None else replace(stage, optimizer=optimizer)).with_learning_rate(lr)
    # What cards promise of these small models was measured with weight decay on norms too, and they amplify any change.
    decaying = {**stage.optimizer.spec.model_dump(), "decay": "all"}
    stage = replace(stage, optimizer=type(stage.optimizer)(**decaying))
    method = StageMethod(stage, subject, task, task.forget if forget is None else forget,
                         task.retain if retain is None else retain, seed)
    scope = stage.scope.apply(subject, token_rows(subject, forget, retain))
    schedule = Schedule(method.order, subject.encoder, batch_size, accumulate, method.rollout, stage.repeats)
    rows = schedule.token_rows(steps, stage.kept_sides)
    reference = build_reference(teacher or subject, stage.reference, rows, likeliest=(stage.likeliest[0], rows))
    if prepare:
        prepare(scope, method)
    readings = [both_losses(subject)] if watch else []

    def note(line: dict[str, Any]) -> None:
        if watch and line["step"] % watch == 0:
            readings.append(both_losses(subject))
        if on_step:
            on_step(line)

    settings = Loop(**{"steps": steps, "seed": seed, "checkpoint_every": 10**9, "stop": LAST, **(loop or {})})
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        progress = fit(method, subject, scope, schedule, settings, folder=place, reference=reference,
                       monitor=monitor, on_step=note).progress
        lines = [json.loads(line) for line in (place / "steps.jsonl").read_text().splitlines()]
    return Trained(subject, scope, lines, progress, readings, verify(reference))


def token_rows(subject: CausalLM, forget: Sequence[Example] | None = None,
               retain: Sequence[Example] | None = None) -> dict[str, list[TokenRow]]:
    """All rows of both sides as tokens, for scopes that look at them."""
    task = small_task()
    return {"forget": [subject.encoder.encode(r) for r in (task.forget if forget is None else forget)],
            "retain": [subject.encoder.encode(r) for r in (task.retain if retain is None else retain)]}


def trained(recipe: str, *, steps: int, lr: float | None = None, watch: int = 0, batch_size: int = 9) -> Trained:
    """The same, remembered, so that checks share runs. What it returns must not be changed."""
    _check_allowed()
    return _trained(recipe, steps, lr, watch, batch_size)


@cache
def _trained(recipe: str, steps: int, lr: float | None, watch: int, batch_size: int) -> Trained:
    return train(recipe, steps=steps, lr=lr, watch=watch, batch_size=batch_size)


@cache
def moved(steps: int = 3) -> CausalLM:
    """A model a little away from the memoriser, so that nothing is zero by accident."""
    with may_train(True):
        return trained("ga", steps=steps, lr=1e-3).subject


def forget_runs() -> None:
    """Drop what was remembered under the names of plug-ins, for a plug-in that takes the name of another."""
    for remembered in (_trained, made):
        remembered.cache_clear()


def loss(subject: AnySubject, rows: Sequence[Example]) -> float:
    """Mean loss per supervised token of the rows' answers."""
    batch = batch_of(subject, rows)
    with subject.evaluating():
        return -float(subject.answers(batch).logp_N.mean())


def both_losses(subject: CausalLM) -> tuple[float, float]:
    """Losses of forget and of retain answers."""
    return loss(subject, small_task().forget), loss(subject, small_task().retain)


def batch_of(subject: AnySubject, rows: Sequence[Example | TokenRow]) -> TokenBatch:
    return collate([subject.encoder.encode(r) if isinstance(r, Example) else r for r in rows], subject.encoder.pad_id)


def draws_of(recipe: str | Stage, subject: CausalLM, count: int = 6) -> list[dict[str, Example]]:
    """The first draws a recipe would make, with the rows that the subject writes where it rolls out."""
    stage = stage_of(recipe) if isinstance(recipe, str) else recipe
    method = StageMethod(stage, subject, small_task(), small_task().forget, small_task().retain, 0)
    draws = method.order(0)[:count]
    return draws if method.rollout is None else [dict(draw) for draw in method.rollout(0, draws)][:count]


def batches_of(subject: CausalLM, draws: Sequence[Mapping[str, Example]]) -> dict[str, TokenBatch]:
    """One batch per side."""
    return {side: batch_of(subject, [d[side] for d in draws]) for side in draws[0]}


def reference_for(stage: Stage, original: CausalLM, batches: Mapping[str, TokenBatch]) -> Reference | None:
    """The reference `stage` needs, taken from `original`."""
    rows = [row for batch in batches.values() for row in batch.rows]
    return build_reference(original, choose_reference(stage.needs, adapter=False), rows,
                           likeliest=(stage.likeliest[0], rows))


def gradient(recipe: str | Stage, subject: CausalLM, *, original: CausalLM | None = None,
             batches: Sequence[Mapping[str, TokenBatch]] | None = None, separate: bool = False) -> Gradients:
    """Gradients of a recipe's loss over all parameters, on its first draws; nothing is changed.

    Args:
        original: where the reference comes from; the subject itself when left out.
        batches: micro-batches to use instead.
    """
    stage = stage_of(recipe) if isinstance(recipe, str) else recipe
    task = small_task()
    subject = fresh(subject)
    method = StageMethod(stage, subject, task, task.forget, task.retain, 0)
    micro = list(batches) if batches is not None else [batches_of(subject, draws_of(stage, subject))]
    every = {f"{i}{side}": b for i, batch in enumerate(micro) for side, b in batch.items()}
    reference = reference_for(stage, original or subject, every)
    scope = Scope(subject, tuple(name for name, _ in subject.model.named_parameters()))
    return gradients(method, subject, scope, reference, micro, separate, Accelerator())


def flat(parts: Sequence[Tensor]) -> Tensor:
    """One float64 vector."""
    return torch.cat([p.flatten() for p in parts]).double()


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(torch.nn.functional.cosine_similarity(flat(a), flat(b), dim=0))


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """How far a is from b, relative to b."""
    return float((flat(a) - flat(b)).norm() / flat(b).norm())


def step_for(stage: Stage, subject: CausalLM, batches: Mapping[str, TokenBatch],
             original: CausalLM | None = None) -> Step:
    """A step that asks `subject` about the batches, with the reference the stage needs."""
    return Step(subject, batches, reference_for(stage, original or subject, batches))


@cache
def _place() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="expunge-testing-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def new_folder() -> Path:
    """An empty folder, removed when the process ends."""
    return Path(tempfile.mkdtemp(dir=_place()))


def weights(subject: AnySubject) -> dict[str, Tensor]:
    """A copy of all parameters by name."""
    return {n: p.detach().clone() for n, p in subject.model.named_parameters()}


def hooks(subject: AnySubject) -> list[str]:
    """Modules on which a hook was left."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [f"{name}.{kind}" for name, m in subject.model.named_modules() for kind in kinds if getattr(m, kind)]


@contextmanager
def same_random_state() -> Iterator[None]:
    """Fails when the body draws from a global generator."""
    import random

    import numpy as np

    def state() -> tuple[Any, ...]:
        kind, keys, *rest = np.random.get_state(legacy=True)
        return (random.getstate(), torch.get_rng_state().tolist(), kind, np.asarray(keys).tolist(), *rest)

    before = state()
    yield
    assert state() == before, "a global random state was used"
