"""What attacks on decoding promise: exact draws, exact blends of two models, and beams, beside slow literal twins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.attacks.base import Attack
from expunge.errors import UsageError
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import parse_metric
from expunge.models.decoding import stop_ids
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject
from expunge.records.observation import Observations
from expunge.registry import load
from expunge.seeding import derive, stream

from .. import attack_bed as bed
from .. import support
from .base import check

FAMILIES: tuple[dict[str, Any], ...] = (
    {"model_type": "gpt2", "vocab_size": 768, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256},
    {"model_type": "gpt_neox", "vocab_size": 768, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
     "num_attention_heads": 2, "max_position_embeddings": 256},
    {"model_type": "opt", "vocab_size": 768, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
     "num_attention_heads": 2, "max_position_embeddings": 256, "word_embed_proj_dim": 32},
)


@cache
def reluctant() -> CausalLM:
    """Refuses mostly, but not out of every draw."""
    return bed._unlearned("idk + retain_nll", 32, 3e-4)


@cache
def half_trained() -> CausalLM:
    """Knows all its rows, the forget rows too, only in part."""
    rows = bed.task().training_rows("full")
    subject = build_subject(support.CONFIG, bed.task().texts(), seed=0)
    support.train("retain_nll", subject=subject, forget=(), retain=rows, optimizer=bed.STEADY,
                  steps=len(rows) * 11 // 16, batch_size=16, seed=0)
    subject.model.requires_grad_(False)
    return subject


bed.MODELS["reluctant"] = reluctant


def value(observations: Observations, term: str) -> float:
    metric, split = parse_metric(term)
    found = metric.score(Evidence(observations), split, resamples=0).value
    assert found is not None
    return found


def texts(attack: str, subject: CausalLM, limit: int = 8) -> list[str]:
    """Generations, one attempt after the other."""
    (seen,) = dict(bed.ask(attack, subject, probes=("generation",), limit=limit).pairs()).values()
    return [row["text"] for row in seen.rows("generation", "forget")]


def plainly(subject: CausalLM, limit: int = 8) -> list[str]:
    return [row["text"] for row in bed.plain(subject, "generation", limit=limit)]


def next_logits(subject: CausalLM, ids: Sequence[int]) -> Tensor:
    """Of one sequence, from scratch, shape V, float64."""
    with subject.evaluating():
        logits_V: Tensor = subject.model(input_ids=torch.tensor([list(ids)])).logits[0, -1]
    return logits_V.double()


def slowly(subject: CausalLM, choose: Callable[[list[int], int], int], limit: int, count: int = 12) -> list[str]:
    """Answers decoded one row and one token at a time: `choose(ids so far, position)` names the next."""
    said = []
    for row in bed.task().forget[:limit]:
        prompt = list(subject.encoder.prompt(row))
        ids: list[int] = []
        for position in range(count):
            ids.append(choose(prompt + ids, position))
            if ids[-1] in stop_ids(subject):
                break
        said.append(decoded(subject, ids))
    return said


def decoded(subject: CausalLM, ids: Sequence[int]) -> str:
    end = next((i for i, id in enumerate(ids) if id in stop_ids(subject)), None)
    return str(subject.encoder.processor.decode(list(ids)[:end], skip_special_tokens=True)).strip()


def said_under(attack: str, subject: CausalLM, limit: int, count: int = 12) -> list[list[str]]:
    """Per view, answers of at most `count` tokens to the same rows in one batch."""
    prompts = [subject.encoder.prompt(row) for row in bed.task().forget[:limit]]
    found: list[list[str]] = []
    bed.made(attack).run(subject, bed.context(), lambda view: found.append(
        [text for text, _ in view.subject.generate(prompts, count)]))
    return found


@check
def draws_follow_softmax(plugin: type[Attack]) -> None:
    """Tokens come up as often as their probability says, whatever is cut off; attempts and positions stand alone."""
    size, rows, temperature = 12, 6000, 1.7
    logits_V = 2 * torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids_BT = torch.arange(rows)[:, None]

    def draw(attempt: int, position: int, **options: Any) -> Tensor:
        def once(**given: Any) -> Tensor:
            grown_BT = torch.cat([ids_BT, torch.zeros(rows, position, dtype=torch.long)], 1)
            chosen: Tensor = given["logits_processor"](grown_BT, logits_V.repeat(rows, 1)).argmax(-1)
            return chosen

        made: Any = plugin(temperature=temperature, **options)
        found: Tensor = made._decode(attempt, 0, once, input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT))
        return found

    full_V = (logits_V / temperature).softmax(-1)
    order = full_V.argsort(descending=True)
    nucleus = int((full_V[order].cumsum(0) < 0.8).sum()) + 1
    for options, kept in (({}, size), ({"top_k": 3}, 3), ({"top_p": 0.8}, nucleus)):
        p_V = torch.zeros_like(full_V).index_put((order[:kept],), full_V[order[:kept]])
        p_V = p_V / p_V.sum()
        shares_V = torch.bincount(draw(0, 0, **options), minlength=size) / rows
        assert ((shares_V - p_V).abs() <= 4 * (p_V * (1 - p_V) / rows).sqrt()).all(), (options, shares_V, p_V)
    first, collision = draw(0, 0), float(full_V.square().sum())
    for other in (draw(1, 0), draw(0, 1)):
        agree = float((first == other).double().mean())
        assert abs(agree - collision) < 4 * math.sqrt(collision * (1 - collision) / rows), (agree, collision)
    assert torch.equal(draw(0, 0), first)


@check(trains=True)
def draws_match_slow_twin(plugin: type[Attack]) -> None:
    """Row by row, token by token, from scratch, the same draws; very cold ones are the greedy answer."""
    subject, limit = bed.retrained(), 3
    found = said_under(plugin(count=2, temperature=0.8).text(), subject, limit)
    assert len(found) == 2 and found[0] != found[1]
    for attempt, answers in enumerate(found):
        rows = iter(bed.task().forget)

        def choose(ids: list[int], position: int, attempt: int = attempt, rows: Any = rows, keys: Any = {}) -> int:  # noqa: B006
            if position == 0:
                keys[attempt] = derive(0, "sample", *subject.encoder.prompt(next(rows)))
            left = stream(keys[attempt], attempt, position).random()
            p_V = (next_logits(subject, ids) / 0.8).softmax(-1).tolist()
            return next(token for token in range(len(p_V)) if sum(p_V[: token + 1]) > left)

        assert slowly(subject, choose, limit) == answers
    assert texts(plugin(count=1, temperature=1e-4).text(), subject) == plainly(subject)
    with pytest.raises(UsageError, match="beams"):
        texts(f"{plugin(count=1).text()} + extend", subject, 1)
    with pytest.raises(UsageError, match="decode another way"):
        texts(f"{plugin(count=1).text()} + relearn(steps=1)", subject, 1)


@check(trains=True)
def draws_beat_greedy(plugin: type[Attack], from_: str, options: dict[str, Any], by: float = 0.1) -> None:
    """The best of several draws knows more than the greedy answer, and by more than chance lifts a retrained model."""
    def lift(subject: CausalLM) -> float:
        drawn = bed.ask(plugin(**options), subject, probes=("generation",))
        ((_, seen),) = drawn.pairs()
        greedy = Observations({("generation", "forget"): bed.plain(subject, "generation")})
        assert value(seen, "forget.pass_at_k") <= value(seen, "forget.pass_at_k(k=2)") <= 1
        return value(seen, "forget.keyword") - value(greedy, "forget.keyword")

    gained, chance = lift(bed.MODELS[from_]()), lift(bed.retrained())
    assert gained > by and gained > chance + by, (gained, chance)


@check(trains=True)
def blends_two_models(plugin: type[Attack]) -> None:
    """Weight 1 says what the original says, also with beams and in other families; equal models stay what they are."""
    original, post = bed.original(), bed.suppressed()
    alone = plainly(original)
    assert texts(plugin(weight=1).text(), post) == alone != plainly(post)
    for weight in (0.5, 1.7, 3):
        assert texts(plugin(weight=weight, gamma=0).text(), original) == alone
    beams = "extend(share=0, beams=3)"
    assert texts(f"{plugin(weight=1).text()} + {beams}", post, 4) == texts(beams, original, 4)
    for config in FAMILIES:
        pre, other = (build_subject(config, bed.task().texts(), seed=seed) for seed in (0, 1))
        prompts = [pre.encoder.prompt(row) for row in bed.task().forget[:6]]
        found: list[Any] = []
        plugin(weight=1).run(other, bed.AttackContext.of(bed.task(), original=lambda pre=pre: pre),
                             lambda view: found.append(view.subject.generate(prompts, 8)))  # noqa: B023
        assert found == [pre.generate(prompts, 8)] != [other.generate(prompts, 8)], config["model_type"]
    stranger = build_subject(support.CONFIG, ["another tokenizer altogether"] * 20)
    with pytest.raises(UsageError, match="tokenizer"):
        plugin().run(stranger, bed.context(), lambda view: None)


@check(trains=True)
def contrast_matches_slow_twin(plugin: type[Attack]) -> None:
    """The formula as printed, on probabilities, one row and one token at a time."""
    post, pre, limit = bed.suppressed(), bed.original(), 3
    for weight, gamma in ((0.5, 0.0), (1.4, 1e-5), (2.5, 0.05)):
        def choose(ids: list[int], position: int, weight: float = weight, gamma: float = gamma) -> int:
            after, before = (next_logits(model, ids).softmax(-1).tolist() for model in (post, pre))
            score = {v: math.log(after[v]) + weight * (math.log(before[v]) - math.log(after[v]))
                     for v in range(len(after)) if before[v] >= gamma * max(before)}
            return max(score, key=lambda v: score[v])

        assert [slowly(post, choose, limit)] == said_under(plugin(weight=weight, gamma=gamma).text(), post, limit)


@check(trains=True)
def amplifies(plugin: type[Attack], weights: Sequence[float], by: float = 0.04) -> None:
    """Above weight 1 more of the text comes out than the original alone gives, where it memorised only in part."""
    original, post = half_trained(), bed.retrained()

    def recall(weight: float) -> float:
        asked = bed.Asked()
        context = bed.AttackContext.of(bed.task(), original=lambda: original)
        probe: Any = load("generation", "probe")()
        plugin(weight=weight).run(post, context, lambda view: asked.rows.update(
            {"": {("generation", "forget"): probe.observe(view.subject, list(view.rows("forget")), bed.task())}}))
        return value(asked.observations(""), "forget.rouge_l")

    alone = recall(1)
    assert 0.15 < alone < 0.6, "it knows them in part"
    assert all(recall(weight) > alone + by for weight in weights), (alone, [recall(w) for w in weights])


@check(trains=True)
def beams_match_slow_twin(plugin: type[Attack], beams: int, count: int = 5) -> None:
    """The best continuations, best first, as a beam search over whole sequences finds them."""
    subject, limit = bed.retrained(), 4
    found = said_under(plugin(share=0, beams=beams, tries=beams).text(), subject, limit, count)
    assert len(found) == beams
    for row, answers in zip(bed.task().forget, zip(*found, strict=True), strict=False):
        prompt, ended = list(subject.encoder.prompt(row)), list[tuple[float, tuple[int, ...]]]()
        running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for _ in range(count):
            grown = sorted(((score + logp, (*ids, token)) for score, ids in running for token, logp in enumerate(
                next_logits(subject, [*prompt, *ids]).log_softmax(-1).tolist())), reverse=True)[: 2 * beams]
            ended += [(score, ids) for score, ids in grown[:beams] if ids[-1] in stop_ids(subject)]
            running = [(score, ids) for score, ids in grown if ids[-1] not in stop_ids(subject)][:beams]
        best = sorted([*ended, *running], reverse=True)[:beams]
        assert [decoded(subject, ids) for _, ids in best] == list(answers)
