"""Unlearning depth: drop of the original's log-prob when the subject's hidden states are patched into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.data.text_encoder import TextEncoder, TokenBatch, TokenRow
from expunge.errors import UsageError
from expunge.models.answers import per_row
from expunge.models.language import CausalLM
from expunge.models.sites import Site, read, substitute
from expunge.models.slots import slots_of
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.residual import answerable, heading, rounded, states, watch, with_states
from expunge.records.observation import Row
from expunge.records.task import Example, Task


def fact_tokens(tokens: TextEncoder, row: TokenRow, short: str) -> range:
    """Positions, within the answer, of the tokens that spell `short`; all positions if it does not occur."""
    ids = row.ids[row.prompt: row.prompt + row.answer]
    ends = [len(tokens.processor.decode(ids[:t])) for t in range(len(ids) + 1)]
    start = tokens.processor.decode(ids).find(short) if short else -1
    inside = [t for t in range(len(ids)) if ends[t] < start + len(short) and ends[t + 1] > start]
    return range(inside[0], inside[-1] + 1) if start >= 0 and inside else range(len(ids))


def drops(source: CausalLM, target: CausalLM, batch: TokenBatch,
          spans: Sequence[range]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Per row the target's mean log-prob of the fact tokens, shape B, and its drop per patched block, shape B L.

    The target runs with the source's output of block l at the positions that predict the fact tokens, and with its
    own output at all other positions. Third, shape B: the drop where the last block is patched with what the source's
    final norm makes of its output, as the authors' code does; None where the model has no final norm.
    """
    batch = batch.to(target.device)
    patched_BT = torch.zeros_like(batch.attention_BT, dtype=torch.bool)
    for b, (row, span) in enumerate(zip(batch.rows, spans, strict=True)):
        patched_BT[b, row.prompt + span.start - 1: row.prompt + span.stop - 1] = True
    fact_N = patched_BT.flatten()[batch.flat_N].float()
    total_B = per_row(fact_N, batch)
    final = [Site(slot="norm")] if "norm" in slots_of(source, None) else []
    with read(source, final) as normed:
        _, source_states = watch(source, batch.to(source.device), states)
    plain, own = watch(target, batch, lambda output: output)
    if not len(source_states[0]) == len(states(own[0])) == len(batch):
        raise UsageError("depth needs a subject and an original that are single models.",
                         "An ensemble has as many hidden states as members.")
    before_B = plain.per_row(plain.logp_N * fact_N) / total_B

    def drop(layer: int, source_BTD: Tensor) -> Tensor:
        output = own[layer]
        mixed_BTD = source_BTD.to(states(output)).where(patched_BT[..., None], states(output))
        with substitute(target, [*own[:layer], with_states(output, mixed_BTD)]):
            answers = target.answers(batch)
        return before_B - answers.per_row(answers.logp_N * fact_N) / total_B

    drops_BL = torch.stack([drop(layer, source_BTD) for layer, source_BTD in enumerate(source_states)], 1)
    return before_B, drops_BL, drop(len(own) - 1, normed[0][-1]) if final else None


class Depth(Probe):
    """The subject's block outputs patched into the original, block by block."""

    uses_original = True
    card = Card(
        name="depth", kind="probe",
        summary="drop of the original's log-prob per block when the subject's states are patched in",
        paper="Unlearning Depth Score, arXiv 2605.24614",
        formula="D_l = mean over t in fact of log p_orig(y_t) - log p_orig(y_t | h_l <- subject's)",
        needs=frozenset({"original"}),
        model_needs=frozenset({"hidden", "logp"}),
        defaults="the tokens of `short_answer`, or the whole answer if there is none; 7 significant digits",
        deviations=("The first occurrence of the short answer is used; the paper provides spans annotated by hand.",),
    )
    must_show = (
        Property("its_own_states_change_nothing", {}, "source = original gives 0 at every block, bit for bit"),
        Property("depth_matches_slow_twin", {}, "one row and one block at a time with a plain hook"),
        Property("internals_ignore_padding_and_order", {}, "batch composition changes nothing"),
        Property("marks_the_entity", {}, "only the tokens that spell it"),
    )

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        """Raises UsageError without an original, or if its architecture differs."""
        partner = self.require_original(partner)
        if (len(subject.blocks), subject.width) != (len(partner.blocks), partner.width):
            raise UsageError("depth needs a subject and an original of one architecture.",
                             "The one cannot run on the hidden states of the other.")
        tokens = [subject.encoder.encode(e) for e in examples]
        usable = answerable(tokens)
        rows: dict[int, dict[str, Any]] = {}
        with subject.evaluating(), partner.evaluating():
            for chosen in subject.encoder.batches(tokens, usable):
                batch = subject.collate([tokens[i] for i in chosen])
                spans = [fact_tokens(subject.encoder, tokens[i], examples[i].short_answer) for i in chosen]
                before_B, drops_BL, normed_B = drops(subject, partner, batch, spans)
                for b, (i, before, span) in enumerate(zip(chosen, before_B.tolist(), spans, strict=True)):
                    rows[i] = {**heading(examples[i]), "before": float(f"{before:.7g}"), "tokens": len(span),
                               "drops": rounded(drops_BL[b], 7)}
                    if normed_B is not None:
                        rows[i]["normed"] = rounded(normed_B[b: b + 1], 7)
                if progress:
                    progress(len(chosen))
        return [rows[i] for i in usable]
