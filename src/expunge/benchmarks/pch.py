"""PCH: personal, copyrighted and harmful texts, of which one request after the other deletes one (benchmark of FIT)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.choices import mmlu_rows
from expunge.data.few_shot import field
from expunge.data.mapping import Located
from expunge.data.published import PublishedData
from expunge.errors import DataError, UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

TEXTS, QUESTIONS = "pch", "pch_qa"
"""Files with `text`, and with `question` and `answer`; row i of one belongs to row i of the other."""
KNOWN_BY = (f"{TEXTS}.json", f"{TEXTS}.jsonl", f"{TEXTS}.parquet")
DATA = PublishedData("PCH", hub="FITPCH/PCH", known_by=KNOWN_BY, subfolder="pch")
DATA_QA = PublishedData("PCH", hub="FITPCH/PCH_QA", known_by=KNOWN_BY, subfolder="pch")
REQUESTS = 300
GROUPS = "questions=qa, texts=text"


class Pch(TaskPlugin):
    """The first rows are deletion requests, one each (`--method fit` serves them in turn); all others are to stay."""

    class Spec(plugin.Spec):
        requests: int = Field(REQUESTS, ge=1, description=(
            "Requests so far: the first rows. Published: 60, 120, 180, 240 and 300."))
        order: int = Field(0, ge=0, description="Seed of the order of rows; 0 leaves it. Published: 20, 30, 40 and 50.")

    card = TaskCard(
        name="pch", kind="task", model_needs=frozenset({"prompt"}),
        summary="PCH, personal, copyrighted and harmful texts: 300 deletion requests, one after the other",
        paper="FIT: Defying Catastrophic Forgetting in Continual LLM Unlearning (arXiv 2601.21682)",
        formula="stream_degree: F.D. and R.U., 1 - |Q / Q* - 1| with Q = 100 (P RL A)^(1/3)",
        defaults="300 requests, as published",
        licence="none is stated",
        source="the data sets FITPCH/PCH and FITPCH/PCH_QA of the hub, or by --data-dir or EXPUNGE_DATA the files "
               f"{TEXTS}.jsonl (rows of text) and {QUESTIONS}.jsonl (rows of question and answer)",
        suite=f"stream_degree({GROUPS}), stream_degree(of=retain, {GROUPS}), "
              "forget.rouge_l(measure=f1, group=qa), retain.rouge_l(measure=f1, group=qa), forget.exact_memorization, "
              "retain.exact_memorization, forget.probability, retain.probability, "
              "utility.accuracy(by=text, group=mmlu), relearn(steps=16), quantise",
        deviations=("With a model that lacks all 300 rows and fewer requests, name them: stream_degree(total=300). As "
                    "published, rows that later requests delete count as retain rows until then.",
                    "The authors' script shuffles texts, questions and answers one after the other, which takes them "
                    "apart as we read it; here a row keeps its question, so an order is not theirs.",
                    "Of its sets of general knowledge MMLU is asked here, the first 5 questions of each subject; "
                    "`expunge eval --tasks` asks CommonsenseQA and GSM8K.",
                    "The tables of the paper were not found in a form we could check, so no number is given."),
    )
    must_show = (
        Property("name_leads_back", {"options": {"requests": 4, "order": 20}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {"own_questions": True, "options": {"requests": 4}},
                 "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        folder = DATA.folder(data_dir)
        ending = next((one for one in ("jsonl", "json", "parquet") if folder and (folder / f"{TEXTS}.{one}").is_file()),
                      "jsonl")
        texts, questions = (data.rows("", folder, file=f"{name}.{ending}")
                            for data, name in ((DATA, TEXTS), (DATA_QA, QUESTIONS)))
        return pch_task(texts, questions, mmlu_rows(folder, 5), **self.spec.model_dump())


def pch_task(texts: Sequence[Located], questions: Sequence[Located], utility: tuple[Example, ...] = (), *,
             requests: int = REQUESTS, order: int = 0) -> Task:
    """The published rows as a task; see the options of `Pch`.

    Raises:
        DataError: a field is missing, or texts and questions are not as many.
        UsageError: no row is left to be kept.
    """
    if len(texts) != len(questions):
        raise DataError(f"PCH has {len(texts)} texts and {len(questions)} questions.",
                        "Row i of the one belongs to row i of the other.", "Use the published files unchanged.")
    name = with_options("pch", {"requests": requests, "order": order}, Pch.Spec().model_dump())
    places = list(range(len(texts)))
    if order:
        Random(order).shuffle(places)
    forget, gone = [_text(texts[i], i) for i in places[:requests]], {field(texts[i], "text") for i in places[:requests]}
    kept = [i for i in places[requests:] if field(texts[i], "text") not in gone]
    if not kept:
        raise UsageError(f"{name} leaves nothing to keep.", f"The files have {len(texts)} rows.", "Forget fewer.")
    retain = [_text(texts[i], i) for i in kept]
    asked = {side: [_question(questions[i], i) for i in chosen]
             for side, chosen in (("forget", places[:requests]), ("retain", kept))}
    return Task(name=name, forget=tuple(forget), retain=tuple(retain), utility=utility, generation_tokens=128,
                probes={"forget": (*forget, *asked["forget"]), "retain": (*retain, *asked["retain"])})


def _text(located: Located, i: int) -> Example:
    return Example(id=f"pch/{i}/text", kind="text", prompt="", answer=field(located, "text"), entity=f"request {i}",
                   group="text")


def _question(located: Located, i: int) -> Example:
    answer = field(located, "answer")
    return Example(id=f"pch/{i}/qa", prompt=field(located, "question"), answer=answer, entity=f"request {i}",
                   group="qa")
