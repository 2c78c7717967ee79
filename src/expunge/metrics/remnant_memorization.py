"""How likely each token of an answer still is, given the true ones before it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.rows import text_values
from expunge.plugin import Property
from expunge.records.observation import Row
from expunge.records.task import SPLITS, Split


def remnant_memorizations(rows: Iterable[Row]) -> dict[str, float]:
    """RMA = (1/T) sum_t p(y_t | x, y_<t), end token left out; an empty answer is skipped."""
    known = {row["id"]: np.exp(text_values(row, "logp")) for row in rows}
    return {key: float(np.mean(p)) for key, p in known.items() if len(p)}


class RemnantMemorization(RowMetric):
    card = MetricCard(
        name="remnant_memorization",
        kind="metric",
        summary="Mean probability of the answer's tokens, given the true beginning",
        paper="Remnant Memorization Accuracy of Privacy Protection via Optimal Parameters (POP), Findings of ACL 2024 "
              "(arXiv 2406.14091)",
        formula="mean over rows of (1/T) sum_t p(y_t | x, y_<t): exact_memorization without its threshold",
        defaults="a row counts as forgotten where it is below the mean of holdout.remnant_memorization",
        deviations=("answer tokens after the prompt; the paper scores whole texts, from their second token on, as rows "
                    "of running text are scored here",
                    "the definition is that of a later paper that uses it; POP's own text was not read"),
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="logits",
        probes=(("likelihood", SPLITS),), per_split=True,
    )
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "certain of every token"),
        Property("near", {"world": "uniform", "split": "forget", "is_": 0.1353353, "within": 1e-6}, "2 nats a token"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained", "collapsed")}),
        Property("mean_of_token_probabilities", {}, "at least their product and their geometric mean; equal to exact "
                                                    "memorisation where every token is certain; high where no token "
                                                    "is the first choice, but each is a close second"),
        Property("uses_end", {"split": "forget", "matters": False}, "token-level: text only"),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return remnant_memorizations(evidence.rows("likelihood", split, "answer"))

    def missing(self, split: Split) -> str:
        return f"every {split} answer is empty"
