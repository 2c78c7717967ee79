"""RWKU: what a model knows of famous people is to be forgotten, with nothing given but their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import Published, TaskCard, TaskPlugin
from expunge.data.rwku import DATA, RwkuFiles, probe, utility_rows
from expunge.errors import UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

CORPORA = {"passage": "train_original_passage", "positive": "train_positive_llama3",
           "positive_phi3": "train_positive_phi3"}
MODEL, SOURCE = "Llama-3-8B-Instruct", "RWKU paper (arXiv 2406.10890), from memory, not checked; recall in per cent"
SUITE = ", ".join((
    *(f"forget.rwku_recall(group={g})" for g in ("level", "level_1", "level_2", "level_3")),
    *(f"neighbour.rwku_recall(group={g})" for g in ("level", "level_1", "level_2")),
    *(f"{split}.membership_score(score={s}, group=mia)" for split in ("forget", "retain")
      for s in ("loss", "zlib", "min_k", "min_k_pp")),
    "utility.accuracy(by=text, group=general)", "utility.accepted(measure=exact, reasoned=True, group=reason)",
    "utility.accuracy(by=sum, group=truthfulness)", "utility.accepted(measure=f1, group=factuality)",
    "utility.ngram_entropy(group=fluency)"))


class Rwku(TaskPlugin):
    """The first people of the list are to be forgotten; what others are asked about themselves is to stay."""

    class Spec(plugin.Spec):
        targets: int = Field(10, ge=1, le=199, description="People to forget: the first ones of the list.")
        corpus: Literal["intro", "passage", "positive", "positive_phi3"] = Field("intro", description=(
            "What methods train on: the line that introduces a person, the passage of Wikipedia, or the texts that "
            "Llama-3-8B or Phi-3-mini wrote about the person."))

    card = TaskCard(
        name="rwku", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="RWKU, facts about famous people that models know from the start, asked on three levels",
        paper="RWKU, NeurIPS 2024 (arXiv 2406.10890)",
        defaults="10 people, as in the smallest batch; one line about each is trained on",
        licence="CC-BY-4.0", source="the data set jinzhuoran/RWKU of the hub, or its files by --data-dir or "
                                    "EXPUNGE_DATA: one file per configuration, or one folder per person",
        suite=SUITE,
        deviations=("RWKU gives a name and nothing else; its methods write their own corpora. Ours train on one line "
                    "about each person, or on a published corpus.",
                    "RWKU has no rows to keep: questions about people who are not forgotten take their place.",
                    "'Answer:' ends the question; in RWKU it opens the reply of the model.",
                    "RWKU's code meets no right answer of reasoning that is longer than a character; its published "
                    "figures are utility.accepted(measure=character, reasoned=True, group=reason).",
                    "There is no holdout set, so attacks have no control unless a retrained model is given.",
                    "Utility is asked as plain text without RWKU's lines of instruction, TruthfulQA without the six "
                    "questions of its primer, and general knowledge of MMLU's first question per subject where "
                    "RWKU's own choice is not among the files."),
        published=(Published("rwku", MODEL, "original", "forget.rwku_recall(group=level_1)", 85.9, SOURCE),
                   Published("rwku", MODEL, "original", "forget.rwku_recall(group=level_2)", 76.4, SOURCE),
                   Published("rwku", MODEL, "original", "forget.rwku_recall(group=level_3)", 77.7, SOURCE),
                   Published("rwku", MODEL, "original", "neighbour.rwku_recall(group=level_1)", 95.6, SOURCE),
                   Published("rwku", MODEL, "original", "neighbour.rwku_recall(group=level_2)", 85.3, SOURCE)),
    )
    must_show = (
        Property("name_leads_back", {"options": {"targets": 2}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {"own_questions": True},
                 "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return rwku_task(RwkuFiles(DATA.folder(data_dir)), self.spec.targets, self.spec.corpus)


def rwku_task(files: RwkuFiles, targets: int, corpus: str) -> Task:
    """The task of forgetting the first people of the list.

    Raises:
        MissingError, DataError: a file is missing, or its rows are not the published ones.
        UsageError: the files hold no more people than are to be forgotten.
    """
    introduced = [row for _, row in files.rows("forget_target", "train")]
    people = [str(row["target"]) for row in introduced]
    if targets >= len(people):
        raise UsageError(f"rwku(targets={targets}) leaves nobody to keep.", f"The files hold {len(people)} people.",
                         f"Forget at most {len(people) - 1}.")
    chosen = frozenset(people[:targets])
    forget = _corpus(files, introduced[:targets], corpus, chosen)
    asked = [probe(row, where, level, f"rwku/level{level}/{i}") for level in (1, 2, 3)
             for i, (where, row) in enumerate(files.rows(f"forget_level{level}")) if row.get("subject") in chosen]
    near = [probe(row, where, level, f"rwku/neighbour{level}/{i}") for level in (1, 2)
            for i, (where, row) in enumerate(files.rows(f"neighbor_level{level}")) if row.get("subject") in chosen]
    taken = {(row.prompt, row.answer) for row in (*asked, *near)}
    others = [probe(row, where, 2, f"rwku/kept/{i}") for i, (where, row) in enumerate(files.rows("forget_level2"))
              if row.get("subject") not in chosen]
    retain = tuple({(row.prompt, row.answer): row for row in others if (row.prompt, row.answer) not in taken}.values())
    probes = {"forget": (*asked, *_members(files, "forget", chosen))}
    if kept := _members(files, "retain", chosen):
        probes["retain"] = (*retain, *kept)
    name = with_options("rwku", {"targets": targets, "corpus": corpus}, Rwku.Spec().model_dump())
    return Task(name=name, forget=forget, retain=retain,
                neighbour=tuple(near), utility=utility_rows(files, chosen), probes=probes, generation_tokens=30,
                group_tokens={"reason": 256, "fluency": 256})


def _corpus(files: RwkuFiles, introduced: Sequence[Mapping[str, Any]], corpus: str,
            chosen: frozenset[str]) -> tuple[Example, ...]:
    if corpus == "intro":
        return tuple(Example(id=f"rwku/intro/{i}", kind="text", prompt="", entity=str(row["target"]),
                             answer=str(row["intro"]).removeprefix(f"Please forget {row['target']}. "))
                     for i, row in enumerate(introduced))
    return tuple(Example(id=f"rwku/{corpus}/{i}", kind="text", prompt="", answer=row["text"], entity=row["subject"])
                 for i, (_, row) in enumerate(files.rows(CORPORA[corpus], "train")) if row.get("subject") in chosen)


def _members(files: RwkuFiles, side: str, chosen: frozenset[str]) -> tuple[Example, ...]:
    """Texts that models were trained on, about the people (forget) or about others (retain)."""
    return tuple(Example(id=f"rwku/mia_{side}/{i}", kind="text", prompt="", answer=row["text"], group="mia",
                         entity=row["subject"] if side == "forget" else "")
                 for i, (_, row) in enumerate(files.optional(f"mia_{side}")) if row.get("subject") in chosen)
