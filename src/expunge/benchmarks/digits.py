"""The task `digits`: 1,797 handwritten digits of 8x8 pixels, of which a class or a random part is to be forgotten.

The rows come with scikit-learn (the test part of the Optical Recognition of Handwritten Digits data set, UCI,
CC BY 4.0; Alpaydin and Kaynak 1998), so nothing is downloaded.
"""

from __future__ import annotations

import re
from random import Random

from expunge.errors import UsageError
from expunge.records.task import Example, Image, Task

NAMES = tuple("0123456789")
SIDE, LEVELS = 8, 16
"""Pixels have 17 levels, 0 to 16."""


def digits_task(*, forget: str = "class:3", test: float = 0.3, limit: int = 0, entity: str = "row",
                seed: int = 0) -> Task:
    """The digits as a task.

    Args:
        forget: `class:3` forgets the training rows of one class, `random:0.1` that share of all training rows.
        test: share of the rows of each class that nobody is trained on. Of a class those of the same class are the
            holdout, of random rows as many as are forgotten; the others are the utility rows.
        limit: images per class, the first ones; 0 takes all (174 to 183).
        entity: what rows are about: `row` (each about itself) or `class`.
        seed: of the draws.

    Raises:
        UsageError: an option has no such value, or nothing would be left to forget, keep or test.
    """
    chosen, share = _parsed(forget)
    if not 0 < test < 1 or limit < 0 or entity not in ("row", "class"):
        raise UsageError(f"digits cannot have test={test:g}, limit={limit} and entity={entity}.",
                         "test is a share above 0 and below 1, limit a count, entity is row or class.")
    rng = Random(seed)
    seen: list[Example] = []
    unseen: list[Example] = []
    for rows in _rows(limit, entity):
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
        raise UsageError(f"digits(forget={forget}, test={test:g}, limit={limit}) leaves no rows on one side.",
                         fix="Forget or test a larger share, or raise the limit.")
    changed = [f"{name}={value}" for name, value, usual in (
        ("forget", forget, "class:3"), ("test", test, 0.3), ("limit", limit, 0), ("entity", entity, "row"),
        ("seed", seed, 0)) if value != usual]
    return Task(
        name=f"digits({','.join(changed)})" if changed else "digits", forget=tuple(gone), retain=tuple(retain),
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


def _rows(limit: int, entity: str) -> list[list[Example]]:
    """All rows by class, in the order of the data set."""
    from sklearn.datasets import load_digits

    data = load_digits()
    found: list[list[Example]] = [[] for _ in NAMES]
    for i, (pixels, number) in enumerate(zip(data.images, data.target, strict=True)):
        name = NAMES[number]
        if limit and len(found[number]) >= limit:
            continue
        others = tuple(n for n in NAMES if n != name)
        image = Image.of(bytes(int(p * 255 // LEVELS) for p in pixels.flatten()), 1, SIDE, SIDE)
        found[number].append(Example(
            id=f"digits/{i}", prompt="", answer=name, kind="image", image=image, group=name, options=NAMES,
            short_answer=name, wrong_answers=others, entity=f"digit {name}" if entity == "class" else ""))
    return found
