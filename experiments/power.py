"""Whether "the audit would miss up to k of P entities" is true: the statement against models made for the purpose.

An audit states it from its own models (`judgement/splices.py`): rows of the original are put into a retrained model.
Here the verdict is taken on subjects of which it knows nothing. *Simulated*: other retrained models (other seeds), in
which the rows of k entities are those of another original. *Trained*: models that were trained on the rows of k
entities. Only the scores count that the verdict rests on without an attack. Stored in results/power.json.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import log, store

import expunge
from expunge.benchmarks.digits import digits_task
from expunge.judgement.outcome import decide
from expunge.judgement.power import POWER
from expunge.judgement.splices import SEEING, measured_power
from expunge.methods.finetune import finetune
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import score_all
from expunge.models.load import config_from, load_subject
from expunge.models.subject import Subject
from expunge.models.tiny import build_for
from expunge.probes.likelihood import Likelihood
from expunge.records.base import read_json, write_json
from expunge.records.observation import Observations
from expunge.records.run import environment
from expunge.records.task import Example, Split, Task

TERMS = ("forget_quality", "forget.probability", "leak_share")
SPLITS: tuple[Split, ...] = ("forget", "holdout")
LLAMA = {"model_type": "llama", "vocab_size": 768, "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256,
         "tie_word_embeddings": True}
TRAINING: dict[str, Any] = {"epochs": 30, "lr": 8e-3, "batch_size": 24}
DRAWS = 20
RESAMPLES = 50
TRAINED = 3
"""Models that are trained to know k entities, for each k."""
MARGIN = 1


@dataclass(frozen=True)
class Cast:
    """What all models of one task say."""

    original: Observations
    knowing: Observations
    """The original of another seed, where there is one."""
    controls: tuple[Observations, ...]
    bases: tuple[Observations, ...]
    """Retrained models that are no control."""
    knowers: Callable[[int], Sequence[Observations]] = lambda count: ()
    """Models that were trained on the rows of so many entities."""


def studies(data: Path, known: Path | None) -> dict[str, Callable[[Path], Cast]]:
    """By name; each gets a folder of its own."""
    tofu = data / "models" / "tofu_tiny"
    found: dict[str, Callable[[Path], Cast]] = {
        "authors, 12 entities of 6 rows": lambda work: trained(authors(0, 12, 6), work),
        "plays, 12 scenes of 5 passages, text only": lambda work: trained(
            plays(data / "text" / "tinyshakespeare.txt"), work),
        "authors, 24 entities of 3 rows": lambda work: trained(authors(1, 24, 3), work),
        "digits, images with a wrong label": lambda work: trained(
            mislabelled(), work, "cnn", {"epochs": 40, "lr": 4e-3, "batch_size": 32}),
        "digits, class 3": lambda work: trained(
            digits_task(per_class=60), work, "cnn", {"epochs": 15, "lr": 3e-3, "batch_size": 32}),
        "TOFU, 20 authors of 6 rows": lambda work: given(tofu_rows(data, 20, 6), work, tofu),
        "TOFU, 2 authors of 20 rows": lambda work: given(tofu_rows(data, 2, 20), work, tofu),
    }
    for world in sorted(known.glob("world-*")) if known else ():
        if (world / "retrained-3" / "audit.json").exists():
            found[f"authors, {world.name.replace('-', ' ')} of the known models"] = partial(audited, world)
    return found


def authors(seed: int, entities: int, rows: int) -> Task:
    """A world of the built-in task, whose entities have this many rows that tell about nobody else."""
    world = expunge.load_task(f"authors(forget={entities}, retain=4, holdout=4, neighbours=0)", seed=seed)
    return world.model_copy(update={"background": (), "utility": (), "probes": {}} | {
        split: tuple(first_rows([r for r in world.split(split) if r.group in ("attribute", "biography")], rows))
        for split in ("forget", "retain", "holdout")})


def first_rows(rows: Sequence[Example], count: int) -> Iterator[Example]:
    """The first rows about each entity, with two of their wrong answers: enough for a truth ratio."""
    for owner in dict.fromkeys(r.entity for r in rows):
        yield from [r.model_copy(update={"wrong_answers": r.wrong_answers[:2]}) for r in rows
                    if r.entity == owner][:count]


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
    asked = {split: found[-entities * rows:] for split, found in chosen.items()}
    return task.model_copy(update={**asked, "probes": {}, "utility": (), "background": ()})


def audited(audits: Path, work: Path) -> Cast:
    """The models of experiments/known.py, as its audits of one world read them. There is one original; those that know
    some entities are retrained models that were tuned further on the rows of these."""
    def of(name: str, role: str = "subject") -> Observations:
        return Observations.read(audits / name / "observations" / role)

    honest = audits / "retrained-3"
    numbers = {1: "1-entity-known", 2: "2-entities-known", 3: "3-entities-known"}
    return Cast(of(honest.name, "original"), of(honest.name, "original"),
                (of(honest.name, "retrained"), of(honest.name, "retrained2")), (of("retrained-3"), of("retrained-4")),
                lambda count: [of(numbers[count])] if count in numbers and (audits / numbers[count]).exists() else [])


def given(task: Task, work: Path, folder: Path) -> Cast:
    """Three models that are there: an original, and two retrained ones, of which one is the control."""
    said = {name: asked(work / name, lambda name=name: load_subject(folder / name, template=task.template), task)
            for name in ("original", "retrained", "retrained_seed2")}
    return Cast(said["original"], said["original"], (said["retrained"],), (said["retrained_seed2"],))


def trained(task: Task, work: Path, config: dict[str, Any] | str = LLAMA,
            training: Mapping[str, Any] = TRAINING) -> Cast:
    """All of them from new weights. Every one reads the same tokens: a tokenizer of its own would betray its rows."""
    owners = sorted({r.entity or r.id for r in task.forget})

    def model(seed: int, known: Collection[str]) -> Observations:
        def make() -> Subject:
            subject = build_for(config if isinstance(config, dict) else config_from(config), task, seed=seed)
            taught = task.retain + tuple(r for r in task.forget if (r.entity or r.id) in known)
            finetune(subject, taught, seed=seed, **training)
            return subject

        who = "all" if len(known) == len(owners) else "-".join(str(owners.index(k)) for k in sorted(known)) or "none"
        return asked(work / f"{seed}-{who}", make, task)

    def knowers(count: int) -> list[Observations]:
        draw = np.random.default_rng(count)
        return [model(100 * count + i, draw.choice(owners, count, replace=False).tolist()) for i in range(TRAINED)]

    return Cast(original=model(0, owners), knowing=model(10, owners), controls=(model(1, ()), model(2, ())),
                bases=(model(11, ()), model(12, ())), knowers=knowers)


def asked(folder: Path, make: Callable[[], Subject], task: Task) -> Observations:
    """What a model says of the rows; it is made where that is not known yet."""
    if not (folder / "done.json").exists():
        began, subject = time.process_time(), make()
        Observations({("likelihood", split): Likelihood(paraphrases=0).observe(subject, task.split(split), task)
                      for split in SPLITS}).write(folder)
        write_json(folder / "done.json", {"seconds": time.process_time() - began})
        log((folder.parent.name, folder.name, f"{time.process_time() - began:.1f} s"))
    return Observations.read(folder)


def spliced(base: Observations, knowing: Observations, known: Collection[str]) -> Observations:
    """The base, with the rows of these entities as the other model says them."""
    return Observations({("likelihood", split): tuple(
        row for model, wanted in ((base, False), (knowing, True)) for row in model.rows("likelihood", split)
        if ((row["entity"] or row["id"]) in known) == wanted) for split in SPLITS})


def noticed(evidence: Evidence) -> bool:
    """Whether the verdict is anything but "forgets"."""
    return decide(score_all(TERMS, evidence, resamples=RESAMPLES), power=SEEING).alone.outcome != "forgets"


def measure(name: str, cast: Cast, seed: int) -> dict[str, Any]:
    """The statement, and what comes of subjects that know k entities."""
    began, random = time.process_time(), np.random.default_rng(seed)
    owners = sorted(set(cast.original.entities("forget").values()))
    power = measured_power(Evidence(cast.bases[0], cast.original, cast.controls))
    if power is None:
        raise SystemExit(f"{name}: no power can be measured")

    def told(subject: Observations) -> bool:
        return noticed(Evidence(subject, cast.original, cast.controls))

    shares: dict[int, float] = {}

    def share(count: int) -> float:
        """Of simulated subjects that know so many entities, those that are noticed."""
        if count not in shares:
            sets = [random.choice(owners, count, replace=False).tolist()
                    for _ in range(DRAWS if count else len(cast.bases))]
            shares[count] = float(np.mean([told(spliced(cast.bases[i % len(cast.bases)], cast.knowing, known))
                                           for i, known in enumerate(sets)]))
        return shares[count]

    found: dict[str, Any] = {"task": name, "rows": len(cast.original.entities("forget")), "entities": power.entities,
                             "unit": power.unit, "controls": len(cast.controls), "stated": power.missed,
                             "honest_noticed": share(0), "simulated": None, "trained": {}, "agrees": None}
    if power.missed is not None:
        found["simulated"] = smallest(share, power.missed + 1, len(owners)) - 1
        found["agrees"] = abs(power.missed - found["simulated"]) <= MARGIN
        for count in sorted({max(power.missed, 1), min(power.missed + 1, len(owners))}):
            models = [told(subject) for subject in cast.knowers(count)]
            found["trained"] |= {count: {"noticed": sum(models), "models": len(models)}} if models else {}
    found |= {"shares": dict(sorted(shares.items())), "seconds": time.process_time() - began}
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


def main(data: Path, known: Path | None, work: Path, seed: int, only: str, finished: bool, keep: bool) -> None:
    """Go through the tasks, one file each under `work`; store them only from a clean tree."""
    rows, left = [], []
    for name, make in studies(data, known).items():
        if only in name:
            place = work / re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
            path = place.with_suffix(".json")
            if not path.exists() and finished:
                left.append(name)
                continue
            if not path.exists():
                write_json(path, measure(name, make(place), seed))
            rows.append(read_json(path))
    dirty = "dirty" in (environment()["commit"] or "dirty")
    if keep and not dirty and not only:
        log(("stored", store("power", {"seed": seed, "draws": DRAWS, "power": POWER, "terms": TERMS, "config": LLAMA,
                                       "training": TRAINING, "left_out": left, "table": rows})))
    else:
        log(("not stored:", "the tree differs from its commit" if dirty else "only with --keep and without --only"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with tofu/, text/ and models/tofu_tiny")
    parser.add_argument("--known", type=Path, help="audits of experiments/known.py by one suite, WORK/audits/quick")
    parser.add_argument("--work", type=Path, default=Path("power"), help="folder of what every model said")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="tasks whose name holds it")
    parser.add_argument("--finished", action="store_true", help="tasks that are measured already, and no others")
    parser.add_argument("--keep", action="store_true", help="store results/power.json")
    options = parser.parse_args()
    main(options.data_dir, options.known, options.work, options.seed, options.only, options.finished, options.keep)
