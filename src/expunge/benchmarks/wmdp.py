"""WMDP: hazardous knowledge is to be forgotten from papers, and asked by multiple choice."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import Published, TaskCard, TaskPlugin
from expunge.data.choices import heading, letter_row, mmlu_rows
from expunge.data.few_shot import field, pieces
from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import PublishedData
from expunge.errors import MissingError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

Subject = Literal["bio", "cyber", "chem"]
TOPICS: dict[Subject, str] = {"bio": "biology", "cyber": "cybersecurity", "chem": "chemistry"}
FORGET: dict[Subject, tuple[str, ...]] = {"bio": ("bio_remove_dataset", "bio-forget-corpus"),
                                          "cyber": ("cyber-forget-corpus",), "chem": ("chem-forget-corpus",)}
RETAIN: dict[Subject, tuple[str, ...]] = {"bio": ("bio-retain-corpus", "wikitext"),
                                          "cyber": ("cyber-retain-corpus", "wikitext"), "chem": ("wikitext",)}
"""Names that a file of texts may have, without its ending."""
ENDINGS = ("jsonl", "json", "parquet", "txt")
QUESTIONS = PublishedData("WMDP", hub="cais/wmdp", known_by=tuple(f"*wmdp-{subject}.*" for subject in TOPICS),
                          subfolder="wmdp")
SOURCE = "WMDP paper (arXiv 2403.03218), RMU, from memory, not checked; accuracy by letters, zero-shot, in per cent"
SCORE = "forget.accuracy(by=text, group=letters)"
TABLE: tuple[tuple[Subject, float, float], ...] = (("bio", 63.7, 31.2), ("cyber", 44.0, 28.2))


class Wmdp(TaskPlugin):
    """The corpus is forgotten as text; the questions stand in no corpus."""

    class Spec(plugin.Spec):
        subject: Subject = Field("bio", description="Which hazard; also written wmdp:bio.")
        words: int = Field(400, ge=8, description="Texts are cut into pieces of at most this many words.")
        texts: int = Field(2000, ge=1, description="Pieces that are kept of each corpus: the first ones.")

    card = TaskCard(
        name="wmdp", kind="task", target="capability", model_needs=frozenset({"prompt"}),
        summary="WMDP, hazardous knowledge by multiple choice: wmdp:bio, wmdp:cyber, wmdp:chem",
        paper="The WMDP Benchmark, ICML 2024 (arXiv 2403.03218)",
        defaults="2,000 pieces of 400 words, about the 512 tokens that RMU reads",
        licence="MIT (questions); the corpora have their own, and bio-forget must be asked for",
        source="by --data-dir or EXPUNGE_DATA: the questions of cais/wmdp as wmdp-bio.jsonl ..., the corpora of "
               "cais/wmdp-corpora as bio_remove_dataset.jsonl, bio-retain-corpus.jsonl ...; and mmlu_test.jsonl",
        suite=f"{SCORE}, forget.accuracy(group=cloze), forget.favourite_option(group=letters), "
              "utility.accuracy(by=text, group=mmlu), forget.rouge_l(group=texts), retain.probability",
        deviations=("Letters are compared by their own log-probability after 'Answer:'.",
                    "The cloze form asks each question without its options and compares their texts by mean "
                    "log-probability with the end token; questions that speak of the options are left out of it.",
                    "Of MMLU the first 20 questions of each subject are asked here; `expunge eval --tasks mmlu` asks "
                    "all, and MT-Bench needs a judge.",
                    "No corpus is published for chemistry: give one as chem-forget-corpus.jsonl."),
        published=tuple(Published(f"wmdp:{subject}", "Zephyr-7B-beta", who, SCORE, value, SOURCE)
                        for subject, *values in TABLE
                        for who, value in zip(("original", "rmu"), values, strict=True)) + tuple(
            Published("wmdp:bio", "Zephyr-7B-beta", who, "utility.accuracy(by=text, group=mmlu)", value, SOURCE)
            for who, value in (("original", 58.1), ("rmu", 57.1))),
    )
    part = "subject"
    must_show = (
        Property("name_leads_back", {"options": {"subject": "cyber"}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {"own_questions": True},
                 "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        subject, words, texts = self.spec.subject, self.spec.words, self.spec.texts
        folder = QUESTIONS.required_folder(data_dir)
        forget = _texts(folder, FORGET[subject], f"wmdp/{subject}", words, texts)
        kept = {row.answer for row in forget}
        retain = tuple(row for row in _texts(folder, RETAIN[subject], f"wmdp/{subject}_kept", words, texts)
                       if row.answer not in kept)
        asked = _located(folder, (f"wmdp-{subject}", f"*wmdp-{subject}"), f"the questions wmdp-{subject}")
        letters = [letter_row(row, where, id=f"wmdp/{subject}/letters/{i}", before=heading(TOPICS[subject]),
                              group="letters") for i, (where, row) in enumerate(asked)]
        clozes = [_cloze(row, f"wmdp/{subject}/cloze/{i}") for i, row in enumerate(asked)]
        name = with_options(f"wmdp:{subject}", {"words": words, "texts": texts}, Wmdp.Spec().model_dump())
        return Task(name=name, forget=forget,
                    retain=retain, utility=mmlu_rows(folder, 20),
                    probes={"forget": (*letters, *(row for row in clozes if row is not None),
                                       *(_asked(row) for row in forget[:100]))},
                    generation_tokens=32)


def _located(folder: Path, names: tuple[str, ...], what: str) -> list[Located]:
    for name in names:
        for ending in ENDINGS:
            if found := sorted(folder.glob(f"{name}.{ending}")):
                return read_rows(found[0])
    raise MissingError(f"{folder} does not hold {what}.", f"It has no file {names[0]}.jsonl.",
                       "Fetch it from cais/wmdp or cais/wmdp-corpora of the hub and put it there.")


def _texts(folder: Path, names: tuple[str, ...], prefix: str, words: int, most: int) -> tuple[Example, ...]:
    located = _located(folder, names, f"the corpus {names[-1] if len(names) > 1 else names[0]}")
    found = pieces((field(row, "text") for row in located), prefix, words)
    return tuple(row for _, row in zip(range(most), found, strict=False))


def _cloze(located: Located, id: str) -> Example | None:
    """The question alone, with the texts of its options; None where it speaks of them."""
    question, choices, right = located[1]["question"], [str(c) for c in located[1]["choices"]], located[1]["answer"]
    if any(words in question.lower() for words in ("of the following", "of these", "the above", "below")) or (
            len(set(choices)) < len(choices)):
        return None
    return Example(id=id, kind="completion", prompt=f"Question: {question.strip()}\nAnswer:",
                   answer=f" {choices[right]}", short_answer=choices[right], options=tuple(choices), group="cloze")


def _asked(row: Example) -> Example:
    return row.model_copy(update={"id": f"{row.id}/asked", "group": "texts"})
