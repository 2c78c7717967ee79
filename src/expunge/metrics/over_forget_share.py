"""Share of the forget rows that the subject says less surely than every control, and the worst entity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from expunge.metrics.base import MetricCard
from expunge.metrics.leak_share import LeakShare
from expunge.metrics.margins import Beyond
from expunge.plugin import Property


class OverForgetShare(LeakShare):
    card = MetricCard(
        name="over_forget_share", kind="metric",
        summary="Share of forget rows that the subject says less surely than every control",
        paper="ours; as leak_share",
        formula="mean 1[s_i(subject) < min over retrained models of s_i - margin], s = log(p_bar / (1 - p_bar)) of the "
                "right answer",
        defaults="the margin is taken as for leak_share, on the other side",
        higher_is="forgot", range=(0.0, 1.0), ideal=0.0, access="logits",
        probes=(("likelihood", ("forget", "holdout")),),
    )
    side: ClassVar[str] = "under"
    must_show = (
        Property("near", {"world": "retrained", "is_": 0.0, "within": 0.01}, "nothing beyond what controls differ by"),
        Property("near", {"world": "perfect", "is_": 0.0, "within": 0.0}, "knowing is no over-forgetting"),
        Property("orders", {"worlds": ("collapsed", "retrained")}),
        Property("needs", {"without": ("likelihood", "forget", "answer"), "says": "answer"}),
    )

    def found(self, beyond: Beyond) -> Mapping[str, bool]:
        return beyond.under
