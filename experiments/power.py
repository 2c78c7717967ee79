"""Whether "the audit would miss up to k of P entities" is true: the statement against models made for the purpose.

An audit states it from its own models (`judgement/splices.py`): rows of the original are put into a retrained model.
Here the verdict is taken on subjects of which it knows nothing. *Simulated*: other retrained models (other seeds), in
which the rows of k entities are those of another original. *Trained*: models that were trained on the rows of k
entities. Only the scores count that the verdict rests on without an attack. Stored in results/power.json.
"""

from __future__ import annotations

import argparse
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from common import log, store

import expunge
from expunge.benchmarks.digits import digits_task
from expunge.console import Reporter
from expunge.judgement.outcome import decide
from expunge.judgement.power import POWER
from expunge.judgement.splices import measured_power
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import score_all
from expunge.models.load import config_from, load_subject
from expunge.models.tiny import build_for
from expunge.probes.likelihood import Likelihood
from expunge.records.base import read_json, write_json
from expunge.records.observation import Observations
from expunge.records.run import environment
from expunge.records.score import Power
from expunge.records.task import Example, Split, Task

TERMS = ("forget_quality", "forget.probability", "leak_share")
SEEING = Power(entities=1, missed=0, control="")
"""So that the number of rows decides nothing: what is being measured may not decide."""
SPLITS: tuple[Split, ...] = ("forget", "holdout")
LLAMA = {"model_type": "llama", "vocab_size": 768, "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256,
         "tie_word_embeddings": True}
DRAWS = 24
RESAMPLES = 100
TRAINED = 3
"""Models that are trained to know k entities, for each k."""
MARGIN = 1


@dataclass(frozen=True)
class Study:
    """One task and how its models are trained; with `given`, models that are there already (role -> folder)."""

    task: Task
    config: dict[str, Any] | str = field(default_factory=lambda: LLAMA)
    training: dict[str, Any] = field(default_factory=lambda: {"epochs": 30, "lr": 8e-3, "batch_size": 24})
    trained: int = TRAINED
    given: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def owners(self) -> list[str]:
        return sorted({r.entity or r.id for r in self.task.forget})


def studies(data: Path) -> dict[str, Callable[[], Study]]:
    """By name; each is read when it is its turn."""
    tofu = data / "models" / "tofu_tiny"
    pair = {"original": tofu / "original", "control": tofu / "retrained", "base": tofu / "retrained_seed2"}
    return {
        "authors, 12 entities of 8 rows": lambda: Study(authors(0, 12, 8)),
        "authors, 24 entities of 3 rows": lambda: Study(authors(1, 24, 3)),
        "plays, 12 scenes of 5 passages, text only": lambda: Study(plays(data / "text" / "tinyshakespeare.txt")),
        "digits, images with a wrong label": lambda: Study(
            mislabelled(), "cnn", {"epochs": 40, "lr": 4e-3, "batch_size": 32}),
        "digits, class 3": lambda: Study(
            digits_task(per_class=60), "cnn", {"epochs": 15, "lr": 3e-3, "batch_size": 32}),
        "TOFU, 20 authors of 6 rows": lambda: Study(tofu_rows(data, 20, 6), given=pair),
        "TOFU, 2 authors of 20 rows": lambda: Study(tofu_rows(data, 2, 20), given=pair),
    }


def authors(seed: int, entities: int, rows: int) -> Task:
    """A world of the built-in task, whose entities have this many rows that tell about nobody else."""
    world = expunge.load_task(f"authors(forget={entities}, retain=4, holdout=4, neighbours=0)", seed=seed)
    return world.model_copy(update={"background": (), "utility": (), "probes": {}} | {
        split: tuple(first_rows([r for r in world.split(split) if r.group in ("attribute", "biography")], rows))
        for split in ("forget", "holdout")})


def first_rows(rows: Sequence[Example], count: int) -> Iterator[Example]:
    for owner in dict.fromkeys(r.entity for r in rows):
        yield from [r for r in rows if r.entity == owner][:count]


