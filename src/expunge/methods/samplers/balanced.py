"""Sampler with as many indirect as direct neighbours per entity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expunge.methods._lib.neighbours import modules
from expunge.methods.base import Sampler
from expunge.methods.samplers.cyclic import walk
from expunge.plugin import Card, Property
from expunge.records.task import Example
from expunge.seeding import stream


class Balanced(Sampler):
    """Cycle both sides; the indirect neighbours of each entity are subsampled to the number of direct ones."""

    card = Card(
        name="balanced", kind="sampler", target="entity",
        summary="both sides cycled, an entity's indirect neighbours subsampled to the number of direct ones",
        paper="Standard vs. Modular Sampling: Best Practices for Reliable LLM Unlearning (MELU), 2025",
        formula="R' = direct + sample_e(indirect_e, |direct_e|) + general; pair_i = (F_(i mod |F|), R'_(i mod |R'|))",
        defaults="the rows left out are the same in every epoch, as in the study",
        deviations=("the sample depends on the run's seed; the study fixed one for all runs",
                    "an entity without direct neighbours keeps all its indirect ones; otherwise it "
                    "would have none",
                    "an epoch shuffles the order of the pairs, as the study's loader does"),
    )
    must_show = (
        Property("pairs", {"forget": 98, "direct": 364, "indirect": 1144, "general": 293, "count": 364 + 364 + 293},
                 "direct, as many indirect, and the general rows"),
        Property("equal_neighbours", {}, "no entity has more indirect than direct neighbours in an epoch"),
        Property("covers_both_sides", {"thinned": True}, "every forget row, direct neighbour and general row"),
        Property("walks_one_side_alone", {}, "with one side only it is plain shuffling"),
        Property("pure_order", {}, "a pure function of rows, epoch and seed"),
        Property("ignores_global_random_state", {}, "same seed, same rows, independent of earlier draws"),
    )

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        forget, retain = rows.get("forget", ()), rows.get("retain", ())
        if forget and retain:
            left_out: set[str] = set()
            for module in modules(forget, retain)[0]:
                rng, extra = stream(seed, "balanced", module.entity), len(module.indirect) - len(module.direct)
                if module.direct and extra > 0:
                    left_out |= {r.id for r in rng.sample(module.indirect, extra)}
            retain = [r for r in retain if r.id not in left_out]
        sides = {**rows, "forget": forget, "retain": retain}
        pairs = walk(sides, max(map(len, sides.values())))
        stream(seed, "balanced", epoch).shuffle(pairs)
        return pairs
