"""Server rules side by side: the same changes of three clients over four rounds, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.federated.aggregate import average, shares_of
from expunge.registry import load
from official.bed import Difference, Found, difference
from official.taken import taken

REPOSITORY = "fyzhang1/Oblivionis"
COMMIT = "7b16e03858c501a1adf98c38951a38735324f7d1"
FILE = "src/trainer/federated/federated_utils.py"
ROWS, ROUNDS = {0: 7, 1: 20, 2: 13}, 4
SHAPES = {"embed": (11, 4), "norm": (4,), "head": (4, 11)}
Weights = dict[str, Tensor]
Theirs = Callable[..., Any]
"""(clients' weights, the server's, number of the round, rows of the clients) -> the server's after it; keeps its
moments."""


def compare(code: Path, seed: int, name: str, theirs: Callable[[Theirs], Theirs], what: str,
            official: str) -> Iterator[Difference]:
    """How far the server has moved after every round, all rounds together.

    Args:
        theirs: their function -> a function of a round, which keeps their moments.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(scale: float) -> Weights:
        return {n: scale * torch.randn(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}

    rule, run = load(name)(), theirs(taken(code / FILE, official))
    state: dict[str, dict[str, Tensor]] = {n: {} for n in SHAPES}
    start = draw(1.0)
    mine, other = ({n: v.clone() for n, v in start.items()} for _ in range(2))
    moved: tuple[list[Tensor], list[Tensor]] = ([], [])
    shares = list(shares_of(ROWS).values())
    for number in range(ROUNDS):
        changes = [draw(0.01) for _ in ROWS]
        sent = [{n: mine[n] + change[n] for n in SHAPES} for change in changes]
        mine = {n: rule.update(mine[n], average([s[n] for s in sent], shares) - mine[n], state[n]) for n in SHAPES}
        copies = [{n: other[n] + change[n] for n in SHAPES} for change in changes]
        other = run(copies, {n: v.clone() for n, v in other.items()}, number, list(ROWS.values()))
        for steps, side in zip(moved, (mine, other), strict=True):
            steps += [side[n] - start[n] for n in SHAPES]
    yield difference(what, *(Found(None, steps) for steps in moved))


def with_moments(*names: str) -> Callable[[Theirs], Theirs]:
    """Their function with the moments that it returns given back to it, under these names."""
    def made(function: Theirs) -> Theirs:
        kept: dict[str, Any] = {}

        def one(clients: Any, server: Mapping[str, Tensor], number: int, rows: Any) -> Any:
            options = {"client_weights": rows, **kept}
            if "round_idx" in function.__code__.co_varnames[: function.__code__.co_argcount]:
                options["round_idx"] = number
            found = function(clients, server, **options)
            if not names:
                return found
            kept.update(zip(names, found[1:], strict=True))
            return {n: v.clone() for n, v in found[0].items()}
        return one
    return made
