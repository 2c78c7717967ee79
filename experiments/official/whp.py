"""whp against MUSE's: the generic logits, given the reinforced model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from expunge.methods._lib.generic import generic_logits
from official.bed import Bed, Difference, Found, difference
from official.taken import instance

REPOSITORY = "swj0419/muse_bench"
COMMIT = "fcd6651da8bcf34744fb9a1cc69bb856ab3eb277"
FILE = "baselines/baselines/whos_harry_potter.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    inputs = {name: bed.inputs["forget"][name] for name in ("input_ids", "attention_mask")}
    for alpha in (1.0, 5.0):
        whole = instance(code / FILE, "WHPModelForCausalLM", baseline=bed.model, reinforced=bed.reference_model,
                         alpha=alpha)
        ours = generic_logits(bed.model(**inputs).logits, bed.reference_model(**inputs).logits, alpha)
        yield difference(f"generic logits, alpha {alpha}", Found(None, [ours]),
                         Found(None, [whole.forward(**inputs).logits]))
