"""From the margins of all shadow models: every attack on every kind of model, and the rows that are told apart.

Legend: S shadows, P points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from expunge.metrics.interpolated import iam_scores
from expunge.metrics.population import Inference, forgetting_quality, klom, population, ruli, summary, ulira
from expunge.records.shadows import ORIGINAL, RETRAINED

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
LEVEL = 0.05
FEW_SHADOWS = 1
"""At each end of IAM: what it is made for."""
SHOWN = 10
"""Rows and entities that are named."""
EXACT = 30
"""Models on a side up to which the rank test counts all orders, where no two margins are the same."""


def assess(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every attack on every kind of model; the row `retrained` is the floor: what chance alone gives.

    At forgotten points a method's models compare with retrained ones of shadows in which the entity was out, and
    for the floor retrained ones do. At kept points they compare with the twins of the same shadows, which know the
    entity too; the twins themselves have no row there.
    """
    about = {r["id"]: r["entity"] for r in rows}
    index = {id: p for p, id in enumerate(about)}
    phi = {name: np.full((1 + max(r["shadow"] for r in rows), len(about)), np.nan)
           for name in (ORIGINAL, RETRAINED, *methods)}
    state_SP = np.full(phi[RETRAINED].shape, "", dtype="U9")
    for r in rows:
        phi[r["model"]][r["shadow"], index[r["id"]]] = r["phi"]
        state_SP[r["shadow"], index[r["id"]]] = r["state"]
    return {name: _measures(phi_SP, phi, state_SP, about, floor=name == RETRAINED) for name, phi_SP in phi.items()}


def _measures(phi_SP: Floats, phi: Mapping[str, Floats], state_SP: NDArray[np.str_], about: Mapping[str, str], *,
              floor: bool) -> dict[str, Any]:
    """All numbers of one kind of model, or why there are none."""
    oracle_SP, groups = phi[RETRAINED], list(about.values())
    gone, kept, out = (state_SP == s for s in ("forgotten", "kept", "out"))
    rows: dict[str, Floats] = {}

    def attack(name: str, found: Inference) -> dict[str, Any]:
        rows[name] = found.per_point
        return found.plain()

    def interpolated(online: bool) -> dict[str, Any]:
        held_SP = iam_scores(phi_SP, phi[ORIGINAL], gone | kept, out, models=FEW_SHADOWS, online=online)
        found = population(held_SP, gone, out, groups=groups).plain()
        return found | {"held": float(held_SP[gone].mean()), "held_unmet": float(held_SP[out].mean()),
                        "shadows": FEW_SHADOWS}

    def distance(of: Flags, beside: Flags) -> dict[str, Any]:
        a, b = _equal_counts(phi_SP, of, oracle_SP, beside)
        return {**summary(klom(a, b)), "models": len(a)}

    def quality() -> dict[str, Any]:
        a, b = _equal_counts(phi_SP, gone, oracle_SP, out)
        value, each = forgetting_quality(a, b)
        return {"F": value, "median_epsilon": float(np.median(each)), "models": len(a)}

    none = np.zeros_like(gone)
    beside_SP, unlearned, unmet = np.vstack([phi_SP, phi[ORIGINAL]]), np.vstack([gone, none]), np.vstack([none, out])
    attempts: dict[str, Callable[[], dict[str, Any]]] = {
        "ulira": lambda: attack("ulira", ulira(phi_SP, gone, out, groups=groups)),
        "ulira_kept": lambda: ulira(phi_SP, kept, out, groups=groups).plain(),
        "ruli": lambda: attack("ruli", ruli(phi_SP, gone, out, groups=groups)),
        "ruli_efficacy": lambda: attack("ruli_efficacy", ruli(beside_SP, unlearned, unmet, groups=groups)),
        "iam": lambda: interpolated(True),
        "iam_offline": lambda: interpolated(False),
        "population": lambda: population(phi_SP, gone, out, groups=groups).plain(),
        "klom": lambda: distance(gone, out),
        "klom_kept": lambda: distance(kept, kept),
        "epsilon": quality,
    }
    results: dict[str, Any] = {}
    for name, take in attempts.items():
        try:
            results[name] = {"unavailable": "the twins are what others compare with"} if floor and name == "klom_kept" \
                else take()
        except ValueError as reason:
            results[name] = {"unavailable": str(reason)}
    return results | {"rows": row_evidence(phi_SP, gone, out, about, rows),
                      "entities": entity_evidence(phi_SP, gone, out, about)}


