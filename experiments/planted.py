"""Facts planted by hand in known places: what finds them, what removes one, and what else goes.

    OMP_NUM_THREADS=1 python experiments/planted.py [METHOD ...]

Places are neurons, a head, experts, and the latents of an autoencoder made by hand.

Every edit, and every scope under a few steps of npo alone, forgets one fact at a time of a model of 22. Settings are
chosen once for this model, by hand. The place that a method found is the neuron or head whose weights it changed most,
or left free, per weight. Writes results/planted.json; named methods alone are tried again. Some minutes on one core.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, log, store
from torch import Tensor

import expunge
from expunge.console import Reporter
from expunge.errors import ExpungeError
from expunge.methods._lib.tracing import effects
from expunge.methods.base import ScopePlugin
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.scope import Scope
from expunge.models.sparse_autoencoder import save_sae
from expunge.records.task import Task
from expunge.registry import load
from expunge.testing import planted
from expunge.testing.support import fresh, token_rows, train, weights

STORED = RESULTS / "planted.json"
NEURONS = ("Abel", "Beth", "Cora", "Dora", "Egon", "Fred")
"""Their facts stand in blocks 1 and 2 in turn, and in both experts."""
KINDS: dict[str, tuple[tuple[str, ...], bool]] = {
    "neuron": (NEURONS, False), "head": (planted.HEAD[:1], False), "expert": (NEURONS, True)}
LATENT = ("sae_guided(layer=0, sae={sae!r}) + activation_match(layer=0, weight=100) + retain_nll + "
          "layers(index='0-0') + adamw(lr=1e-3)")
LATENT_STEPS = 40
"""What moves names away from their latents, of an autoencoder made by hand."""
"""What holds the facts -> which, and whether the model has experts."""
ONE_NEURON = 3 * planted.WIDTH
"""Weights into a neuron and out of it."""
STEPS, RATE = 100, 1e-3
"""Of npo within a scope, which ends as soon as the fact is gone."""
Options = Callable[[int, int], Mapping[str, Any]]
"""From the block of the fact and the number of weights of the model."""


@dataclass(frozen=True)
class Tried:
    """How a method is tried, and what it says by itself about where a fact is: nothing, a block or a unit."""

    options: Options
    finds: str = "-"
    given: str = "-"


def _fixed(**options: Any) -> Options:
    return lambda block, count: options


def _targeted(key: str, as_list: bool) -> Options:
    return lambda block, count: {key: [block] if as_list else block, "refusal": planted.REFUSAL}


METHODS: dict[str, Tried] = {
    "concept_vectors": Tried(_fixed(noise=20.0), "neuron"),
    "pisces": Tried(_fixed(), "block"),
    "rome": Tried(_targeted("layer", False), given="block"),
    "memit": Tried(_targeted("layers", True), given="block"),
    "alphaedit": Tried(_targeted("layers", True), given="block"),
    "rocr": Tried(lambda block, count: {"layers": [block]}, given="block"),
    "stamp": Tried(lambda block, count: {"layer": block, "at": "entity"}, given="block"),
    "lunar": Tried(_fixed(layer=planted.DEPTH - 1), given="last block"),
    "ph3": Tried(_fixed(), "head"),
    "ssd": Tried(_fixed(), "weights"),
    "repselect": Tried(_fixed(budget=0.1)),
    "task_vector": Tried(_fixed(lr=1e-3, scale=0.7)),
    "tall_masks": Tried(_fixed(lr=1e-3, scale=0.7), "weights"),
    "consensus": Tried(_fixed(lr=1e-3, scale=2.0), "weights"),
    "iau": Tried(_fixed(lr=5e-4)),
    "first_epoch": Tried(_fixed(target=4.0)),
    "override_gap": Tried(_fixed(lr=3e-3, target="wrong_answer")),
    "shrink_perturb": Tried(_fixed()),
    "klue": Tried(_fixed(share=1 / (planted.DEPTH * planted.NEURONS)), "neuron"),
    "fisher": Tried(lambda block, count: {"density": ONE_NEURON / count, "batch_size": 1}, "weights"),
    "salun": Tried(lambda block, count: {"density": ONE_NEURON / count}, "weights"),
    "null_space": Tried(_fixed(width=1), "block"),
    "layers": Tried(lambda block, count: {"index": block}, given="block"),
    "prune_first": Tried(_fixed(sparsity=0.1)),
    "grip": Tried(_fixed()),
    "embedding": Tried(_fixed()),
    "lora": Tried(_fixed(rank=4)),
    "reglu": Tried(_fixed(rank=4)),
    "all": Tried(_fixed()),
}


def units(values: Mapping[str, Tensor], experts: bool) -> dict[str, float]:
    """Mean of values over the weights of every neuron and every head; values by parameter, 0 where there are none."""
    holder = fresh(planted.planted(experts))
    with torch.no_grad():
        for name, weight in holder.model.named_parameters():
            weight.copy_(values[name].to(weight)) if name in values else weight.zero_()
    found: dict[str, float] = {}
    for at, block in enumerate(holder.model.model.layers):
        for e, (gate, up, down) in enumerate(planted.mlps(holder, at)):
            of_K = (gate.sum(1) + up.sum(1) + down.sum(0)) / ONE_NEURON
            found |= {place(at, j, e if experts else None): float(v) for j, v in enumerate(of_K)}
        size = planted.WIDTH // planted.HEADS
        for h in range(planted.HEADS):
            mine, attention = slice(h * size, (h + 1) * size), block.self_attn
            parts = [p.weight[mine].mean() for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
            found[f"head {h} of block {at}"] = float(sum([*parts, attention.o_proj.weight[:, mine].mean()]) / 4)
    return found


def place(block: int, neuron: int, expert: int | None = None) -> str:
    return f"neuron {neuron} of block {block}" + ("" if expert is None else f", expert {expert}")


def truth(name: str, experts: bool) -> str:
    if name == planted.HEAD[0]:
        return f"head {planted.HEAD[2]} of block {planted.HEAD[1]}"
    return place(*planted.PLACES[name], planted.EXPERTS[name] if experts else None)


def one(name: str, fact: str, experts: bool) -> dict[str, Any]:
    """One method on one fact: what is left, and the place where most was changed or left free."""
    before = planted.planted(experts)
    subject, task, steps = fresh(before), planted.planted_task(fact), 0
    at = planted.HEAD[1] if fact == planted.HEAD[0] else planted.PLACES[fact][0]
    plugin = load(name)(**METHODS[name].options(at, sum(p.numel() for p in before.model.parameters())))
    began = time.process_time()
    plugin.check_model(subject)
    if isinstance(plugin, ScopePlugin):
        free = _free(plugin.apply(fresh(before), token_rows(before, task.forget, task.retain)))
        steps = _forget_within(plugin, subject, task)
    else:
        free = {}
        plugin.apply(subject, task, 0)
    if hasattr(subject.model, "merge_and_unload"):
        subject = CausalLM(subject.model.merge_and_unload(), subject.encoder)
    start = weights(before)
    changed = {n: (w - start[n]).double() for n, w in weights(subject).items()}
    marks = units(free or {n: (c != 0).double() if METHODS[name].finds == "weights" else c.square()
                           for n, c in changed.items()}, experts)
    left, best = planted.known(subject), _first(marks)
    return {"fact": fact, "removed": fact not in left, "kept": len(left - {fact}), "steps": steps,
            "place": best, "found": best == truth(fact, experts), "block_found": _first(_by_block(marks)) == at,
            "cpu_s": time.process_time() - began}


def by_latent(fact: str) -> dict[str, Any]:
    """sae_guided on one fact: what is left, and the latent that fell most."""
    before, began = fresh(planted.planted()), time.process_time()
    before.model.float()
    with tempfile.TemporaryDirectory() as folder:
        sae, model, out = (Path(folder) / name for name in ("sae", "model", "run"))
        save_sae(planted.autoencoder(), sae)
        before.save(model)
        expunge.forget(model, task=planted.planted_task(fact), method=LATENT.format(sae=str(sae)), out=out,
                       steps=LATENT_STEPS, batch_size=1, keep="last", reporter=Reporter(quiet=True))
        subject = load_subject(out)
    assert isinstance(subject, CausalLM)
    left, fall = planted.known(subject), planted.latents(before) - planted.latents(subject)
    best = planted.NAMES[int(fall.argmax())]
    return {"fact": fact, "removed": fact not in left, "kept": len(left - {fact}), "steps": LATENT_STEPS,
            "place": f"latent of {best}", "found": best == fact, "cpu_s": time.process_time() - began}


class Gone(Exception):
    """The fact is no longer said."""


def _forget_within(scope: ScopePlugin, subject: CausalLM, task: Task) -> int:
    """Steps of npo within the scope after which the fact is gone, at most STEPS."""
    (row,), taken = task.forget, 0

    def look(line: dict[str, Any]) -> None:
        nonlocal taken
        taken += 1
        if row.answer != planted.said(subject, [row.id])[row.id]:
            raise Gone

    with suppress(Gone):
        train(f"npo + {scope.text()}", steps=STEPS, lr=RATE, subject=subject, forget=task.forget, retain=task.retain,
              batch_size=1, on_step=look)
    return taken


def _first(marks: Mapping[Any, float]) -> Any:
    """Where the largest stands, None where no one stands out."""
    best, other = sorted(marks, key=lambda key: -marks[key])[:2]
    return best if marks[best] > 1.000001 * marks[other] else None


def _by_block(marks: Mapping[str, float]) -> dict[int, float]:
    """Sums over the neurons of each block."""
    return {at: sum(v for unit, v in marks.items() if unit.startswith("neuron") and f"of block {at}" in unit)
            for at in range(planted.DEPTH)}


def _free(scope: Scope) -> dict[str, Tensor]:
    """1 where a weight may change; of an adapter nothing, whose weights are not the model's."""
    return {} if scope.adapter else {
        name: scope.masks.get(name, torch.ones_like(scope.parameters[name])).double() for name in scope.names}


