"""RWKU: what a model knows of famous people is to be forgotten, with nothing given but their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import Published, TaskCard, TaskPlugin
from expunge.data.choices import SUBFOLDER, block, heading, letter_row, mmlu_rows
from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import PublishedData, beside
from expunge.errors import DataError, MissingError, UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task

FILES = {"forget_target": "intro", "mia_forget": "forget_mia", "mia_retain": "retain_mia",
         "utility_general": "retain_mmlu", "utility_reason": "retain_bbh", "utility_truthfulness": "truthful",
         "utility_factuality": "triviaqa", "utility_fluency": "fluency", "train_original_passage": "passage",
         "train_positive_llama3": "positive", "train_positive_phi3": "positive_phi"}
"""Configuration on the hub -> its file in the folder of a person, where it has another name."""
DATA = PublishedData("RWKU", hub="jinzhuoran/RWKU", known_by=("forget_level1*", "1_*/forget_level1.json"),
                     subfolder="rwku")
CORPORA = {"passage": "train_original_passage", "positive": "train_positive_llama3",
           "positive_phi3": "train_positive_phi3"}
FIELDS = ("query", "answer", "subject", "type")
SHORTLY = "Please briefly answer the following question.\n"
BLANK = "Please complete the blank in the following question.\n"
TRIVIA = (("When did men's figure skating become a summer Olympic sport?", "1908"),
          ("When did the all india workers and peasants party came in to existence?", "November 1925"),
          ("Flight that went down in the hudson river?", "US Airways Flight 1549"),
          ("Where are most of the world's earthquakes located?", "Rim of Fire"),
          ("Csi when do grissom and sara reunite?", "series finale"))
MODEL, SOURCE = "Llama-3-8B-Instruct", "RWKU paper (arXiv 2406.10890), as recalled; recall in per cent"
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
        name="rwku", kind="task", model_needs=frozenset({"prompt"}),
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
                    "There is no holdout set, so attacks have no control unless a retrained model is given.",
                    "Utility is asked as plain text, and general knowledge of MMLU's first question per subject where "
                    "RWKU's own choice is not among the files."),
        published=(Published("rwku", MODEL, "original", "forget.rwku_recall(group=level_1)", 85.9, SOURCE),
                   Published("rwku", MODEL, "original", "forget.rwku_recall(group=level_2)", 76.4, SOURCE),
                   Published("rwku", MODEL, "original", "forget.rwku_recall(group=level_3)", 77.7, SOURCE),
                   Published("rwku", MODEL, "original", "neighbour.rwku_recall(group=level_1)", 95.6, SOURCE),
                   Published("rwku", MODEL, "original", "neighbour.rwku_recall(group=level_2)", 85.3, SOURCE)),
    )
    must_show = (
        Property("name_leads_back", {"options": {"targets": 2}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return rwku_task(RwkuFiles(DATA.folder(data_dir)), self.spec.targets, self.spec.corpus)


class RwkuFiles:
    """The files, in either of the two layouts, or the hub."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        people = folder.glob("[0-9]*_*") if folder is not None else ()
        self.people = sorted((p for p in people if p.is_dir()), key=lambda p: int(p.name.partition("_")[0]))

    def rows(self, config: str, split: str = "test") -> list[Located]:
        """All rows. Raises MissingError where the file is not there."""
        if self.folder is None:
            return DATA.rows(config, None, split=split)
        name = FILES.get(config, config)
        if self.people:
            return [row for person in self.people for row in read_rows(person / f"{name}.json")]
        found = next((f for stem in (config, name) for f in sorted(self.folder.glob(f"{stem}.*"))), None)
        if found is None:
            raise MissingError(f"{self.folder} holds no file {config}.", "RWKU has one file per configuration.",
                               f"Put {config}.jsonl there, or choose what needs no such file.")
        return read_rows(found)

    def optional(self, config: str) -> list[Located]:
        """All rows; none where the file is not there."""
        try:
            return self.rows(config)
        except MissingError:
            return []


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
    options = [*([f"targets={targets}"] if targets != 10 else []), *([f"corpus={corpus}"] if corpus != "intro" else [])]
    return Task(name=f"rwku({','.join(options)})" if options else "rwku", forget=forget, retain=retain,
                neighbour=tuple(near), utility=_utility(files, chosen), probes=probes, generation_tokens=30,
                group_tokens={"reason": 256, "fluency": 256})


