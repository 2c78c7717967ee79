"""Hidden states of the same rows in two models, side by side."""

from __future__ import annotations

from expunge.metrics.base import Evidence, NotAvailable
from expunge.metrics.layers import Array, rows_by_id, table
from expunge.records.score import Orientation
from expunge.records.task import Split


def orientation_beside(split: Split | None, to: str) -> Orientation:
    """"forgot" on forget rows against the retrained model, where similarity is good; "neutral" otherwise."""
    return "forgot" if split == "forget" and to == "retrained" else "neutral"


def paired_states(evidence: Evidence, split: Split, to: str) -> tuple[list[str], Array, Array]:
    """Ids, then states of the subject and of the reference, both n rows x L layers x hidden size.

    Raises:
        NotAvailable: no reference, no common rows, or models that were observed at different layers.
    """
    if to == "retrained":
        other = evidence.need_retrained()
    elif evidence.original is None:
        raise NotAvailable("no original model was given (--original)")
    else:
        other = evidence.original
    rows, reference = (rows_by_id(evidence.of(side), "hidden", split) for side in (evidence.subject, other))
    ids = [key for key in rows if key in reference]
    if not ids:
        raise NotAvailable(f"subject and {to} model share no {split} row")
    first, second = (table({key: side[key] for key in ids}, "states") for side in (rows, reference))
    if first.shape[1] != second.shape[1]:
        raise NotAvailable(f"subject and {to} model were observed at different numbers of layers")
    return ids, first, second