def plays(path: Path, scenes: int = 12, passages: int = 5, words: int = 25) -> Task:
    """Running text: stretches of a play, far apart, each an entity of several passages. There are no wrong answers."""
    text = path.read_text().split(" ")
    stretch = len(text) // (3 * scenes)
    rows = [Example(id=f"plays/{i}/{j}", prompt="", kind="text", entity=f"scene {i}",
                    answer=" ".join(text[i * stretch + j * words:][:words]).strip())
            for i in range(3 * scenes) for j in range(passages)]
    parts = [tuple(r for r in rows if int(r.entity.split()[1]) % 3 == k) for k in range(3)]
    return Task(name="plays", forget=parts[0], retain=parts[1], holdout=parts[2])


def mislabelled() -> Task:
    """Images that are to be forgotten with a label that is wrong: each is known by itself, or it is not."""
    task = digits_task(forget="random:0.1", per_class=40)
    random = np.random.default_rng(0)

    def wrong(row: Example) -> Example:
        label = str(random.choice(row.wrong_answers))
        return row.model_copy(update={"answer": label, "short_answer": label,
                                      "wrong_answers": tuple(o for o in row.options if o != label)[:3]})

    return task.model_copy(update={split: tuple(map(wrong, task.split(split))) for split in SPLITS})


def tofu_rows(data: Path, entities: int, rows: int) -> Task:
    """Some authors of tofu:forget10 and as many others that stay, with the first rows of each."""
    task = expunge.load_task("tofu:forget10", data_dir=data)
    chosen = {split: tuple(first_rows(of, rows)) for split, of in (
        ("forget", task.probe_rows("forget")), ("retain", task.retain), ("holdout", task.holdout))}
    asked = {split: tuple(r.model_copy(update={"wrong_answers": r.wrong_answers[:2]})
                          for r in found[-entities * rows:]) for split, found in chosen.items()}
    return task.model_copy(update={**asked, "probes": {}, "utility": (), "background": ()})


@dataclass(frozen=True)
class Models:
    """The models of one study, trained when they are asked for; what they said is kept in a folder."""

    study: Study
    work: Path

    def said(self, seed: int, known: Collection[str]) -> Observations:
        """What a model says that was trained on the retain rows and on the rows of these entities."""
        everybody = set(known) == set(self.study.owners)
        who = "all" if everybody else "none" if not known else "-".join(
            str(self.study.owners.index(k)) for k in sorted(known))
        return self._of(f"{seed}-{who}", lambda place: self._train(place, seed, known))

    def given(self, role: str) -> Observations:
        return self._of(role, lambda place: self.study.given[role])

    def _of(self, name: str, make: Callable[[Path], Path]) -> Observations:
        folder = self.work / name
        if not (folder / "done.json").exists():
            began = time.process_time()
            subject, task = load_subject(make(folder / "run"), template=self.study.task.template), self.study.task
            Observations({("likelihood", split): Likelihood(paraphrases=0).observe(subject, task.split(split), task)
                          for split in SPLITS}).write(folder)
            shutil.rmtree(folder / "run", ignore_errors=True)
            write_json(folder / "done.json", {"seconds": time.process_time() - began})
            log((self.work.name, name, f"{time.process_time() - began:.1f} s"))
        return Observations.read(folder)

    def _train(self, place: Path, seed: int, known: Collection[str]) -> Path:
        """Every model reads the same tokens: a tokenizer of its own would betray what it was trained on."""
        task, config = self.study.task, self.work / "config.json"
        write_json(config, self.study.config if isinstance(self.study.config, dict) else config_from(self.study.config))
        build_for(config_from(config), task, seed=seed).save(place / "base")
        taught = task.retain + tuple(r for r in task.forget if (r.entity or r.id) in known)
        expunge.train(place / "base", task=task.model_copy(update={"retain": taught}), out=place / "trained",
                      split="retain", seed=seed, overwrite=True, reporter=Reporter(quiet=True), **self.study.training)
        return place / "trained"


