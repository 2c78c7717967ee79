"""Sampled generation: the model's own distribution, seeded, and nothing to do with greedy decoding."""

from __future__ import annotations

from collections import Counter

import torch

from expunge.testing.support import memoriser, moved, same_random_state, small_task


def prompts(count: int = 3) -> list[tuple[int, ...]]:
    return [memoriser().encoder.prompt(r) for r in small_task().holdout[:count]]


def test_a_seed_names_the_draws_and_no_global_state_does() -> None:
    subject = moved()
    first = subject.generate(prompts(), 12, temperature=1.5, seed=1)
    torch.manual_seed(99)
    with same_random_state():
        assert subject.generate(prompts(), 12, temperature=1.5, seed=1) == first
        assert subject.generate(prompts(), 12, temperature=1.5, seed=2) != first


def test_cold_sampling_is_greedy() -> None:
    subject = moved()
    assert subject.generate(prompts(), 12, temperature=1e-4) == subject.generate(prompts(), 12)


def test_draws_follow_the_whole_distribution() -> None:
    """First tokens come up as often as the softmax at this temperature says; no token is cut away."""
    subject, (prompt,), count, temperature = moved(), prompts(1), 2000, 3.0
    with torch.no_grad():
        logits_V = subject.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected: Counter[str] = Counter()
    for id, p in enumerate((logits_V / temperature).softmax(-1).tolist()):
        expected[subject.encoder.processor.decode([id], skip_special_tokens=True).strip()] += p
    said = subject.generate([prompt] * count, 1, batch_size=count, temperature=temperature)
    drawn = Counter(text for text, _ in said)
    for text, p in expected.most_common(5):
        assert abs(drawn[text] / count - p) < 4 * (p * (1 - p) / count) ** 0.5, (text, p, drawn[text])
    assert len(drawn) > 50, "the model's default would keep the 50 likeliest tokens"
