"""MUSE: news articles or novels are to be forgotten, judged by six criteria."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import Published, TaskCard, TaskPlugin
from expunge.data.few_shot import asked, field, pieces
from expunge.data.mapping import Located
from expunge.data.published import PublishedData
from expunge.errors import UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

Corpus = Literal["news", "books"]
Requests = Literal["all", "scal_1", "scal_2", "scal_3", "scal_4", "sust", "sust_1", "sust_2", "sust_3", "sust_4"]
TITLES: dict[Corpus, str] = {"news": "News", "books": "Books"}
FOLDS = 4
SCORES = ("forget.rouge_l(measure=f1, stemmer=False, group=verbmem)", "forget.knowmem(group=knowmem)",
          "privleak(group=privleak)", "retain.knowmem(group=knowmem)")
"""Criteria 1 to 4; 5 and 6 are criterion 4 over forget sets and over requests."""
SOURCE = "MUSE paper (arXiv 2407.06460), table 3, from memory, not checked; ROUGE-L F1 without stems"
TABLE: dict[tuple[Corpus, str], tuple[float, ...]] = {
    ("news", "original"): (0.584, 0.639, -99.8, 0.552), ("news", "retrained"): (0.208, 0.331, 0.0, 0.550),
    ("books", "original"): (0.998, 0.594, -57.5, 0.669), ("books", "retrained"): (0.143, 0.289, 0.0, 0.745)}
"""As fractions, but for privleak; the paper shows per cent."""
OPEN_SOURCE = "open-unlearning, docs/results.md, commit 8f9872c, untuned"
OPEN: dict[tuple[Corpus, str], tuple[float, ...]] = {
    ("news", "original"): (0.58, 0.64, -99.81, 0.55), ("news", "retrained"): (0.21, 0.33, 0.0, 0.56),
    ("news", "GradAscent"): (0.0, 0.0, 52.11, 0.0), ("news", "GradDiff"): (8.92e-03, 0.41, 93.23, 0.37),
    ("news", "NPO"): (0.35, 0.56, -86.0, 0.51), ("news", "SimNPO"): (0.36, 0.54, -86.11, 0.51),
    ("news", "RMU"): (0.57, 0.67, -99.81, 0.56),
    ("books", "original"): (1.0, 0.47, -57.26, 0.69), ("books", "retrained"): (0.14, 0.3, 0.0, 0.69),
    ("books", "GradAscent"): (0.0, 0.0, -0.67, 0.0), ("books", "GradDiff"): (0.16, 0.18, -37.79, 0.3),
    ("books", "NPO"): (0.84, 0.32, -54.24, 0.55), ("books", "SimNPO"): (0.84, 0.32, -54.26, 0.54),
    ("books", "RMU"): (1.0, 0.47, -57.35, 0.67)}
"""The same criteria as OpenUnlearning reproduces them, as fractions: checked at its source."""
MODELS: dict[Corpus, str] = {"news": "Llama-2-7B", "books": "ICLM-7B"}


class Muse(TaskPlugin):
    """Forget and retain are running text; what an audit asks of them are continuations, questions and passages."""

    class Spec(plugin.Spec):
        corpus: Corpus = Field("news", description="Which corpus; also written muse:news.")
        requests: Requests = Field("all", description=(
            "all: the forget set; scal_1 to scal_4: forget sets that grow (scalability); sust: the four requests in "
            "turn, each of which is an entity, for methods that serve a stream; sust_1 to sust_4: one of them, to be "
            "given to the result of the one before (sustainability). News only."))
        words: int = Field(1000, ge=8, description="Texts are cut into pieces of at most this many words.")

    card = TaskCard(
        name="muse", kind="task", model_needs=frozenset({"prompt"}),
        summary="MUSE, six criteria: muse:news (BBC articles of 2023) and muse:books (Harry Potter)",
        paper="MUSE: Machine Unlearning Six-Way Evaluation for Language Models, ICLR 2025 (arXiv 2407.06460)",
        defaults="the whole forget set; 128 new tokens for continuations, 32 for answers",
        licence="none is stated for the data; the texts belong to the BBC and to J. K. Rowling",
        source="the data sets muse-bench/MUSE-News and MUSE-Books of the hub, or by --data-dir or EXPUNGE_DATA the "
               "folders news and books that load_data.py of swj0419/muse_bench writes",
        suite=", ".join((*SCORES, "mia.min_k(group=privleak)")),
        deviations=("Forget and retain texts are cut by words; MUSE joins them and cuts every 2,048 tokens.",
                    "A prompt ends in 'Answer:' and the space belongs to the answer, as most tokenizers have it.",
                    "The AUC of the retrained model is measured on the one that is given. MUSE stores that of its own: "
                    "0.4772 (news) and 0.5393 (books), by Min-40%: privleak(retrained_auc=0.4772, group=privleak).",
                    "Scores are fractions; the paper shows per cent."),
        published=tuple(Published(f"muse:{corpus}", MODELS[corpus], subject, score, value, source)
                        for table, source in ((OPEN, OPEN_SOURCE), (TABLE, SOURCE))
                        for (corpus, subject), values in table.items()
                        for score, value in zip(SCORES, values, strict=True)),
    )
    part = "corpus"
    must_show = (
        Property("name_leads_back", {"options": {"corpus": "books"}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {"own_questions": True},
                 "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        corpus, requests, words = self.spec.corpus, self.spec.requests, self.spec.words
        if corpus == "books" and requests != "all":
            raise UsageError(f"muse:books has no requests {requests}.", "Only the news are cut into four.",
                             "Leave requests out, or take muse:news.")
        files = MuseFiles(corpus, data_dir)
        forget = _forget(files, requests, words)
        retain = tuple(pieces(files.texts("raw", "retain1"), "muse/retain", words))
        given = {"requests": requests, "words": words}
        return Task(
            name=with_options(f"muse:{corpus}", given, Muse.Spec().model_dump()), forget=forget, retain=retain,
            holdout=tuple(_passages(files, "holdout")),
            probes={"forget": (*_continued(files), *_asked(files, "forget"), *_passages(files, "forget")),
                    "retain": (*_asked(files, "retain"), *_passages(files, "retain"))},
            generation_tokens=128, group_tokens={"verbmem": 128, "knowmem": 32})


class MuseFiles:
    """The files of a corpus in a folder, or its configurations on the hub."""

    def __init__(self, corpus: Corpus, data_dir: Path | None) -> None:
        self._data = PublishedData(f"MUSE {TITLES[corpus]}", hub=f"muse-bench/MUSE-{TITLES[corpus]}",
                                   known_by=(f"{corpus}/knowmem/forget_qa.json",), subfolder="muse")
        self._folder, self._corpus = self._data.folder(data_dir), corpus

    def rows(self, config: str, split: str) -> list[Located]:
        return self._data.rows(config, self._folder, split=split, file=f"{self._corpus}/{config}/{split}.json")

    def texts(self, config: str, split: str) -> list[str]:
        return [field(located, "text") for located in self.rows(config, split)]


def _forget(files: MuseFiles, requests: Requests, words: int) -> tuple[Example, ...]:
    if requests == "all":
        return tuple(pieces(files.texts("raw", "forget"), "muse/forget", words))
    config, _, fold = requests.partition("_")
    folds: Sequence[int | str] = (fold,) if fold else range(1, FOLDS + 1)
    rows: list[Example] = []
    for number in folds:
        rows += pieces(files.texts(config, f"forget_{number}"), f"muse/{config}_{number}", words,
                       entity=f"request {number}" if config == "sust" else "")
    return tuple(rows)


def _continued(files: MuseFiles) -> Iterable[Example]:
    """Criterion 1: a passage to be continued."""
    for i, row in enumerate(files.rows("verbmem", "forget")):
        yield Example(id=f"muse/verbmem/{i}", kind="completion", prompt=field(row, "prompt"), answer=field(row, "gt"),
                      group="verbmem")


def _asked(files: MuseFiles, side: str) -> Iterable[Example]:
    """Criteria 2 and 4: questions after demonstrations."""
    return asked(files.rows("knowmem", f"{side}_qa"), files.rows("knowmem", f"{side}_qa_icl"),
                 f"muse/knowmem_{side}", "knowmem")


def _passages(files: MuseFiles, split: str) -> Iterable[Example]:
    """Criterion 3: texts whose membership is guessed."""
    for i, text in enumerate(files.texts("privleak", split)):
        yield Example(id=f"muse/privleak_{split}/{i}", kind="text", prompt="", answer=text, group="privleak")
