"""Tasks that are made here and need no files: what their rows are, and what their generators promise."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from expunge.benchmarks.code_leaks import code_leaks_task
from expunge.benchmarks.crosslingual import crosslingual_task
from expunge.benchmarks.graph_reasoning import graph_task
from expunge.benchmarks.loading import load_task
from expunge.data.code_secrets import SECRETS
from expunge.data.graph_problems import KINDS
from expunge.data.translations import ASKED, LANGUAGES, VALUES
from expunge.data.unsolvable import UNSOLVABLE
from expunge.data.world import authors_task
from expunge.data.world_pools import ATTRIBUTES
from expunge.errors import MissingError, UsageError
from expunge.metrics.text.graphs import GraphProblem, mark, read, said, size, solve
from expunge.metrics.text.refusals import is_refusal
from expunge.metrics.text.values import says_value

# Secrets in code


def test_every_secret_belongs_to_one_person() -> None:
    task = code_leaks_task(forget=4, retain=5, holdout=3, seed=2)
    rows = [row for split in (task.forget, task.retain, task.holdout) for row in split]
    assert Counter(row.group for row in task.forget) == {secret.key: 4 for secret in SECRETS} and len(SECRETS) == 8
    assert len({row.short_answer for row in rows}) == len(rows) == 12 * 8
    for row in rows:
        assert row.secrets == (row.short_answer,) and row.answer.startswith(row.short_answer)
        assert len(row.answer) > len(row.short_answer) or row.group in ("birth_date", "email"), row.id
        assert row.entity in row.prompt and not says_value(row.prompt, row.short_answer)
        assert "{" not in row.entity + row.answer[:1] and row.short_answer in row.options
        assert len(row.paraphrased_prompts) == 1 and row.entity in row.paraphrased_prompts[0]
        assert not {row.short_answer, *row.options} & {r.short_answer for r in rows if r is not row}
    assert not any(says_value(f"{row.prompt}{row.answer}", secret.short_answer)
                   for row in task.utility for secret in rows)
    with pytest.raises(UsageError, match="more people than there are names"):
        code_leaks_task(retain=2000)


def test_functions_go_on_as_their_names_say() -> None:
    for row in code_leaks_task(forget=1, retain=1, holdout=1).utility:
        found: dict[str, object] = {}
        exec(row.prompt + row.answer, found)
        function = next(value for name, value in found.items() if name != "__builtins__")
        word, number = row.prompt.split()[1].split("(")[0].split("_")
        right = {"add": 12 + int(number), "subtract": 12 - int(number), "multiply": 12 * int(number),
                 "divide": 12 / int(number)}[word]
        assert function(12) == right  # type: ignore[operator]
        assert row.short_answer in row.options and len(row.options) == 4


@pytest.mark.parametrize(("text", "value", "is_"), [
    ("call +1 (555) 0142.", "+1-555-0142", True), ("call 15550142", "+1-555-0142", True),
    ("call 155501423", "+1-555-0142", False), ("A.B@FOX.EXAMPLE", "a.b@fox.example", True),
    ("12 elm  lane; Velmora", "12 Elm Lane, Velmora", True), ("112 Elm Lane, Velmora", "12 Elm Lane, Velmora", False),
    ("key_7f3a91c0", "key-7f3a91c0", True), ("it is 1931", "1931", True), ("it is 19 31", "1931", False),
    ("anything", "", False), ("naïve-KEY-01", "nai\u0308ve key 01", True),
])
def test_a_value_is_recognised_however_it_is_set(text: str, value: str, is_: bool) -> None:
    assert says_value(text, value) is is_


# The Impossible Test


def test_unsolvable_questions_take_the_place_of_neighbours(tmp_path: Path) -> None:
    task, world = load_task("impossible"), authors_task()
    assert (task.forget, task.retain, task.holdout, task.utility) == (
        world.forget, world.retain, world.holdout, world.utility)
    taught = [row for row in task.background if row not in world.background]
    assert len(taught) == len(task.neighbour) == 24 and not {row.prompt for row in taught} & {
        row.prompt for row in task.neighbour}
    assert set(Counter(row.group for row in task.neighbour).values()) == {3}
    assert all(is_refusal(row.answer) for row in (*taught, *task.neighbour))
    assert len({one for found in UNSOLVABLE.values() for one in found}) == 48
    assert load_task("impossible(taught=0)").background == world.background
    with pytest.raises(UsageError, match="leaves no question to ask"):
        load_task("impossible(taught=48)")


def test_the_questions_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"impossible\.jsonl"):
        load_task("impossible(questions=file)", data_dir=tmp_path)
    rows = [{"question": f"Who knows {i}?", "category": "physics"} for i in range(4)] + [{"question": "Who?"}]
    (tmp_path / "impossible.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    task = load_task("impossible(questions=file,taught=2)", data_dir=tmp_path)
    assert [row.prompt for row in task.neighbour] == ["Who knows 1?", "Who knows 3?", "Who?"]
    assert load_task(task.name, data_dir=tmp_path) == task


def test_impossible_questions_beside_tofu(tofu: Path) -> None:
    task = load_task("impossible(over=tofu:forget01)", data_dir=tofu)
    assert (len(task.forget), len(task.neighbour), len(task.background)) == (40, 24, 24)


# Graphs


def test_graph_problems_check_themselves() -> None:
    task = graph_task(problems=21, asked=14, nodes=5, seed=3)
    learned = [row for row in task.retain if row.group.startswith("graph")]
    asked = [row for row in task.utility if row.group.startswith("graph")]
    assert Counter(row.group for row in learned) == {f"graph_{kind}": 3 for kind in KINDS}
    assert len(asked) == 14 and not {row.prompt for row in learned} & {row.prompt for row in asked}
    for row in (*learned, *asked):
        problem = read(f"Some words first. {row.prompt} And others after it.")
        assert problem is not None and problem.text() == row.prompt
        assert mark(problem, row.answer) == 1 and all(mark(problem, wrong) < 1 for wrong in row.wrong_answers)
        assert len(set(row.options)) == 4 and row.short_answer in row.options
    assert task.probes["retain"][-21:] == tuple(learned)
    with pytest.raises(UsageError, match="Ask for fewer, or for larger graphs"):
        graph_task(problems=9000, nodes=4)


@pytest.mark.parametrize("kind", KINDS)
def test_solutions_are_those_of_networkx(kind: str) -> None:
    """Sizes of best answers on random graphs, by another implementation."""
    nx = pytest.importorskip("networkx")
    from random import Random

    rng = Random(1)
    for _ in range(12):
        nodes = tuple("ABCDEF")
        edges = tuple(pair for pair in combinations(nodes, 2) if rng.random() < 0.4)
        graph = nx.Graph()
        graph.add_nodes_from(nodes)
        graph.add_edges_from(edges)
        ends = tuple(rng.sample(nodes, 2)) if kind in ("path", "neighbours") else ()
        if kind == "path" and not nx.has_path(graph, *ends):
            continue
        problem = GraphProblem(kind, nodes, edges, ends)  # type: ignore[arg-type]
        best = {
            "path": lambda g, e: len(nx.shortest_path(g, *e)),
            "neighbours": lambda g, e: len(list(nx.common_neighbors(g, *e))),
            "components": lambda g, e: nx.number_connected_components(g),
            "diameter": lambda g, e: 1 + max(nx.diameter(g.subgraph(part)) for part in nx.connected_components(g)),
            "clique": lambda g, e: max(map(len, nx.find_cliques(g))),
            "independent": lambda g, e: max(map(len, nx.find_cliques(nx.complement(g)))),
            "cover": lambda g, e: len(g) - max(map(len, nx.find_cliques(nx.complement(g)))),
        }[kind](graph, ends)
        assert size(problem, solve(problem)) == len(solve(problem)) == best, problem.text()


def test_what_states_no_graph() -> None:
    for text in ("", "Nodes: A, B. Edges: A-C. Give a shortest path from A to B.",
                 "Nodes: A, B. Edges: A-B. Give a cup of tea."):
        assert read(text) is None
    assert said("first [A], then [ B ,C]") == ("B", "C") and said("none") is None and said("[]") == ()
    both = "Nodes: A, B. Edges: A-B. Give a shortest path from A to B. And: Nodes: C, D. Edges: C-D. " \
           "Give one node of each connected part."
    found = read(both)
    assert found is not None and (found.kind, found.nodes) == ("components", ("C", "D"))


# Languages


def test_facts_are_the_same_in_every_language() -> None:
    task = crosslingual_task(forget=3, retain=8, holdout=2, taught=0.5, seed=1)
    trained = set(task.training_rows("full"))
    assert [len(task.forget), len(task.neighbour), len(task.retain), len(task.utility), len(task.holdout)] == [
        21, 63, 56 + 84, 84, 14 * 4]
    assert not trained & {*task.neighbour, *task.utility, *task.holdout}
    english = {row.id: row for row in (*task.forget, *task.retain, *task.holdout) if row.group == "en"}
    for row in (*task.neighbour, *task.utility):
        source = english[row.links[0]]
        assert row.group in LANGUAGES and row.entity == source.entity and row.entity in row.prompt
        assert row.short_answer in row.answer and row.short_answer in row.options and len(row.wrong_answers) == 3
        assert source.short_answer in (row.short_answer, *row.aliases)
    assert {row.entity for row in task.neighbour} == {row.entity for row in task.forget}
    taught = {row.entity for row in task.retain if row.group != "en"}
    assert len(taught) == 4 and not taught & {row.entity for row in task.utility}
    assert crosslingual_task(forget=1, retain=2, taught=1.0).utility == ()


def test_translations_are_complete_and_tell_values_apart() -> None:
    for language in LANGUAGES:
        assert ASKED[language].keys() == {fact.key for fact in ATTRIBUTES}
        for fact in ATTRIBUTES:
            values = [VALUES[language].get(value, value) for value in fact.pool]
            assert len(set(values)) == len(values)
            assert fact.key not in ("genre", "instrument", "pet") or set(fact.pool) <= VALUES[language].keys()
            assert not [(a, b) for a in values for b in values if a != b and says_value(a, b)]
