"""What audits have stored of the inside of models: hidden states, their similarity, and how far weights moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.comparator.models import ComparedModel, short
from expunge.comparator.rows import RowTable
from expunge.errors import MissingExtra, install_line
from expunge.metrics.cka import FEWEST, gram, gram_cka

SPLITS = ("forget", "retain", "holdout")
MOST_ROWS = 128
"""Of which CKA is taken, evenly spaced, as the metric `cka` does."""
DRAWN_LAYERS = 3
FIT_ROWS = 4000
"""Rows of all models together to which principal components are fitted."""
Array = NDArray[np.float32]


def hidden(models: Sequence[ComparedModel]) -> tuple[list[int], dict[str, dict[str, tuple[list[str], Array]]]]:
    """Layers, and model -> split -> ids and states (n L D); models observed at other layers are left out."""
    layers: list[int] = []
    found: dict[str, dict[str, tuple[list[str], Array]]] = {}
    for model in models:
        for split in SPLITS:
            rows = model.rows("hidden", split)
            if not rows or (layers and list(rows[0]["layers"]) != layers):
                continue
            layers = list(rows[0]["layers"])
            states = np.asarray([r["states"] for r in rows], np.float32)
            if np.isfinite(states).all():
                found.setdefault(model.key, {})[split] = [str(r["id"]) for r in rows], states
    return layers, found


def similarity(found: Mapping[str, Mapping[str, tuple[list[str], Array]]]) -> dict[str, dict[str, list[float | None]]]:
    """Split -> `key|key` -> CKA per layer of every pair of models, over the rows that all of them were asked."""
    made: dict[str, dict[str, list[float | None]]] = {}
    for split in SPLITS:
        sides = {key: by[split] for key, by in found.items() if split in by}
        common = set.intersection(*(set(ids) for ids, _ in sides.values())) if len(sides) > 1 else set()
        if len(common) < FEWEST:
            continue
        picked = np.asarray(sorted(common))[np.unique(np.linspace(0, len(common) - 1, min(MOST_ROWS, len(common)))
                                                      .round().astype(int))]
        grams = {}
        for key, (ids, states) in sides.items():
            place = {identity: i for i, identity in enumerate(ids)}
            mine = states[[place[i] for i in picked]].astype(float)
            grams[key] = np.stack([gram(mine[:, layer], "unbiased") for layer in range(mine.shape[1])], 1)
        made[split] = {f"{a}|{b}": [short(float(v)) for v in gram_cka(grams[a], grams[b])]
                       for a, b in combinations(grams, 2)}
    return made


def spread(count: int, most: int = DRAWN_LAYERS) -> list[int]:
    """Places of at most `most` of `count` layers, evenly spaced, the first and the last among them."""
    return sorted({round(i * (count - 1) / max(1, min(most, count) - 1)) for i in range(min(most, count))})


def projected(found: Mapping[str, Mapping[str, tuple[list[str], Array]]], layers: Sequence[int], table: RowTable,
              how: str = "pca") -> dict[str, Any]:
    """Two numbers per row: of `pca` along axes that all models share, of `umap` fitted for each model as in the paper.

    Returns layer -> {"share": of the variance that both axes hold (pca), "points": model -> [row, x, y] ...}.
    """
    width = {by[split][1].shape[2] for by in found.values() for split in by}
    if not found or len(width) != 1:
        return {}
    made: dict[str, Any] = {}
    for place in spread(len(layers)):
        numbers, states = {}, {}
        for key, by in found.items():
            listed = [(table.number[split, i], row[place]) for split, (ids, rows) in by.items()
                      for i, row in zip(ids, rows, strict=True) if (split, i) in table.number]
            if listed:
                numbers[key], states[key] = [n for n, _ in listed], np.stack([row for _, row in listed])
        if states:
            share, points = (_pca if how == "pca" else _umap)(states)
            made[str(layers[place])] = {"share": share, "points": {
                key: [[n, short(float(x)), short(float(y))] for n, (x, y) in zip(numbers[key], both, strict=True)]
                for key, both in points.items()}}
    return made


def _pca(states: Mapping[str, Array]) -> tuple[float | None, dict[str, Array]]:
    from sklearn.decomposition import PCA

    everything = np.concatenate(list(states.values()))
    if min(everything.shape) < 2:
        return None, {}
    chosen = everything[:: max(1, len(everything) // FIT_ROWS)]
    fitted: Any = PCA(2, svd_solver="randomized", random_state=0).fit(chosen)
    return short(float(fitted.explained_variance_ratio_.sum())), {k: fitted.transform(v) for k, v in states.items()}


def _umap(states: Mapping[str, Array]) -> tuple[None, dict[str, Array]]:
    need_umap()
    from umap import UMAP  # the paper's settings

    return None, {key: UMAP(n_neighbors=min(9, len(rows) - 1), min_dist=0.45, init="pca", random_state=42,
                            n_jobs=1).fit_transform(rows)
                  for key, rows in states.items() if len(rows) > 3}


def need_umap() -> None:
    """Raises MissingExtra where umap-learn is not installed."""
    from importlib.util import find_spec

    if find_spec("umap") is None:
        raise MissingExtra("A projection by UMAP needs umap-learn.", "It is not installed.",
                           f"Install it with: {install_line('umap')}. Or leave out --projection umap.")


def weights(models: Sequence[ComparedModel]) -> dict[str, list[list[Any]]]:
    """Model -> (part, ||w - w0|| / ||w0||) of its blocks, embeddings and head."""
    made = {}
    for model in models:
        rows = model.rows("weights", "forget")
        if rows:
            made[model.key] = [[_part(str(r["id"])), short(r["distance"])] for r in sorted(rows, key=_place)]
    return made


def _place(row: Mapping[str, Any]) -> int:
    return int(row["index"])


def _part(name: str) -> str:
    """`model.layers.3` -> `block 3`."""
    last = name.rpartition(".")[2]
    return f"block {last}" if last.isdigit() else name
