"""Shadow models: small trainings on random halves of the entities, so that every row is seen with and without.

The entities of the forget and holdout splits form the pool. In each shadow half of them are out; of those that are in,
one half is then unlearned and the other kept. Retain and background rows are in always. A point's U are the models
that knew it and unlearned it, its R those that never met it and went through the same call with other entities.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge import api, processes
from expunge.console import Reporter, default_reporter
from expunge.data.model_config import depth_of
from expunge.errors import UsageError
from expunge.exact.deletion import trained_on_task
from expunge.methods.base import Exact
from expunge.methods.recipe import parse, trainer_stage
from expunge.metrics.exposure import assess
from expunge.metrics.population import margin
from expunge.metrics.rows import mean_logp
from expunge.models.load import config_from, load_subject, read_config
from expunge.models.places import check_place
from expunge.models.sizes import SIZES, is_fresh
from expunge.models.tiny import build_for
from expunge.output import check_same, prepare_output, refuse_output
from expunge.probes.likelihood import Likelihood
from expunge.records.base import read_jsonl, write_jsonl
from expunge.records.run import environment
from expunge.records.settings import RunSettings, TrainSettings, TrainSplit
from expunge.records.shadows import ORIGINAL, RETRAINED, Shadows
from expunge.records.task import Example, Task
from expunge.runs import device
from expunge.seeding import derive, stream

State = Literal["forgotten", "kept", "out"]
CYCLE: tuple[State, ...] = ("forgotten", "kept", "out", "out")
WORLD = "authors(forget=8, retain=8, holdout=8, neighbours=0)"
"""Sixteen entities in the pool: small enough for hundreds of trainings."""
TRAINER = "retain_nll"


def entity_of(row: Example) -> str:
    """The entity a row is about; a row without one counts as its own."""
    return row.entity or row.id


def pool_of(task: Task) -> tuple[Example, ...]:
    """Forget and holdout rows that tell nothing about another entity of the pool.

    A row that names another entity, or whose fact follows from another's rows, would carry knowledge of an entity
    that is out into models that must never have met it.
    """
    rows = task.forget + task.holdout
    about = {row.id: entity_of(row) for row in rows}
    names = {row.entity for row in rows if row.entity}
    # Whole words, so that Ann is not named by Anna; scripts without spaces have no such ends.
    whole = {name: re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])") for name in names}

    def alone(row: Example) -> bool:
        others = names - {row.entity}
        return (not any(about.get(link, entity_of(row)) != entity_of(row) for link in row.links)
                and not any(named.search(row.answer) or named.search(row.prompt)
                            for name, named in whole.items() if name in others))

    return tuple(row for row in rows if alone(row))


def assign(entities: Sequence[str], count: int, seed: int) -> list[dict[str, State]]:
    """The state of every entity in each shadow.

    Every four shadows quarter the entities anew and pass the quarters through the cycle, so that every shadow forgets
    equally many, and after four every entity was forgotten once, kept once and out twice.
    """
    states: list[dict[str, State]] = []
    for number in range(count):
        order = sorted(entities)
        stream(seed, "quarters", number // 4).shuffle(order)
        states.append({p: CYCLE[(i * 4 // len(order) + number) % 4] for i, p in enumerate(order)})
    return states


def shadow_task(task: Task, pool: Sequence[Example], states: Mapping[str, State]) -> Task:
    """The task of one shadow. Without holdout rows: no choice may look at entities that are out."""
    rows = {state: tuple(r for r in pool if states[entity_of(r)] == state) for state in CYCLE}
    return Task(name=task.name, forget=rows["forgotten"], retain=task.retain + rows["kept"],
                background=task.background, generation_tokens=task.generation_tokens, template=task.template)


def make_shadows(methods: str | Sequence[str], *, out: str | Path, count: int = 32, task: Task | str = WORLD,
                 model: str | Path = "tiny", trainer: str = TRAINER, train_epochs: float = 30,
                 train_lr: float | None = None,
                 settings: RunSettings | None = None, resume: bool = False, overwrite: bool = False,
                 dry_run: bool = False, reporter: Reporter | None = None, **options: Any) -> Shadows:
    """Train `count` shadows, retrain each without its forget rows, unlearn it by each method; then attack.

    Args:
        methods: one recipe or several.
        out: folder of the margins.
        count: how many shadows, a multiple of 4.
        task: a name, a run folder or a Task, whose forget and holdout rows are dealt out.
        model: a size or config, initialised anew for every shadow, or a model folder or hub name to start from, which
            must never have met the rows.
        trainer: how originals and retrained twins are trained, as `train(method=...)` has it: "retain_nll",
            "retain_nll + lora(rank=8)", or an exact method.
        train_epochs, train_lr: of originals and retrained twins (by default 3e-3 from new weights, 1e-4 with an
            adapter, else 1e-5); batches there are three times `batch_size`.
        settings, options: of unlearning, as in `forget`. The last step is kept: to choose one would need rows to
            look at.
        resume: go on in `out`; finished models are not made again.
        overwrite: replace `out`, if it is a folder of expunge's.
        dry_run: return the record as it would begin; nothing is written.
        reporter: where progress is shown.

    Returns:
        The record, also in out/shadows.json; out/rows holds the margins of every finished model, one file each.
    """
    reporter, out = reporter or default_reporter(), Path(out)
    processes.refuse_several("The making of shadows")
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    settings = RunSettings.build(settings, **(options | {"keep": "last"}))
    task = api.as_task(task, settings)
    pool = pool_of(task)
    entities = sorted({entity_of(r) for r in pool})
    scratch = is_fresh(model)
    depth = config_from(model).get("num_hidden_layers", 4) if scratch else depth_of(read_config(model)) or 4
    _check(methods, entities, count, depth, len(task.forget + task.holdout) - len(pool))
    _check_start(model, task, trainer, scratch)
    rate = train_lr if train_lr is not None or "lr=" in trainer else usual_rate(trainer, scratch)
    training = TrainSettings(epochs=train_epochs, lr=rate, batch_size=3 * settings.batch_size)
    states = assign(entities, count, settings.seed)
    asked = settings.model_dump(mode="json") | {"lr": settings.lr, "count": count, "train_epochs": train_epochs,
                                                "train_lr": rate, "trainer": trainer}
    made = Shadows(methods=methods, model=str(model), settings=asked, task=task.name, points=len(pool),
                    task_fingerprint=task.fingerprint, seed=settings.seed, environment=environment(),
                    states=tuple(states), trainings=count * (2 + len(methods)))
    if dry_run:
        return made
    reads = [] if scratch else [model]
    refuse_output(out, resume=resume, overwrite=overwrite, reads=reads)
    made = _resumed(made, out) if resume else made
    prepare_output(out, resume=resume, overwrite=overwrite, reads=reads)
    made.write(out / "shadows.json")
    tick = reporter.task(f"runs of {count} shadows", made.trainings)
    for number, chosen in enumerate(states):
        began = time.perf_counter()
        shadow = _Shadow(number, out, shadow_task(task, pool, chosen), pool, chosen, methods, training, settings,
                         trainer)
        missing = [name for name in (RETRAINED, *methods, ORIGINAL) if not shadow.rows(name).exists()]
        tick(2 + len(methods) - len(missing))
        if missing:
            start = shadow.fresh(model, task) if scratch else model
        for name in missing:
            shadow.measure(name, start)
            tick(1)
        shutil.rmtree(shadow.work, ignore_errors=True)
        made = made.model_copy(update={"seconds": made.seconds + time.perf_counter() - began,
                                       "finished": len(list((out / "rows").glob("*.jsonl")))})
        made.write(out / "shadows.json")
    shutil.rmtree(out / "work", ignore_errors=True)
    made = made.model_copy(update={"results": assess(read_rows(out), methods)})
    made.write(out / "shadows.json")
    reporter.close()
    return made


@dataclass(frozen=True)
class _Shadow:
    """One of them: its folders, its models and what they say."""

    number: int
    out: Path
    task: Task
    pool: Sequence[Example]
    states: Mapping[str, State]
    methods: Sequence[str]
    training: TrainSettings
    settings: RunSettings
    trainer: str

    @property
    def work(self) -> Path:
        return self.out / "work" / f"{self.number:03d}"

    def rows(self, name: str) -> Path:
        return self.out / "rows" / f"{self.number:03d}-{self._slug(name)}.jsonl"

    def _slug(self, name: str) -> str:
        plain = re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-")[:60]
        return f"{self.methods.index(name)}-{plain}" if name in self.methods else plain

    def fresh(self, size: str | Path, task: Task) -> Path:
        """New weights; the tokenizer is one for all shadows, else it would betray who is out."""
        build_for(config_from(size), task.model_copy(update={"probes": {}}),
                  seed=derive(self.settings.seed, "weights", self.number)).save(self.work / "base")
        return self.work / "base"

    def measure(self, name: str, start: str | Path) -> None:
        """Make one model, write its margins, and drop it; the original stays for the methods."""
        place = self._train(start, "retain" if name == RETRAINED else "full")
        if name in self.methods:
            original, place = place, self.work / self._slug(name)
            api.forget(original, method=name, task=self.task, out=place, settings=self.settings,
                       seed=derive(self.settings.seed, "forget", self.number), resume=place.exists())
        subject = load_subject(place, template=self.task.template, device=device())
        observed = Likelihood(alternatives=False).observe(subject, self.pool, self.task)
        logp = {row["id"]: value for row in observed if (value := mean_logp(row)) is not None}
        write_jsonl(self.rows(name), [
            {"shadow": self.number, "model": name, "id": r.id, "entity": entity_of(r),
             "state": self.states[entity_of(r)], "phi": float(f"{margin(logp[r.id]):.7g}")}
            for r in self.pool if r.id in logp])
        if name != ORIGINAL:
            shutil.rmtree(place)

    def _train(self, start: str | Path, split: TrainSplit) -> Path:
        place = self.work / split
        api.train(start, task=self.task, out=place, settings=self.training, split=split, resume=place.exists(),
                  seed=derive(self.settings.seed, split, self.number),
                  method=None if self.trainer == TRAINER else self.trainer)
        return place


def usual_rate(trainer: str, scratch: bool) -> float | None:
    """Peak learning rate of originals and twins where neither --train-lr nor the trainer names one; None is its own."""
    stage = trainer_stage(trainer, None, 1e-5)
    if isinstance(stage.wrap, Exact):
        return None
    return 3e-3 if scratch else 1e-4 if stage.scope.adapter or stage.scope.merged else 1e-5


def _check_start(model: str | Path, task: Task, trainer: str, scratch: bool) -> None:
    """Whether the trainer can start from this model, and whether the model never met the rows."""
    stage = trainer_stage(trainer, None, 1e-5)
    if scratch:  # new weights are saved first, so an adapter can be trained on them; but it would learn little
        if stage.scope.adapter or stage.scope.merged:
            raise UsageError(f"{trainer} needs a model to start from, and {model} is a size or config.",
                             "An adapter changes little of a model.", "Name a model folder that never met these rows.")
        return
    check_place(model, SIZES)
    if trained_on_task(model, task, ("forget", "holdout")):
        raise UsageError(f"{model} was itself trained on forget or holdout rows of this task.",
                         "Every shadow starts from it, so no shadow could have never met an entity.",
                         "Start from a base that never saw them, or from a size such as tiny.")


def _check(methods: Sequence[str], entities: Sequence[str], count: int, depth: int, left_out: int) -> None:
    for method in methods:
        parse(method, depth)
    if not methods or len(set(methods)) < len(methods) or set(methods) & {ORIGINAL, RETRAINED}:
        raise UsageError("The methods of shadow models are recipes, each named once.",
                         "Doing nothing and retraining are measured beside them by themselves.", "Give --method.")
    if len(entities) < len(CYCLE):
        also = f" {left_out} rows name another entity and were left out." if left_out else ""
        raise UsageError(f"{len(entities)} entities in forget and holdout rows are too few: 4 are needed.",
                         f"Every shadow forgets a quarter of them, keeps one and leaves out two.{also}",
                         "Take a task with at least 4, better 16, entities in its forget and holdout rows.")
    if count < len(CYCLE):
        raise UsageError("--count must be at least 4.", "In four of them every entity is forgotten and kept once.",
                         "Give a multiple of 4; 64 and more make per-row attacks strong.")


def _resumed(fresh: Shadows, out: Path) -> Shadows:
    """The record with what an interrupted call spent."""
    if not (out / "shadows.json").exists():
        return fresh
    before = Shadows.read(out / "shadows.json")
    check_same("The shadows in this folder were", before, fresh,
               ("methods", "model", "settings", "task_fingerprint", "seed"))
    return fresh.model_copy(update={"seconds": before.seconds, "finished": before.finished})


def read_rows(out: Path) -> list[dict[str, Any]]:
    """All margins of a folder, by shadow and model."""
    return [row for path in sorted((out / "rows").glob("*.jsonl")) for row in read_jsonl(path)]


__all__ = ["assess", "assign", "make_shadows", "pool_of", "read_rows", "shadow_task"]
