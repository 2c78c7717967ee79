"""Share of the forget rows that the subject says more surely than every control, and the worst entity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from expunge.metrics.base import Evidence, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.margins import (
    RARE,
    Beyond,
    ControlMargin,
    Sureness,
    aside,
    beside_holdout,
    beyond,
    left_out,
    others_of,
    sureness,
)
from expunge.metrics.shares import share_interval, worst_entity
from expunge.plugin import Property
from expunge.records.observation import Observations
from expunge.records.score import Score
from expunge.records.task import Split


def compared(evidence: Evidence) -> Beyond:
    """The forget rows of the subject set against the controls, by the margin that these give.

    Raises:
        NotAvailable: there is no control from which a margin can be taken, and why.
    """
    subject, controls = sureness(evidence.subject, "forget"), _controls(evidence)
    if not controls:
        return beside_holdout(subject, _aside(evidence.subject, "the subject"), evidence.unmatched)
    return beyond(subject, controls, margin_of(evidence))


def margin_of(evidence: Evidence) -> ControlMargin:
    """What the retrained models give, or the only one."""
    controls = _controls(evidence)
    return left_out(controls) if len(controls) > 1 else margin_of_one(evidence)


def margin_of_one(evidence: Evidence) -> ControlMargin:
    """With one retrained model: what it and the original differ by on rows that neither saw; what it and the subject
    differ by there where no original is given."""
    control = _aside(evidence.retrained[0], "the retrained model")
    if evidence.original is not None:
        return aside(_aside(evidence.original, "the original"), control, "the original and the retrained model", True)
    return aside(_aside(evidence.subject, "the subject"), control, "the subject and the retrained model", False)


def of_each(evidence: Evidence) -> dict[str, Beyond]:
    """The same of every model that can be set against others: subject, original, and each of several retrained ones
    against the others."""
    found = {"subject": compared(evidence)}
    if evidence.original is not None:
        found["original"] = compared(evidence.of(evidence.original))
    controls = _controls(evidence)
    if len(controls) > 1:
        margin = found["subject"].margin
        for i, (one, others) in enumerate(others_of(controls)):
            found[f"retrained{i + 1 if i else ''}"] = beyond(one, others, margin)
    return found


def _controls(evidence: Evidence) -> list[Sureness]:
    try:
        return [sureness(one, "forget") for one in evidence.retrained]
    except NotAvailable as reason:
        raise NotAvailable(f"of the retrained model, {reason}") from None


def _aside(observed: Observations, model: str) -> Sureness:
    """Holdout rows, from which a margin is taken where there are not two retrained models."""
    try:
        return sureness(observed, "holdout")
    except NotAvailable:
        raise NotAvailable(f"two retrained models, or holdout rows of {model}, are needed to tell what two models that "
                           "never saw a row differ by") from None


class LeakShare(Metric):
    card = MetricCard(
        name="leak_share", kind="metric",
        summary="Share of forget rows that the subject says more surely than every control",
        paper="ours; the scale is that of LiRA, arXiv 2112.03570; intervals: Korn and Graubard 1998",
        formula="mean 1[s_i(subject) > max over retrained models of s_i + margin], s = log(p_bar / (1 - p_bar)) of the "
                "right answer",
        defaults=f"the margin is what a model that never saw the rows exceeds on {RARE:.0%} of them at most: each "
                 "retrained model against the others on the forget rows; with one, the original against it on holdout "
                 "rows, in both directions; without an original, the subject against it on holdout rows; without "
                 "any retrained model a row counts beside the holdout rows of the subject itself. Under an attack all "
                 "models are attacked alike",
        deviations=("Two retrained models differ from each other by more than the subject differs from the surer of "
                    "the two, so the share of an honest model is below 1 %.",
                    "With one retrained model, under an attack, the margin grows by how unevenly the attack moves its "
                    "rows.",
                    "A model that was taught other answers to the forget questions says the true ones more surely than "
                    "one that never met them, by 0.26 to 0.50 of the rows in the meta-evaluation: beside retrained "
                    "models it looks as if it leaked."),
        higher_is="knows", range=(0.0, 1.0), ideal=0.0, access="logits",
        probes=(("likelihood", ("forget", "holdout")),),
    )
    side: ClassVar[str] = "over"
    must_show = (
        Property("near", {"world": "retrained", "is_": 0.0, "within": 0.01}, "nothing beyond what controls differ by"),
        Property("near", {"world": "collapsed", "is_": 0.0, "within": 0.0}, "less is no leak"),
        Property("orders", {"worlds": ("perfect", "retrained")}),
        Property("needs", {"without": ("likelihood", "forget", "answer"), "says": "answer"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return {"forget": np.asarray(list(self.found(compared(evidence)).values()), dtype=float)}

    def found(self, beyond: Beyond) -> Mapping[str, bool]:
        """Example id -> whether the row counts."""
        return beyond.over

    def flags(self, evidence: Evidence) -> dict[str, Mapping[str, bool]]:
        """Model -> example id -> whether the row counts; for tables of single examples."""
        return {model: self.found(beyond) for model, beyond in of_each(evidence).items()}

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        margin = compared(evidence).margin
        if not evidence.retrained:
            return f"set against {margin.source}, since {evidence.unmatched}"
        lies = margin.over if self.side == "over" else margin.under
        return f"by a margin of {lies:.2g} nats of log-odds, from {margin.source}"

    def score(self, evidence: Evidence, split: Split | None = None, *, resamples: int = 1000, seed: int = 0) -> Score:
        """With an interval over entities, which is not resampled, and the worst entity."""
        score = super().score(evidence, split, resamples=0, seed=seed)
        if score.value is None:
            return score
        found, entities = compared(evidence), evidence.subject.entities("forget")
        return score.model_copy(update={
            "interval": share_interval(self.found(found), entities),
            "worst": worst_entity(self.found(found), entities, found.margin, self._alike(evidence))})

    def _controls(self, evidence: Evidence, split: Split | None) -> dict[str, float | None]:
        """A single retrained model lies within any margin of itself."""
        try:
            each = {model: float(np.mean(list(found.values()))) for model, found in self.flags(evidence).items()}
        except NotAvailable:
            return {}
        shares = [share for model, share in each.items() if model.startswith("retrained")]
        shares = shares or [0.0] * len(evidence.retrained)
        found: dict[str, float | None] = {"original": each["original"]} if "original" in each else {}
        return found | ({"retrained": float(np.mean(shares))} if shares else {})

    def _alike(self, evidence: Evidence) -> list[Mapping[str, bool]]:
        """The same of every retrained model beside the other ones."""
        return [found for model, found in self.flags(evidence).items() if model.startswith("retrained")]
