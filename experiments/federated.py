"""Server rules x unlearners on a small world: what is forgotten, what is kept, what the rounds after bring back.

    OMP_NUM_THREADS=1 python experiments/federated.py --work FOLDER [--seeds 0]
    python experiments/federated.py --work FOLDER --collect

Writes results/federated.json. The original is learned by fedavg on three clients from new weights, with the forget rows
on the first. Every cell unlearns there, and two rounds under its own server rule follow. Beside the 6 x 5 grid stand
unlearning without rounds after, fedavgm with damped momentum, forget rows spread over all clients, and adaptive servers
with another learning rate. Rows lie under --work, so an interrupted call goes on.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

from common import kept_rows, log, started, store, study_parser

import expunge
from expunge.console import Reporter
from expunge.errors import ExpungeError
from expunge.federated.simulator import Simulation
from expunge.methods.recipe import parse
from expunge.methods.run_context import RunContext
from expunge.models.load import load_subject
from expunge.models.subject import Subject
from expunge.records.base import write_json
from expunge.records.settings import RunSettings
from expunge.records.task import Task
from expunge.training.monitor import Monitor

WORLD = "forget=2,retain=6,holdout=2,neighbours=0"
CONFIG = {"model_type": "llama", "vocab_size": 512, "hidden_size": 48, "intermediate_size": 128,
          "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256,
          "tie_word_embeddings": True}
LEARNING: dict[str, Any] = {"epochs": 60, "batch_size": 16, "lr": 1e-2}
UNLEARNING: dict[str, Any] = {"epochs": 6, "batch_size": 8, "keep": "last"}
LR = 1e-3
EPOCHS = 2
"""Local passes in a round after unlearning."""
SERVERS = ("fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi")
UNLEARNERS = ("npo + retain_nll", "ga", "grad_diff", "simnpo + retain_nll", "dpo")
OTHERS = {
    "no rounds after": [(unlearner, "fedavg(rounds=0)") for unlearner in UNLEARNERS],
    "server_lr 0.01": [("npo + retain_nll", f"{s}(server_lr=0.01)") for s in ("fedadagrad", "fedadam", "fedyogi")],
    "damped momentum": [("npo + retain_nll", "fedavgm(damped=True)")],
    "four rounds": [("npo + retain_nll", "fedavg(rounds=4)"), ("npo + retain_nll", "fedavgm(rounds=4)")],
    "spread over clients": [("npo + retain_nll", "fedavg(target='spread')")],
}
"""What -> cells (unlearner, server) beside the grid."""


def recipe_of(unlearner: str, server: str) -> str:
    name, _, options = server.partition("(")
    given = ", ".join(part for part in ("clients=3", f"epochs={EPOCHS}", options.rstrip(")")) if part)
    return f"{unlearner} + adamw(lr={LR}) + {name}({given})"


def world(seed: int) -> Task:
    """Questions only, and no rows beside them: small enough for seconds."""
    task = expunge.load_task(f"authors({WORLD})", seed=seed)
    asked = {side: tuple(row for row in getattr(task, side) if row.kind == "qa")
             for side in ("forget", "retain", "holdout")}
    return task.model_copy(update={**asked, "background": ()})


def reading(subject: Subject, task: Task) -> dict[str, float]:
    """Mean probabilities of a token (geometric over an answer), and the mean forget loss in nats."""
    found = Monitor(subject, task, 0)()
    return {"forget": found["forget"], "forget_loss": found["forget_loss"], "retain": found["utility"]}


def learned(task: Task, work: Path, split: str, seed: int) -> Subject:
    """By three clients; the retrained model never had the forget rows."""
    place, config = work / f"{split}-{seed}", work / "config.json"
    write_json(config, CONFIG)
    expunge.train(config, task=task, split=split, method="fedavg(clients=3, rounds=3)", out=place, seed=seed,
                  resume=place.exists(), reporter=Reporter(quiet=True), **LEARNING)
    return load_subject(place, template=task.template)


def cell(task: Task, start: Subject, what: str, unlearner: str, server: str, work: Path, seed: int) -> None:
    """One run in memory, read after unlearning and after each round."""
    place = work / "".join(c if c.isalnum() else "-" for c in f"{what} {unlearner} {server} {seed}")
    if (place / "row.json").exists():
        return
    began, recipe = time.process_time(), recipe_of(unlearner, server)
    row: dict[str, Any] = {"what": what, "unlearner": unlearner, "server": server, "seed": seed, "recipe": recipe}
    subject, readings = start.around(copy.deepcopy(start.model)), list[dict[str, float]]()

    def announce(title: str, total: int) -> Any:
        return lambda done: readings.append(reading(subject, task))

    (stage,) = parse(recipe, 2)
    run = RunContext(settings=RunSettings(seed=seed, **UNLEARNING), announce=announce)
    try:
        assert stage.federated is not None
        figures = Simulation(stage.federated, stage, subject, task, run).carry_out()  # type: ignore[arg-type]
        row |= {"readings": readings, "moved": [line["moved"] for line in figures["rounds"]],
                "steps": figures["steps"], "alarms": list(figures["alarms"])}
    except ExpungeError as problem:
        row |= {"readings": readings, "failed": problem.what}
    place.mkdir(exist_ok=True)
    write_json(place / "row.json", row | {"cpu_s": time.process_time() - began})
    log((what, unlearner, server, seed, readings[-1] if readings else None, row.get("failed")))


def run(work: Path, seed: int) -> None:
    task = world(seed)
    full, retrained = (learned(task, work, split, seed) for split in ("full", "retain"))
    ends = work / f"ends-{seed}" / "row.json"
    if not ends.exists():
        ends.parent.mkdir(exist_ok=True)
        write_json(ends, {"what": "ends", "seed": seed, "original": reading(full, task),
                          "retrained": reading(retrained, task)})
    for server in SERVERS:
        cell(task, full, "grid", UNLEARNERS[0], server, work, seed)
    for what, cells in OTHERS.items():
        for unlearner, server in cells:
            cell(task, full, what, unlearner, server, work, seed)
    for unlearner in UNLEARNERS[1:]:
        for server in SERVERS:
            cell(task, full, "grid", unlearner, server, work, seed)


def collect(work: Path) -> None:
    rows = kept_rows(work)
    cells, order = [r for r in rows if r["what"] != "ends"], ["grid", *OTHERS]
    cells.sort(key=lambda r: (order.index(r["what"]), UNLEARNERS.index(r["unlearner"]), r["server"], r["seed"]))
    found = {"script": "experiments/federated.py", "world": WORLD, "model": CONFIG, "learning": LEARNING,
             "unlearning": UNLEARNING, "lr": LR, "epochs": EPOCHS, "ends": [r for r in rows if r["what"] == "ends"],
             "rows": cells}
    log((store("federated", found), len(cells)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        for number in given.seeds:
            run(given.work, number)