def probe(row: Mapping[str, Any], where: str, level: int, id: str) -> Example:
    """A probe of a level as it is put to a model.

    Raises:
        DataError: a field is missing.
    """
    if missing := [name for name in FIELDS if name not in row]:
        raise DataError(f"{where}: the row has no {missing[0]}.", f"It has {', '.join(row)}.",
                        "Use the published file unchanged.")
    kind = "_" + re.sub(r"\W+", "_", re.sub(r"\(.*", "", row["type"]).strip()) if level == 3 else ""
    question = row["query"] if row["type"] == "incontext learning" else f"Question: {row['query']}"
    end = "" if row["type"] == "affirmative suffix" else "\nAnswer:"
    return Example(id=id, prompt=f"{BLANK if level == 1 else SHORTLY}{question}{end}", answer=str(row["answer"]),
                   short_answer=str(row["answer"]), entity=row["subject"], group=f"level_{level}{kind}")


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


def _utility(files: RwkuFiles, chosen: frozenset[str]) -> tuple[Example, ...]:
    """The five sets; of those that are not among the files, what stands beside them of MMLU and TruthfulQA."""
    def of(config: str) -> list[Located]:
        """The rows that belong to the people, each once."""
        unique = {repr(sorted((k, str(v)) for k, v in row.items() if k != "subject")): (where, row)
                  for where, row in files.optional(f"utility_{config}") if row.get("subject") in chosen}
        return list(unique.values())

    rows: list[Example] = []
    for i, (where, row) in enumerate(of("general")):
        shown = "".join(block(r["question"], r["choices"], r["answer"]) for r in row.get("examples", ()))
        rows.append(letter_row(row, where, id=f"rwku/general/{i}", group="general",
                               before=heading(row["task"]) + shown))
    rows = rows or list(mmlu_rows(files.folder, 1, shots=5, group="general"))
    truthful = of("truthfulness")
    if not truthful and (file := beside(files.folder, "truthfulqa_mc.jsonl", SUBFOLDER)) is not None:
        truthful = read_rows(file)
    rows += [_truthful(row, f"rwku/truthfulness/{i}") for i, (_, row) in enumerate(truthful)]
    shown = "".join(f"Q: {question}\nA: {answer}\n" for question, answer in TRIVIA)
    rows += [_plain(f"{shown}Q: {row['question']}\nA:", list(row["answers"]), f"rwku/factuality/{i}", "factuality")
             for i, (_, row) in enumerate(of("factuality")) if row["answers"]]
    rows += [_plain(f"{row['cot'].strip()}\n\nQ: {row['question']}\nA: Let's think step by step.", [row["answer"]],
                    f"rwku/reason/{i}", "reason") for i, (_, row) in enumerate(of("reason"))]
    rows += [Example(id=f"rwku/fluency/{i}", prompt=row["instruction"], answer="", group="fluency")
             for i, (_, row) in enumerate(of("fluency"))]
    return tuple(rows)


def _plain(prompt: str, answers: list[str], id: str, group: str) -> Example:
    return Example(id=id, kind="completion", prompt=prompt, answer=f" {answers[0]}", short_answer=answers[0],
                   aliases=tuple(answers[1:]), group=group)


def _truthful(row: Mapping[str, Any], id: str) -> Example:
    """The best true answer among all false ones."""
    both = row["mc2_targets"]
    true = next(c for c, label in zip(both["choices"], both["labels"], strict=True) if label == 1)
    false = [c for c, label in zip(both["choices"], both["labels"], strict=True) if label != 1]
    return Example(id=id, kind="completion", prompt=f"Q: {row['question']}\n\nA:", answer=f" {true}",
                   short_answer=true, options=(true, *false), group="truthfulness")
