"""The task `digits`: 1,797 handwritten digits of 8x8 pixels, of which a class or a random part is to be forgotten.

The rows come with scikit-learn (the test part of the Optical Recognition of Handwritten Digits data set, UCI,
CC BY 4.0; Alpaydin and Kaynak 1998), so nothing is downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.errors import UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Image, Task
from expunge.terms import with_options

NAMES = tuple("0123456789")
SIDE, LEVELS = 8, 16
"""Pixels have 17 levels, 0 to 16."""


class Digits(TaskPlugin):
    """Images with a label each, for image classifiers."""

    class Spec(plugin.Spec):
        forget: str = Field("class:3", description="class:3 forgets the training rows of one class, random:0.1 that "
                                                   "share of all training rows.")
        test: float = Field(0.3, gt=0, lt=1, description=(
            "Share of the rows of each class that no model is trained on. Of a class those of the same class are the "
            "holdout, of random rows as many as are forgotten; the others are the utility rows."))
        per_class: int = Field(0, ge=0, description="Images per class, the first ones; 0 takes all (174 to 183).")
        entity: Literal["row", "class"] = Field("row", description="What a row is about: itself, or its class.")
        seed: int = Field(0, description="Of the draws.")

    card = TaskCard(
        name="digits", kind="task", target="concept", model_needs=frozenset({"image"}),
        summary="1,797 handwritten digits of 8x8 pixels; a class or a random part is to be forgotten",
        paper="Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI)",
        defaults="class 3 is forgotten; three in ten rows of each class are kept for testing",
        licence="CC BY 4.0", source="comes with scikit-learn (`sklearn.datasets.load_digits`)",
        suite="forget_quality, forget.accuracy, retain.accuracy, holdout.accuracy, utility.accuracy, "
              "forget.probability, retain.probability, utility.probability, mia.loss, mia.entropy, mia.confidence, "
              "relearn(steps=20), quantise, prune, noise, interpolate",
        deviations=("the 17 grey levels are stretched to the 256 of a byte",),
    )
    must_show = (
        Property("name_leads_back", {"options": {"forget": "random:0.1", "per_class": 20, "seed": 1}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return digits_task(**self.spec.model_dump())


def digits_task(*, forget: str = "class:3", test: float = 0.3, per_class: int = 0, entity: str = "row",
                seed: int = 0) -> Task:
    """The digits as a task; see the options of `Digits`.

    Raises:
        UsageError: `forget` cannot be read, or nothing would be left to forget, keep or test.
    """
    chosen, share = _parsed(forget)
    rng = Random(seed)
    seen: list[Example] = []
    unseen: list[Example] = []
    for rows in _rows(per_class, entity):
        rng.shuffle(rows)
        kept = round(test * len(rows))
        unseen += rows[:kept]
        seen += rows[kept:]
    if chosen:
        gone = [r for r in seen if r.answer == chosen]
        beside = [r for r in unseen if r.answer == chosen]
    else:
        gone = rng.sample(seen, round(share * len(seen)))
        beside = rng.sample(unseen, min(len(gone), len(unseen) // 2))
    named = {r.id for r in (*gone, *beside)}
    retain, left = ([r for r in rows if r.id not in named] for rows in (seen, unseen))
    if not (gone and retain and beside and left):
        raise UsageError(f"digits(forget={forget}, test={test:g}, per_class={per_class}) leaves no rows on one side.",
                         fix="Forget or test a larger share, or take more images per class.")
    options = {"forget": forget, "test": test, "per_class": per_class, "entity": entity, "seed": seed}
    return Task(
        name=with_options("digits", options, Digits.Spec().model_dump()), forget=tuple(gone), retain=tuple(retain),
        holdout=tuple(beside), utility=tuple(left),
        probes={"retain": tuple(rng.sample(retain, min(len(retain), 2 * len(gone))))},
    )


def _parsed(forget: str) -> tuple[str, float]:
    """(class name, 0) or ("", share)."""
    kind, _, value = forget.partition(":")
    if kind == "class" and value in NAMES:
        return value, 0.0
    if kind == "random" and re.fullmatch(r"0?\.\d+", value) and float(value):
        return "", float(value)
    raise UsageError(f"digits(forget={forget}) is not possible.",
                     fix="Write class:0 to class:9, or random: and a share such as random:0.1.")


def _rows(per_class: int, entity: str) -> list[list[Example]]:
    """All rows by class, in the order of the data set."""
    from sklearn.datasets import load_digits

    data = load_digits()
    found: list[list[Example]] = [[] for _ in NAMES]
    for i, (pixels, number) in enumerate(zip(data.images, data.target, strict=True)):
        name = NAMES[number]
        if per_class and len(found[number]) >= per_class:
            continue
        others = tuple(n for n in NAMES if n != name)
        image = Image.of(bytes(int(p * 255 // LEVELS) for p in pixels.flatten()), 1, SIDE, SIDE)
        found[number].append(Example(
            id=f"digits/{i}", prompt="", answer=name, kind="image", image=image, group=name, options=NAMES,
            short_answer=name, wrong_answers=others, entity=f"digit {name}" if entity == "class" else ""))
    return found
