"""Facts that are forgotten in English, asked in German, French and Spanish."""

from __future__ import annotations

from pathlib import Path
from random import Random

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.translations import ASKED, LANGUAGES, VALUES, Language
from expunge.data.world import authors_task
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

SUITE = ", ".join((
    "form_spread", "form_spread(of=retain)", "forget.accepted",
    *(f"{split}.accepted(group={language})" for split in ("neighbour", "utility") for language in LANGUAGES),
    *(f"neighbour.accuracy(group={language})" for language in LANGUAGES), "forget.accuracy",
    *(f"holdout.accepted(group={group})" for group in ("en", *LANGUAGES)), "retain.accepted",
    *(f"{split}.probability" for split in ("forget", "neighbour", "holdout", "retain", "utility")),
    "paraphrase(count=1)", "relearn(steps=16)"))


class Crosslingual(TaskPlugin):
    """People of the world authors. English rows are to be forgotten; neighbour rows ask the same in other languages."""

    class Spec(plugin.Spec):
        forget: int = Field(10, ge=1, description="People to forget, seven English rows each.")
        retain: int = Field(60, ge=1, description="People to keep.")
        holdout: int = Field(10, ge=0, description="People that no model is trained on, in all languages.")
        taught: float = Field(0.75, ge=0, le=1, description=(
            "Share of the people to keep whose rows are trained in all four languages: from them a model learns to "
            "carry a fact over. Of the others the English rows alone are trained, and utility rows ask the rest."))
        seed: int = Field(0, description="Of the people.")

    card = TaskCard(
        name="crosslingual", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="facts forgotten in English and asked in German, French and Spanish, from translated templates",
        paper="ours; that knowledge unlearned in one language stays in others: RWKU's cross-lingual probes "
              "(arXiv 2406.10890)",
        formula="form_spread over languages: the largest relative fall of probability less the smallest",
        defaults="sizes of the world authors; three in four people are taught in all languages",
        licence="as expunge itself", source="drawn by `data/world.py` from a seed, `data/translations.py` translates",
        suite=SUITE,
        deviations=("neighbour rows are what is to be forgotten in other languages, utility rows the same of people to "
                    "keep: neither is trained on, so first see whether the original says them at all",
                    "sentences are made of templates with translated values, without a language model; the English "
                    "value counts as right in every language",
                    "values that a language spells as English does, and all names, need no translation: most of what "
                    "carries over in a small model"),
    )
    must_show = (
        Property("name_leads_back", {"options": {"forget": 2, "retain": 4, "holdout": 2, "taught": 0.5, "seed": 1}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return crosslingual_task(**self.spec.model_dump())


def crosslingual_task(*, forget: int = 10, retain: int = 60, holdout: int = 10, taught: float = 0.75,
                      seed: int = 0) -> Task:
    """The rows by role; see the options of `Crosslingual`. `group` is the language, `en` for English.

    Raises:
        UsageError: there are not enough names.
    """
    given = {"forget": forget, "retain": retain, "holdout": holdout, "taught": taught, "seed": seed}
    world = authors_task(forget=forget, retain=retain, holdout=holdout, neighbours=0, seed=seed)
    english = {split: tuple(_english(row) for row in rows if row.group == "attribute")
               for split, rows in (("forget", world.forget), ("retain", world.retain), ("holdout", world.holdout))}
    people = list(dict.fromkeys(row.entity for row in english["retain"]))
    known = set(people[: round(taught * len(people))])
    kept = [(row, row.entity in known) for row in english["retain"]]
    return Task(
        name=with_options("crosslingual", given, Crosslingual.Spec().model_dump()), generation_tokens=40,
        forget=english["forget"], neighbour=_translated(english["forget"]),
        retain=(*english["retain"], *_translated([row for row, both in kept if both])),
        utility=_translated([row for row, both in kept if not both]),
        holdout=(*english["holdout"], *_translated(english["holdout"])))


def _english(row: Example) -> Example:
    return row.model_copy(update={"id": row.id.replace("authors/", "crosslingual/"), "group": "en", "links": ()})


def _translated(rows: tuple[Example, ...] | list[Example]) -> tuple[Example, ...]:
    """Every row in every other language, language by language."""
    return tuple(translated(row, language) for language in LANGUAGES for row in rows)


def translated(row: Example, language: Language) -> Example:
    """An English attribute row of the world in another language, linked to it; its wrong answers are those options."""
    question, answer = ASKED[language][row.id.rpartition("/")[2]]
    said = {value: VALUES[language].get(value, value) for value in row.options}
    value = said[row.short_answer]
    options = list(said.values())
    Random(row.id + language).shuffle(options)
    return Example(
        id=f"{row.id}/{language}", prompt=question.format(name=row.entity), entity=row.entity, group=language,
        answer=answer.format(name=row.entity, value=value), short_answer=value, options=tuple(options),
        aliases=(row.short_answer,) if value != row.short_answer else (), links=(row.id,),
        wrong_answers=tuple(answer.format(name=row.entity, value=other) for other in options if other != value))