def row_evidence(phi_SP: Floats, gone: Flags, out: Flags, about: Mapping[str, str],
                 accuracy: Mapping[str, Floats]) -> dict[str, Any]:
    """The rows that are most surely told apart: how many are beyond chance, and the first `SHOWN` of them by name.

    Args:
        about: id -> entity of every point, in their order.
        accuracy: attack -> share of held-out models that it told right, for each point.
    """
    found = [_told_apart(phi_SP[gone[:, p], p], phi_SP[out[:, p], p]) | {"id": id, "entity": about[id]}
             | {name: float(each[p]) for name, each in accuracy.items()} for p, id in enumerate(about)]
    return _ranked(found)


def entity_evidence(phi_SP: Floats, gone: Flags, out: Flags, about: Mapping[str, str]) -> dict[str, Any]:
    """The same for entities, by the mean margin of their rows; rows of one entity are out of the same shadows."""
    names = np.array(list(about.values()))
    found = []
    for name in dict.fromkeys(names.tolist()):
        mine = np.flatnonzero(names == name)
        mean_S, first = phi_SP[:, mine].mean(axis=1), mine[0]
        found.append(_told_apart(mean_S[gone[:, first]], mean_S[out[:, first]])
                     | {"entity": name, "rows": len(mine)})
    return _ranked(found)


def _told_apart(unlearned: Floats, unmet: Floats) -> dict[str, Any]:
    """Two-sided Mann-Whitney test between the margins of models that unlearned it and of models that never met it.

    Shadows are dealt at random, so under "it was forgotten" every order of the models is equally likely: exact, also
    with few models and without assumptions on the margins.
    """
    both = np.concatenate([unlearned, unmet])
    if not len(unlearned) or not len(unmet) or np.ptp(both) == 0:
        return {"p": 1.0, "auc": 0.5, "models": [len(unlearned), len(unmet)]}
    exact = max(len(unlearned), len(unmet)) <= EXACT and len(np.unique(both)) == len(both)
    found = mannwhitneyu(unlearned, unmet, method="exact" if exact else "asymptotic")
    return {"p": float(found.pvalue), "auc": float(found.statistic) / (len(unlearned) * len(unmet)),
            "models": [len(unlearned), len(unmet)]}


def _ranked(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Corrected by Holm over all of them; the surest first, with the state of evidence of each."""
    found.sort(key=lambda row: (row["p"], -abs(row["auc"] - 0.5)))
    highest = 0.0
    for rank, row in enumerate(found):
        highest = row["p_corrected"] = max(highest, min(1.0, row["p"] * (len(found) - rank)))
        row["evidence"] = ("told apart" if highest <= LEVEL else
                           "cannot tell" if _least(row["models"]) * len(found) > LEVEL else "may be chance")
    states = [row["evidence"] for row in found]
    return {"of": len(found), "told_apart": states.count("told apart"), "cannot_tell": states.count("cannot tell"),
            "shadows_needed": shadows_needed(len(found)), "first": found[:SHOWN]}


def shadows_needed(comparisons: int) -> int:
    """Shadows, a multiple of 4, from which one of so many rows or entities can be told apart after correction."""
    quarter = 1
    while _least((quarter, 2 * quarter)) * comparisons > LEVEL:
        quarter += 1
    return 4 * quarter


def _least(models: Sequence[int]) -> float:
    """The smallest p-value that so many models can give: both orders that separate them, of all orders."""
    return 2 / comb(sum(models), models[0]) if min(models) else 1.0


def _equal_counts(a_SP: Floats, of_a: Flags, b_SP: Floats, of_b: Flags) -> tuple[Floats, Floats]:
    """Per point the chosen models of both sides, as many as every point and side has: two arrays [m, P]."""
    sides = [[phi[mask[:, p], p] for p in range(phi.shape[1])] for phi, mask in ((a_SP, of_a), (b_SP, of_b))]
    m = min(len(column) for side in sides for column in side)
    if m == 0:
        raise ValueError("a row has no model on one side")
    first, second = (np.stack([column[:m] for column in side], axis=1) for side in sides)
    return first, second


__all__ = ["assess", "entity_evidence", "row_evidence"]
