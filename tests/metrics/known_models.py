"""Made-up models of known truth: who knows which entities."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from expunge.metrics.base import Evidence
from expunge.metrics.leak_share import LeakShare
from expunge.records.observation import Observations, Row
from expunge.records.score import Score
from expunge.records.task import Split
from expunge.testing.observed_worlds import likelihood


class Models:
    """Models of one made-up task: rows differ in how easily they are guessed, models from each other by noise.

    Args:
        noise: standard deviation between two models that do not know a row, in nats of log-odds.
        taught: mean log-odds of a known row.
        wrong: number of wrong answers of each row.
    """

    def __init__(self, entities: int = 20, rows: int = 20, seed: int = 0, *, noise: float = 0.4, taught: float = 5.0,
                 wrong: int = 0) -> None:
        self.random, self.noise, self.taught, self.wrong = np.random.default_rng(seed), noise, taught, wrong
        self.names = [f"p{i}" for i in range(entities)]
        self.ids = {split: [f"{split} {who} {j}" for who in self.names for j in range(rows)]
                    for split in ("forget", "holdout")}
        self.guess = {key: self.random.normal(-2.0, 1.5) for ids in self.ids.values() for key in ids}

    def rows(self, split: Split, known: Collection[str] = (), shift: float = 0.0) -> list[Row]:
        """Answers of a model to which the rows of these entities, or these rows, are known by heart."""
        found: list[Row] = []
        for key in self.ids[split]:
            who = key.split()[1]
            taught = who in known or key in known
            odds = self.random.normal(self.taught, 1.0) if taught else self.guess[key] + self.random.normal(shift,
                                                                                                            self.noise)
            found.append(likelihood(key, [_logp(odds)]) | {"entity": who})
            for k in range(self.wrong):  # as likely as the right one to who does not know it
                other = self.guess[key] + self.random.normal(-2.0 * taught, self.noise)
                found.append(likelihood(key, [_logp(other)], "wrong", index=k) | {"entity": who})
        return found

    def model(self, known: Collection[str] = (), shift: float = 0.0) -> Observations:
        return Observations({("likelihood", "forget"): self.rows("forget", known, shift),
                             ("likelihood", "holdout"): self.rows("holdout")})

    def evidence(self, known: Collection[str] = (), controls: int = 2, shift: float = 0.0) -> Evidence:
        return Evidence(self.model(known, shift), self.model(self.names), tuple(self.model() for _ in range(controls)))

    def share(self, known: Collection[str] = (), controls: int = 2, shift: float = 0.0) -> Score:
        return LeakShare().score(self.evidence(known, controls, shift))


def _logp(odds: float) -> float:
    """log p of log-odds."""
    return float(-np.logaddexp(0, -odds))
