"""Server rules x unlearners on the built-in world: what is forgotten, what is kept, what the rounds after bring back.

    OMP_NUM_THREADS=1 python experiments/federated.py --work FOLDER [--seeds 0 1]
    python experiments/federated.py --work FOLDER --collect

Writes results/federated.json. The original is learned by fedavg on three clients, from new weights; every cell unlearns
on the client that holds the forget rows, and two rounds under its own server rule follow. Beside the 6 x 5 grid stand
unlearning without rounds after, rounds without unlearning, fedavgm with damped momentum, forget rows spread over all
clients, and adaptive servers with another learning rate. Rows lie under --work, so an interrupted call goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from common import kept_rows, log, started, store, study_parser

import expunge
from expunge.console import Reporter
from expunge.errors import ExpungeError
from expunge.federated.simulator import Simulation
from expunge.models.load import load_subject
from expunge.records.base import write_json
from expunge.records.run import RunRecord
from expunge.records.task import Example, Task
from expunge.training.monitor import Monitor

WORLD = "forget=3,retain=9,holdout=3,neighbours=0"
CLIENTS = "clients=3"
LEARNING = {"epochs": 60, "batch_size": 8, "lr": 3e-3}
UNLEARNING = {"epochs": 6, "batch_size": 8, "keep": "last"}
LR = 3e-4
SERVERS = ("fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi")
UNLEARNERS = ("ga", "grad_diff", "npo + retain_nll", "simnpo + retain_nll", "dpo")
OTHERS = {
    "no rounds after": [(u, "fedavg(rounds=0)") for u in UNLEARNERS],
    "damped momentum": [(u, "fedavgm(damped=True)") for u in ("ga", "npo + retain_nll")],
    "four rounds": [("npo + retain_nll", "fedavg(rounds=4)"), ("npo + retain_nll", "fedavgm(rounds=4)")],
    "spread over clients": [(u, "fedavg(target='spread')") for u in ("ga", "npo + retain_nll")],
    "server_lr 0.01": [("npo + retain_nll", f"{s}(server_lr=0.01)") for s in ("fedadagrad", "fedadam", "fedyogi")],
}
"""What -> cells (unlearner, server) beside the grid."""
EPOCHS = 2
"""Local passes in a round after unlearning."""


def recipe_of(unlearner: str, server: str) -> str:
    name, _, options = server.partition("(")
    given = ", ".join(part for part in (CLIENTS, f"epochs={EPOCHS}", options.rstrip(")")) if part)
    return f"{unlearner} + adamw(lr={LR}) + {name}({given})"


@torch.no_grad()
def reading(place: Path, task: Task) -> dict[str, float]:
    """Mean probabilities of a token (geometric over an answer) on forget, retain and holdout rows."""
    subject = load_subject(place, template=task.template)

    def mean(rows: tuple[Example, ...]) -> float:
        return Monitor(subject, task.model_copy(update={"forget": rows}), 0)()["forget"]

    return {split: mean(task.split(split)) for split in ("forget", "retain", "holdout")}  # type: ignore[arg-type]


def original(task: Task, work: Path, split: str, seed: int) -> Path:
    """Learned by three clients, forget rows on the first; the retrained model never had them."""
    place = work / f"{split}-{seed}"
    expunge.train("tiny", task=task, split=split, method=f"fedavg({CLIENTS}, rounds=4)", out=place, seed=seed,
                  resume=place.exists(), reporter=Reporter(quiet=True), **LEARNING)
    return place


def cell(task: Task, start: Path, what: str, unlearner: str, server: str, work: Path, seed: int) -> None:
    """One run, read after unlearning and after each round."""
    place = work / "".join(c if c.isalnum() else "-" for c in f"{what} {unlearner} {server} {seed}")
    if (place / "row.json").exists():
        return
    row: dict[str, Any] = {"what": what, "unlearner": unlearner, "server": server, "seed": seed,
                           "recipe": recipe_of(unlearner, server)}
    readings: list[dict[str, float]] = []
    average = Simulation._average

    def noted(self: Any, title: str, *rest: Any) -> Any:
        found = average(self, title, *rest)
        monitor = Monitor(self._subject, task, 0)
        readings.append({"round": title, **monitor()})  # type: ignore[dict-item]
        return found

    Simulation._average = noted  # type: ignore[method-assign]
    try:
        record = expunge.forget(start, task=task, method=row["recipe"], out=place / "run", seed=seed, overwrite=True,
                                reporter=Reporter(quiet=True), **UNLEARNING)
        assert isinstance(record, RunRecord)
        row |= {"end": reading(place / "run", task), "rounds": readings, "train_s": record.timing["train_s"],
                "positions": record.timing.get("positions"), "moved": [r["moved"] for r in record.best["rounds"]],
                "alarms": list(record.alarms)}
    except ExpungeError as problem:
        row["failed"] = problem.what
    finally:
        Simulation._average = average  # type: ignore[method-assign]
    write_json(place / "row.json", row)
    log((what, unlearner, server, seed, row.get("end"), row.get("failed")))


def run(work: Path, seed: int) -> None:
    task = expunge.load_task(f"authors({WORLD})", seed=seed)
    full, retrained = (original(task, work, split, seed) for split in ("full", "retain"))
    ends = work / f"ends-{seed}" / "row.json"
    if not ends.exists():
        ends.parent.mkdir(exist_ok=True)
        write_json(ends, {"what": "ends", "seed": seed, "original": reading(full, task),
                          "retrained": reading(retrained, task)})
    for unlearner in UNLEARNERS:
        for server in SERVERS:
            cell(task, full, "grid", unlearner, server, work, seed)
    for what, cells in OTHERS.items():
        for unlearner, server in cells:
            cell(task, full, what, unlearner, server, work, seed)


def collect(work: Path) -> None:
    rows = kept_rows(work)
    cells = [r for r in rows if r["what"] != "ends"]
    order = ["grid", *OTHERS]
    cells.sort(key=lambda r: (order.index(r["what"]), UNLEARNERS.index(r["unlearner"]), r["server"], r["seed"]))
    found = {"script": "experiments/federated.py", "world": WORLD, "learning": LEARNING, "unlearning": UNLEARNING,
             "lr": LR, "epochs": EPOCHS, "ends": [r for r in rows if r["what"] == "ends"], "rows": cells}
    log((store("federated", found), len(cells)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        for number in given.seeds:
            run(given.work, number)
