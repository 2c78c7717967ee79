"""Logit lens: log-prob of the answer when the output head reads the states after each block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.data.text_encoder import TokenBatch
from expunge.models.answers import Answers, per_row
from expunge.models.language import CausalLM
from expunge.models.sites import substitute
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.residual import answerable, heading, rounded, states, text_mask, watch, with_states
from expunge.records.observation import Row
from expunge.records.task import Example, Task


def lens(subject: CausalLM, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Mean log-prob of the answer tokens and share of them that are the arg max, per row and block: two B L."""
    batch = batch.to(subject.device)
    own, outputs = watch(subject, batch, lambda output: output)
    counted_N = text_mask(batch).float()
    means = [_means(own, counted_N)]
    for output in outputs[-2::-1]:  # after the last block it is the model's own output
        with substitute(subject, [*outputs[:-1], with_states(outputs[-1], states(output))]):
            means.append(_means(subject.answers(batch), counted_N))
    logp, share = zip(*means[::-1], strict=True)
    return torch.stack(logp, 1), torch.stack(share, 1)


def _means(answers: Answers, counted_N: Tensor) -> tuple[Tensor, Tensor]:
    # A token with probability 0 has log-prob -inf, and -inf * 0 would be NaN at the end token.
    logp_N = answers.logp_N.where(counted_N > 0, 0.0)
    hit_N = (answers.logits_NV.argmax(-1) == answers.batch.target_N) * counted_N
    total_B = per_row(counted_N, answers.batch)
    return answers.per_row(logp_N) / total_B, answers.per_row(hit_N) / total_B


class Lens(Probe):
    """Final norm and output head applied to the residual stream after every block."""

    card = Card(
        name="lens", kind="probe",
        summary="logit lens: log-prob and hits of the answer after every block",
        paper="nostalgebraist 2020; as an audit of unlearning: arXiv 2409.18025",
        formula="logits_l = W_U norm_final(h_l), h_l = output of block l",
        defaults="every block; block outputs only; end token left out; 7 significant digits",
        model_needs=frozenset({"distribution", "hidden", "logp"}),
        deviations=("Norm and head are not called by name: the model runs with replaced block outputs, so that "
                    "adapters, guards and scaling of logits apply at every layer.",
                    "Attention and MLP outputs, which the attack also reads, are not observed."),
    )
    must_show = (
        Property("ends_in_the_models_own_output", {}, "the last layer is the model itself"),
        Property("lens_matches_norm_and_head", {}, "the definition, where norm and head have known names"),
        Property("internals_ignore_padding_and_order", {}, "batch composition changes nothing"),
    )

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        tokens = [subject.encoder.encode(e) for e in examples]
        usable = answerable(tokens)
        rows: dict[int, Row] = {}
        with subject.evaluating():
            for chosen in subject.encoder.batches(tokens, usable):
                logp_BL, share_BL = lens(subject, subject.collate([tokens[i] for i in chosen]))
                for i, logp, share in zip(chosen, logp_BL, share_BL, strict=True):
                    rows[i] = {**heading(examples[i]), "lens": rounded(logp, 7), "share": rounded(share, 7)}
                if progress:
                    progress(len(chosen))
        return [rows[i] for i in usable]
