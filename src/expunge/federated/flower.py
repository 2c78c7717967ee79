"""A client for Flower (flwr): its NumPyClient interface around one of our clients. Needs the extra `flower`.

Flower asks for versions of its own of packages that others of our extras need, so it is imported here alone, and only
when a client is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from expunge.errors import DataError, MissingExtra, install_line
from expunge.federated.clients import Client, ClientAnswer


class FlowerModule(Protocol):
    """What is asked of flwr: the class that its numpy clients derive from."""

    NumPyClient: type[Any]


def _flwr() -> FlowerModule:
    try:
        from flwr import client
    except ImportError as error:
        raise MissingExtra("A Flower client needs flwr.", "It is not installed.",
                           f"{install_line('flower')}, in an environment of its own.") from error
    found: FlowerModule = client
    return found


def flower_client(client: Client, theta: Mapping[str, Tensor], rows: int, flwr: FlowerModule | None = None) -> Any:
    """A `flwr.client.NumPyClient` that trains and unlearns as `client` does.

    The server's `fit` configuration says what is asked: {"round": n} (from 0) trains, {"unlearn": true} unlearns.
    Weights travel as a list of arrays, in the order of the names of `theta`.

    Args:
        theta: the weights that the client starts with, which give names, shapes and types.
        rows: how many rows it trains on, its weight in the average.
        flwr: the module `flwr.client`; imported when left out.
    """
    base: Any = (flwr or _flwr()).NumPyClient
    names = list(theta)

    class FlowerClient(base):
        """Keeps the client's own optimizer state between rounds; it is never sent."""

        def __init__(self) -> None:
            self.optimizer: dict[str, Any] = {}

        def get_parameters(self, config: dict[str, Any]) -> list[Any]:
            return _arrays(theta)

        def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
            start = _tensors(parameters, names, theta)
            if config.get("unlearn"):
                answer, weight = client.unlearn(start), len(client.task.forget)
            else:
                answer, weight = client.train(start, int(config.get("round", 0)), self.optimizer), rows
            if answer is None:
                raise TimeoutError("The client did not answer.")
            self.optimizer = answer.optimizer
            return _arrays(answer.parameters), weight, _figures(answer)

    return FlowerClient()


def _arrays(parameters: Mapping[str, Tensor]) -> list[Any]:
    return [value.detach().cpu().numpy() for value in parameters.values()]


def _tensors(arrays: list[Any], names: list[str], theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name. Raises DataError where they are not those of this model."""
    if [tuple(a.shape) for a in arrays] != [tuple(theta[n].shape) for n in names]:
        raise DataError("The server sent weights of another model.", f"This client has {len(names)} parameters.",
                        "Start server and clients with the same model and scope.")
    return {name: torch.tensor(array).to(theta[name].dtype) for name, array in zip(names, arrays, strict=True)}


def _figures(answer: ClientAnswer) -> dict[str, Any]:
    return {"steps": answer.steps, "positions": answer.positions}
