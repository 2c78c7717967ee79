"""u2a against the authors' code: the weighted loss, the preference loss, and the score of a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from expunge.data.text_encoder import collate
from expunge.methods._lib.preferences import alignment
from expunge.methods.objectives.u2a import U2A
from expunge.records.task import Example, Task
from official.bed import Bed, Difference, Found, as_inputs, difference
from official.taken import taken

REPOSITORY = "muyiahhh/U2A"
COMMIT = "f59c2b075a710d992710061781860417503bb5b4"
FILE = "utils/loss.py"
PROMPT, ANSWER = 4, 5


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, sides=("forget",), lengths=((PROMPT, ANSWER),) * 4)
    inner = taken(code / FILE, "get_inner_loss", print=lambda *words: None)
    weights = torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    rows = bed.batches["forget"].rows
    batch = bed.inputs["forget"] | {"start_locs": torch.tensor([PROMPT - 1] * 4), "weights": weights}
    theirs, _, _ = inner(SimpleNamespace(), batch, bed.model, None)
    made = {"weights": {row.id: float(weight) for row, weight in zip(rows, weights, strict=True)}}
    # Theirs divides by one position more than there are answer tokens.
    yield difference("weighted loss of ga, equal lengths", bed.ours("u2a(inner='ga')", made=made),
                     bed.of(theirs * (ANSWER + 1) / ANSWER))
    pair = (Example(id="a", prompt="Why?", answer="So it is."), Example(id="b", prompt="Why?", answer="No idea."))
    encode = bed.subject.encoder.encode
    pairs = [as_inputs(collate([encode(row)], bed.subject.encoder.pad_id)) for row in pair]
    logps = taken(code / "utils/reward.py", "_get_batch_logps")
    prefer = taken(code / "utils/reward.py", "preference_loss")

    def sums(model: torch.nn.Module) -> list[torch.Tensor]:
        return [logps(model(input_ids=p["input_ids"]).logits, p["labels"]) for p in pairs]

    with torch.no_grad():
        before = sums(bed.reference_model)
    theirs = prefer(*sums(bed.model), *before, beta=0.3).mean()
    ours = alignment(bed.subject, pair, (float(before[0]), float(before[1])), 0.3)
    yield difference("preference loss of a pair, beta 0.3", bed.of(ours), bed.of(theirs))
    row = Example(id="r", prompt="Where?", answer="In Arle.")
    mine = U2A(inner="ga").scores(bed.subject, Task(name="t", forget=(row,)), [pair])["r"]
    inputs = as_inputs(collate([encode(row)], bed.subject.encoder.pad_id))
    length, prompt = encode(row).supervised, encode(row).prompt
    _, plain, _ = inner(SimpleNamespace(), inputs | {"start_locs": torch.tensor([prompt - 1]),
                                                     "weights": torch.ones(1)}, bed.model, None)
    own = [logp.detach() for logp in sums(bed.model)]
    outer = bed.of(prefer(*sums(bed.model), *own, beta=0.3).mean()).gradient
    score = sum(float((a * b).sum()) for a, b in zip(outer, bed.of(plain).gradient, strict=True))
    yield difference("score of a row at the original", Found(None, [torch.tensor(mine)]),
                     Found(None, [torch.tensor(score * (length + 1) / length)]))
