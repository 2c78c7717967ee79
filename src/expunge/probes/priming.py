"""How likely a bare fact is in its own context, and in the contexts of other rows on the same theme."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from expunge import plugin
from expunge.data.themes import leading_to, on_theme
from expunge.models.facts import fact_logps
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.residual import heading
from expunge.records.observation import Row
from expunge.records.task import Example, Task


class Priming(Probe):
    """Log-probability of each bare fact after its own prompt, and after those of other rows on its theme."""

    class Spec(plugin.Spec):
        contexts: int = Field(8, ge=1, description="Most contexts of other rows.")

    card = Card(
        name="priming", kind="probe",
        summary="how likely a bare fact is in its own context, and in those of other rows on its theme",
        paper="Sun et al. 2025, How new data permeates LLM knowledge and how to dilute it, ICLR 2025 "
              "(arXiv 2504.09522)",
        formula="own = log p(fact | x, y before the fact); themed_j = log p(fact | x_j, y_j before its fact)",
        defaults="8 contexts; the paper writes prefixes for each of four themes by hand",
        model_needs=frozenset({"logp", "prompt"}),
        deviations=(
            "Contexts are retain, neighbour and holdout rows of other entities with other facts, whose prompts share "
            "at least two thirds of the words with that of the row, names left out. Rows without any have no row here.",
            "A fact of several tokens has the product of their probabilities.",
        ),
    )
    must_show = (
        Property("themes_are_alike", {}, "contexts of the same question about others; none holds the fact"),
        Property("primes_by_hand", {}, "both as one row at a time says; batches and order change nothing"),
    )

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        pool = (*task.retain, *task.neighbour, *task.holdout)
        found: list[Row] = []
        for example in examples:
            ending = leading_to(example)
            contexts = on_theme(example, pool, self.spec.contexts) if ending else []
            if ending is not None and contexts:
                led = [context for c in contexts if (context := leading_to(c, example.short_answer))]
                own, *themed = (float(f"{v:.7g}") for v in fact_logps(subject, [ending, *led]))
                found.append({**heading(example), "own": own, "themed": themed, "contexts": [c.id for c in contexts]})
            if progress:
                progress(1)
        return found
