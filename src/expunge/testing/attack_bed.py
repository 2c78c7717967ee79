"""Models to attack: one that knows, one that never knew, one that was made to suppress, one that refuses.

Trained once per session on a small world of four people to forget. They must not be changed: attacks get the very
models, and a checksum tells when one leaves a trace.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from expunge.attacks.base import Ask, Attack, AttackContext, View, parse_attack
from expunge.data.world import authors_task
from expunge.methods.optimizers.adamw import AdamW
from expunge.metrics.attacked import AttackEvidence, score_attacked
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import parse_metric, required
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject
from expunge.records.observation import Observations, Row
from expunge.records.score import Score
from expunge.records.task import Example, Split, Task
from expunge.registry import load

from . import support

STEADY = AdamW(lr=5e-3, warmup=2.0)


@cache
def task() -> Task:
    """Four people to forget, eight to keep, four never seen; 9 questions and a biography each."""
    world = authors_task(forget=4, retain=8, holdout=4, neighbours=2, seed=3)
    return world.model_copy(update={"generation_tokens": 24, "utility": world.utility[:20], "background": (
        *world.neighbour, *world.utility[:20])})


def _taught(rows: tuple[Example, ...], seed: int) -> CausalLM:
    def teach(subject: CausalLM) -> None:
        support.train("retain_nll", subject=subject, forget=(), retain=rows, optimizer=STEADY,
                      steps=len(rows) * 25 // 16, batch_size=16, seed=seed)

    subject = build_subject(support.CONFIG, task().texts(), seed=seed)
    subject = support.taught(f"taught-{len(rows)}-{seed}", subject, teach)
    subject.model.requires_grad_(False)
    return subject


@cache
def original() -> CausalLM:
    return _taught(task().training_rows("full"), 0)


@cache
def retrained(seed: int = 1) -> CausalLM:
    return _taught(task().training_rows("retain"), seed)


def _unlearned(recipe: str, steps: int, lr: float) -> CausalLM:
    def teach(subject: CausalLM) -> None:
        subject.model.requires_grad_(True)
        support.train(recipe, subject=subject, forget=task().forget, retain=task().retain, lr=lr, steps=steps)

    name = re.sub("[^a-z0-9]+", "-", f"unlearned-{recipe}-{steps}-{lr}")
    subject = support.taught(name, support.fresh(original()), teach)
    subject.model.requires_grad_(False)
    return subject


@cache
def suppressed() -> CausalLM:
    """Answers as if it had forgotten, by a few steps of npo."""
    return _unlearned("npo + retain_nll", 30, 1e-3)


@cache
def refusing() -> CausalLM:
    """Declines to answer about the forget people, by training on refusals."""
    return _unlearned("idk", 60, 1e-3)


MODELS: dict[str, Callable[[], CausalLM]] = {
    "original": original, "retrained": retrained, "retrained again": lambda: retrained(2),
    "suppressed": suppressed, "refusing": refusing}


def context(split: Split = "forget", **options: Any) -> AttackContext:
    return AttackContext.of(task(), split=split, original=original, **options)


def views(attack: Attack | str, subject: CausalLM, **options: Any) -> list[View]:
    """Every view the attack hands out; only good for looking at labels and rows, since the attack is over."""
    found: list[View] = []
    made(attack).run(subject, context(**options), found.append)
    return found


def made(attack: Attack | str) -> Attack:
    return parse_attack(attack) if isinstance(attack, str) else attack


@dataclass
class Asked:
    """Rows by label, as an audit would gather them."""

    rows: dict[str, dict[tuple[str, Split], list[Row]]] = field(default_factory=dict)

    def observations(self, label: str) -> Observations:
        return Observations(self.rows[label])

    def pairs(self) -> Iterator[tuple[str, Observations]]:
        for label in self.rows:
            yield label, self.observations(label)


def ask(attack: Attack | str, subject: CausalLM, *, probes: tuple[str, ...] = ("likelihood",),
        probe_options: dict[str, Any] | None = None, splits: tuple[Split, ...] = ("forget",),
        limit: int | None = None, **options: Any) -> Asked:
    """Run the attack and let probes ask at each of its views."""
    asked = Asked()
    attack = made(attack)

    def note(view: View) -> None:
        for name in probes:
            lean: dict[str, Any] = {"alternatives": False} if name == "likelihood" else {}
            probe: Any = load(name, "probe")(**(lean | (probe_options or {})))
            for split in splits:
                rows = list(view.rows(split))[:limit]
                found = probe.observe(view.subject, rows, task())
                asked.rows.setdefault(view.label, {}).setdefault((name, split), []).extend(
                    {**row, "attempt": view.attempt} for row in found)

    attack.run(subject, context(**options), note)
    return asked


def plain(subject: CausalLM, probe: str = "likelihood", split: Split = "forget", limit: int | None = None) -> list[Row]:
    """What the probe finds without any attack."""
    lean: dict[str, Any] = {"alternatives": False} if probe == "likelihood" else {}
    made_: Any = load(probe, "probe")(**lean)
    found: list[Row] = made_.observe(subject, task().probe_rows(split)[:limit], task())
    return found


_seen: dict[tuple[str, str], list[tuple[frozenset[str], Asked]]] = {}


def under(text: str, model: str, probes: tuple[str, ...]) -> Asked:
    """What probes (and perhaps others beside them) saw of a model under an attack; a run that has them is not repeated.

    Rows do not depend on which probes ask beside each other, since an attack draws from its own seed only.
    """
    runs = _seen.setdefault((text, model), [])
    for had, asked in runs:
        if had.issuperset(probes):
            return asked
    runs.append((frozenset(probes), ask(text, MODELS[model](), probes=probes)))
    return runs[-1][1]


def probes_of(*metrics: str) -> tuple[str, ...]:
    """The probes that these metrics read."""
    return tuple(sorted({probe for probe, _ in required([parse_metric(metric) for metric in metrics])}))


@cache
def left_alone(model: str, probes: tuple[str, ...]) -> Observations:
    """What they see of it without any attack."""
    return Observations({(probe, "forget"): plain(MODELS[model](), probe) for probe in probes})


@cache
def scored(text: str, model: str, metric: str, control: str = "retrained") -> tuple[Score, ...]:
    """One score per strength, beside a retrained model under the same attack."""
    probes = probes_of(metric)
    seen, twin = under(text, model, probes), under(text, control, probes)
    alone = Evidence(left_alone(model, probes), left_alone("original", probes), (left_alone(control, probes),))
    return tuple(
        score_attacked(metric, AttackEvidence(label, "weights", Evidence(seen.observations(label), None,
                                                                   (twin.observations(label),)), alone), resamples=400)
        for label in seen.rows)


def forget_attacks() -> None:
    """Drop what was remembered under the names of attacks, for an attack that takes the name of another."""
    _seen.clear()
    scored.cache_clear()


def strongest(text: str, model: str, metric: str) -> Score:
    return max(scored(text, model, metric), key=lambda s: s.excess if s.excess is not None else -9.0)


__all__ = [
    "MODELS",
    "Ask",
    "Asked",
    "ask",
    "context",
    "made",
    "original",
    "plain",
    "refusing",
    "retrained",
    "suppressed",
    "task",
    "views",
]
