"""One taxonomy for every plug-in: what it works on, what it guarantees, the access it needs, and the kinds of models.

A card names what differs from its kind; everything else follows from kind and needs. No plug-in is imported.
"""

from __future__ import annotations

from expunge.needs import OFFERS, ModelNeed
from expunge.plugin import KINDS, Kind
from expunge.registry import Entry, entries, model_needs, serves_of

AXES: dict[str, dict[str, str]] = {
    "target": {
        "sample": "single rows, as they are listed",
        "entity": "all that is known about somebody or something",
        "concept": "an idea or a topic, beyond any list of rows",
        "capability": "what the model can do"},
    "guarantee": {
        "exact": "the model is one that never saw the rows",
        "certified": "a proven bound on how far it is from such a model",
        "empirical": "tests alone show what is left, or are such tests",
        "none": "it claims nothing by itself: a part of a recipe, or knowledge is hidden and not removed"},
    "access": {
        "text": "prompts and replies, or rows alone",
        "logits": "probabilities of tokens or classes too",
        "gradients": "gradients too",
        "weights": "weights and activations, to read and to change"},
    "modality": {kind: f"models that read {'images' if kind == 'image' else kind}" for kind in OFFERS},
}
"""Axis -> its values, each in words."""
GUARANTEES: dict[Kind, str] = {"exact": "exact", "guard": "none"}
INSIDE: frozenset[ModelNeed] = frozenset({"weights", "hidden", "blocks", "attention", "router"})
"""What only somebody with the weights can give a probe."""


def place_of(name: str) -> dict[str, tuple[str, ...]]:
    """The place of a plug-in: axis -> its value, or its values where it serves several kinds of models."""
    entry = entries()[name]
    said = dict(entry.said)
    return {"target": (said.get("target", "sample"),), "guarantee": (said.get("guarantee") or _guarantee(entry.kind),),
            "access": (said.get("access") or _access(entry),), "modality": tuple(serves_of(name))}


def _guarantee(kind: Kind) -> str:
    """Sources of forgetting, and what tests them, are known by tests; a modifier claims nothing by itself."""
    about = KINDS[kind]
    return GUARANTEES.get(kind) or ("empirical" if about.source or kind == "preset" or not about.method else "none")


def _access(entry: Entry) -> str:
    """Methods change weights, tasks are rows; what a probe reads tells what it needs."""
    if KINDS[entry.kind].method or entry.kind == "task":
        return "text" if entry.kind == "task" else "weights"
    needs = model_needs(entry.name)
    return "weights" if needs & INSIDE else "logits" if needs & {"logp", "distribution"} else "text"


def place_text(name: str) -> str:
    """`target entity; guarantee empirical; access weights; modality text`."""
    return "; ".join(f"{axis} {', '.join(values)}" for axis, values in place_of(name).items())
