"""Whether what was deleted came back, and what a model says of rows that it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

UNKNOWN_NOISE = 0.05
"""Noise floor where neither retrained models nor holdout rows show one."""
LEAST_NOISE = 0.01
"""Smaller changes of a probability or a share are never an alarm, however alike the models that never saw the rows."""


def levels_of(requests: Sequence[str], retrained: Sequence[Mapping[str, float]],
              holdout: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """What a model says of each request that never saw its rows, and by how much such models differ.

    Args:
        retrained: of each retrained model, its mean of each request.
        holdout: means of the asked model for entities that it never saw, in place of retrained models.

    Returns:
        Level of each request, and the noise floor: with two retrained models or more the largest difference of one
        request between two of them; else how far the best known holdout entity is above their mean.
    """
    if retrained:
        known = {name: [model[name] for model in retrained if name in model] for name in requests}
        levels = {name: sum(values) / len(values) for name, values in known.items() if values}
        spans = [max(values) - min(values) for values in known.values() if len(values) > 1]
        if spans:
            return levels, max(LEAST_NOISE, *spans)
    mean = sum(holdout.values()) / len(holdout) if holdout else 0.0
    noise = max(holdout.values()) - mean if holdout else UNKNOWN_NOISE
    return (levels if retrained else dict.fromkeys(requests, mean)), max(LEAST_NOISE, noise)


def came_back(now: Mapping[str, float], after: Mapping[str, float], levels: Mapping[str, float],
              noise: float) -> dict[str, float]:
    """Deleted requests that the model says more surely than its deletion left them and than a model that never saw
    them, by more than the noise floor: by how much.

    Args:
        now, after: mean of each request now, and right after it was carried out.
    """
    risen = {name: value - max(after[name], levels.get(name, 0.0)) for name, value in now.items() if name in after}
    return {name: rise for name, rise in risen.items() if rise > noise}
