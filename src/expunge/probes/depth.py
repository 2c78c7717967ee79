"""Unlearning depth: what the original loses when it is given the subject's hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.data.text_encoder import TextEncoder, TokenBatch, TokenRow
from expunge.errors import UsageError
from expunge.models.answers import per_row
from expunge.models.language import CausalLM
from expunge.models.sites import substitute
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.residual import answerable, heading, rounded, states, watch, with_states
from expunge.records.observation import Row
from expunge.records.task import Example, Task


def entity(tokens: TextEncoder, row: TokenRow, short: str) -> range:
    """Answer tokens that spell `short`, counted from the answer's first; all of them where it is not found."""
    ids = row.ids[row.prompt: row.prompt + row.answer]
    ends = [len(tokens.processor.decode(ids[:t])) for t in range(len(ids) + 1)]
    start = tokens.processor.decode(ids).find(short) if short else -1
    inside = [t for t in range(len(ids)) if ends[t] < start + len(short) and ends[t + 1] > start]
    return range(inside[0], inside[-1] + 1) if start >= 0 and inside else range(len(ids))


def drops(source: CausalLM, target: CausalLM, batch: TokenBatch, spans: Sequence[range]) -> tuple[Tensor, Tensor]:
    """Per row: the target's own mean log-prob of the entity, shape B, and by how much it drops per block, B L.

    The target runs with the source's output of block l at the positions that predict the entity, and its own at
    all others.
    """
    batch = batch.to(target.device)
    patched_BT = torch.zeros_like(batch.attention_BT, dtype=torch.bool)
    for b, (row, span) in enumerate(zip(batch.rows, spans, strict=True)):
        patched_BT[b, row.prompt + span.start - 1: row.prompt + span.stop - 1] = True
    entity_N = patched_BT.flatten()[batch.flat_N].float()
    total_B = per_row(entity_N, batch)
    _, theirs = watch(source, batch.to(source.device), states)
    plain, own = watch(target, batch, lambda output: output)
    if not len(theirs[0]) == len(states(own[0])) == len(batch):
        raise UsageError("depth needs a subject and an original that are one model each.",
                         "An ensemble has as many hidden states as members.")
    before_B = plain.per_row(plain.logp_N * entity_N) / total_B
    found = []
    for layer, (given_BTD, output) in enumerate(zip(theirs, own, strict=True)):
        mixed_BTD = given_BTD.to(states(output)).where(patched_BT[..., None], states(output))
        with substitute(target, [*own[:layer], with_states(output, mixed_BTD)]):
            answers = target.answers(batch)
        found.append(before_B - answers.per_row(answers.logp_N * entity_N) / total_B)
    return before_B, torch.stack(found, 1)


class Depth(Probe):
    """The subject's block outputs patched into the original, block by block."""

    partnered = True
    card = Card(
        name="depth", kind="probe",
        summary="what the original loses per block when given the subject's states",
        paper="Unlearning Depth Score, arXiv 2605.24614",
        formula="D_l = mean over t in entity of log p_orig(y_t) - log p_orig(y_t | h_l <- subject's)",
        needs=frozenset({"original"}),
        model_needs=frozenset({"hidden", "logp"}),
        defaults="the tokens of `short_answer`, or the whole answer where there is none; 7 significant digits",
        deviations=("The first occurrence of the short answer is taken; the paper ships hand-marked spans.",),
    )
    must_show = (
        Property("its_own_states_change_nothing", {}, "source = original gives 0 at every block, bit for bit"),
        Property("depth_matches_slow_twin", {}, "one row and one block at a time with a plain hook"),
        Property("internals_ignore_padding_and_order", {}, "batch composition changes nothing"),
        Property("marks_the_entity", {}, "only the tokens that spell it"),
    )

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        """Raises UsageError without an original, or where it is built differently."""
        partner = self.need(partner)
        if (len(subject.blocks), subject.width) != (len(partner.blocks), partner.width):
            raise UsageError("depth needs a subject and an original of one architecture.",
                             "One cannot run on the hidden states of the other.")
        tokens = [subject.encoder.encode(e) for e in examples]
        usable = answerable(tokens)
        found: dict[int, Row] = {}
        with subject.evaluating(), partner.evaluating():
            for chosen in subject.encoder.batches(tokens, usable):
                batch = subject.collate([tokens[i] for i in chosen])
                spans = [entity(subject.encoder, tokens[i], examples[i].short_answer) for i in chosen]
                before_B, drops_BL = drops(subject, partner, batch, spans)
                for i, before, drop_L, span in zip(chosen, before_B.tolist(), drops_BL, spans, strict=True):
                    found[i] = {**heading(examples[i]), "before": float(f"{before:.7g}"), "tokens": len(span),
                                "drops": rounded(drop_L, 7)}
                if progress:
                    progress(len(chosen))
        return [found[i] for i in usable]
