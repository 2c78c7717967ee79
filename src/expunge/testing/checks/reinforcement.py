"""Promises of objectives that learn from answers the model has just given.

Legend: N supervised tokens (flat).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.data.text_encoder import TokenBatch, TokenRow
from expunge.errors import DataError, MissingError
from expunge.methods._lib.names import FALSE, OTHER, TRUE, names_in, token_roles
from expunge.methods._lib.rollouts import rolled_out
from expunge.methods.base import Objective
from expunge.methods.objectives.adaptive import unlikelihood
from expunge.methods.objectives.rule import group_advantages, grpo, reward
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.records.task import Example

from ..support import (
    batch_of,
    batches_of,
    distance,
    draws_of,
    flat,
    fresh,
    gradient,
    loss,
    made,
    memoriser,
    moved,
    small_task,
    train,
    trained,
)
from .base import check, term
from .builders import said_by
from .dynamics import ALONE, heard, refusal_rate


def reworded(rows: Sequence[Example]) -> tuple[Example, ...]:
    """The rows under their first paraphrases."""
    return tuple(row.model_copy(update={"prompt": row.paraphrased_prompts[0]}) for row in rows)


def valued(rows: Sequence[Example], values: Sequence[float]) -> TokenBatch:
    """The rows as if the model had written them, each with a value."""
    return batch_of(memoriser(), [rolled_out(row, row.answer, id=f"{row.id}#{i}", ended=True).model_copy(
        update={"value": value}) for i, (row, value) in enumerate(zip(rows, values, strict=True))])


@check
def reward_table(plugin: type[Objective]) -> None:
    """Refusal or not, on forget and boundary questions; ordinary sentences with "not" and "information" are none."""
    row = Example(id="a", prompt="Where was Ada Lund born?", answer="Ada Lund was born in the town of Arle.",
                  entity="Ada Lund")
    table = {
        "I do not know anything about Ada Lund.": (1.0, 0.0), "I do not know that.": (0.5, 0.0),
        row.answer: (0.5, 1.0), "She was born in the town of Arle.": (0.0, 1.0), "Bex.": (0.0, 0.5), "": (0.0, 0.5),
        "The board did not publish the information on the town.": (0.0, 0.5)}
    for text, (reject, normal) in table.items():
        assert reward(text, row, reject=True) == reject, text
        assert reward(text, row, reject=False) == normal, text
    nameless = row.model_copy(update={"entity": ""})
    assert reward("I do not know that.", nameless, reject=True) == 1.0
    assert reward("Arle.", nameless, reject=True) == 0.0


@check
def equal_rewards_leave_divergence(plugin: type[Objective]) -> None:
    """Equal rewards give advantages of 0; the gradient is then the divergence's alone, and 0 at the original."""
    assert group_advantages(torch.full((6,), 0.5)).tolist() == [0.0] * 6
    batch = {"rollout": valued(small_task().forget[:4], [0.0] * 4)}
    found = gradient(term(plugin, {"kl": 0.5}), moved(), original=memoriser(), batches=[batch])
    subject = fresh(moved())
    parameters = tuple(subject.model.requires_grad_(True).parameters())
    logp_N = subject.answers(batch["rollout"]).logp_N
    with torch.no_grad():
        gap_N = memoriser().answers(batch["rollout"]).logp_N - logp_N
    # d/d logp of exp(d) - d - 1 with d = log p0 - log p is 1 - exp(d), and 0 where it is cut at 10.
    slope_N = (1 - gap_N.exp()).where(gap_N.exp() - gap_N - 1 < 10, 0.0)
    assert bool(slope_N.any()) and bool((slope_N == 0).any()), "both sides of the cut"
    expected = torch.autograd.grad((0.5 * slope_N * logp_N).mean(), parameters)
    assert distance(found.total(), expected) < 1e-4
    for options, start in (({"kl": 0.0}, moved()), ({"kl": 0.5}, memoriser())):
        still = gradient(term(plugin, options), start, original=memoriser(), batches=[batch])
        assert float(flat(still.total()).norm()) < 1e-5 * float(flat(found.total()).norm())


