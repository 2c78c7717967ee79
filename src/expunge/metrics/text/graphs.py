"""Problems on small graphs, as text that checks itself: stated, read back, solved, marked. Usable from any folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import Literal

Kind = Literal["path", "neighbours", "components", "diameter", "clique", "independent", "cover"]
Nodes = tuple[str, ...]
QUESTIONS: Mapping[Kind, str] = {
    "path": "Give a shortest path from {0} to {1}.",
    "neighbours": "Give all nodes that are joined to both {0} and {1}.",
    "components": "Give one node of each connected part.",
    "diameter": "Give the longest of all shortest paths between two nodes.",
    "clique": "Give a largest set of nodes that are all joined to each other.",
    "independent": "Give a largest set of nodes of which no two are joined.",
    "cover": "Give a smallest set of nodes that touches every edge.",
}
"""What is asked of the graph; {0} and {1} are two of its nodes."""
SMALLER: frozenset[Kind] = frozenset({"path", "cover"})
"""Kinds of which the smallest feasible answer is best; of the others the largest."""
_GRAPH = re.compile(r"Nodes: ([\w, ]+)\. Edges: ([\w, -]*)\. (Give .*?\.)")
_PATTERNS: Mapping[Kind, re.Pattern[str]] = {
    kind: re.compile(re.escape(text).replace(r"\{0\}", r"(\w+)").replace(r"\{1\}", r"(\w+)"))
    for kind, text in QUESTIONS.items()}
_LIST = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class GraphProblem:
    """An undirected graph and what is asked of it."""

    kind: Kind
    nodes: Nodes
    edges: tuple[tuple[str, str], ...]
    ends: Nodes = ()

    @cached_property
    def joined(self) -> Mapping[str, frozenset[str]]:
        """Node -> its neighbours."""
        return {node: frozenset(b if a == node else a for a, b in self.edges if node in (a, b)) for node in self.nodes}

    def text(self) -> str:
        """The graph and the question, in one line."""
        edges = ", ".join(f"{a}-{b}" for a, b in self.edges)
        return (f"Nodes: {', '.join(self.nodes)}. Edges: {edges}. {QUESTIONS[self.kind].format(*self.ends)} "
                "Answer with a list such as [A, B].")

    def distances(self, start: str) -> dict[str, int]:
        """Number of edges to every node that can be reached."""
        found, edge = {start: 0}, [start]
        while edge:
            edge = list(dict.fromkeys(other for node in edge for other in sorted(self.joined[node])
                                      if other not in found))
            found |= {other: 1 + min(found[node] for node in self.joined[other] if node in found) for other in edge}
        return found


def read(text: str) -> GraphProblem | None:
    """The last problem that a text states; None where it states none."""
    for found in list(_GRAPH.finditer(text))[-1:]:
        return _stated(found)
    return None


def _stated(found: re.Match[str]) -> GraphProblem | None:
    nodes = tuple(found[1].split(", "))
    edges = tuple((a, b) for a, _, b in (edge.partition("-") for edge in found[2].split(", ") if edge))
    for kind, pattern in _PATTERNS.items():
        if (asked := pattern.fullmatch(found[3])) is not None and {*asked.groups(), *sum(edges, ())} <= set(nodes):
            return GraphProblem(kind, nodes, edges, asked.groups())
    return None


def said(text: str) -> Nodes | None:
    """The last list in square brackets; None where there is none."""
    found = _LIST.findall(text)
    return tuple(filter(None, (part.strip() for part in found[-1].split(",")))) if found else None


def size(problem: GraphProblem, answer: Sequence[str]) -> int | None:
    """How many nodes a feasible answer has; None of one that is not feasible."""
    chosen = list(answer) if problem.kind in ("path", "diameter") else list(dict.fromkeys(answer))
    return len(chosen) if set(chosen) <= set(problem.nodes) and _FEASIBLE[problem.kind](problem, chosen) else None


def solve(problem: GraphProblem) -> Nodes:
    """A best answer: the first in the order of the nodes. By trying all, so graphs must be small."""
    sizes: list[tuple[int, Nodes]] = [(found, answer) for answer in _candidates(problem)
                                      if (found := size(problem, answer)) is not None]
    best = (min if problem.kind in SMALLER else max)(found for found, _ in sizes)
    return next(answer for found, answer in sizes if found == best)


def mark(problem: GraphProblem, text: str) -> float:
    """1 for a best answer, less for a feasible one (the ratio of its size to the best), 0 for any other.

    All neighbours, and a node of each part, are exact answers as well: fewer are feasible.
    """
    answer = said(text)
    found = None if answer is None else size(problem, answer)
    if found is None:
        return 0.0
    best = len(solve(problem))
    low, high = sorted((found, best))
    return low / high if high else 1.0


def _candidates(problem: GraphProblem) -> Iterator[Nodes]:
    if problem.kind == "path":
        yield _path(problem, *problem.ends)
    elif problem.kind == "diameter":
        yield from (_path(problem, a, b) for a, b in combinations(problem.nodes, 2) if b in problem.distances(a))
        yield problem.nodes[:1]
    else:
        for count in range(len(problem.nodes) + 1):
            yield from combinations(problem.nodes, count)


def _path(problem: GraphProblem, start: str, end: str) -> Nodes:
    """A shortest path, of several the first in order; empty where there is none."""
    left = problem.distances(end)
    if start not in left:
        return ()
    path = [start]
    while path[-1] != end:
        path.append(min(node for node in problem.joined[path[-1]] if left[node] == left[path[-1]] - 1))
    return tuple(path)


def _walk(problem: GraphProblem, chosen: Sequence[str]) -> bool:
    return all(b in problem.joined[a] for a, b in pairwise(chosen))


def _is_path(problem: GraphProblem, chosen: Sequence[str]) -> bool:
    if not chosen:
        return problem.ends[1] not in problem.distances(problem.ends[0])
    return (chosen[0], chosen[-1]) == tuple(problem.ends) and _walk(problem, chosen)


def _is_shortest(problem: GraphProblem, chosen: Sequence[str]) -> bool:
    return bool(chosen) and _walk(problem, chosen) and problem.distances(chosen[0])[chosen[-1]] == len(chosen) - 1


def _in_different_parts(problem: GraphProblem, chosen: Sequence[str]) -> bool:
    return not any(b in problem.distances(a) for a, b in combinations(chosen, 2))


def _pairs(joined: bool) -> Callable[[GraphProblem, Sequence[str]], bool]:
    return lambda problem, chosen: all((b in problem.joined[a]) == joined for a, b in combinations(chosen, 2))


_FEASIBLE: Mapping[Kind, Callable[[GraphProblem, Sequence[str]], bool]] = {
    "path": _is_path, "diameter": _is_shortest, "components": _in_different_parts,
    "neighbours": lambda problem, chosen: set(chosen) <= (problem.joined[problem.ends[0]]
                                                          & problem.joined[problem.ends[1]]),
    "clique": _pairs(True), "independent": _pairs(False),
    "cover": lambda problem, chosen: all(a in chosen or b in chosen for a, b in problem.edges),
}
