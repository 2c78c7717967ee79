"""Sampler that draws one retain row for every forget row, as in TOFU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expunge.methods.base import Sampler
from expunge.plugin import Card, Property
from expunge.records.task import Example
from expunge.seeding import stream


class Paired(Sampler):
    """Each epoch visits the forget rows once in a new order, each with a retain row drawn uniformly."""

    card = Card(
        name="paired", kind="sampler",
        summary="every forget row once an epoch, each with a random retain row (the default)",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121)",
        formula="epoch = shuffled forget rows; retain row ~ uniform, with replacement",
        defaults="an epoch is as long as the forget set",
        deviations=("draws come from a separate random stream, so that they do not depend on other draws and a resumed "
                    "run repeats them; TOFU's loader draws from the global random state",),
    )
    must_show = (
        Property("visits_every_forget_row", {}, "an epoch is a permutation of the forget rows"),
        Property("ignores_global_random_state", {}, "same seed, same rows, independent of earlier draws"),
    )

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        """Visits the first side in random order and draws from every other; with one side it only shuffles."""
        rng = stream(seed, "paired", epoch)
        first, *others = [side for side, examples in rows.items() if examples]
        shuffled = list(rows[first])
        rng.shuffle(shuffled)
        return [{first: row, **{side: rng.choice(rows[side]) for side in others}} for row in shuffled]
