"""Promises of server rules, and of the clients and adapters they work with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.errors import NonFiniteError
from expunge.federated.aggregate import average, shares_of
from expunge.federated.base import ServerRule
from expunge.federated.clients import ClientAnswer, divide, rows_of
from expunge.federated.simulator import NoAnswerError, Simulation
from expunge.methods.recipe import Stage, parse, trainer_stage
from expunge.methods.run_context import RunContext
from expunge.methods.stage import StageMethod
from expunge.models.language import CausalLM
from expunge.records.settings import RunSettings, TrainSettings
from expunge.records.task import Task
from expunge.training.fit import fit
from expunge.training.loop import Loop
from expunge.training.schedule import Schedule

from ..support import DEPTH, LAST, fresh, hooks, loss, memoriser, new_folder, small_task, weights
from .base import check, invariant

Say = Callable[[int, int, Mapping[str, Tensor]], Mapping[str, Tensor] | None]
"""(client, round, the server's weights) -> what the client sends."""
FAST = "adamw(lr=1e-3, warmup=0.0, schedule=constant)"
LEARN = TrainSettings(steps=4, batch_size=4, seed=3)
FORGET = RunSettings(steps=2, batch_size=4, seed=3, keep="last")


@cache
def few() -> Task:
    """Two entities to forget and four to keep, with four rows each."""
    task = small_task()

    def cut(rows: Sequence[Any], entities: int) -> tuple[Any, ...]:
        names = list(dict.fromkeys(r.entity for r in rows))[:entities]
        return tuple(r for name in names for r in [r for r in rows if r.entity == name][:4])

    return task.model_copy(update={"forget": cut(task.forget, 2), "retain": cut(task.retain, 4), "background": ()})


class Told:
    """A client that sends what it is told to."""

    def __init__(self, number: int, task: Task, say: Say) -> None:
        self.task, self._number, self._say = task, number, say

    def _answer(self, theta: Mapping[str, Tensor], number: int) -> ClientAnswer | None:
        sent = self._say(self._number, number, theta)
        return None if sent is None else ClientAnswer(sent)

    def train(self, theta: Mapping[str, Tensor], number: int, optimizer: Mapping[str, Any]) -> ClientAnswer | None:
        return self._answer(theta, number)

    def unlearn(self, theta: Mapping[str, Tensor]) -> ClientAnswer | None:
        return self._answer(theta, -1)


def told(plugin: type[ServerRule], say: Say, **options: Any) -> ServerRule:
    """The rule with clients that send what `say` returns."""
    rule = plugin(**options)
    rule.clients = lambda tasks, work: {i: Told(i, task, say) for i, task in enumerate(tasks)}  # type: ignore
    return rule


def learns(rule: ServerRule, text: str = FAST) -> Stage:
    return replace(trainer_stage(f"retain_nll + {text}", None, 1e-3), federated=rule)


def unlearns(rule: ServerRule, text: str = "ga") -> Stage:
    (stage,) = parse(f"{text} + {FAST}", DEPTH)
    return replace(stage, federated=rule)


def run(stage: Stage, subject: CausalLM | None = None, settings: Any = None, folder: Path | None = None,
        beside: Path | None = None, task: Task | None = None) -> tuple[CausalLM, dict[str, Any]]:
    """The subject and the figures after all rounds."""
    subject = subject or fresh()
    context = RunContext(settings=settings or (FORGET if stage.objective or stage.edit else LEARN), folder=folder,
                         beside=beside)
    assert stage.federated is not None
    return subject, stage.federated.carry_out(stage, subject, task or few(), context)


def same(a: CausalLM, b: CausalLM) -> bool:
    others = weights(b)
    return all(torch.equal(value, others[name]) for name, value in weights(a).items())


@check(trains=True)
def one_client_is_central(plugin: type[ServerRule]) -> None:
    """By hand: the stage without a server, on the same rows with the same seed; an adapter too."""
    for text, options in ((FAST, {"rounds": 1}), ("adamw(lr=1e-3)", {"rounds": 2, "optimizers": "keep"}),
                          (f"{FAST} + lora(rank=2)", {"rounds": 1})):
        stage, central = learns(plugin(clients=1, **options), text), fresh()
        federated, _ = run(stage)
        plain = replace(stage, federated=None)
        scope = plain.scope.apply(central)
        method = StageMethod(plain, central, few(), (), few().training_rows("full"), LEARN.seed)
        schedule = Schedule(method.order, central.encoder, LEARN.batch_size)
        fit(method, central, scope, schedule, Loop(steps=4, seed=LEARN.seed, stop=LAST))
        assert same(federated, central), f"{text} with {options}"
        assert loss(central, few().retain) != loss(memoriser(), few().retain)


@check
def averages_equal_models(plugin: type[ServerRule]) -> None:
    """Random float32 weights: equal models, and three models in every order."""
    generator = torch.Generator().manual_seed(0)
    models = [torch.randn(50, generator=generator) for _ in range(3)]
    shares = list(shares_of({0: 7, 1: 13, 2: 30}).values())
    assert sum(shares) == pytest.approx(1) and shares[1] == 13 / 50
    assert torch.equal(average([models[0]] * 3, shares).float(), models[0])
    mean = average(models, shares)
    assert torch.allclose(mean, sum(w * m.double() for w, m in zip(shares, models, strict=True)))  # type: ignore
    for order in ((1, 2, 0), (2, 1, 0)):
        assert torch.equal(mean, average([models[i] for i in order], [shares[i] for i in order]))
    target = {name: value * 1.5 for name, value in weights(memoriser()).items()}
    subject, _ = run(learns(told(plugin, lambda i, n, theta: {name: target[name] for name in theta}, rounds=1)))
    assert all(torch.equal(value, target[name]) for name, value in weights(subject).items())


@check
def follows_formula(plugin: type[ServerRule], steps: Sequence[float], options: dict[str, Any],
                    changes: Sequence[float] = (0.3, 0.3)) -> None:
    """An entry at 1 whose clients ask for these mean changes; then two clients with different numbers of rows."""
    rule, theta, state = plugin(**options), torch.ones(1, dtype=torch.float64), dict[str, Tensor]()
    for change, step in zip(changes, steps, strict=False):
        after = rule.update(theta, torch.full_like(theta, change), state)
        assert float(after - theta) == pytest.approx(step, abs=1e-12)
        theta = after
    assert set(state) == set(plugin.kept)
    asked = {0: 0.5, 1: 0.1}

    def say(i: int, n: int, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: value + asked[i] for name, value in theta.items()}

    rule = told(plugin, say, clients=2, rounds=1, **options)
    sizes = [len(rows_of(part, LEARN)) for part in divide(few(), rule.spec)]
    assert sizes == [16, 8], "eight rows to forget and eight to keep, and eight to keep"
    mean = torch.full((1,), (2 * asked[0] + asked[1]) / 3, dtype=torch.float64)
    wanted = plugin(**options).update(torch.zeros_like(mean), mean, {})
    subject, figures = run(learns(rule))
    assert figures["rounds"][0]["weights"] == {"0": pytest.approx(2 / 3), "1": pytest.approx(1 / 3)}
    before = weights(memoriser())
    for name, value in weights(subject).items():
        assert torch.allclose(value - before[name], wanted.float(), atol=1e-6), name


@check
def divides_rows(plugin: type[ServerRule]) -> None:
    """Every row once, entities whole, forget rows on one client or on all, the same when learning and unlearning."""
    task = few()
    for options in ({"by": "entity"}, {"by": "row"}, {"order": "random"}, {"order": "random", "seed": 1}):
        for target in ("client", "spread"):
            spec = plugin(clients=2, client=1, target=target, **options).spec
            parts = divide(task, spec)
            for side in ("forget", "retain"):
                found = [row.id for part in parts for row in getattr(part, side)]
                assert sorted(found) == sorted(row.id for row in getattr(task, side))
            assert [bool(part.forget) for part in parts] == [target == "spread", True]
            if spec.by == "entity":
                owners = [{row.entity for row in part.forget + part.retain} for part in parts]
                assert not owners[0] & owners[1]
            assert divide(task.model_copy(update={"holdout": ()}), spec)[0].retain == parts[0].retain
    ways = {tuple(row.id for row in divide(task, plugin(clients=2, order="random", seed=s).spec)[0].retain)
            for s in range(8)}
    assert len(ways) > 1
    assert {row.id for row in rows_of(divide(task, plugin(clients=1).spec)[0], LEARN)} == {
        row.id for row in task.training_rows("full")}


@check
def leaves_out_who_fails(plugin: type[ServerRule]) -> None:
    """Of three clients one is silent, is late, diverges, sends NaN, other shapes or other names."""
    def fails(how: str, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        sent = {name: value + 5 for name, value in theta.items()}
        name = next(iter(sent))
        if how in ("late", "diverges"):
            raise TimeoutError if how == "late" else NonFiniteError("Step 1: the gradient is not finite.")
        if how == "NaN":
            sent[name] = torch.full_like(sent[name], float("nan"))
        if how == "shape":
            sent[name] = sent[name].flatten()[1:]
        if how == "name":
            sent["other"] = sent.pop(name)
        return None if how == "silent" else sent

    before = weights(memoriser())
    for how, says in (("silent", "did not answer"), ("late", "TimeoutError"), ("diverges", "gradient is not finite"),
                      ("NaN", "not finite"), ("shape", "in the shape"), ("name", "other parameters")):
        def say(i: int, n: int, theta: Mapping[str, Tensor], how: str = how) -> Mapping[str, Tensor] | None:
            return fails(how, theta) if i == 1 else {name: value + 1 for name, value in theta.items()}

        subject, figures = run(learns(told(plugin, say, rounds=1)))
        (line,) = figures["rounds"]
        assert set(line["left_out"]) == {"1"} and says in line["left_out"]["1"], line
        assert set(line["weights"]) == {"0", "2"} and sum(line["weights"].values()) == pytest.approx(1)
        assert all(torch.allclose(value, before[name] + 1, atol=1e-6) for name, value in weights(subject).items())
    rule = told(plugin, lambda i, n, theta: None if i == 1 and n < 0 else theta, clients=2, target="spread")
    _, figures = run(unlearns(rule))
    assert "Client 1 has not unlearned its 4 forget rows" in figures["alarms"][0]


@check
def keeps_state_without_answers(plugin: type[ServerRule]) -> None:
    """Nobody answers in the second of three rounds; a second call ends where an undisturbed one does."""
    def say(i: int, n: int, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: value + 1 + n for name, value in theta.items()}

    whole, wanted = run(learns(told(plugin, say, rounds=3)))
    folder, cut, resumed = new_folder(), fresh(), fresh()
    with pytest.raises(NoAnswerError, match="round 2 of 3 no client sent") as error:
        run(learns(told(plugin, lambda i, n, theta: None if n == 1 else say(i, n, theta), rounds=3)), cut,
            folder=folder)
    assert "client 2 did not answer" in error.value.why and "--resume" in error.value.fix
    calls: list[int] = []

    def again(i: int, n: int, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        calls.append(n)
        return say(i, n, theta)

    _, figures = run(learns(told(plugin, again, rounds=3)), resumed, folder=folder)
    assert same(resumed, whole) and set(calls) == {1, 2} and figures == wanted


@check(trains=True)
def each_unlearns_its_share(plugin: type[ServerRule]) -> None:
    """Two clients with four forget rows each; the mean of their models knows both less well."""
    subject, figures = run(unlearns(plugin(clients=2, rounds=0, target="spread")),
                           settings=RunSettings(steps=8, batch_size=4, keep="last"))
    assert set(figures["unlearned"]) == {"0", "1"} and figures["rounds"][0]["weights"] == {"0": 0.5, "1": 0.5}
    for part in divide(few(), plugin(clients=2, target="spread").spec):
        assert len(part.forget) == 4 and loss(subject, part.forget) > 2 * loss(memoriser(), part.forget)
    one, alone = run(unlearns(plugin(clients=2, rounds=0, client=1)))
    assert set(alone["unlearned"]) == {"1"} and not same(one, memoriser())


@check(trains=True)
def reduces_to_fedavg(plugin: type[ServerRule], options: dict[str, Any]) -> None:
    """Two rounds of two clients after unlearning."""
    from expunge.federated.fedavg import FedAvg

    given: dict[str, Any] = {"clients": 2, "epochs": 2}
    found, wanted, other = (run(unlearns(rule))[0] for rule in (
        plugin(**given, **options), FedAvg(**given), plugin(**given)))
    assert same(found, wanted) and not same(other, wanted)


@check(trains=True)
def stays_nearer(plugin: type[ServerRule], mu: float) -> None:
    """Clients of one entity each: how far they are from the server's weights after a round."""
    def reached(strength: float) -> float:
        rule, found = plugin(clients=3, rounds=1, mu=strength), list[float]()
        make = rule.clients

        def clients(tasks: Any, work: Any) -> Any:
            def watched(client: Any) -> Any:
                train = client.train

                def noted(theta: Any, number: int, optimizer: Any) -> Any:
                    answer = train(theta, number, optimizer)
                    found.append(sum(float((answer.parameters[n] - theta[n]).square().sum()) for n in theta) ** 0.5)
                    return answer
                client.train = noted
                return client
            return {i: watched(client) for i, client in make(tasks, work).items()}

        rule.clients = clients  # type: ignore[method-assign]
        run(learns(rule), settings=TrainSettings(steps=8, batch_size=4))
        assert len(found) == 3
        return max(found)

    far, near, nearest = reached(0.0), reached(mu), reached(10 * mu)
    assert nearest < near < far, (far, near, nearest)


@check
def moves_at_most(plugin: type[ServerRule], rates: Sequence[float]) -> None:
    """Clients that go anywhere."""
    for rate in rates:
        delta = torch.logspace(-9, 3, 40).double()
        moved = plugin(server_lr=rate).update(torch.zeros(40).double(), delta, {})
        assert float(moved.max()) <= rate and float(moved.max()) > 0.9 * rate


@check
def resets_moments(plugin: type[ServerRule]) -> None:
    """Learning stores moments only where it is asked to, and unlearning reads them only where it is asked to."""
    place = new_folder()

    def say(i: int, n: int, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: value + 0.01 for name, value in theta.items()}

    run(learns(told(plugin, say)), beside=place)
    assert not list(place.iterdir())
    run(learns(told(plugin, say, moments="keep")), beside=place)
    starts = {}
    for moments in ("reset", "keep"):
        subject, seen = fresh(), list[dict[str, Any]]()
        subject.path = str(place / "model")
        rule = told(plugin, say, moments=moments, rounds=1)
        plain = rule.update
        rule.update = lambda theta, delta, state, seen=seen, plain=plain: (  # type: ignore
            seen.append(dict(state)), plain(theta, delta, state))[1]
        Simulation(rule, unlearns(rule), subject, few(), RunContext(settings=FORGET)).carry_out()
        starts[moments] = seen[0]
    assert starts["reset"] == {} and set(starts["keep"]) == set(plugin.kept)
    assert all(bool((value != 0).all()) for value in starts["keep"].values())


@invariant("federated", trains=True)
def clients_leave_no_trace(plugin: type[ServerRule]) -> None:
    """Unlearning and a round: figures are JSON, no hook or gradient is left, and a seed gives the same weights."""
    ends, task = [], few()
    fingerprint = task.fingerprints()
    for noise in (1, 2):
        torch.manual_seed(noise)
        subject, asked = fresh(), {n: p.requires_grad for n, p in memoriser().model.named_parameters()}
        _, figures = run(unlearns(plugin(clients=2, rounds=1, epochs=0.5), "npo + retain_nll"), subject)
        ends.append(subject)
        assert json.loads(json.dumps(figures, allow_nan=False))["steps"] == figures["steps"] > 0
        assert figures["positions"] > 0 and [line["round"] for line in figures["rounds"]] == ["unlearning",
                                                                                              "round 1 of 1"]
        assert hooks(subject) == [] and not subject.model.training
        assert all(p.grad is None and p.requires_grad == asked[n] for n, p in subject.model.named_parameters())
        assert all(bool(p.isfinite().all()) for p in subject.model.parameters())
    assert same(*ends) and not same(ends[0], memoriser()) and task.fingerprints() == fingerprint


@invariant("federated", trains=True)
def any_unlearner_works(plugin: type[ServerRule]) -> None:
    """An edit, a preset, a reference that is an adapter switched off, a combiner: what a stage may hold."""
    for text in ("ssd", "grad_diff", "npo + retain_kl + lora(rank=2)", "simnpo + retain_nll + gu"):
        subject, figures = run(unlearns(plugin(clients=2, rounds=1, epochs=0.2), text))
        assert set(figures["unlearned"]) == {"0"}, text
        assert any(not torch.equal(value, weights(memoriser())[name]) for name, value in weights(subject).items()
                   if name in weights(memoriser())) or "lora" in text
