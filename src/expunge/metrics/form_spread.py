"""Form independence: whether a fact that was forgotten in one form of question is forgotten in the others too."""

from __future__ import annotations

from math import exp
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from expunge import plugin
from expunge.metrics.base import Evidence, Groups, Metric, MetricCard, NotAvailable, Strata
from expunge.metrics.layers import Array
from expunge.metrics.rows import by_example
from expunge.plugin import Property
from expunge.records.task import Split

Of = Literal["forget", "retain"]
SIDES: dict[Of, tuple[Split, Split]] = {"forget": ("forget", "neighbour"), "retain": ("retain", "utility")}
"""Where rows in the trained form stand, and those in other forms."""


class FormSpreadOptions(plugin.Spec):
    of: Of = Field("forget", description="forget: forget and neighbour rows; retain: retain and utility rows.")


def reductions(rows_N3: Array) -> dict[int, float]:
    """(mean p0 - mean p) / mean p0 by form, of rows (number of the form, p, p0)."""
    found = {}
    for form in np.unique(rows_N3[:, 0]):
        after, before = rows_N3[rows_N3[:, 0] == form, 1:].mean(0)
        found[int(form)] = 1 - float(after / before)
    return found


class FormSpread(Metric):
    card = MetricCard(
        name="form_spread", kind="metric",
        summary="How unequally probability falls over forms of question: the largest fall less the smallest",
        paper="LLM Unlearning Should Be Form-Independent (ORT), IEEE S&P 2026 (arXiv 2506.07795)",
        formula="max_form r - min_form r, r = (mean p0 - mean p) / mean p0, p = exp(mean log p of the answer's tokens)",
        defaults="relative reductions, as the authors' script prints them",
        needs=frozenset({"original"}),
        deviations=("The paper gives every form by itself; the spread is ours, and the remark has the forms.",
                    "A form is the `group` of a row, as the task ort has them; of the task crosslingual a language."),
        model_needs=frozenset({"prompt"}),
        higher_is="neutral", range=None, ideal=0.0, access="logits",
        probes=(("likelihood", ("forget", "retain", "neighbour", "utility")),),
    )
    Spec: ClassVar[type[plugin.Spec]] = FormSpreadOptions
    must_show = (
        Property("spreads_over_forms", {}, "reductions and their spread by hand; one form alone is not available"),
        Property("needs", {"without": ("likelihood", "forget", None), "says": "forget"}),
    )

    def sample(self, evidence: Evidence, split: Split | None = None) -> Strata:
        return self.grouped(evidence, split)[0]

    def grouped(self, evidence: Evidence, split: Split | None = None) -> tuple[Strata, Groups]:
        rows, entities, _ = self._rows(evidence)
        # One stratum: an entity that is left out for the interval is left out of all forms.
        return {self.spec.of: np.asarray(rows, dtype=float)}, {self.spec.of: entities}

    def _rows(self, evidence: Evidence) -> tuple[list[tuple[float, float, float]], list[str], list[str]]:
        """(number of the form, p, p0) of every row, its entity, and the names of the forms."""
        if evidence.original is None:
            raise NotAvailable("no original model was given (--original)")
        found, whose, forms = list[tuple[float, float, float]](), list[str](), dict[str, int]()
        for side in SIDES[self.spec.of]:
            before = by_example(evidence.original.rows("likelihood", side, "answer"))
            entities = evidence.subject.entities(side)
            for key, one in by_example(evidence.rows("likelihood", side, "answer")).items():
                first = before[key].answer if key in before else None
                if one.answer is not None and first is not None:
                    found.append((forms.setdefault(one.group, len(forms)), exp(one.answer), exp(first)))
                    whose.append(entities.get(key, key))
        if len(forms) < 2:
            raise NotAvailable(f"the {self.spec.of} rows come in one form of question; the tasks ort and crosslingual "
                               "have several")
        return found, whose, list(forms)

    def statistic(self, strata: Strata) -> float:
        falls = reductions(strata[self.spec.of]).values()
        return max(falls) - min(falls)

    def remark(self, evidence: Evidence, split: Split | None) -> str | None:
        """The reduction in every form."""
        try:
            rows, _, forms = self._rows(evidence)
        except NotAvailable:
            return None
        falls = reductions(np.asarray(rows, dtype=float))
        return ", ".join(f"{forms[form] or 'no group'} {fall:.0%}" for form, fall in falls.items())
