"""TOFU: question and answer rows about 200 invented authors; some of them are to be forgotten."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import Published, TaskCard, TaskPlugin
from expunge.data.published import PublishedData
from expunge.data.shapes import to_example
from expunge.data.tasks import with_changes
from expunge.errors import DataError
from expunge.plugin import Property
from expunge.records.task import Example, Task

CONFIGURATIONS = {"forget01": ("01", "99"), "forget05": ("05", "95"), "forget10": ("10", "90")}
"""Part -> the suffixes of its forget and retain configurations."""
ROWS = 4000
ROWS_PER_AUTHOR = 20
DATA = PublishedData("TOFU", hub="locuslab/TOFU", known_by="forget10.json", subfolder="tofu")
SOURCE = "open-unlearning, docs/results.md, commit 8f9872c, untuned"
MODEL = "Llama-3.2-1B-Instruct"


VARIANTS = ("forget_quality(variant=geometric)", "model_utility(variant=geometric)",
            "forget.truth_ratio(variant=geometric)")
"""The scores of OpenUnlearning: truth ratios with the geometric mean of the wrong answers."""
TABLE: dict[str, tuple[float, ...]] = {
    "original": (0.01, 0.60, 0.47, 2.96e-13, 0.6, 0.47, 8.08e-22, 0.6, 0.48),
    "retrained": (1.0, 0.60, 0.65, 1.0, 0.6, 0.63, 1.0, 0.59, 0.63),
    "GradAscent": (0.27, 0.33, 0.59, 1.94e-119, 0, 2.52e-23, 1.06e-239, 0, 2.25e-18),
    "GradDiff": (0.77, 0.43, 0.57, 1.94e-119, 0.53, 3.87e-34, 1.06e-239, 0.49, 3.53e-27),
    "IdkDPO": (0.01, 0.51, 0.60, 1.12e-05, 0.07, 0.62, 4.64e-12, 0.23, 0.6),
    "NPO": (0.92, 0.56, 0.66, 0.14, 0.45, 0.7, 0.02, 0.46, 0.7),
    "SimNPO": (0.58, 0.46, 0.55, 5.01e-100, 0.58, 4.19e-03, 2.47e-203, 0.54, 1.07e-05),
    "RMU": (6.76e-03, 0.60, 0.47, 2.89e-11, 0.6, 0.47, 0.32, 0.59, 0.64)}
"""Untuned methods: `VARIANTS` on forget01, forget05 and forget10."""


class Tofu(TaskPlugin):
    """The published files from a folder, or from the hub; nothing in them is random."""

    class Spec(plugin.Spec):
        part: Literal["forget01", "forget05", "forget10"] = Field("forget10", description=(
            "How many per cent of the authors are to be forgotten; also written tofu:forget10."))

    card = TaskCard(
        name="tofu", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="TOFU, 200 invented authors: tofu:forget01, tofu:forget05, tofu:forget10 (per cent to forget)",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121)",
        defaults="forget10, the part most papers report",
        licence="MIT", source="the data set locuslab/TOFU of the hub, or its files by --data-dir or EXPUNGE_DATA",
        deviations=("the published holdout rows, on which no model is trained, are asked too, for membership",),
        bench=", ".join(("bench", *VARIANTS)),
        published=tuple(Published(f"tofu:{part}", MODEL, subject, score, values[3 * i + k], SOURCE)
                        for i, part in enumerate(CONFIGURATIONS) for subject, values in TABLE.items()
                        for k, score in enumerate(VARIANTS)),
    )
    part = "part"
    must_show = (
        Property("name_leads_back", {"options": {"part": "forget01"}}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return tofu_task(self.spec.part, data_dir)


def tofu_task(part: str, data_dir: Path | None) -> Task:
    """One of the three splits.

    200 authors have 20 rows each, in order; the last ones are to be forgotten.
    """
    name, (forgotten, rest) = f"tofu:{part}", CONFIGURATIONS[part]
    folder = DATA.folder(data_dir)

    def rows(config: str, prefix: str, start: int = 0) -> tuple[Example, ...]:
        located = DATA.rows(config, folder)
        return tuple(
            with_changes(to_example(row, where=where, id=f"tofu/{prefix}/{i}"),
                         entity=f"tofu/{'' if prefix == 'full' else prefix + '/'}author{i // ROWS_PER_AUTHOR}")
            for i, (where, row) in enumerate(located, start)
        )

    retain = rows(f"retain{rest}", "full")
    forget = rows(f"forget{forgotten}", "full", start=len(retain))
    if len(retain) + len(forget) != ROWS:
        raise DataError(
            f"{name}: {len(retain)} retain and {len(forget)} forget rows do not make {ROWS}.",
            "The files are not the published ones, so ids and authors would be wrong.",
        )
    return Task(
        name=name, forget=forget, retain=retain, holdout=rows(f"holdout{forgotten}", "holdout"),
        utility=_utility("real_authors", folder) + _utility("world_facts", folder),
        probes={
            "forget": _same_rows(rows(f"forget{forgotten}_perturbed", "full", start=len(retain)), forget, name),
            "retain": _same_rows(rows("retain_perturbed", "full"), retain[:400], name),
        },
        generation_tokens=200,
    )


def _same_rows(probe: tuple[Example, ...], training: tuple[Example, ...], name: str) -> tuple[Example, ...]:
    """Probe rows get their ids by position, so position by position they must be the training rows.

    Matching by question would not do: one question occurs twice among the 4,000, with two answers.
    """
    for p, t in zip_longest(probe, training):
        if p is None or t is None or (p.prompt, p.answer) != (t.prompt, t.answer):
            raise DataError(
                f"{name}: the perturbed rows are not the training rows in the same order.",
                f"The first difference is at {(p or t).id}.", "Use the published files unchanged.",
            )
    return probe


def _utility(config: str, folder: Path | None) -> tuple[Example, ...]:
    """Real-world questions that no model is trained on; options come from the plain file."""
    plain, perturbed = DATA.rows(config, folder), DATA.rows(f"{config}_perturbed", folder)
    result = []
    for i, ((_, options), (where, row)) in enumerate(zip(plain, perturbed, strict=False)):
        if options.get("question") != row.get("question") or len(plain) != len(perturbed):
            raise DataError(f"{where}: this is not the same question as in {config}.")
        merged = {**row, "options": [options.get(f"option{k}") for k in (1, 2, 3, 4)]}
        result.append(with_changes(to_example(merged, where=where, id=f"tofu/{config}/{i}"), group=config))
    return tuple(result)
