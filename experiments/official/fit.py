"""fit against the authors' code: importance of a request and the change of its loss without each block, on one text.

Of a text of which all but the first token is the answer, as they supervise all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from expunge.methods._lib.importance import differentiable
from expunge.sequential.requests import attributions, sensitivity
from official.bed import Bed, Difference, Found, difference
from official.taken import instance, taken

REPOSITORY = "XiaoyuXU1/FIT"
COMMIT = "360a77b59b00b17f795dd0e7f2b3b70c55771f17"
FILE = "Fit/algorithm.py"
LAYERS = "Fit/layer.py"


class Tokens(dict[str, torch.Tensor]):
    def to(self, device: Any) -> Tokens:
        return self


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, ("forget",), [(1, 12)])
    ids_BT = bed.inputs["forget"]["input_ids"]
    (row,) = bed.batches["forget"].rows
    subject: Any = SimpleNamespace(**{name: getattr(bed.subject, name) for name in (
        "model", "blocks", "answers", "collate", "evaluating", "width", "device")})
    subject.encoder = SimpleNamespace(encode=lambda given: given, batches=lambda rows: [[0]])
    tokenizer = SimpleNamespace(encode=lambda text, return_tensors: ids_BT)
    with torch.enable_grad(), differentiable(bed.subject, list(bed.model.parameters())):
        theirs = taken(code / FILE, "compute_importance")("", bed.model, tokenizer)
    bed.model.zero_grad()
    rows: Any = [row]
    yield difference("importance of a request", *(Found(value, [torch.tensor([value])])
                                                  for value in (sensitivity(subject, rows), theirs)))
    ours = attributions(subject, rows)
    selector = instance(code / LAYERS, "LayerAttributionSelector", num_layers=len(ours), device="cpu",
                        embedding_model=bed.model, _original_params={},
                        tokenizer=lambda *a, **k: Tokens(input_ids=ids_BT))
    base, found = selector._compute_loss_for_text(""), []
    for block in range(len(ours)):
        selector._mask_layers([block])
        found.append(abs(selector._compute_loss_for_text("") - base))
        selector._restore_layers([block])
    assert selector.select_forget_layers("", 2) == sorted(range(len(ours)), key=lambda i: -ours[i])[:2]
    yield difference("change of the loss without each block", *(
        Found(None, [torch.tensor(values, dtype=torch.float64)]) for values in (ours, found)))
