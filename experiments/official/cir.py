"""cir against the code of its authors: the loss of MLP outputs, the retain loss, and a gradient without its mean.

With more directions than the mean both sides agree only where the components are orthogonal to it: theirs are projected
out one after another, ours are made orthonormal first. Their losses are computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from expunge.methods._lib.shared_directions import Moments, off
from expunge.models.sites import Site, read
from official.bed import EQUAL, Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "filyp/unlearning"
COMMIT = "a99d613733d54942285f752952e1324ead6e50a4"
FILE = "src/utils/loss_fns.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, lengths=EQUAL)
    sites = [Site(block, "mlp") for block in (1, 2)]
    forget, retain = (dict(bed.inputs[side]) for side in ("forget", "retain"))
    batch = bed.batches["forget"]
    before = [out_BTD[:, 1:].flatten(0, 1).detach() for out_BTD in bed.original.at(batch, sites)]
    lengths = [float(out_ND.norm(dim=-1).mean()) for out_ND in before]
    forget |= {"org_mlp_out": dict(zip((1, 2), before, strict=True)),
               "org_mlp_out_norm": dict(zip((1, 2), map(torch.tensor, lengths), strict=True))}
    options = SimpleNamespace(cut_off_tokens=1, layer_range=(1, 3), mlp_floor=0.0, cb_retaining_layers=[3],
                              cb_retaining_pow=1.0)
    with read(bed.subject, sites) as values:
        bed.model(input_ids=forget["input_ids"])
    for block, kept in zip((1, 2), values, strict=True):
        bed.model.model.layers[block].mlp.cached_out = kept[-1]
    theirs = taken(code / FILE, "mlp_confuse")(bed.model, forget, options)
    made = {"lengths": lengths}
    yield difference("MLP outputs, answers of equal length", bed.ours("cir(layers=[1, 2])", made=made), bed.of(theirs))

    with torch.no_grad():
        acts = bed.reference_model(input_ids=retain["input_ids"], output_hidden_states=True).hidden_states[3]
    # One length for all rows, as ours would have it of each.
    lengths_B = acts.norm(dim=-1).mean(1, keepdim=True)
    found = bed.model(input_ids=retain["input_ids"], output_hidden_states=True)
    cb_retain = taken(code / FILE, "cb_retain")
    alone = []
    for row in range(len(lengths_B)):
        one = {"attention_mask": retain["attention_mask"][row: row + 1],
               "retain_acts": {3: acts[row: row + 1]}}
        states = SimpleNamespace(hidden_states=[h[row: row + 1] for h in found.hidden_states])
        alone.append(cb_retain(states, one, options))
    ours = bed.ours("activation_match(layer=2, distance='length')")
    yield difference("retain term, row by row", ours, bed.of(torch.stack(alone).mean()))

    project_out = taken(code / "src/utils/common_cir.py", "project_out")
    draw = torch.Generator().manual_seed(seed)
    seen_NI, given_NI = (torch.randn(40, 12, generator=draw, dtype=torch.float64) + 1 for _ in range(2))
    moments = Moments(12, seen_NI)
    moments.add(seen_NI)
    yield difference("tokens without their mean", Found(None, [off(given_NI, moments.basis(1))]),
                     Found(None, [given_NI - project_out(given_NI, seen_NI.mean(0))]))
    # Components orthogonal to the mean: of a matrix whose last column is constant and whose others sum to 0.
    seen_NI[:, :-1] -= seen_NI[:, :-1].mean(0)
    seen_NI[:, -1] = 3.0
    theirs_NI = given_NI.clone()
    leading = torch.linalg.svd(seen_NI - seen_NI.mean(0), full_matrices=False)[2][:4]
    for component in (seen_NI.mean(0), *leading):
        theirs_NI -= project_out(theirs_NI, component)
    moments = Moments(12, seen_NI)
    moments.add(seen_NI)
    yield difference("without mean and 4 components that are orthogonal to it",
                     Found(None, [off(given_NI, moments.basis(5))]), Found(None, [theirs_NI]))

