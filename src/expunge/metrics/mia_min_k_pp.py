"""Membership by the least likely tokens, each standardised by mean and variance at its position."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from expunge import plugin
from expunge.metrics.base import MetricCard
from expunge.metrics.membership import (
    SPLITS_READ,
    MembershipAttack,
    ShareOptions,
    Tokens,
    counted_lowest,
    lowest_mean,
)
from expunge.metrics.mia_min_k import FEWER
from expunge.records.observation import Row

SMALLEST_VARIANCE = 1e-6


def min_k_pp(row: Row, k: float = 0.4, tokens: Tokens = "text") -> float:
    """- mean of the lowest max(1, floor(k T)) of z_t = (log p_t - mu_t) / sqrt(max(var_t, 1e-6))."""
    logp, mean, variance = (counted_lowest(row, key, tokens) for key in ("logp", "mean", "var"))
    return -lowest_mean((logp - mean) / np.sqrt(np.maximum(variance, SMALLEST_VARIANCE)), k)


class MiaMinKpp(MembershipAttack):
    card = MetricCard(
        name="mia.min_k_pp", kind="metric",
        summary="AUC of separating forget from never-seen rows by their least likely tokens, standardised",
        paper="Min-K%++, Zhang et al., arXiv 2404.02936; OpenUnlearning, arXiv 2506.12618",
        formula="AUC of -mean(lowest k T of (log p_t - mu_t)/sigma_t), holdout against forget",
        defaults="k = 0.4: OpenUnlearning; the end token is left out",
        deviations=(FEWER, "Each variance is at least 1e-6; RWKU divides by it as it is."),
        higher_is="knows", range=(0.0, 1.0), ideal=0.5, access="logits",
        probes=(("likelihood", SPLITS_READ),), model_needs=frozenset({"distribution"}),
    )
    Spec: ClassVar[type[plugin.Spec]] = ShareOptions

    def unfamiliarity(self, row: Row) -> float:
        return min_k_pp(row, self.spec.k, self.spec.tokens)
