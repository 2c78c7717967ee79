"""Membership by the entropy of the predictions."""

from __future__ import annotations

from expunge.metrics.base import MetricCard
from expunge.metrics.membership import MUST_SHOW, SPLITS_READ, MembershipAttack
from expunge.metrics.rows import text_values
from expunge.plugin import Property
from expunge.records.observation import Row


def entropy(row: Row) -> float:
    """Mean entropy of the distributions that the answer's tokens, or the label, stand in; end token left out; nats."""
    return -float(text_values(row, "mean").mean())


class MiaEntropy(MembershipAttack):
    card = MetricCard(
        name="mia.entropy",
        kind="metric",
        summary="AUC of telling forget from never-seen rows by the entropy of the predictions",
        paper="Salem et al. 2019 (arXiv 1806.01246); Song and Mittal 2021 (arXiv 2003.10595)",
        formula="AUC of (1/T) sum_t H(p_t), holdout against forget",
        defaults="no threshold is fitted: the AUC is over all of them",
        deviations=("the label is not used; the modified entropy, which uses it, is not computed here",),
        higher_is="knows", range=(0.0, 1.0), ideal=0.5, access="logits",
        probes=(("likelihood", SPLITS_READ),), model_needs=frozenset({"distribution"}),
    )

    must_show = (
        Property("value", {"world": "sure", "is_": 1.0}, "distributions of forget rows are sharper"),
        Property("value", {"world": "perfect", "is_": 0.5}, "log-probs of the answers are not looked at"),
        *(p for p in MUST_SHOW if p.args.get("world") != "perfect" and p.check != "orders"),
    )

    def unfamiliarity(self, row: Row) -> float:
        return entropy(row)
