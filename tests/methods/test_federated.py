"""Server rules in recipes: what is refused, the whole way of the command line, resuming, and the Flower adapter."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import expunge
from expunge.errors import DataError, InterruptedRun, MissingExtra, PreflightError, UsageError
from expunge.federated.aggregate import pairs_of, unusable
from expunge.federated.clients import ClientAnswer, LocalClient
from expunge.federated.fedavg import FedAvg
from expunge.federated.flower import flower_client
from expunge.methods.plan import preflight
from expunge.methods.recipe import parse, trainer_stage
from expunge.models.load import load_subject
from expunge.records.settings import RunSettings
from expunge.records.task import Task
from expunge.testing.checks.federated import Told, few
from expunge.testing.support import memoriser


def planned(recipe: str, task: Task | None = None) -> Any:
    subject = memoriser()
    return preflight(recipe, parse(recipe, 3), task or few(), subject.encoder, subject.model.config, RunSettings())


@pytest.mark.parametrize(("recipe", "says"), [
    ("npo + fedavg(clients=9)", "4 entities cannot be divided over 9 clients"),
    ("npo + fedavg(clients=99, by='row')", "16 rows cannot be divided over 99 clients"),
    ("npo + salun + fedavg(target='spread')", "salun cannot be combined with fedavg"),
    ("npo + fedavg(adapters='shared')", "has no adapter to share"),
    ("uld + fedavg", "uld cannot be combined with fedavg"),
    ("distil + fedavg", "asks a teacher"),
    ("npo + fedadam(moments='keep')", "finds no moments"),
    ("ssd + gu + fedavg", "gu would do nothing"),
])
def test_what_clients_cannot_run_is_refused(recipe: str, says: str) -> None:
    with pytest.raises(PreflightError, match=says.replace("(", r"\(")) as refused:
        planned(recipe)
    assert all(problem.why or problem.fix for problem in refused.value.problems)


def test_options_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="numbered 0 to 1"):
        FedAvg(clients=2, client=2)
    with pytest.raises(UsageError, match="has one federated"):
        parse("npo + fedavg + fedprox")
    with pytest.raises(UsageError, match="no source of forgetting"):
        parse("fedavg")
    bare = few().model_copy(update={"retain": tuple(r for r in few().retain if r.entity != few().retain[0].entity)})
    assert not planned("ga + fedavg(clients=2)", bare).steps[0]


def test_a_server_alone_trains_and_its_rate_is_not_the_clients() -> None:
    stage = trainer_stage("fedadam(server_lr=0.1, lr=0.3)", None, 2e-3)
    assert [p.card.name for p in stage.retain] == ["retain_nll"] and stage.optimizer.spec.lr == 2e-3
    assert trainer_stage("fedavg + adamw(lr=0.5)", None, 2e-3).optimizer.spec.lr == 0.5
    assert "client 0 has 8 rows to forget" in "".join(planned("ssd + fedavg").notes)


def test_an_answer_is_looked_at() -> None:
    theta = {"a": torch.zeros(2), "b": torch.zeros(1)}
    assert unusable(theta, theta) == "" and "other parameters" in unusable({"a": theta["a"]}, theta)
    assert "in the shape" in unusable(theta | {"b": torch.zeros(2)}, theta)
    assert "not finite, in a" in unusable(theta | {"a": torch.tensor([0.0, float("inf")])}, theta)


def test_an_adapter_on_a_stack_is_refused() -> None:
    class Stack:
        r = {"default": 2}
        lora_A = {"default": torch.nn.Linear(3, 8)}

    with pytest.raises(UsageError, match="stack of matrices"):
        pairs_of(["x.lora_A.default.weight", "x.lora_B.default.weight"], lambda prefix: Stack())


class Sends:
    """A client that adds 1, and counts its rounds in its optimizer state."""

    task = few()

    def train(self, theta: Mapping[str, Tensor], number: int, optimizer: Mapping[str, Any]) -> ClientAnswer:
        return ClientAnswer({n: v + 1 for n, v in theta.items()}, 3, 5, {"rounds": optimizer.get("rounds", 0) + 1})

    def unlearn(self, theta: Mapping[str, Tensor]) -> ClientAnswer:
        return ClientAnswer({n: v - 1 for n, v in theta.items()})


class FakeFlower:
    """What the adapter needs of `flwr.client`: the class that numpy clients derive from, with its three methods."""

    class NumPyClient:
        def get_parameters(self, config: dict[str, Any]) -> list[Any]:
            return []

        def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
            return [], 0, {}


def test_a_flower_client_trains_and_unlearns() -> None:
    """By the contract of flwr.client.NumPyClient: lists of arrays, a number of rows, and figures that are scalars."""
    theta = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    client = flower_client(Sends(), theta, 16, FakeFlower)  # type: ignore[arg-type]
    assert isinstance(client, FakeFlower.NumPyClient)
    start = client.get_parameters({})
    assert [a.shape for a in start] == [(2, 3), (1,)] and all(isinstance(a, np.ndarray) for a in start)
    for done in (1, 2):
        sent, rows, figures = client.fit(start, {"round": done - 1})
        assert rows == 16 and figures == {"steps": 3, "positions": 5} and client.optimizer == {"rounds": done}
        assert np.array_equal(sent[0], start[0] + 1) and sent[1].dtype == np.float32
    back, rows, _ = client.fit(sent, {"unlearn": True})
    assert np.array_equal(back[1], start[1]) and rows == len(few().forget)
    with pytest.raises(DataError, match="weights of another model"):
        client.fit(start[:1], {})
    silent = flower_client(Told(0, few(), lambda i, n, theta: None), theta, 1, FakeFlower)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        silent.fit(start, {})


def test_flower_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "flwr":
            raise ImportError("no flwr")
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"\.\[flower\]"):
        flower_client(Sends(), {}, 1)


OPTIONS: dict[str, Any] = {"batch_size": 4, "seed": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base") / "model"
    memoriser().save(place)
    return place


@pytest.mark.slow
def test_one_client_trains_the_central_model_byte_for_byte(base: Path, tmp_path: Path) -> None:
    """By the verbs, also from new weights, and then on several clients."""
    for model, method in ((str(base), "retain_nll"), ("tiny", "retain_nll")):
        plain, one = (tmp_path / f"{Path(model).name}{n}" for n in (1, 2))
        expunge.train(model, task=few(), method=method, out=plain, steps=4, **OPTIONS)
        record = expunge.train(model, task=few(), method=f"{method} + fedavg(clients=1, rounds=1)", out=one, steps=4,
                               **OPTIONS)
        files = [(out / "model" / "model.safetensors").read_bytes() for out in (plain, one)]
        assert files[0] == files[1] and record.timing["steps"] == 4
    three = expunge.train(base, task=few(), method="fedyogi(clients=3, rounds=2)", out=tmp_path / "three", steps=4,
                          **OPTIONS)
    assert three.timing["steps"] == 12 and len(three.best["rounds"]) == 2
    assert three.parameters["trainable"] == three.parameters["total"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["npo + retain_nll + fedavgm(clients=2, epochs=0.5)",
                                    "npo + retain_nll + lora(rank=2) + fedadam(clients=2, epochs=0.5)"])
def test_a_run_goes_on_after_its_last_round(recipe: str, base: Path, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the second round after unlearning; the rest is done by the run that goes on."""
    whole, cut, count = tmp_path / "whole", tmp_path / "cut", list[int]()
    options: dict[str, Any] = {"task": few(), "method": recipe, "steps": 2, **OPTIONS}
    expunge.forget(base, out=whole, **options)
    train = LocalClient.train

    def stopped(self: Any, theta: Any, number: int, optimizer: Any) -> ClientAnswer:
        count.append(number)
        if len(count) == 4:
            raise InterruptedRun("Interrupted.")
        return train(self, theta, number, optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(LocalClient, "train", stopped)
        with pytest.raises(InterruptedRun, match="in round 3 of 3") as told:
            expunge.forget(base, out=cut, **options)
    assert "Finished rounds are kept." in str(told.value)
    count.clear()
    monkeypatch.setattr(LocalClient, "train", lambda *given: (count.append(given[2]), train(*given))[1])
    record = expunge.forget(base, out=cut, resume=True, **options)
    assert count == [1, 1] and [line["round"] for line in record.best["rounds"]] == [
        "unlearning", "round 1 of 2", "round 2 of 2"]
    name = "adapter_model.safetensors" if "lora" in recipe else "model.safetensors"
    first, second = (load_file(out / "model" / name) for out in (whole, cut))
    assert all(torch.equal(value, second[n]) for n, value in first.items())
    assert load_subject(cut).model is not None


@pytest.mark.slow
def test_moments_are_kept_beside_the_model(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "original"
    expunge.train(base, task=few(), method="fedadam(clients=2, moments=keep)", out=out, steps=2, **OPTIONS)
    assert (out / "server_moments.safetensors").is_file()
    expunge.forget(out, task=few(), method="ga + fedadam(clients=2, rounds=1, epochs=0.2, moments=keep)",
                   out=tmp_path / "run", steps=1, **OPTIONS)
    with pytest.raises(PreflightError, match="those of fedadam, not of fedyogi"):
        expunge.forget(out, task=few(), method="ga + fedyogi(clients=2, moments=keep)", out=tmp_path / "other", steps=1,
                       **OPTIONS)
