"""DUSK: one of five styles of documents is to be forgotten, but not what the others say too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.choices import mmlu_rows
from expunge.data.decoding import read_text
from expunge.data.few_shot import asked, field, pieces
from expunge.data.files import read_rows
from expunge.data.published import PublishedData
from expunge.errors import MissingError
from expunge.plugin import Property
from expunge.records.task import Example, Task

DATA = PublishedData("DUSK", hub="github.com/AI-ISL/DUSK, folder data/Prof", known_by="Chronological.txt",
                     subfolder="dusk")
STYLES = ("Interview", "Feature_Story", "Inverted_Pyramid", "Listicle")
"""Styles that are to stay."""


class Dusk(TaskPlugin):
    """Neighbour: facts of the forgotten style that the others say too. They must stay, which is the point of DUSK."""

    class Spec(plugin.Spec):
        words: int = Field(700, ge=8, description="Documents are cut into pieces of at most this many words.")

    card = TaskCard(
        name="dusk", kind="task", model_needs=frozenset({"prompt"}),
        summary="DUSK, 120 invented professors in five styles: forget one style, keep what the others say too",
        paper="DUSK: Do Not Unlearn Shared Knowledge (arXiv 2505.15209)",
        defaults="pieces of 700 words, about the 1,024 tokens of its membership scores",
        licence="none is stated",
        source="the folder data/Prof of github.com/AI-ISL/DUSK, by --data-dir or EXPUNGE_DATA",
        suite="forget.rouge_l(measure=f1, stemmer=False, group=verbmem), forget.knowmem(group=unique), "
              "neighbour.knowmem(group=shared), retain.knowmem(group=unique), utility.accuracy(by=text, group=mmlu), "
              "privleak(attack=min_k_pp, group=pieces), retain_deviation(attack=min_k_pp, group=pieces)",
        deviations=("Documents are cut by words, those at the end too; DUSK cuts every 1,024 tokens and leaves the "
                    "rest out.",
                    "Of its downstream sets MMLU is asked here, the first 5 questions of each subject; "
                    "`expunge eval --tasks` asks the others.",
                    "Its side scores of verbatim text (embeddings, longest common run, edit distance) are left out."),
    )
    must_show = (
        Property("name_leads_back", {"options": {"words": 100}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {"own_questions": True},
                 "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        folder, words = DATA.required_folder(data_dir), self.spec.words
        forget = tuple(_pieces(folder / "Chronological.txt", "forget", words))
        retain = tuple(row for style in STYLES for row in _pieces(folder / f"{style}.txt", style.lower(), words))
        verbatim = tuple(Example(id=f"dusk/verbatim/{i}", kind="completion", prompt=field(row, "prompt"),
                                 answer=field(row, "gt"), group="verbmem")
                         for i, row in enumerate(read_rows(folder / "eval" / "verbatim.json")))
        return Task(
            name="dusk" if words == 700 else f"dusk(words={words})", forget=forget, retain=retain,
            holdout=tuple(_pieces(folder / "eval" / "holdout.txt", "holdout", words)),
            neighbour=tuple(_questions(folder, "GeneralQA", "shared")), utility=mmlu_rows(folder, 5),
            probes={"forget": (*verbatim, *_questions(folder, "SpecificForgetQA", "unique"), *forget),
                    "retain": (*_questions(folder, "SpecificRetainQA", "unique"), *retain)},
            generation_tokens=128, group_tokens={"verbmem": 128, "unique": 32, "shared": 32})


def _pieces(file: Path, name: str, words: int) -> Iterator[Example]:
    if not file.is_file():
        raise MissingError(f"{file} does not exist.", "DUSK has one file of text per style.",
                           "Give the whole folder data/Prof.")
    return pieces([read_text(file).strip()], f"dusk/{name}", words, group="pieces")


def _questions(folder: Path, name: str, group: str) -> Iterator[Example]:
    return asked(read_rows(folder / "eval" / f"{name}.jsonl"), read_rows(folder / "eval" / "icl.jsonl"),
                 f"dusk/{name}", group)
