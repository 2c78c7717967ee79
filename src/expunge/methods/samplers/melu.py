"""Entity-level pairing (MELU)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from expunge import plugin
from expunge.methods._lib.neighbours import modules
from expunge.methods.base import Sampler
from expunge.methods.samplers.cyclic import walk
from expunge.plugin import Card, Property
from expunge.records.task import Example
from expunge.seeding import stream


class MELU(Sampler):
    """Pairs each entity's forget rows with its own neighbours, and general rows with random forget rows."""

    class Spec(plugin.Spec):
        ordered: bool = Field(False, description="Entity after entity and the general rows last, instead of all "
                                                 "pairs in random order.")

    card = Card(
        name="melu", kind="sampler", target="entity",
        summary="forget rows paired with neighbours of the same entity, entity by entity",
        paper="Standard vs. Modular Sampling: Best Practices for Reliable LLM Unlearning (MELU), 2025",
        formula="for each entity e: F_e with R_e = direct_e + indirect_e, the shorter list cycled; then each general "
                "row with a random forget row",
        defaults="4 epochs, lr 2e-5, LoRA rank 8; pairs are shuffled, as by the study's loader; forget rows are "
                 "seen far more often per epoch than with paired, so compare at equal forget tokens",
        deviations=("an entity without neighbours is kept: its forget rows are paired with random general rows, or any "
                    "retain rows; the study drops it",
                    "partners of general rows depend on the run's seed; the study fixed one for all runs",
                    "entities are in the order of their first forget row; the study's order changes between runs"),
    )
    must_show = (
        Property("pairs", {"forget": 98, "direct": 364, "indirect": 1144, "general": 293, "count": 1801},
                 "1801 pairs on the published counts"),
        Property("stays_within_entities", {}, "every non-general pair shares its entity, every retain row appears, "
                                              "and forget rows floor or ceil(|R_e| / |F_e|) times"),
        Property("keeps_lonely_entities", {}, "an entity without neighbours is still forgotten"),
        Property("keeps_module_order", {}, "entity after entity if ordered, else mixed"),
        Property("walks_one_side_alone", {}, "with one side only it is plain shuffling"),
        Property("pure_order", {}, "a pure function of rows, epoch and seed"),
        Property("ignores_global_random_state", {}, "same seed, same rows, independent of earlier draws"),
    )

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        sides = {side: list(examples) for side, examples in rows.items() if examples}
        if {"forget", "retain"} <= sides.keys():
            pairs = self._pairs(sides["forget"], sides["retain"], seed)
        else:
            pairs = walk(sides, max(map(len, sides.values())))
        if not self.spec.ordered or len(sides) == 1:
            stream(seed, "melu", epoch).shuffle(pairs)
        return pairs

    @staticmethod
    def _pairs(forget: Sequence[Example], retain: Sequence[Example], seed: int) -> list[dict[str, Example]]:
        """The pairs of every epoch, entity by entity, general rows last."""
        rng = stream(seed, "melu", "pairs")
        entities, general = modules(forget, retain)
        pairs: list[dict[str, Example]] = []
        for module in entities:
            if module.retain:
                pairs += walk({"forget": module.forget, "retain": module.retain},
                              max(len(module.forget), len(module.retain)))
            else:
                pairs += [{"forget": row, "retain": rng.choice(general or retain)} for row in module.forget]
        return pairs + [{"forget": rng.choice(forget), "retain": row} for row in general]
