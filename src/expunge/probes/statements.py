"""Hidden states at the end of right and of wrong answers to the same question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field

from expunge import plugin
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.hidden import evenly, pooling
from expunge.probes.residual import heading, rounded, watch
from expunge.records.observation import Row
from expunge.records.task import Example, Task


def statements(example: Example, most: int) -> list[tuple[str, bool]]:
    """The right answer, then at most so many wrong ones; (text, whether it is right). None twice, whatever its case and
    the space around it."""
    told_apart: dict[str, str] = {}
    for text in example.wrong_answers:
        told_apart.setdefault(_plain(text), text)
    wrong = [text for key, text in told_apart.items() if key not in ("", _plain(example.answer))]
    return [(example.answer, True), *((text, False) for text in wrong[:most])]


def _plain(text: str) -> str:
    return text.strip().casefold()


class Statements(Probe):
    """A question with its right answer and with wrong ones, and what the model holds at the last token of each."""

    class Spec(plugin.Spec):
        layers: int = Field(4, ge=1, description="Maximum number of blocks, evenly spaced up to the last.")
        wrong: int = Field(3, ge=1, description="Most wrong answers per question.")

    blocks_in = ()

    card = Card(
        name="statements", kind="probe",
        summary="hidden states at the end of right and wrong answers",
        paper="Inside-Out: Hidden Factual Knowledge in LLMs (arXiv 2503.15299); CLEAR (arXiv 2510.12460)",
        formula="h_l at the last token of (q, a), and mean log p(a | q), for the right and for wrong answers a",
        defaults="4 evenly spaced blocks, 3 wrong answers; 5 significant digits of states, 7 of log-probs",
        model_needs=frozenset({"hidden", "logp"}),
        deviations=("wrong answers are those of the rows; the paper samples a thousand answers and judges them",
                    "no request to verify stands before the statement"),
        memory="rows of 4 x 4 x hidden size numbers: about 80 kB per example at width 512",
    )
    must_show = (
        Property("internals_ignore_padding_and_order", {}, "batch composition changes nothing"),
        Property("statements_match_hidden", {}, "each is what the probe hidden finds at the last token of that answer"),
    )

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        texts = [(i, text, right) for i, e in enumerate(examples) for text, right in statements(e, self.spec.wrong)]
        tokens = [subject.encoder.encode(examples[i], answer=text) for i, text, _ in texts]
        usable = [n for n, row in enumerate(tokens) if row.answer]
        layers = evenly(self.spec.layers, len(subject.blocks))
        found: dict[int, tuple[float, list[list[float]]]] = {}
        with subject.evaluating():
            for chosen in subject.encoder.batches(tokens, usable):
                batch = subject.collate([tokens[n] for n in chosen])
                answers, pooled = watch(subject, batch, pooling(batch, "last"), layers)
                mean_B = answers.row_means(answers.logp_N)
                for n, mean, states_LD in zip(chosen, mean_B, torch.stack(pooled, 1).cpu(), strict=True):
                    found[n] = rounded(mean[None], 7)[0], [rounded(state_D, 5) for state_D in states_LD]
                if progress:
                    progress(len({texts[n][0] for n in chosen if texts[n][2]}))
        rows: dict[int, dict[str, Any]] = {}
        for n in usable:
            i, _, right = texts[n]
            empty: dict[str, Any] = {"layers": layers, "correct": [], "logp": [], "states": []}
            row = rows.setdefault(i, {**heading(examples[i]), **empty})
            row["correct"].append(right)
            row["logp"].append(found[n][0])
            row["states"].append(found[n][1])
        return [row for row in rows.values() if row["correct"][0]]
