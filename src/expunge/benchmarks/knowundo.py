"""KnowUnDo: copyrighted text or private data is to be forgotten, and what one may know beside it is to stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.few_shot import field
from expunge.data.mapping import Located
from expunge.data.published import PublishedData
from expunge.errors import DataError
from expunge.plugin import Property
from expunge.records.task import Example, Task

Domain = Literal["copyright", "privacy"]
DATA = PublishedData("KnowUnDo", hub="zjunlp/KnowUnDo", known_by=("privacy/unlearn.json*", "copyright/unlearn.json*"),
                     subfolder="knowundo")


class KnowUnDo(TaskPlugin):
    """Methods see the questions of the part train; an audit asks those of the part val about the same things."""

    class Spec(plugin.Spec):
        domain: Domain = Field("privacy", description="What is forgotten; also written knowundo:privacy.")

    card = TaskCard(
        name="knowundo", kind="task", model_needs=frozenset({"prompt"}),
        summary="KnowUnDo, what must be forgotten beside what may stay: knowundo:copyright, knowundo:privacy",
        paper="To Forget or Not? Towards Practical Knowledge Unlearning for LLMs (arXiv 2407.01920)",
        defaults="the domain of private data",
        licence="MIT", source="the data set zjunlp/KnowUnDo of the hub, or by --data-dir or EXPUNGE_DATA the files "
                              "privacy/unlearn.json, privacy/retention.json ...",
        suite="forget.exact_memorization, retain.exact_memorization, forget.mean_logp, retain.mean_logp, "
              "forget.rouge_l(measure=f1), retain.rouge_l(measure=f1)",
        deviations=("Unlearn success is 1 - forget.exact_memorization, retention success is "
                    "retain.exact_memorization, perplexity is exp(-mean_logp).",
                    "A question goes through the model's template; KnowUnDo puts a blank line between it and the "
                    "answer, and counts the tokens of that line."),
    )
    part = "domain"
    must_show = (
        Property("name_leads_back", {"options": {"domain": "copyright"}}, "the name of a task gives its rows again"),
        Property("splits_are_apart", {"own_questions": True},
                 "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        domain, folder = self.spec.domain, DATA.folder(data_dir)
        parts = {side: parts_of(DATA.rows(domain, folder, split=side, file=f"{domain}/{side}.json"), domain, side)
                 for side in ("unlearn", "retention")}
        forget = {(row.prompt, row.answer): row for row in parts["unlearn"]["train"]}
        retain = [row for row in parts["retention"]["train"] if (row.prompt, row.answer) not in forget]
        return Task(name=f"knowundo:{domain}", forget=tuple(forget.values()), retain=tuple(retain),
                    probes={split: rows for split, side in (("forget", "unlearn"), ("retain", "retention"))
                            if (rows := parts[side]["val"])}, generation_tokens=128)


def parts_of(located: list[Located], domain: str, side: str) -> dict[str, tuple[Example, ...]]:
    """The parts train and val of a file whose only row holds both.

    Raises:
        DataError: it is not in the published layout.
    """
    where, row = located[0]
    if len(located) != 1 or not isinstance(row.get("train"), list):
        raise DataError(f"{where}: this is not a file of KnowUnDo.", "It has no one row with the lists train and val.",
                        "Use the published file unchanged.")

    def rows(part: str) -> tuple[Example, ...]:
        found: list[Mapping[str, Any]] = row.get(part) or []
        return tuple(Example(id=f"knowundo/{domain}/{side}/{part}/{i}", prompt=field((where, dict(one)), "text"),
                             answer=field((where, dict(one)), "labels"))
                     for i, one in enumerate(found))
    return {"train": rows("train"), "val": rows("val")}
