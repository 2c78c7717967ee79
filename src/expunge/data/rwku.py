"""The files of RWKU, in either of their layouts, and its questions as they are put to a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.data.choices import SUBFOLDER, block, heading, letter_row, mmlu_rows
from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import PublishedData, beside
from expunge.errors import DataError, MissingError
from expunge.records.task import Example

FILES = {"forget_target": "intro", "mia_forget": "forget_mia", "mia_retain": "retain_mia",
         "utility_general": "retain_mmlu", "utility_reason": "retain_bbh", "utility_truthfulness": "truthful",
         "utility_factuality": "triviaqa", "utility_fluency": "fluency", "train_original_passage": "passage",
         "train_positive_llama3": "positive", "train_positive_phi3": "positive_phi"}
"""Configuration on the hub -> its file in the folder of a person, where it has another name."""
DATA = PublishedData("RWKU", hub="jinzhuoran/RWKU", known_by=("forget_level1*", "1_*/forget_level1.json"),
                     subfolder="rwku")
FIELDS = ("query", "answer", "subject", "type")
SHORTLY = "Please briefly answer the following question.\n"
BLANK = "Please complete the blank in the following question.\n"
TRIVIA = (("When did men's figure skating become a summer Olympic sport?", "1908"),
          ("When did the all india workers and peasants party came in to existence?", "November 1925"),
          ("Flight that went down in the hudson river?", "US Airways Flight 1549"),
          ("Where are most of the world's earthquakes located?", "Rim of Fire"),
          ("Csi when do grissom and sara reunite?", "series finale"))


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


def utility_rows(files: RwkuFiles, chosen: frozenset[str]) -> tuple[Example, ...]:
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
    rows += [_answered(f"{shown}Q: {row['question']}\nA:", list(row["answers"]), f"rwku/factuality/{i}", "factuality")
             for i, (_, row) in enumerate(of("factuality")) if row["answers"]]
    rows += [_answered(f"{row['cot'].strip()}\n\nQ: {row['question']}\nA: Let's think step by step.", [row["answer"]],
                    f"rwku/reason/{i}", "reason") for i, (_, row) in enumerate(of("reason"))]
    rows += [Example(id=f"rwku/fluency/{i}", prompt=row["instruction"], answer="", group="fluency")
             for i, (_, row) in enumerate(of("fluency"))]
    return tuple(rows)


def _answered(prompt: str, answers: list[str], id: str, group: str) -> Example:
    return Example(id=id, kind="completion", prompt=prompt, answer=f" {answers[0]}", short_answer=answers[0],
                   aliases=tuple(answers[1:]), group=group)


def _truthful(row: Mapping[str, Any], id: str) -> Example:
    """The best true answer among all false ones: what MC1 compares, whose list the other does not always begin with."""
    both = row.get("mc1_targets") or row["mc2_targets"]
    true = next(c for c, label in zip(both["choices"], both["labels"], strict=True) if label == 1)
    false = [c for c, label in zip(both["choices"], both["labels"], strict=True) if label != 1]
    return Example(id=id, kind="completion", prompt=f"Q: {row['question']}\n\nA:", answer=f" {true}",
                   short_answer=true, options=(true, *false), group="truthfulness")
