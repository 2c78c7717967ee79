"""mudman without its adversary against the loop of its authors: mask, norm and running mean over three steps.

Their mask drops a weight without a retain gradient, which ours keeps, so both sides read the same tokens. The adversary
of their code moves between two backward passes over one graph, ours by passes of its own, so its rate is 0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from expunge.data.text_encoder import TokenRow, collate
from expunge.methods.combine.sign_agree import SignAgree
from official.bed import WHOLE, Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "filyp/MUDMAN"
COMMIT = "227eaea432b10243be8196de902293e51ddd6a59"
FILE = "src/unlearning/unlearning.py"


class Options(SimpleNamespace):
    """Their options: attributes that can be asked for with `in`."""

    def __contains__(self, name: str) -> bool:
        return name in vars(self)


def compare(code: Path, seed: int) -> Iterator[Difference]:
    theirs, ours = Bed(seed, lengths=WHOLE), Bed(seed, lengths=WHOLE)
    for bed in (theirs, ours):  # the same tokens, so that every weight has a retain gradient
        rows = [TokenRow(f"retain-{n}", (*row.ids[::-1], row.ids[0]), 1, len(row.ids), 0)
                for n, row in enumerate(bed.batches["forget"].rows)]
        bed.batches["retain"] = collate(rows, bed.subject.encoder.pad_id)
    rise, fall = (taken(code / "src/utils/loss_fns.py", name)
                  for name in ("neg_cross_entropy_loss", "cross_entropy_loss"))
    before = [p.detach().clone() for p in theirs.model.parameters()]
    first = sum(float(g.norm()) ** 2 for g in theirs.ours("ga").gradient) ** 0.5
    options = Options(fork_every_n_loops=1, unlearning_loss_fn="rise", train_adversary=True, retain_momentum=0.9,
                      retaining_rate=1e-3, adv_lr=0.0, use_masking=True, normalize_grads=True,
                      unlearning_rate=0.1 / first)
    batches = {side: {n: x[n] for n in ("input_ids", "attention_mask")} for side, x in theirs.inputs.items()}
    unlearn = taken(code / FILE, "unlearn", loss_fns={"rise": rise}, cross_entropy_loss=fall,
                    set_seeds=lambda seed: None,
                    AutoModelForCausalLM=SimpleNamespace(from_pretrained=lambda *_, **__: theirs.model))
    unlearn(options, SimpleNamespace(model_id="", unlearning_epochs=3), [batches["retain"]], [batches["forget"]],
            lambda model: None)
    combine = SignAgree(decay=0.9, retain=0.01)
    for _ in range(3):
        forget, retain = (ours.ours("ga + retain_nll", role).gradient for role in ("forget", "retain"))
        for parameter, part in zip(ours.model.parameters(), combine(forget, retain), strict=True):
            parameter.data -= 0.1 * part
    moved = [Found(None, [p.detach() - b for p, b in zip(bed.model.parameters(), before, strict=True)])
             for bed in (ours, theirs)]
    yield difference("change of the weights over 3 steps, no adversary, same tokens on both sides", *moved)