def tried(name: str) -> dict[str, Any]:
    """A method on both models; of facts that it cannot be tried on the reason."""
    found: dict[str, Any] = {"kind": load(name).card.kind, "finds": METHODS[name].finds, "given": METHODS[name].given,
                             "options": dict(METHODS[name].options(1, 1))}
    for kind, (facts, experts) in KINDS.items():
        try:
            found[kind] = [one(name, fact, experts) for fact in facts]
        except ExpungeError as problem:
            found[kind] = re.sub(r"Block \d+", "A block", problem.what)
    return found


def traced() -> dict[str, list[float]]:
    """Effects of causal tracing by block, over ten facts of one block; of a single fact noise decides."""
    subject = planted.planted()
    names = {block: [name for name, (at, _) in planted.PLACES.items() if at == block][:10] for block in (1, 2)}
    return {str(block): effects(subject, [subject.encoder.encode(planted.fact(name)) for name in some]).tolist()
            for block, some in names.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    stored: dict[str, Any] = json.loads(STORED.read_text()) if STORED.exists() else {}
    found, asked = stored.get("methods", {}), sys.argv[1:] or ["sae_guided", *METHODS]
    latent = stored.get("latent", [])
    if "sae_guided" in asked:
        latent = [by_latent(name) for name in NEURONS]
        log([(r["removed"], r["kept"], r["place"]) for r in latent])
    for name in (n for n in asked if n != "sae_guided"):
        found[name] = tried(name)
        for kind in KINDS:
            log((name, kind, found[name][kind] if isinstance(found[name][kind], str) else [
                (r["removed"], r["kept"], r["steps"], r["place"]) for r in found[name][kind]]))
    store("planted", {"traced": traced(), "steps": STEPS, "rate": RATE, "facts": len(planted.NAMES),
                      "latent_recipe": LATENT, "latent": latent,
                      "methods": {name: found[name] for name in METHODS if name in found}})


if __name__ == "__main__":
    main()
