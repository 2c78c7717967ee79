"""The default recipe of `expunge demo` on three worlds; writes results/demo.json. A few minutes."""

from __future__ import annotations

from typing import Any

from common import log, measure, store

import expunge
from expunge.demonstration import DEMO_RECIPE, DEMO_SETTINGS, trained_world

SEEDS = (0, 1, 2)


def main() -> None:
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        task = expunge.load_task("authors", seed=seed)
        original, retrained = (trained_world(task, "full", seed=seed), trained_world(task, "retain", seed=seed + 1))
        row = measure(original, task, DEMO_RECIPE, retrained=[retrained], suite="scores", seed=seed, **DEMO_SETTINGS)
        rows.append(row | {"base": f"seed {seed}"})
        utility = row["scores"]["model_utility"] / row["controls"]["model_utility"]["original"]
        log((seed, "forget quality", row["scores"]["forget_quality"], "utility share", utility))
        store("demo", {"seeds": SEEDS, "recipe": DEMO_RECIPE, "settings": DEMO_SETTINGS, "rows": rows})


if __name__ == "__main__":
    main()
