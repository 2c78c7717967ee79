"""Datamodels: how much each deleted entity adds to a model's outputs, by linear regression over many trainings.

Source: Ilyas et al. 2022 (arXiv 2202.00622); for unlearning Georgiev et al. 2024 (arXiv 2410.23232).
Legend: M trainings, G groups of entities, N supervised tokens (flat).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from expunge.methods._lib.weighted_likelihood import below_one, log1mexp
from expunge.methods.run_context import RunContext
from expunge.models.load import auto_class, float32_master, load_subject
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.records.task import Example, Task
from expunge.seeding import derive, stream
from expunge.training.plain import Plain, train_plainly


def token_margins(logp_N: Tensor) -> Tensor:
    """log p - log(1 - p): the token's logit less the log-sum-exp of all others; p counts as 1 - 1e-6 at most."""
    return logp_N - log1mexp(below_one(logp_N))


def influence(included_MG: Tensor, outputs_MN: Tensor, ridge: float) -> Tensor:
    """Linear effect of each group's inclusion on each output, by least squares with an intercept; shape G N.

    Args:
        included_MG: 1 where a group was trained on, else 0.
        ridge: added to the diagonal; the intercept is free.
    """
    centred_MG = (included_MG - included_MG.mean(0)).double()
    moved_MN = (outputs_MN - outputs_MN.mean(0)).double()
    eye_GG = torch.eye(included_MG.shape[1], dtype=torch.float64)
    return torch.linalg.solve(centred_MG.T @ centred_MG + ridge * eye_GG, centred_MG.T @ moved_MN).to(outputs_MN.dtype)


def inclusions(groups: int, models: int, share: float, seed: int) -> Tensor:
    """Which groups each training includes: every one in the same number of trainings; 0 or 1, shape M G."""
    chosen_MG = torch.zeros(models, groups)
    count = min(max(round(share * models), 1), models - 1)
    for group in range(groups):
        chosen_MG[stream(seed, "inclusions", group).sample(range(models), count), group] = 1
    return chosen_MG


def entities_of(rows: Sequence[Example]) -> list[list[Example]]:
    """The rows of each entity; a row without one is its own."""
    found: dict[str, list[Example]] = {}
    for row in rows:
        found.setdefault(row.entity or row.id, []).append(row)
    return list(found.values())


def groups_of(rows: Sequence[Example], most: int, seed: int) -> list[list[Example]]:
    """Entities in at most `most` groups that are deleted together. All are deleted in the end, so only the sum of their
    effects is needed, and with more groups than trainings least squares would lose part of it."""
    entities = entities_of(rows)
    stream(seed, "groups").shuffle(entities)
    parts = [entities[start::max(most, 1)] for start in range(min(most, len(entities)))]
    return [[row for entity in part for row in entity] for part in parts]


def fresh_weights(subject: Subject, seed: int) -> Subject:
    """A model of the same config with new weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto_class(type(subject)).from_config(subject.model.config, dtype=torch.float32)
    return subject.around(model.to(subject.device).eval())


def resampled(subject: Subject, task: Task, groups: Sequence[Sequence[Example]], included_MG: Tensor, run: RunContext,
              *, base: str | None, epochs: float, lr: float) -> Iterator[Subject]:
    """A model for each row of `included_MG`, trained on the groups it includes and on all rows that stay.

    Args:
        base: the model that every training starts from; new weights of the same config if left out.
    """
    tick = run.announce("resampling", len(included_MG))
    for number, included_G in enumerate(included_MG):
        seed = derive(run.seed, "resampled", number)
        made = fresh_weights(subject, seed) if base is None else load_subject(
            Path(base), encoder=subject.encoder, device=subject.device)
        float32_master(made)
        kept = [row for group, there in zip(groups, included_G.tolist(), strict=True) if there for row in group]
        rows, size = [*task.training_rows("retain"), *kept], run.settings.batch_size
        if rows:
            train_plainly(made, Scope(made, tuple(n for n, _ in made.model.named_parameters())), rows, Plain(lr),
                          steps=max(round(epochs * len(rows) / size), 1), batch_size=size, seed=seed)
        yield made
        tick(1)


def margins_of(subject: Subject, rows: Sequence[Example]) -> list[Tensor]:
    """Margins of the supervised tokens of each row, on the CPU."""
    encoded, found = [subject.encoder.encode(row) for row in rows], dict[int, Tensor]()
    with subject.evaluating():
        for few in subject.encoder.batches(encoded):
            chosen = [encoded[i] for i in few]
            parts = token_margins(subject.answers(subject.collate(chosen)).logp_N.float()).cpu().split(
                [row.supervised for row in chosen])
            found |= dict(zip(few, parts, strict=True))
    return [found[i] for i in range(len(rows))]
