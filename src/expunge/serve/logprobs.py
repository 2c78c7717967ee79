"""Log-probabilities of the tokens of a choice, in the shape of OpenAI's completions.

They are those of the model's scoring, as an audit reads them: one more forward pass over prompt and answer.

Legend: N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expunge.data.text_encoder import TokenRow
from expunge.models.head import blocks, raised
from expunge.models.language import CausalLM
from expunge.serve.texts import decoder, one, spelled

LOWEST = -9999.0
"""In place of minus infinity, which JSON does not have."""


def logprobs_of(subject: CausalLM, ids: Sequence[int], prompt: str, said: Sequence[int], count: int, *,
                echo: bool) -> dict[str, Any]:
    """`tokens`, `token_logprobs`, `top_logprobs` and `text_offset` of a choice; with `echo` of its prompt too.

    Nothing predicts a first token, so its entries are None.

    Args:
        ids: the tokens of the prompt.
        said: those of the answer.
        count: how many likeliest tokens are told beside each.
    """
    processor = subject.encoder.processor
    words, starts = spelled(processor, ids, prompt, special=True)
    decode, before = decoder(processor), ""
    for end in range(1, len(said) + 1):
        now = decode(said[:end])
        words.append(now[len(before):] if now.startswith(before) else one(processor, said[end - 1]))
        starts.append(len(prompt) + len(before))
        before = now
    values, tops = _scored(subject, (*ids, *said), count)
    skip, shift = (0, 0) if echo else (len(ids), len(prompt))
    return {"tokens": words[skip:], "token_logprobs": values[skip:],
            "top_logprobs": tops[skip:] if count else None,
            "text_offset": [at - shift for at in starts[skip:]]}


def _scored(subject: CausalLM, ids: Sequence[int], count: int) -> tuple[list[float | None], list[Any]]:
    """log p of every token after those before it, and the likeliest tokens in its place."""
    values: list[float | None] = [None]
    tops: list[dict[str, float] | None] = [None]
    if len(ids) < 2:
        return values, tops
    row = TokenRow("", tuple(ids), 1, len(ids) - 1, 0)
    with subject.evaluating():
        answers = subject.answers(subject.collate([row]))
        at = 0
        for logits_NV in blocks(answers.source):
            logp_NV = raised(logits_NV).log_softmax(-1)
            target_N = answers.batch.target_N[at: at + len(logp_NV)]
            at += len(logp_NV)
            logp_NV = logp_NV.nan_to_num(LOWEST, neginf=LOWEST)
            values += logp_NV.gather(1, target_N[:, None])[:, 0].tolist()
            if count:
                best = logp_NV.topk(count, dim=-1)
                tops += [_named(subject, *pair) for pair in zip(best.indices.tolist(), best.values.tolist(),
                                                                strict=True)]
    return values, tops


def _named(subject: CausalLM, ids: Sequence[int], logps: Sequence[float]) -> dict[str, float]:
    """Text -> log p, the likeliest first; of tokens with the same text the likelier one is told."""
    found: dict[str, float] = {}
    for token, logp in zip(ids, logps, strict=True):
        found.setdefault(one(subject.encoder.processor, token), logp)
    return found
