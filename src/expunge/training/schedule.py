"""Rows of step i: a pure function of the seed and i, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from expunge import processes
from expunge.data.encoder import Batch, Encoder, Row
from expunge.records.task import Example

Draw = Mapping[str, Example]
"""One position of an epoch: side -> the row drawn for it."""


class Schedule:
    """Splits the sampler's epochs into optimizer steps of `accumulate` micro-batches.

    Args:
        order: epoch number -> the draws of that epoch, in order.
        encoder: turns examples into rows.
        batch_size: rows of each side in one micro-batch, over all processes together.
        accumulate: micro-batches per optimizer step.
        rollout: (step, its draws) -> those draws with rows that the current model makes, as new sides; asked before
            every step. Such rows are in no list of what a run will ask for.
        repeats: optimizer steps on the same rows, one after the other.
    """

    def __init__(self, order: Callable[[int], Sequence[Draw]], encoder: Encoder, batch_size: int,
                 accumulate: int = 1, rollout: Callable[[int, Sequence[Draw]], Sequence[Draw]] | None = None,
                 repeats: int = 1) -> None:
        self._order = order
        self._encoder = encoder
        self._rollout, self._repeats = rollout, repeats
        self._micro = batch_size
        self._size = batch_size * accumulate
        self._epoch: tuple[int, Sequence[Draw]] = (0, order(0))
        self.steps_per_epoch = steps_in(len(self._epoch[1]), self._size, repeats)

    def draws(self, step: int) -> Sequence[Draw]:
        """All draws of optimizer step `step` (from 0). The last step of an epoch may be shorter."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        at //= self._repeats
        return self._epoch[1][at * self._size: (at + 1) * self._size]

    def micro_batches(self, step: int) -> Iterator[dict[str, Batch]]:
        """The step's micro-batches: side -> padded rows."""
        draws = self.draws(step) if self._rollout is None else self._rollout(step, self.draws(step))
        for start in range(0, len(draws), self._micro):
            part = draws[start: start + self._micro]
            yield {side: self._encoder.collate([self._encoder.encode(d[side]) for d in part]) for side in part[0]}

    def token_rows(self, steps: int, sides: set[str]) -> list[Row]:
        """Every distinct row of the first `steps` steps on these sides."""
        rows: dict[str, Row] = {}
        for step in range(steps if sides else 0):
            for draw in self.draws(step):
                for side in sides & draw.keys():
                    row = self._encoder.encode(draw[side])
                    rows.setdefault(row.key, row)
        return list(rows.values())


def steps_in(draws: int, rows_per_step: int, repeats: int = 1) -> int:
    """Optimizer steps of an epoch of `draws` draws, `repeats` on the same rows; the last rows may be fewer."""
    return math.ceil(draws / rows_per_step) * repeats


def share(micro: Sequence[Mapping[str, Batch]], encoder: Encoder) -> Sequence[Mapping[str, Batch]]:
    """This process's rows of a step's micro-batches; micro-batches without rows for it are left out."""
    if processes.count() == 1:
        return micro
    own = ({side: processes.share(batch.rows) for side, batch in batches.items()} for batches in micro)
    return [{side: encoder.collate(rows) for side, rows in batches.items()} for batches in own if all(batches.values())]
