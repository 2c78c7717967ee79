"""Consensus: negate the forget rows' task vector only where no other task needs the weight."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.methods._lib.task_masks import Vector, consensus_mask, summed, tall_mask
from expunge.methods.edits.tall_masks import TallMasks
from expunge.plugin import Card, Property


class Consensus(TallMasks):
    """Subtract the forget rows' change on their selfish weights: those of their mask and of no other."""

    card = Card(
        name="consensus", kind="edit", target="capability",
        summary="subtract what fine-tuning on the forget rows changes, on weights that no other task needs",
        paper="Localizing Task Information for Improved Model Merging and Compression, ICML 2024 (arXiv 2405.07813)",
        formula="w <- w - scale 1[m_f = 1, sum_t m_t = 1] v_f, m_t the TALL-mask of task t",
        defaults="as tall_masks",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"logp", "weights"}),
        memory="as tall_masks",
        deviations=("consensus merging drops the weights of fewer than two tasks from a merged model; here the forget "
                    "rows' are taken out of a trained one, which is ours", "otherwise as tall_masks"),
    )
    must_show = (
        Property("masks_by_definition", {}, "no weight that two masks share; 0 masks keep all, more than all none"),
        Property("keeps_everything", {"options": {"scale": 0.0, "epochs": 1}}, "scale 0 changes no weight"),
    )

    def mask(self, vectors: Sequence[Vector]) -> Vector:
        total = summed(vectors)
        masks = [tall_mask(vector, total, self.spec.threshold) for vector in vectors]
        shared = consensus_mask(masks, 2)
        return {name: mask & ~shared[name] for name, mask in masks[0].items()}