def spliced(base: Observations, knowing: Observations, known: Collection[str]) -> Observations:
    """The base, with the rows of these entities as the other model says them."""
    return Observations({("likelihood", split): tuple(
        row for model, wanted in ((base, False), (knowing, True)) for row in model.rows("likelihood", split)
        if ((row["entity"] or row["id"]) in known) == wanted) for split in SPLITS})


def noticed(evidence: Evidence) -> bool:
    """Whether the verdict is anything but "forgets"."""
    return decide(score_all(TERMS, evidence, resamples=RESAMPLES), power=SEEING).alone.outcome != "forgets"


def measure(name: str, study: Study, work: Path, seed: int) -> dict[str, Any]:
    """The statement, and what comes of subjects that know k entities."""
    began, owners, random = time.process_time(), study.owners, np.random.default_rng(seed)
    models = Models(study, work / re.sub("[^a-z0-9]+", "-", name.lower()).strip("-"))
    if study.given:
        original = knowing = models.given("original")
        controls, bases = (models.given("control"),), [models.given("base")]
    else:
        original, knowing = models.said(0, owners), models.said(10, owners)
        controls, bases = (models.said(1, ()), models.said(2, ())), [models.said(s, ()) for s in (11, 12)]
    power = measured_power(Evidence(bases[0], original, controls))
    if power is None:
        raise SystemExit(f"{name}: no power can be measured")

    shares: dict[int, float] = {}

    def share(count: int) -> float:
        """Of simulated subjects that know so many entities, those that are noticed."""
        if count not in shares:
            sets = [random.choice(owners, count, replace=False).tolist() for _ in range(DRAWS if count else len(bases))]
            told = [noticed(Evidence(spliced(bases[i % len(bases)], knowing, known), original, controls))
                    for i, known in enumerate(sets)]
            shares[count] = float(np.mean(told))
        return shares[count]

    found: dict[str, Any] = {"task": name, "rows": len(study.task.forget), "entities": power.entities,
                             "unit": power.unit, "controls": len(controls), "stated": power.missed,
                             "honest_noticed": share(0), "simulated": None, "trained": {}}
    if power.missed is not None:
        found["simulated"] = smallest(share, power.missed + 1, len(owners)) - 1
    if power.missed is not None and not study.given:
        for count in sorted({max(power.missed, 1), min(power.missed + 1, len(owners))}):
            told = [noticed(Evidence(models.said(100 * count + i, known), original, controls))
                    for i in range(study.trained)
                    for known in [random.choice(owners, count, replace=False).tolist()]]
            found["trained"][count] = {"noticed": sum(told), "models": len(told)}
    agrees = None if power.missed is None else abs(power.missed - found["simulated"]) <= MARGIN
    found |= {"shares": dict(sorted(shares.items())), "agrees": agrees, "seconds": time.process_time() - began}
    log((name, found))
    return found


def smallest(share: Callable[[int], float], start: int, most: int) -> int:
    """The smallest number that is noticed in four of five cases, sought from `start` on; if none is, one more."""
    count = start
    while count > 0 and share(count - 1) >= POWER:
        count -= 1
    while count <= most and share(count) < POWER:
        count += 1
    return count


def main(data: Path, work: Path, seed: int, only: str, keep: bool) -> None:
    """Go through the tasks, one file each under `work`; store them only from a clean tree."""
    rows = []
    for name, study in studies(data).items():
        if only in name:
            path = work / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
            if not path.exists():
                write_json(path, measure(name, study(), work, seed))
            rows.append(read_json(path))
    dirty = "dirty" in (environment()["commit"] or "dirty")
    if keep and not dirty and not only:
        log(("stored", store("power", {"seed": seed, "draws": DRAWS, "power": POWER, "terms": TERMS, "config": LLAMA,
                                       "table": rows})))
    else:
        log(("not stored:", "the tree differs from its commit" if dirty else "only with --keep and without --only"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with tofu/, text/ and models/tofu_tiny")
    parser.add_argument("--work", type=Path, default=Path("power"), help="folder of what every model said")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="tasks whose name holds it")
    parser.add_argument("--keep", action="store_true", help="store results/power.json")
    given = parser.parse_args()
    main(given.data_dir, given.work, given.seed, given.only, given.keep)
