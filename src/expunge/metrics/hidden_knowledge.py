"""Hidden knowledge: whether hidden states order right and wrong answers where the likelihood does not."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.metrics.layers import rows_by_id
from expunge.metrics.statements import StatementTable, held_out_shares, probed
from expunge.plugin import Property
from expunge.records.task import SPLITS, Split


class HiddenKnowledgeOptions(plugin.Spec):
    read: Literal["internal", "external", "gap"] = Field("internal", description=(
        "internal: by a linear probe on hidden states; external: by the mean log-prob of the answer; gap: the first "
        "less the second"))


class HiddenKnowledge(RowMetric):
    card = MetricCard(
        name="hidden_knowledge", kind="metric",
        summary="Share of right and wrong answers of a question that a probe of hidden states orders rightly (K)",
        paper="Inside-Out: Hidden Factual Knowledge in LLMs (arXiv 2503.15299)",
        formula="K_q = |{(a, b): S(q, a) > S(q, b)}| / (|A+| |A-|), mean over questions; ties count 0",
        defaults="a logistic regression on retain rows, at the layer that is best for entities held out",
        needs=frozenset({"retain"}),
        deviations=("The probe is fitted on all retain questions, not only on those that the model answers rightly: a "
                    "suppressed model may answer none.",
                    "Wrong answers are those of the rows, so length and style tell them apart, and 0.5 is not chance: "
                    "on the test bed rows never seen have 0.80 (0.85 external), known ones 0.93 (1.00). Read it beside "
                    "the retrained control.",
                    "Retain rows are asked by probes that were fitted without their entity.",
                    "The interval takes the fitted probe as fixed."),
        higher_is="knows", range=(-1.0, 1.0), ideal="reference", access="weights",
        probes=(("statements", SPLITS),), per_split=True,
    )
    Spec: ClassVar[type[plugin.Spec]] = HiddenKnowledgeOptions
    must_show = (
        Property("near", {"world": "perfect", "split": "forget", "is_": 1.0, "within": 0.05}, "states lie far apart"),
        Property("near", {"world": "retrained", "split": "forget", "is_": 0.5, "within": 0.15}, "never seen"),
        Property("orders", {"split": "forget", "worlds": ("original", "retrained")}),
        Property("orders", {"split": "forget", "worlds": ("hiding", "retrained")}, "what the last block hides counts"),
        Property("needs", {"without": ("statements", "forget", None), "split": "forget", "says": "statements"}),
        Property("asks_rows_held_out", {}, "on retain rows too: states without a signal give 0.5"),
        Property("shares_of_pairs", {}, "noise gives 0.5, a separator 1, ties 0; a monotone map changes nothing"),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        asked = StatementTable.of(rows_by_id(evidence, "statements", split), split)
        external = asked.shares(asked.logp_n)
        if self.spec.read == "external":
            return external
        if split == "retain":
            internal = held_out_shares(asked)
        else:
            known = StatementTable.of(rows_by_id(evidence, "statements", "retain"), "retain")
            internal = asked.shares(probed(known, asked))
        return internal if self.spec.read == "internal" else {key: internal[key] - external[key] for key in internal}
