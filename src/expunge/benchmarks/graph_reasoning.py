"""Graph problems beside rows to forget: whether a model still reasons once it has forgotten."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.benchmarks.over import OVER, Over, base_task
from expunge.data import graph_problems
from expunge.errors import UsageError
from expunge.plugin import Property
from expunge.records.task import Task
from expunge.terms import with_options

SUITE = ", ".join((
    "utility.graph_answer(group=graph)", "utility.graph_answer(measure=feasible, group=graph)",
    "utility.graph_answer(measure=ratio, group=graph)", "retain.graph_answer(group=graph)",
    "utility.accuracy(group=graph)", "retain.accuracy(group=graph)", "forget.probability", "holdout.probability",
    "retain.probability", "forget.keyword", "holdout.keyword", "leak_share", "paraphrase(count=1)",
    "relearn(steps=16)"))


class GraphReasoning(TaskPlugin):
    """Retain: problems that both twins learn, beside another task's rows. Utility: others, which no model is taught."""

    class Spec(plugin.Spec):
        over: Over = Field("authors", description=OVER)
        problems: int = Field(70, ge=1, description="Problems among the retain rows.")
        asked: int = Field(35, ge=1, description="Other problems, which are asked only.")
        nodes: int = Field(5, ge=4, le=8, description="Nodes of every graph.")
        seed: int = Field(0, ge=0, description="Of the problems, and of the people of authors.")

    card = TaskCard(
        name="graph_reasoning", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="problems on graphs that check themselves, beside rows to forget: does the model still reason",
        paper="Graph-R1 (arXiv 2508.20373), whose problems these are; unlearning with them is ours",
        formula="graph_answer: solve what the prompt states, and compare",
        defaults="the world authors and graphs of five nodes: sizes at which a tiny model is trained in minutes",
        licence="as expunge itself", source="drawn by `data/graph_problems.py` from a seed",
        suite=SUITE,
        deviations=("shortest path, common neighbours, connected parts, diameter, clique, independent set and vertex "
                    "cover, in words of ours; travelling salesman, edit distance and common subgraph are left out",
                    "graphs are random; the authors cut theirs out of knowledge graphs and networks of authors",
                    "an answer is the list alone, without a chain of thought",
                    "rows to forget and to keep are those of another task (over)"),
    )
    must_show = (
        Property("name_leads_back", {"options": {"problems": 7, "asked": 7, "seed": 1}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return graph_task(data_dir, **self.spec.model_dump())


def graph_task(data_dir: Path | None = None, *, over: Over = "authors", problems: int = 70, asked: int = 35,
               nodes: int = 5, seed: int = 0) -> Task:
    """The rows of another task with graph problems among retain and utility; see the options of `GraphReasoning`.

    Raises:
        UsageError: graphs of this size have not so many different problems.
    """
    given = {"over": over, "problems": problems, "asked": asked, "nodes": nodes, "seed": seed}
    name = with_options("graph_reasoning", given, GraphReasoning.Spec().model_dump())
    base, made = base_task(over, data_dir, seed), tuple(graph_problems.problems(problems + asked, nodes, seed, "graph"))
    if len(made) < problems + asked:
        raise UsageError(f"{name} asks for {problems + asked} problems.",
                         f"Graphs of {nodes} nodes gave {len(made)} different ones of all kinds.",
                         "Ask for fewer, or for larger graphs.")
    learned, tested = made[:problems], made[problems:]
    probed = (*base.probe_rows("retain"), *learned)
    return base.model_copy(update={"name": name, "retain": (*base.retain, *learned),
                                   "utility": (*base.utility, *tested), "probes": {**base.probes, "retain": probed}})
