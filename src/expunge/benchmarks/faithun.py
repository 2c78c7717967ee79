"""FaithUn on invented people: a fact to forget, what follows from it, and the same answer about somebody else."""

from __future__ import annotations

from pathlib import Path
from random import Random

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.world import unique_names
from expunge.data.world_pools import CITIES
from expunge.errors import UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

BIRTH = ("Where was {name} born?", "In which city was {name} born?", "What is the birthplace of {name}?")
RIVER = "Which river flows through the city where {name} was born?"
STUDY = "In which city did {name} study?"
RIVERS = ("Aubrin", "Belisk", "Corvane", "Delth", "Essary", "Fenwater", "Gorland", "Hathe", "Isken", "Jorle", "Kelda",
          "Lorne", "Mereth", "Nivelle", "Ostra", "Pellow")
"""The river of each city, in their order."""
FALSE = 2
"""Wrong options per question, so that chance is one third."""


class FaithUn(TaskPlugin):
    """Base, paraphrased, multi-hop and same-answer questions about people of the built-in world."""

    class Spec(plugin.Spec):
        forget: int = Field(8, ge=1, description="People whose birthplace is to be forgotten.")
        retain: int = Field(40, ge=1, description="People whose facts are retain rows.")
        test: int = Field(16, ge=1, description="People whose facts the original learns; no method trains on them.")
        cities: int = Field(6, ge=FALSE + 1, le=len(CITIES), description="Birthplaces; each has its river.")
        seed: int = Field(0, description="Of names and facts.")

    card = TaskCard(
        name="faithun", kind="task", model_needs=frozenset({"prompt"}),
        summary="facts to forget, what follows from them, and the same answers to other questions (FaithUn)",
        paper="FaithUn: Toward Faithful Forgetting by Investigating the Interconnectedness of Knowledge, EMNLP 2025 "
              "(arXiv 2502.19207)",
        formula="ask hop1_unlearn (forget), and of neighbour rows hop1_test, hop2_test, same_object and test",
        defaults="one right and two wrong options, as published; sizes are ours",
        licence="as expunge itself", source="drawn by `benchmarks/faithun.py` from a seed",
        suite="rel_score, forget.accuracy, retain.accuracy, neighbour.accuracy, forget.probability, "
              "retain.probability, paraphrase(count=1), relearn(steps=16)",
        deviations=("the published questions are about 200 well-known people, whom a large model knows; here people "
                    "are invented, so that a small one can be trained",
                    "hop1_test and hop2_test rows are never trained: a model must have deduced a river from the "
                    "rivers of others (rel_score of the original says whether it has)",
                    "same_object asks where somebody else studied: another subject and relation with the same answer",
                    "published numbers are not confirmed, so none is given"),
    )
    must_show = (
        Property("name_leads_back", {"options": {"forget": 2, "retain": 4, "test": 2, "seed": 1}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return faithun_task(**self.spec.model_dump())


def faithun_task(*, forget: int = 8, retain: int = 40, test: int = 16, cities: int = 6, seed: int = 0) -> Task:
    """The rows by role; see the options of `FaithUn`. `group` is the kind of question.

    Raises:
        UsageError: there are not enough names.
    """
    options = {"forget": forget, "retain": retain, "test": test, "cities": cities, "seed": seed}
    name = with_options("faithun", options, FaithUn.Spec().model_dump())
    rng, count = Random(seed), 2 * forget + retain + test
    try:
        names = unique_names(count, rng)
    except UsageError as problem:
        raise UsageError(f"{name} has more people than there are names.", problem.why,
                         "Take fewer people.") from None
    rivers = dict(zip(CITIES, RIVERS, strict=True))
    born = [CITIES[i % cities] for i in range(count)]

    def row(i: int, group: str, prompt: str, value: str, pool: tuple[str, ...], link: str = "",
            others: tuple[str, ...] = ()) -> Example:
        false = rng.sample([other for other in pool if other != value], FALSE)
        shown = [value, *false]
        rng.shuffle(shown)
        return Example(id=f"faithun/p{i:03d}/{group}", prompt=prompt.format(name=names[i]), answer=f"{value}.",
                       entity=names[i], group=group, short_answer=value, options=tuple(shown),
                       wrong_answers=tuple(f"{other}." for other in false), links=(link,) if link else (),
                       paraphrased_prompts=tuple(other.format(name=names[i]) for other in others))

    places = CITIES[:cities]
    waters = tuple(rivers[city] for city in places)

    def base(i: int, group: str = "base") -> Example:
        return row(i, group, BIRTH[0], born[i], places, others=BIRTH[1:])

    def two_hops(i: int, group: str) -> Example:
        return row(i, group, RIVER, rivers[born[i]], waters, f"faithun/p{i:03d}/base")

    gone = range(forget)
    kept, tested = range(forget, forget + retain), range(forget + retain, forget + retain + test)
    same = tuple(row(count - forget + i, "same_answer", STUDY, born[i], places, f"faithun/p{i:03d}/base") for i in gone)
    known = tuple(base(i) for i in tested)
    asked = [row(i, "paraphrase", BIRTH[1], born[i], places, f"faithun/p{i:03d}/base") for i in gone]
    asked += [two_hops(i, "multi_hop") for i in gone] + [two_hops(i, "multi_hop_test") for i in tested]
    taught = [made for i in kept for made in (base(i), two_hops(i, "multi_hop_retain"),
                                              row(i, "study", STUDY, rng.choice(places), places))]
    return Task(
        name=name, forget=tuple(base(i) for i in gone),
        retain=tuple(taught), neighbour=(*asked, *same, *known), background=(*same, *known),
        generation_tokens=8,
    )
