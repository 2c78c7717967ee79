"""Sampler that cycles through both sides; the shorter one repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.errors import UsageError
from expunge.methods._lib.neighbours import modules
from expunge.methods.base import Sampler
from expunge.plugin import Card, Property
from expunge.records.task import Example
from expunge.seeding import stream


def walk(sides: Mapping[str, Sequence[Example]], length: int) -> list[dict[str, Example]]:
    """`length` draws; draw i takes row i of every non-empty side, modulo its length."""
    return [{side: rows[i % len(rows)] for side, rows in sides.items() if rows} for i in range(length)]


class Cyclic(Sampler):
    """Pairs row i with row i, modulo the length of each side: an epoch covers all rows of both sides."""

    class Spec(plugin.Spec):
        keep: Literal["all", "direct", "indirect"] = Field(
            "all", description="Retain rows to draw from: all, or without the indirect or the direct neighbours of "
                               "forgotten entities (general rows always stay).")
        length: Literal["longest", "forget"] = Field(
            "longest", description="Length of an epoch: that of the longer side, or the number of forget rows, "
                                   "which leaves later retain rows unused.")

    card = Card(
        name="cyclic", kind="sampler",
        summary="forget and retain rows cycled together; the shorter side repeats",
        paper="Standard vs. Modular Sampling: Best Practices for Reliable LLM Unlearning (MELU), 2025",
        formula="pair_i = (forget_(i mod |F|), retain_(i mod |R|)), i < max(|F|, |R|)",
        defaults="all retain rows; length=forget gives the study's sequential one-to-one pairing, "
                 "keep=direct and keep=indirect its single-neighbour sets",
        deviations=("an epoch shuffles the order of the pairs, as the study's loader does; the pairs stay",),
    )
    must_show = (
        Property("pairs", {"forget": 98, "direct": 364, "indirect": 1144, "general": 293, "count": 1801},
                 "as long as the longer side: 1801 pairs on the published counts"),
        Property("pairs", {"forget": 98, "direct": 364, "indirect": 1144, "general": 293, "count": 98,
                           "options": {"length": "forget"}}, "98 pairs one to one on the published counts"),
        Property("pairs", {"forget": 98, "direct": 364, "indirect": 1144, "general": 293, "count": 657,
                           "options": {"keep": "direct"}}, "direct neighbours and general rows"),
        Property("pairs", {"forget": 98, "direct": 364, "indirect": 1144, "general": 293, "count": 1437,
                           "options": {"keep": "indirect"}}, "indirect neighbours and general rows"),
        Property("covers_both_sides", {}, "every row of both sides; counts within a side differ by at most one"),
        Property("walks_one_side_alone", {}, "with one side only it is plain shuffling"),
        Property("pure_order", {}, "a pure function of rows, epoch and seed"),
        Property("ignores_global_random_state", {}, "same seed, same rows, independent of earlier draws"),
    )

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        forget, retain = rows.get("forget", ()), rows.get("retain", ())
        if forget and retain and self.spec.keep != "all":
            entities, general = modules(forget, retain)
            kept = {r.id for m in entities for r in (m.direct if self.spec.keep == "direct" else m.indirect)}
            kept |= {r.id for r in general}
            retain = [r for r in retain if r.id in kept]
            if not retain:
                raise UsageError(f"cyclic(keep={self.spec.keep!r}) leaves no retain row.",
                                 "All retain rows are neighbours of the other kind.", "Use keep='all'.")
        sides = {**rows, "forget": forget, "retain": retain}
        length = len(forget) if forget and self.spec.length == "forget" else max(map(len, sides.values()))
        pairs = walk(sides, length)
        stream(seed, "cyclic", epoch).shuffle(pairs)
        return pairs
