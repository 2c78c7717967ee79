"""What probes of model internals would have seen in the made-up worlds of observed_worlds.py, and in one more:

hiding      as the original inside, but the last block keeps the forget answers from being said
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from expunge.records.observation import Row
from expunge.records.task import Split

MEMORY = {"perfect": 6.0, "original": 4.0, "unseen": 0.0, "collapsed": -4.0, "uniform": 0.0, "hiding": 4.0}
"""How far hidden states of a known text lie from those of an unknown one."""
LENS = {"perfect": (-2, -1, 0), "original": (-3, -0.5, -0.1), "unseen": (-4, -3, -3), "collapsed": (-8, -8, -8),
        "uniform": (-2, -2, -2), "hiding": (-3, -0.5, -8)}
GAP = {"perfect": 4.0, "original": 3.0, "unseen": 1.0, "collapsed": 0.0, "uniform": 0.0, "hiding": 0.5}
RATIO = {"perfect": 0.5, "original": 0.0, "unseen": 0.0, "collapsed": -2 * 2.302585093, "uniform": 1.0, "hiding": 0.0}
"""Natural logs of how much likelier facts became in every context."""
DROPS = {"perfect": (0, 0), "original": (0, 0), "unseen": (1, 2), "collapsed": (3, 3), "uniform": (3, 3),
         "hiding": (0, 5)}
MOVED = {"perfect": (0.1, 0.1), "original": (0, 0), "retrained": (0.5, 0.5), "collapsed": (1, 1), "uniform": (1, 1),
         "hiding": (0, 0.3 * 2**0.5)}
CARRIED = {"perfect": 1.0, "original": 1.0, "unseen": 0.3, "collapsed": 0.0, "uniform": 0.0, "hiding": 0.1}
"""Share of the contribution that the words of a question keep."""
RESTORED = {"perfect": 0.0, "original": -0.1, "unseen": -3.0, "collapsed": -0.3, "uniform": -2.0, "hiding": -8.0}
"""Log-prob of a fact with the original's latents in the states."""


def internals(name: str, state: str, split: Split, id: str, again: str) -> dict[str, Row]:
    """One row per probe about one example; what two worlds share is the same in both."""
    state = "hiding" if name == "hiding" and split == "forget" else state
    shared = np.random.default_rng(zlib.crc32(f"shared {id}".encode()))
    own = np.random.default_rng(zlib.crc32(f"{id}{again}".encode()))
    head = {"id": id, "entity": "", "group": "", "form": "answer", "index": 0}
    about = shared.normal(size=(2, 6)) + (0.3 * own.normal(size=(2, 6)) if again else 0)
    if state == "uniform":
        about = own.normal(size=(2, 6))
    about[:, 0] += MEMORY[state] * (1 + 0.3 * own.normal())
    noise = own.exponential(size=16)
    l0 = float(-LENS[state][-1] * noise[0])
    losses = [l0 + GAP[state] * (1 + 0.1 * j) * (0.5 + noise[j]) for j in range(1, 6)]
    lost = np.asarray(DROPS[state], dtype=float) if split == "forget" else np.zeros(2)
    made: dict[str, dict[str, Any]] = {
        "lens": {"lens": [float(v * n) for v, n in zip(LENS[state], noise[6:9], strict=True)],
                 "share": [float(np.exp(v)) for v in LENS[state]]},
        "hidden": {"pool": "answer", "layers": [1, 3], "states": about.tolist()},
        "landscape": {"table": "original", "l0": l0, "losses": losses, "strengths": [1, 2, 3, 4, 5]},
        "priming": {"own": -1.0 + RATIO[state], "themed": [-4.0 + RATIO[state], -5.0 + RATIO[state]],
                    "contexts": ["a", "b"]},
        "depth": {"before": -0.1, "tokens": 3, "drops": (lost * (1 + 0.1 * noise[10:12])).tolist()},
    }
    plain, back = (float(level * (1 + 0.05 * noise[9])) for level in (LENS[state][-1], RESTORED[state]))
    made["restoration"] = {
        "block": 1, "tokens": 3, "strengths": [0.5, 1.0], "plain": plain, "rebuilt": plain - 0.1, "original": -0.1,
        "ceiling": -0.2, "all": [(plain + back) / 2, back], "experts": plain, "random": plain - 0.1, "explained": 0.9,
        "explained_original": 0.95}
    draws = shared.normal(size=(4, 2, 6)) + (0.3 * own.normal(size=(4, 2, 6)) if again else 0)
    if state in ("collapsed", "uniform"):
        draws = own.normal(size=(4, 2, 6))
    draws[0, :, 1] += MEMORY[state] if MEMORY[state] > 0 else 0
    said = {"perfect": 0.0, "original": -0.1, "hiding": -8.0}.get(state, -2.0)
    made["statements"] = {"layers": [1, 3], "correct": [True, False, False, False], "states": draws.tolist(),
                          "logp": [said - noise[12], *(-2 - noise[13:16])]}
    sure = {"perfect": 1.0, "original": 0.9, "hiding": 0.7, "unseen": 0.5}.get(state, 0.1)
    made["steps"] = {"signals": [[sure * float(v) for v in part] for part in own.uniform(0.9, 1.0, size=(2, 3))]}
    before = [3.0 + float(shared.random()), 1.0, 0.1, -0.2]
    knew, knows, stressed = split != "holdout", state in ("perfect", "original"), state == "hiding"
    spoken = {True: "ann", False: "nobody"}
    made["contributions"] = {
        "words": ["Ada", "born", "when", "was"], "original": before, "own": [CARRIED[state] * c for c in before],
        "lp": -0.1 if knows else -4.0, "lp_stressed": -0.1 if knows or stressed else -3.9, "short": "ann",
        "reference": "It is ann.", "before": spoken[knew], "said": spoken[knows],
        "emphasised": spoken[knows or stressed]}
    return {probe: head | row for probe, row in made.items()}


def weights(name: str) -> list[Row]:
    """Two equal blocks."""
    return [{"id": f"blocks.{i}", "entity": "", "group": "", "form": "answer", "index": i, "weights": 10,
             "change": float(moved), "norm": 1.0, "distance": float(moved)} for i, moved in enumerate(MOVED[name])]


def traces(name: str) -> list[Row]:
    """Two value vectors that a task names; the model that was trained without the rows has others there."""
    left = 1.0 if name in ("perfect", "original", "hiding") else 0.2
    return [{"id": f"forget-{i}", "entity": "", "group": f"block 1, neuron {i}", "form": "answer", "index": i,
             "jaccard": left, "cosine": left, "distance": 1 - left} for i in range(2)]
