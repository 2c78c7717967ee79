"""Rounds in one process: clients work in turn, the server averages what they send, and all is kept after each round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.errors import ExpungeError, NonFiniteError, UsageError
from expunge.federated.aggregate import Products, average, pairs_of, shares_of, unusable
from expunge.federated.clients import Client, ClientAnswer, Workplace, divide, rows_of
from expunge.methods.recipe import Stage, training_stage
from expunge.methods.run_context import RunContext
from expunge.models.load import float32_master, resolve
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.records.settings import TrainSettings
from expunge.records.task import Task
from expunge.training.checkpoint import put, take
from expunge.training.turns import in_turns

if TYPE_CHECKING:
    from expunge.federated.base import ServerRule

MOMENTS = "server_moments.safetensors"
"""Beside the model, where the moments of the server are kept for the next run."""
Moments = dict[str, dict[str, Tensor]]
"""Parameter, or prefix of an adapter -> name -> moment."""


class NoAnswerError(ExpungeError, RuntimeError):
    """No client sent weights that can be used; the state after the last whole round is kept."""

    exit_code = 4


class Simulation:
    """One run of a server and its clients.

    Args:
        rule: how the server moves, with the options of the run.
        stage: what clients do.
        subject: changed in place.
    """

    def __init__(self, rule: ServerRule, stage: Stage, subject: Subject, task: Task, run: RunContext) -> None:
        spec = rule.spec
        self._rule, self._stage, self._subject, self._run = rule, stage, subject, run
        self._tasks = divide(task, spec)
        self._learns = isinstance(run.settings, TrainSettings)
        if not stage.scope.adapter:
            float32_master(subject)
        self._asked = {p: p.requires_grad for p in subject.model.parameters()}
        mine = self._tasks[spec.client]
        self._scope = stage.scope.apply(subject, {
            side: [subject.encoder.encode(row) for row in getattr(mine, side)] for side in stage.scope.reads})
        if spec.adapters == "shared":
            self._scope = _one_factor(self._scope)
        pairs = pairs_of(list(self._scope.parameters), subject.model.get_submodule) if stage.scope.adapter else {}
        self._space = Products(pairs)
        local = stage if self._learns else replace(training_stage(), optimizer=stage.optimizer)
        local = replace(local, federated=None, scope=stage.scope).with_learning_rate(spec.lr)
        work = Workplace(
            unlearner=replace(stage, federated=None), trainer=local, subject=subject, scope=self._scope, run=run,
            rounds=spec.rounds, epochs=spec.epochs, mu=rule.mu, keeps=spec.optimizers == "keep")
        self._clients = rule.clients(self._tasks, work)
        self.state: dict[str, Any] = {"server": {}, "optimizers": {}, "log": [], "steps": 0, "positions": 0,
                                      "alarms": [], "unlearned": {}}

    def carry_out(self) -> dict[str, Any]:
        """All rounds; figures for the record."""
        spec, state = self._rule.spec, self.state
        if spec.moments == "keep" and not self._learns and self._rule.kept:
            state["server"] = moments_of(Path(resolve(self._subject.path)), self._rule.card.name)
        first = 0 if self._learns else 1
        tick = self._run.announce("rounds", spec.rounds + first)

        def one(number: int) -> None:
            if number < first:
                self._unlearn()
            else:
                self._round(number - first)
            tick(1)

        in_turns(self._scope.parameters, spec.rounds + first, state, self._run.folder, one, "round")
        if spec.moments == "keep" and self._run.beside is not None and state["server"]:
            store_moments(self._run.beside, self._rule.card.name, state["server"])
        if not self._stage.scope.adapter:
            for parameter, before in self._asked.items():
                parameter.requires_grad_(before)
        rows = [{"client": i, "forget": len(t.forget), "retain": len(t.retain), "background": len(t.background)}
                for i, t in enumerate(self._tasks)]
        return {"server": self._rule.text(), "clients": rows, "rounds": state["log"], "steps": state["steps"],
                "positions": state["positions"], "alarms": tuple(state["alarms"]),
                "parameters": self._scope.counts()} | ({"unlearned": state["unlearned"]} if not self._learns else {})

    def _round(self, number: int) -> None:
        """Local training on every client that has rows, and a step of the server."""
        def train(client: Client, theta: Mapping[str, Tensor], i: int) -> ClientAnswer | None:
            answer = client.train(theta, number, self.state["optimizers"].get(i, {}))
            if answer is not None:
                self.state["optimizers"][i] = answer.optimizer
            return answer

        rows = {i: len(rows_of(t, self._run.settings)) for i, t in enumerate(self._tasks)}
        title = f"round {number + 1} of {self._rule.spec.rounds}"
        self._average(title, {i: n for i, n in rows.items() if n}, train, self._rule.update)

    def _unlearn(self) -> None:
        """Clients with forget rows unlearn them. One model is taken as it is, several are averaged by their rows."""
        def unlearn(client: Client, theta: Mapping[str, Tensor], i: int) -> ClientAnswer | None:
            answer = client.unlearn(theta)
            if answer is not None:
                self.state["unlearned"][str(i)] = answer.figures
                self.state["alarms"] += [f"Client {i}: {alarm}" for alarm in answer.figures.pop("alarms", ())]
            return answer

        rows = {i: len(t.forget) for i, t in enumerate(self._tasks) if t.forget}
        left = self._average("unlearning", rows, unlearn, lambda theta, delta, state: theta + delta)
        self.state["alarms"] += [f"Client {i} has not unlearned its {rows[i]} forget rows: it {why}."
                                 for i, why in left.items()]

    def _average(self, title: str, rows: Mapping[int, int],
                 ask: Callable[[Client, Mapping[str, Tensor], int], ClientAnswer | None],
                 update: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]) -> dict[int, str]:
        """Ask clients with rows, and move the weights by their mean change; why clients were left out, by number.

        Raises:
            NoAnswerError: no answer can be used. The weights are those before.
        """
        theta = take(self._scope.parameters)
        answers, left = dict[int, ClientAnswer](), dict[int, str]()
        for i in rows:
            try:
                answer = ask(self._clients[i], theta, i)
            except (NonFiniteError, TimeoutError, ConnectionError) as error:
                left[i] = f"did not answer ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
                continue
            why = "did not answer" if answer is None else unusable(answer.parameters, theta)
            if answer is None or why:
                left[i] = why
                continue
            answers[i] = answer
        put(self._scope.parameters, theta)
        if not answers:
            raise NoAnswerError(
                f"In {title} no client sent weights that can be used.",
                "; ".join(f"client {i} {why}" for i, why in left.items()) + ".",
                "The weights before it are kept. See to the clients, then run the same command with --resume.")
        weights = shares_of({i: rows[i] for i in answers})
        new, moved = self._step(theta, {i: a.parameters for i, a in answers.items()}, weights, update)
        put(self._scope.parameters, new)
        self._scope.enforce()
        state = self.state
        state["steps"] += sum(a.steps for a in answers.values())
        state["positions"] += sum(a.positions for a in answers.values())
        line: dict[str, Any] = {"round": title, "weights": {str(i): w for i, w in weights.items()}, "moved": moved}
        line |= {"left_out": {str(i): why for i, why in left.items()}} if left else {}
        line |= {"cut": self._space.cut} if self._space.cut else {}
        state["log"].append(line)
        return left

    def _step(self, theta: Mapping[str, Tensor], answers: Mapping[int, Mapping[str, Tensor]],
              weights: Mapping[int, float],
              update: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]) -> tuple[dict[str, Tensor], float]:
        """The server's parameters after a round, and how far they moved."""
        old, sent = self._space.of(theta), [self._space.of(answer) for answer in answers.values()]
        new, square = dict[str, Tensor](), 0.0
        for name, value in old.items():
            delta = average([one[name] for one in sent], list(weights.values())) - value
            new[name] = update(value, delta, self.state["server"].setdefault(name, {}))
            square += float((new[name] - value).square().sum())
        bad = [name for name, value in new.items() if not bool(value.isfinite().all())]
        if bad:
            raise NonFiniteError(f"The server's step makes {bad[0]} not finite.",
                                 "The weights before the round are kept.",
                                 "Take another server rule, or a smaller server_lr.")
        return self._space.back(new, [*answers.values(), theta]), square ** 0.5


