"""Base of the server rules: their shared options, what clients cannot run, and the way into the simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from expunge import plugin, processes
from expunge.errors import ExpungeError, UsageError
from expunge.federated.clients import Client, LocalClient, Workplace, divide, name_of
from expunge.federated.simulator import Simulation, moments_of
from expunge.methods.federated import Federated
from expunge.methods.recipe import Stage
from expunge.methods.run_context import RunContext
from expunge.models.subject import AnySubject
from expunge.records.task import Task

SHARED_DEVIATIONS = (
    "clients run one after the other in this process, each from a copy of the server's weights; what they would send "
    "over a network is looked at before it is averaged, and a client that sends nothing usable is left out",
    "products of adapters are averaged and split again by SVD, or one factor is shared (adapters=); the public code "
    "averages both factors, which is not the average of the products",
    "moments of the server are reset between learning and unlearning (moments=keep stores them beside the model)",
    "forget rows are on one client both when learning and when unlearning; the public code spreads them when learning "
    "and puts them on one client when unlearning (learn with target=spread for that)",
    "the unlearner stops and keeps weights by the rules of a run (--keep last for the last step, as published), read "
    "on the client's own rows; its model becomes the server's as it is, and the server rule serves the rounds after it",
    "uncertain: whether the paper's target client unlearns again in the rounds after",
)
"""On the card of every server rule."""
PAPER = "Zhang et al. 2026, Oblivionis (arXiv 2508.08875)"
DEFAULTS = "3 clients, 2 rounds, 5 local epochs in rounds after unlearning (the authors' configuration)"


class ServerSpec(plugin.Spec):
    """Options of every server rule."""

    clients: int = Field(3, ge=1, description="Number of clients; each holds rows that no other has.")
    rounds: int = Field(2, ge=0, description="Rounds of local training and averaging: all of `expunge train`, or those "
                                             "after unlearning.")
    epochs: float = Field(5.0, gt=0, description="Passes over a client's retain rows in a round after unlearning; "
                                                 "when training, --epochs are divided over the rounds.")
    lr: float | None = Field(None, ge=0, le=1e30, description="Peak rate of local training; the recipe's if left out.")
    target: Literal["client", "spread"] = Field("client", description="Forget rows are all on one client, or divided "
                                                                      "like the others; then each unlearns its share.")
    client: int = Field(0, ge=0, description="Number of the client that has them (target=client).")
    by: Literal["entity", "row"] = Field("entity", description="What is divided over clients: entities with all their "
                                                               "rows, or rows.")
    order: Literal["contiguous", "random"] = Field("contiguous", description="Clients get neighbours in the file, or "
                                                                             "any.")
    seed: int = Field(0, description="Seed of a random division; the same when learning and unlearning.")
    optimizers: Literal["reset", "keep"] = Field("reset", description="Optimizer and schedule of a client: new in "
                                                                      "every round, or one over all rounds.")
    moments: Literal["reset", "keep"] = Field("reset", description="Moments of the server: new in every run, or stored "
                                                                   "beside the model and read by the next run.")
    adapters: Literal["product", "shared"] = Field("product", description="Average the products of adapters and split "
                                                                          "them again, or train one factor only.")

    @model_validator(mode="after")
    def check_client(self) -> ServerSpec:
        if self.client >= self.clients:
            raise ValueError(f"clients are numbered 0 to {self.clients - 1}")
        return self


class ServerRule(Federated):
    """How a server moves its weights by the mean change of its clients' weights."""

    Spec: ClassVar[type[plugin.Spec]] = ServerSpec
    kept: ClassVar[tuple[str, ...]] = ()
    """Names of its moments."""
    mu: float = 0.0
    """Strength of the term that holds clients near the server's weights while they train."""

    def update(self, theta: Tensor, delta: Tensor, state: dict[str, Tensor]) -> Tensor:
        """One parameter after a round, in float64.

        Args:
            theta: the parameter before the round.
            delta: the weighted mean of its changes on the clients.
            state: moments of this parameter, replaced in place; empty before the first round.
        """
        raise NotImplementedError

    def clients(self, tasks: Sequence[Task], work: Workplace) -> Mapping[int, Client]:
        """The clients by number."""
        return {number: LocalClient(task, work) for number, task in enumerate(tasks)}

    def carry_out(self, stage: Stage, subject: AnySubject, task: Task, run: RunContext) -> dict[str, Any]:
        return Simulation(self, stage, subject, task, run).carry_out()

    def notes(self, task: Task) -> tuple[str, ...]:
        if any(problem for problem in self._division_problems(task)):
            return ()
        sizes = "; ".join(f"client {i} has {len(t.forget)} rows to forget and {len(t.retain + t.background)} others"
                          for i, t in enumerate(divide(task, self.spec)))
        return (f"{self.card.name}: {sizes}.",)

    def problems(self, stage: Stage, task: Task, config: Any, learns: bool = False) -> list[ExpungeError]:
        name, spec, found = self.card.name, self.spec, list[ExpungeError]()
        if processes.count() > 1:
            found.append(UsageError(f"{name} works in one process, and {processes.count()} were started.",
                                    "Its clients take turns on one model.", "Start it without a launcher."))
        if stage.wrap is not None:
            found.append(UsageError(f"{stage.wrap.card.name} cannot be combined with {name}.",
                                    "It makes another model around the weights, and clients exchange plain weights.",
                                    f"Take an objective or an edit, or write ... + {name} >> "
                                    f"{stage.wrap.card.name}."))
        if stage.objective is not None and stage.objective.teacher is not None:
            found.append(UsageError(f"{stage.objective.card.name} cannot be combined with {name}.",
                                    "It asks a teacher, which clients do not have.", "Take another objective."))
        if stage.scope.reads and spec.target == "spread":
            found.append(UsageError(f"{stage.scope.card.name} cannot be combined with {name}(target='spread').",
                                    "It chooses weights by the forget rows, and no client has all of them.",
                                    "Take target='client', or another scope."))
        if spec.adapters == "shared" and not stage.scope.adapter:
            found.append(UsageError(f"{name}(adapters='shared') has no adapter to share.",
                                    "Whole weights are averaged.", "Add lora, or leave the option out."))
        found += self._division_problems(task)
        if not found:
            found += self._share_problems(stage, task, learns)
        if spec.moments == "keep" and not learns and self.kept:
            try:
                moments_of(Path(config.name_or_path), name)
            except ExpungeError as error:
                found.append(error)
        return found

    def _division_problems(self, task: Task) -> list[ExpungeError]:
        """More clients than there are things to divide."""
        spec, rows = self.spec, task.retain + task.background
        rows += task.forget if spec.target == "spread" else ()
        count = len({name_of(row, spec.by) for row in rows})
        what = "entities" if spec.by == "entity" else "rows"
        return [UsageError(f"{self.card.name}(clients={spec.clients}): {count} {what} cannot be divided over "
                           f"{spec.clients} clients.", "Each client needs rows of its own.",
                           "Take fewer clients" + (", or by='row'." if spec.by == "entity" else "."))
                ] if count < spec.clients else []

    def _share_problems(self, stage: Stage, task: Task, learns: bool) -> list[ExpungeError]:
        """A client that should unlearn against retain rows and has none."""
        reads = not learns and (any("retain" in p.card.needs for p in stage.plugins) or bool(stage.retain))
        bare = [i for i, t in enumerate(divide(task, self.spec)) if t.forget and not t.retain]
        return [UsageError(f"Client {bare[0]} has rows to forget and none to retain, which the recipe reads.",
                           "Rows to retain are divided over the clients too.", "Take fewer clients, or another client "
                           "for the forget rows (client=).")] if reads and bare else []
