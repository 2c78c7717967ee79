"""One retain row for every forget row, as TOFU draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expunge.methods.base import Sampler
from expunge.plugin import Card, Property
from expunge.records.task import Example
from expunge.seeding import stream


class Paired(Sampler):
    """Each epoch walks the forget rows once in a new order; each meets a retain row drawn uniformly."""

    card = Card(
        name="paired", kind="sampler",
        summary="every forget row once an epoch, each with a random retain row (the default)",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121)",
        formula="epoch = shuffled forget rows; retain row ~ uniform, with replacement",
        defaults="an epoch is as long as the forget set",
        deviations=("draws come from a stream of their own, so that nothing else shifts them and a resumed run "
                    "repeats them; TOFU's loader draws from the global random state",),
    )
    must_show = (
        Property("visits_every_forget_row", {}, "an epoch is a permutation of the forget rows"),
        Property("ignores_global_random_state", {}, "same seed, same rows, whatever ran before"),
    )

    def order(self, rows: Mapping[str, Sequence[Example]], epoch: int, seed: int) -> list[dict[str, Example]]:
        """Walk the first side; draw from every other. With one side alone this is plain shuffling."""
        rng = stream(seed, "paired", epoch)
        lead, *others = [side for side, found in rows.items() if found]
        walked = list(rows[lead])
        rng.shuffle(walked)
        return [{lead: row, **{side: rng.choice(rows[side]) for side in others}} for row in walked]
