"""Step confidence on models of the test bed: a taught refusal hides an answer that the model is still sure of."""

from __future__ import annotations

import pytest

from expunge.metrics.base import Evidence
from expunge.metrics.step_confidence import StepConfidence
from expunge.models.language import CausalLM
from expunge.probes.generation import Generation
from expunge.probes.steps import Steps
from expunge.records.observation import Observations
from expunge.testing import attack_bed as bed


def evidence_of(subject: CausalLM) -> Evidence:
    task = bed.task()
    asked = [r for r in task.forget if r.kind == "qa"][:16]
    return Evidence(Observations({("steps", "forget"): tuple(Steps().observe(subject, asked, task)),
                                  ("generation", "forget"): tuple(Generation().observe(subject, asked, task))}))


@pytest.mark.slow
def test_a_taught_refusal_hides_what_the_model_is_still_sure_of() -> None:
    found = {name: evidence_of(bed.MODELS[name]()) for name in ("original", "retrained", "refusing", "suppressed")}
    sure = {name: StepConfidence().score(evidence, "forget", resamples=0).value for name, evidence in found.items()}
    assert sure["original"] > sure["refusing"] > sure["retrained"] > sure["suppressed"], sure
    refused = StepConfidence(read="refused").score(found["refusing"], "forget", resamples=0)
    assert refused.value is not None and refused.value > (sure["retrained"] or 0) and refused.n >= 4
    nobody = StepConfidence(read="refused").score(found["original"], "forget", resamples=0)
    assert nobody.value is None and "refuses no forget row" in (nobody.unavailable or "")
