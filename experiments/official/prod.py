"""prod against the authors' code, on rows whose every token but the first is an answer: their loss counts prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from official.bed import Bed, Difference, difference
from official.taken import taken

REPOSITORY = "jiangxxxue/PROD"
COMMIT = "a581364f47913d61fe0147c9165fbf4f8ae2af0b"
FILE = "PROD.py"
SETTINGS = (  # name, our options, theirs
    ("top_p 0.8", "", {}),
    ("top_p 0.5, temperature 0.8", "top_p=0.5, temperature=0.8", {"top_p": 0.5, "temperature": 0.8}),
    ("top_p 0.9, 10 tokens, alpha 0.1", "top_p=0.9, max_tokens=10, alpha=0.1",
     {"top_p": 0.9, "max_N": 10, "alpha": 0.1}),
)


def compare(code: Path, seed: int) -> Iterator[Difference]:
    """Rows of equal length, so without padding. Two prompt tokens: their choice at the first position is another one,
    so the loss is taken from the second on."""
    bed = Bed(seed, ("forget",), [(2, 9)] * 4)
    targets, loss = taken(code / FILE, "get_output_distribution"), taken(code / FILE, "calculate_loss")
    ids = bed.inputs["forget"]["input_ids"]
    for what, ours, theirs in SETTINGS:
        options = {"temperature": None, "max_N": None, **theirs}
        _, target = targets(bed.reference_model(ids).logits, ids, **options)
        found = loss(bed.model(ids).logits[:, 1:], target[:, 1:])
        yield difference(what, bed.ours(f"prod({ours})"), bed.of(found))