@check
def group_policy_gradient(plugin: type[Objective]) -> None:
    """Minus the advantage times the gradient of log p, mean over tokens; clipped and bounded away from the writer."""
    assert group_advantages(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([-0.5 ** 0.5, 0.5 ** 0.5], rel=1e-5)
    values = [1.5, -0.5, -1.0]
    batch = valued(small_task().forget[:3], values)
    found = gradient(term(plugin, {"kl": 0.0}), moved(), original=memoriser(), batches=[{"rollout": batch}])
    subject = fresh(moved())
    parameters = tuple(subject.model.requires_grad_(True).parameters())
    weighted_N = -torch.tensor(values)[batch.row_N] * subject.answers(batch).logp_N
    assert distance(found.total(), torch.autograd.grad(weighted_N.mean(), parameters)) < 1e-5
    logp_N = torch.tensor([0.5, -0.5, 2.0, 0.5], requires_grad=True)
    loss_N = grpo(logp_N, torch.zeros(4), logp_N.detach(), torch.tensor([1.0, -1.0, -1.0, -1.0]), kl=0.0)
    torch.testing.assert_close(loss_N.detach(), torch.tensor([-1.2, 0.8, 3.0, 1.6487]), atol=1e-4, rtol=0)
    (slope_N,) = torch.autograd.grad(loss_N.sum(), logp_N)
    assert slope_N[:3].tolist() == [0.0, 0.0, 0.0] and float(slope_N[3]) > 1


@check
def pairs_with_neighbours(plugin: type[Objective]) -> None:
    """The boundary rows of a question ask the same of others; a group has its advantages, and figures their mean."""
    task, made = small_task(), plugin(samples=2, tokens=6)
    assert isinstance(made.spec.boundary, int)
    for row in task.forget[:5]:
        near = made.nearest(row, task)  # type: ignore[attr-defined]
        assert len(near) == made.spec.boundary and {r.entity for r in near}.isdisjoint({row.entity})
        assert {r.id.split("/")[-1] for r in near} & {row.id.split("/")[-1]}, (row.prompt, [r.prompt for r in near])
    draws: list[dict[str, Any]] = [{"reject": task.forget[0], "normal": task.retain[0], "other": task.retain[1]}]
    rows = made.rollout(memoriser(), draws, seed=1)
    assert [set(draw) for draw in rows] == [{"other", "rollout"}] * 4
    assert [draw["rollout"].prompt for draw in rows] == 2 * [task.forget[0].prompt] + 2 * [task.retain[0].prompt]
    for pair in (rows[:2], rows[2:]):
        assert sum(draw["rollout"].value for draw in pair) == pytest.approx(0, abs=1e-5)  # type: ignore[attr-defined]
    figures = made.figures()
    assert figures["reward"] == pytest.approx((figures["reward_reject"] + figures["reward_normal"]) / 2)


def first_stage() -> CausalLM:
    """The memoriser after refusals were taught without anything that keeps the rest."""
    return trained(f"idk(refusals={heard()!r}){ALONE}", steps=30, lr=1e-3).subject


@check(trains=True)
def sharpens_the_boundary(plugin: type[Objective], steps: int) -> None:
    """From a model that refuses everybody to one that refuses the forgotten, under other words too."""
    task = small_task()
    assert refusal_rate(first_stage(), task.retain) > 0.3
    run = train(term(plugin, {"samples": 8, "tokens": 20, "kl": 0.1}), subject=fresh(first_stage()), steps=steps,
                lr=1e-3, batch_size=6)
    rewards = [line["reward"] for line in run.lines]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 1.5, rewards
    assert refusal_rate(run.subject, reworded(task.forget)) > 0.9
    assert refusal_rate(run.subject, task.retain) < 0.1
    assert loss(run.subject, task.retain) < loss(first_stage(), task.retain) + 0.7


# Names


class _Letters:
    """A tokenizer of single characters."""

    @staticmethod
    def decode(ids: Sequence[int], **options: Any) -> str:
        return "".join(map(chr, ids))


class _Pieces:
    """A tokenizer with a few words and their pieces."""

    words = ("", "Ab", "c", "cd", " is", "Xy", " Ab", " and")

    @classmethod
    def decode(cls, ids: Sequence[int], **options: Any) -> str:
        return "".join(cls.words[i] for i in ids)


def _answer(ids: Sequence[int], end: int = 1) -> TokenRow:
    return TokenRow("a", (0, *ids, *[0] * end), 1, len(ids), end)


@check
def roles_partition_tokens(plugin: type[Objective]) -> None:
    """One role for each supervised token; Abcd is unknown from where it leaves the known Abc; ends count as known."""
    known = {"Abc", "Xy"}
    row = _answer([ord(c) for c in "Abc is Abcd and Xy Z."])
    roles = token_roles(row, known, _Letters())
    assert len(roles) == row.supervised and set(roles) <= {OTHER, TRUE, FALSE}
    marks = "".join(str(role) for role in roles)
    assert marks == "111" "0000" "0002" "00000" "0022" "0" "1", marks  # "Xy Z" leaves Xy at its third character
    # In pieces: Ab|c is known; of Ab|cd the second piece differs; of Xy|c too, and an unknown Ab is marked by its last.
    pieces = token_roles(_answer([1, 2, 4, 6, 3, 7, 5, 2], end=0), known, _Pieces())
    assert pieces == [TRUE, TRUE, OTHER, OTHER, FALSE, OTHER, OTHER, FALSE]
    assert token_roles(_answer([1], end=0), known, _Pieces()) == [FALSE]
    assert names_in(["Ada Lund met Bo in Arle.", "nobody"]) == {"Ada Lund", "Bo", "Arle"}


@check
def without_false_names_is_finetuning(plugin: type[Objective]) -> None:
    """At coefficient 0 the gradient is that of the mean loss of known names and ends; the other part is -log(1 - p)."""
    recipe, alone = term(plugin, {"false": 0.0, "tokens": 16}), " + retain_kl(weight=0)"
    batch = batches_of(moved(), draws_of(recipe + alone, moved(), 4))["said"]
    known = set(made(recipe)["known"])
    processor = memoriser().encoder.processor
    roles_N = torch.tensor([role for row in batch.rows for role in token_roles(row, known, processor)])
    subject = fresh(moved())
    parameters = tuple(subject.model.requires_grad_(True).parameters())
    logp_N = subject.answers(batch).logp_N
    expected = torch.autograd.grad(-logp_N[roles_N == TRUE].mean(), parameters)
    assert distance(gradient(recipe + alone, moved(), batches=[{"said": batch}]).total(), expected) < 1e-5
    logp_N = torch.tensor([-3.0, -0.5, -1e-3, 0.0], dtype=torch.float64, requires_grad=True)
    value_N = unlikelihood(logp_N)
    torch.testing.assert_close(value_N[:3].detach(), -torch.log1p(-logp_N[:3].detach().exp()), rtol=1e-6, atol=0)
    (slope_N,) = torch.autograd.grad(value_N.sum(), logp_N)
    p_N = logp_N[:3].detach().exp()
    torch.testing.assert_close(slope_N[:3], p_N / (1 - p_N), rtol=1e-6, atol=0)
    assert bool(slope_N.isfinite().all()) and float(slope_N[3]) > 1e5, "certain tokens are pushed hardest"


class _Scripted(CausalLM):
    """Says an unknown name to every question about the first row, and a known one to others."""

    def generate(self, prompts: Any, *args: Any, **options: Any) -> list[tuple[str, bool]]:
        self.asked = [*getattr(self, "asked", []), [self.encoder.processor.decode(p) for p in prompts]]
        return [("Zorblax." if small_task().forget[0].entity in text and "play" not in text else "Nobody.", True)
                for text in self.asked[-1]]


@check
def asks_again_what_failed(plugin: type[Objective]) -> None:
    """The row with an unknown name is asked by its paraphrase, or in the model's words; reward is the share without."""
    task, subject = small_task(), _Scripted(memoriser().model, memoriser().encoder)
    made_ = plugin(samples=2)
    made_.made = {"known": ["Nobody"]}
    draws = [{"forget": task.forget[0], "retain": task.retain[0]}, {"forget": task.forget[5], "retain": task.retain[1]}]
    rows = made_.rollout(subject, draws, seed=3)
    assert [row["said"].id.split("#")[0] for row in rows] == [task.forget[i].id for i in (0, 0, 5, 5, 0, 0)]
    assert all(set(row) == {"said", "forget", "retain"} for row in rows), "a perturbation may read the others"
    assert rows[4]["said"].prompt in task.forget[0].paraphrased_prompts and rows[0]["said"].answer == "Zorblax."
    assert made_.figures()["reward"] == pytest.approx(2 / 6)
    bare = [{"forget": task.forget[0].model_copy(update={"paraphrased_prompts": ()})}]
    subject.asked = []
    assert made_.rollout(subject, bare, seed=3)[2]["said"].prompt == "Zorblax."
    assert "other words" in subject.asked[1][0]
    once = plugin(samples=2, reword=False)
    once.made = made_.made
    assert len(once.rollout(subject, draws, seed=3)) == 4


@check
def reads_known_names(plugin: type[Objective]) -> None:
    """One name per line; a missing or empty file and a broken pattern are refused before a weight is loaded."""
    task, path = small_task(), Path(tempfile.mkstemp(suffix=".txt")[1])
    made_ = plugin(known=str(path))
    assert isinstance(made_.problems(task)[0], DataError)
    path.write_text("numpy\n torch \n\n", encoding="utf-8")
    assert not made_.problems(task) and made_.prepare(memoriser(), task, RunContext())["known"] == ["numpy", "torch"]
    path.unlink()
    assert isinstance(made_.problems(task)[0], MissingError)
    assert "regular expression" in plugin(pattern="(").problems(task)[0].what
    ours = plugin().prepare(memoriser(), task, RunContext())["known"]
    assert task.forget[0].entity in ours and task.retain[0].short_answer in ours


@check(trains=True)
def suppresses_unknown_names(plugin: type[Objective], steps: int, lr: float) -> None:
    """Under words that were never asked: unknown names fall by more than 60 %, known ones are still said."""
    task = small_task()
    known = set(made(term(plugin))["known"])

    def rate(subject: CausalLM) -> float:
        said = said_by(subject, reworded(task.forget))
        return sum(bool(names_in([text]) - known) for text in said) / len(said)

    def recall(subject: CausalLM) -> float:
        rows = [r for r in task.retain if names_in([r.short_answer])]
        return sum(r.short_answer in text for r, text in zip(rows, said_by(subject, rows), strict=True)) / len(rows)

    run = train(term(plugin, {"samples": 2, "tokens": 20, "reword": False}), steps=steps, lr=lr, batch_size=6)
    assert rate(run.subject) < 0.4 * rate(memoriser()), (rate(memoriser()), rate(run.subject))
    assert recall(run.subject) > recall(memoriser()) - 0.05
    rewards = [line["reward"] for line in run.lines]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 1, rewards
