"""Problems on small random graphs, each with a best answer and some that are not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from random import Random
from typing import get_args

from expunge.metrics.text.graphs import GraphProblem, Kind, mark, solve
from expunge.records.task import Example

KINDS: tuple[Kind, ...] = get_args(Kind)
WRONG = 3
NAMES = "ABCDEFGHIJ"
DENSITY = 0.4
"""Share of the pairs of nodes that are joined, on average."""
TRIES = 200
"""Draws after which a kind has no new problem of this size."""


def problems(count: int, nodes: int, seed: int, prefix: str) -> Iterator[Example]:
    """So many different problems of all kinds in turn, on graphs of `nodes` nodes; it ends where a kind has no more."""
    rng, seen = Random(seed), set[str]()
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        for _ in range(TRIES):
            problem = drawn(kind, nodes, rng)
            if problem is None or problem.text() in seen or len(false := wrong(problem, rng)) < WRONG:
                continue
            break
        else:
            return
        seen.add(problem.text())
        right = written(solve(problem))
        options = [right, *false]
        rng.shuffle(options)
        yield Example(id=f"{prefix}/{i}", prompt=problem.text(), answer=right, short_answer=right,
                      wrong_answers=tuple(false), options=tuple(options), group=f"graph_{kind}")


def drawn(kind: Kind, nodes: int, rng: Random) -> GraphProblem | None:
    """A random problem; None where the graph has no answer worth asking for."""
    names = tuple(NAMES[:nodes])
    edges = tuple(pair for pair in combinations(names, 2) if rng.random() < DENSITY)
    ends = tuple(rng.sample(names, 2)) if kind in ("path", "neighbours") else ()
    problem = GraphProblem(kind, names, edges, ends)
    if not edges or (kind == "path" and ends[1] not in problem.distances(ends[0])):
        return None
    return problem if solve(problem) else None


def wrong(problem: GraphProblem, rng: Random) -> list[str]:
    """Different answers that are not best, of about the right length."""
    found: dict[str, None] = {}
    length = len(solve(problem))
    for _ in range(TRIES):
        count = min(max(length + rng.choice((-1, 0, 0, 1)), 1), len(problem.nodes))
        answer = rng.sample(problem.nodes, count)
        if problem.kind == "path" and count > 1:
            answer = [problem.ends[0], *[node for node in answer if node not in problem.ends][: count - 2],
                      problem.ends[1]]
        elif problem.kind != "diameter":
            answer.sort()
        if mark(problem, written(answer)) < 1:
            found[written(answer)] = None
        if len(found) == WRONG:
            break
    return list(found)


def written(nodes: tuple[str, ...] | list[str]) -> str:
    return f"[{', '.join(nodes)}]"