def _one_factor(scope: Scope) -> Scope:
    """The same adapters with the random half held still: the mean of the other half is then that of the products."""
    if type(scope) is not Scope:
        raise UsageError("adapters='shared' is for lora only.", "This scope chooses its adapters' halves itself.",
                         "Leave the option out.")
    return Scope(scope.subject, tuple(n for n in scope.names if ".lora_A." not in n), adapter=scope.adapter)


def store_moments(folder: Path, rule: str, moments: Moments) -> None:
    """Write the moments of a server beside its model."""
    flat = {f"{name}/{parameter}": value.contiguous() for parameter, of in moments.items()
            for name, value in of.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(flat, folder / f"{MOMENTS}.new", metadata={"rule": rule})
    (folder / f"{MOMENTS}.new").replace(folder / MOMENTS)


def moments_of(model: Path, rule: str) -> Moments:
    """The moments stored beside a model.

    Raises:
        UsageError: there are none, or they are of another rule.
    """
    from safetensors import safe_open

    place = next((p for p in (model / MOMENTS, model.parent / MOMENTS) if p.is_file()), None)
    if place is None:
        raise UsageError(f"{rule}(moments='keep') finds no moments beside {model}.",
                         "They are written by expunge train with the same option.",
                         "Leave the option out, and the server starts without moments.")
    with safe_open(place, framework="pt") as opened:
        of = (opened.metadata() or {}).get("rule", "")
    if of != rule:
        raise UsageError(f"The moments beside {model} are those of {of}, not of {rule}.", "",
                         "Leave moments='keep' out, or take the same rule.")
    found: Moments = {}
    for key, value in load_file(place).items():
        name, _, parameter = key.partition("/")
        found.setdefault(parameter, {})[name] = value
    return found
