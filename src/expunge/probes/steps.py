"""How sure a model is of each step of the right answer: three signals per sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from expunge import plugin
from expunge.data.text_encoder import TextEncoder, TokenRow
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.probes.base import Probe, Progress
from expunge.probes.depth import fact_tokens
from expunge.probes.residual import answerable, heading
from expunge.records.observation import Row
from expunge.records.task import Example, Task

STEP = re.compile(r"(?<=[.!?])\s+|\n+")
"""Between two steps: the end of a sentence, or of a line."""


def steps_of(tokens: TextEncoder, row: TokenRow) -> list[range]:
    """Positions of the tokens of each sentence of the answer; a token counts to the sentence that it begins in."""
    ids = row.ids[row.prompt: row.prompt + row.answer]
    text = tokens.processor.decode(ids)
    starts = [len(tokens.processor.decode(ids[:t])) for t in range(len(ids))]
    bounds = [0, *(found.end() for found in STEP.finditer(text) if found.end() < len(text)), len(text) + 1]
    parts = [[t for t, at in enumerate(starts) if low <= at + (t > 0 and text[at: at + 1].isspace()) < high]
             for low, high in pairwise(bounds)]
    return [range(part[0], part[-1] + 1) for part in parts if part]


def signals(logp_t: Tensor, entropy_t: Tensor, relevant_t: Tensor, vocabulary: int) -> list[float]:
    """Three confidences of one step, each from 0 to 1: of its tokens, of its distributions, of its relevant tokens.

    exp of the mean log p; 1 - mean entropy / log V; exp of the mean log p weighted by relevance (TokenSAR).
    """
    weight_t = relevant_t / relevant_t.sum()
    return [float(logp_t.mean().exp()), float(1 - entropy_t.mean() / torch.log(torch.tensor(float(vocabulary)))),
            float((weight_t * logp_t).sum().exp())]


class Steps(Probe):
    """Per sentence of the right answer: three signals of how sure the model is, given what stands before."""

    class Spec(plugin.Spec):
        pass

    card = Card(
        name="steps", kind="probe",
        summary="how sure the model is of each sentence of the right answer, by three signals",
        paper="MMBoundary (arXiv 2505.23224)",
        formula="exp(mean log p), 1 - mean entropy / log V, exp(sum_t R_t log p_t / sum_t R_t)",
        defaults="sentences of the true answer, not of one that is sampled; 6 decimals",
        model_needs=frozenset({"distribution", "logp", "prompt"}),
        deviations=("without the fourth signal of the authors, the likeness of image and sentence (CLIPScore)",
                    "R_t is 1 for tokens of the bare fact and 0.1 for others; the authors ask a sentence encoder how "
                    "much a token matters",
                    "the authors give the weights of the signals only by name: here they are equal"),
    )
    must_show = (
        Property("internals_ignore_padding_and_order", {}, "batch composition changes nothing"),
        Property("steps_by_hand", {}, "sentences, and the signals of one of them from full logits"),
    )

    def observe(self, subject: CausalLM, examples: Sequence[Example], task: Task,
                progress: Progress | None = None, *, partner: CausalLM | None = None) -> list[Row]:
        tokens = [subject.encoder.encode(e) for e in examples]
        usable, rows = answerable(tokens), dict[int, Row]()
        with subject.evaluating():
            for chosen in subject.encoder.batches(tokens, usable):
                batch = subject.collate([tokens[i] for i in chosen])
                answers = subject.answers(batch)
                logits_NV = answers.logits_NV.float()
                entropy_N = torch.distributions.Categorical(logits=logits_NV).entropy()
                for b, i in enumerate(chosen):
                    mine = answers.batch.row_N == b
                    logp_t, entropy_t = answers.logp_N[mine].float().cpu(), entropy_N[mine].cpu()
                    relevant_t = torch.full((tokens[i].supervised,), 0.1)
                    span = fact_tokens(subject.encoder, tokens[i], examples[i].short_answer)
                    relevant_t[span.start: span.stop] = 1.0
                    found = [signals(logp_t[s.start: s.stop], entropy_t[s.start: s.stop],
                                     relevant_t[s.start: s.stop], logits_NV.shape[1])
                             for s in steps_of(subject.encoder, tokens[i])]
                    rows[i] = {**heading(examples[i]), "signals": [[round(v, 6) for v in one] for one in found]}
                if progress:
                    progress(len(chosen))
        return [rows[i] for i in usable]
