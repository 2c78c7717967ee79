"""LUME, the task of SemEval-2025: stories, personal data and biographies are to be forgotten."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from expunge.benchmarks.base import Published, TaskCard, TaskPlugin
from expunge.data.choices import mmlu_rows
from expunge.data.few_shot import field
from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import PublishedData
from expunge.errors import DataError
from expunge.plugin import Property
from expunge.records.task import Example, Task

DATA = PublishedData("LUME", hub="github.com/amazon-science/lume-llm-unlearning, folder data",
                     known_by=("forget.jsonl", "forget.parquet"), subfolder="lume")
SCORES = tuple(f"lume_score({part}members=members)"
               for part in ("", "part=tasks, ", "part=membership, ", "part=mmlu, "))
SOURCE = "leaderboard of SemEval-2025 task 4, OLMo-7B, as the winners list it"
TABLE = {"ga": (0.394, 0.0, 0.912, 0.269), "grad_diff": (0.243, 0.0, 0.382, 0.348), "npo": (0.188, 0.021, 0.080, 0.463),
         "ails_ntua": (0.706, 0.827, 0.847, 0.443), "zjuklab": (0.487, 0.944, 0.048, 0.471)}
"""Method or team -> final score, task aggregate, membership, MMLU."""
KIND = re.compile(r"(sc|qa)\d+$")
"""How an id ends: a text to be completed, or a question."""


class Lume(TaskPlugin):
    """Forget and retain rows are of three tasks and two kinds each, which are groups: task1_sc to task3_qa."""

    card = TaskCard(
        name="lume", kind="task", model_needs=frozenset({"prompt"}),
        summary="LUME (SemEval-2025 task 4): invented stories, personal data and real lives, with its final score",
        paper="LUME (arXiv 2502.15097); SemEval-2025 task 4 (arXiv 2504.02883)",
        defaults="256 new tokens for texts, 64 for answers",
        licence="Apache-2.0", source="the folder data of amazon-science/lume-llm-unlearning, by --data-dir or "
                                     "EXPUNGE_DATA; member.jsonl, nonmember.jsonl and mmlu_test.jsonl beside it",
        suite=", ".join((*SCORES, "forget.rouge_l", "retain.rouge_l", "mia.loss(group=members)")),
        deviations=("Task and kind are read from the field task and the end of the id.",
                    "The documents whose membership is asked are published apart; without member.jsonl and "
                    "nonmember.jsonl the final score is not available.",
                    "Of MMLU the first 5 questions of each subject are asked."),
        published=tuple(Published("lume", "OLMo-7B", who, score, value, SOURCE) for who, values in TABLE.items()
                        for score, value in zip(SCORES, values, strict=True)),
    )
    must_show = (
        Property("name_leads_back", {}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {"own_questions": True},
                 "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        folder = DATA.required_folder(data_dir)
        ending = "jsonl" if (folder / "forget.jsonl").is_file() else "parquet"
        forget, retain = (tuple(row_of(one, side) for one in read_rows(folder / f"{side}.{ending}"))
                          for side in ("forget", "retain"))
        members, others = _documents(folder, "member"), _documents(folder, "nonmember")
        return Task(name="lume", forget=forget, retain=retain, holdout=others, utility=mmlu_rows(folder, 5),
                    probes={"forget": (*forget, *members)} if members else {}, generation_tokens=256,
                    group_tokens={f"task{n}_qa": 64 for n in (1, 2, 3)})


def row_of(located: Located, side: str) -> Example:
    """A row of the file, to be continued as it stands.

    Raises:
        DataError: it is not in the published layout.
    """
    name, task = field(located, "id"), field(located, "task").lower()
    kind = KIND.search(name)
    if kind is None or task not in ("task1", "task2", "task3"):
        raise DataError(f"{located[0]}: this is not a row of LUME.", f"Its id is {name!r} and its task {task!r}.",
                        "Use the published file unchanged.")
    answer = field(located, "output")
    clean = name.replace('"', "")
    return Example(id=f"lume/{side}/{clean}", kind="completion", prompt=field(located, "input"), answer=f" {answer}",
                   short_answer=answer if kind[1] == "qa" else "", entity=f"lume/{side}/{KIND.sub('', clean)}",
                   group=f"{task}_{kind[1]}")


def _documents(folder: Path, name: str) -> tuple[Example, ...]:
    """Texts whose membership is asked; none where the file is not there."""
    found: Sequence[Path] = [place for sub in ("", "mia_data") for ending in ("jsonl", "parquet")
                             if (place := folder / sub / f"{name}.{ending}").is_file()]
    return tuple(Example(id=f"lume/{name}/{i}", kind="text", prompt="", answer=field(one, "document"), group="members")
                 for i, one in enumerate(read_rows(found[0]))) if found else ()
