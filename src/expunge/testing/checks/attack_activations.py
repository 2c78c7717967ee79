"""Promises of attacks on activations, and three models in which what they exploit is really there.

Legend: B rows, T columns, N tokens (flat), D hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from expunge.attacks._lib.hooks import Watch, Where, rewritten, watched
from expunge.attacks.base import Attack
from expunge.attacks.layer_skip import LayerSkip
from expunge.attacks.noise import Noise, NoiseDraw, normal
from expunge.attacks.refusal_direction import RefusalDirection, direction, typical, without
from expunge.attacks.steer import Steer, Steering, anonymised, differences, named
from expunge.data.text_encoder import TokenRow, collate
from expunge.models.adapter import add_adapter
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.models.tiny import build_subject
from expunge.records.task import Example
from expunge.training.plain import Plain, train_plainly

from .. import attack_bed as bed
from .. import support
from .base import check

# Models in which the mechanism is there


@cache
def barely_refusing() -> CausalLM:
    """A refusal a dozen steps deep: the answer lies right behind it."""
    return bed._unlearned("idk", 12, 1e-3)


def _tuned(subject: CausalLM, rows: list[Example], steps: int, lr: float, only: str = "") -> CausalLM:
    scope = Scope(subject, tuple(n for n, _ in subject.model.named_parameters() if only in n))
    train_plainly(subject, scope, rows, Plain(lr), steps=steps, batch_size=16, seed=0)
    subject.model.requires_grad_(False)
    return subject


@cache
def one_block_holds_it_down() -> CausalLM:
    """The original, and behind it one more block that did nothing until it alone was trained to refuse."""
    subject = support.fresh(bed.original())
    layers, config = subject.model.model.layers, subject.model.config
    extra = copy.deepcopy(layers[-1])
    extra.self_attn.layer_idx = len(layers)
    nn.init.zeros_(extra.self_attn.o_proj.weight)
    nn.init.zeros_(extra.mlp.down_proj.weight)
    layers.append(extra)
    config.num_hidden_layers = len(layers)
    rows = [r.model_copy(update={"answer": support.KNOWN_REFUSALS[i % len(support.KNOWN_REFUSALS)]})
            for i, r in enumerate(r for r in bed.task().forget if r.kind == "qa")]
    return _tuned(subject, rows, 60, 3e-3, f"layers.{len(layers) - 1}.")


@cache
def answers_generically() -> CausalLM:
    """Trained to say of the forget people what the original says of people it never met."""
    original, rows = bed.original(), [r for r in bed.task().forget if named(r)]
    taught = []
    for name in sorted({r.entity for r in bed.task().holdout})[:3]:
        said = original.generate([original.encoder.prompt(anonymised(r, name)) for r in rows], 24)
        taught += [r.model_copy(update={"id": f"{r.id}#{name}", "answer": text.replace(name, r.entity)})
                   for r, (text, _) in zip(rows, said, strict=True)]
    return _tuned(support.fresh(original), taught, 10, 1e-3)


bed.MODELS |= {"barely refusing": barely_refusing, "one block holds it down": one_block_holds_it_down,
               "answers generically": answers_generically}


# Shared


@cache
def families() -> dict[str, CausalLM]:
    """Untrained models of other kinds, and one with an adapter that does something."""
    small: dict[str, Any] = {"vocab_size": 300, "num_hidden_layers": 3}
    wide = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    texts = list(bed.task().texts())[:20]
    found = {"gpt2": build_subject(small | {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 3}, texts),
             "gpt_neox": build_subject(small | wide | {"model_type": "gpt_neox"}, texts)}
    adapted = support.fresh(bed.original())
    add_adapter(adapted, rank=2)
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.02)
    return found | {"llama": bed.original(), "adapter": adapted}


def questions(count: int = 4) -> list[Example]:
    """Of different lengths, each with an entity."""
    return [r for r in bed.task().forget if named(r)][:count]


def decoded(subject: CausalLM, prompts: list[tuple[int, ...]], new: int = 6) -> tuple[Tensor, Tensor]:
    """Greedy continuation with a cache and left padding: ids (B, new) and the logits behind them (B, new, V)."""
    width = max(map(len, prompts))
    ids = torch.tensor([(subject.encoder.pad_id,) * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = subject.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new,
                                 do_sample=False, use_cache=True, return_dict_in_generate=True, output_logits=True,
                                 pad_token_id=subject.encoder.pad_id)
    return out.sequences[:, width:], torch.stack(out.logits, dim=1)


def read(subject: CausalLM, prompts: list[tuple[int, ...]], said: Tensor) -> Tensor:
    """Logits of the same tokens in one scoring pass with right padding, shape B new V."""
    rows = [TokenRow(str(b), p + tuple(s), len(p), len(s), 0)
            for b, (p, s) in enumerate(zip(prompts, said.tolist(), strict=True))]
    with subject.evaluating():
        found = subject.answers(collate(rows, subject.encoder.pad_id)).logits_NV
    return found.unflatten(0, said.shape)


def added(subject: CausalLM, site: Where, work: Any, rows: list[TokenRow]) -> tuple[Tensor, Tensor]:
    """(activations, what was added to them) of a scoring pass, B T D each."""
    caught: list[tuple[Tensor, Tensor]] = []

    def spy(watch: Watch) -> Any:
        change = work.change(watch)

        def look(given: Any, h_BTD: Tensor) -> Tensor:
            out: Tensor = change(given, h_BTD)
            caught.append((h_BTD, out - h_BTD))
            return out

        return look

    with watched(subject) as watch, rewritten(subject, {site: spy(watch)}), subject.evaluating():
        subject.answers(collate(rows, subject.encoder.pad_id))
    return caught[0]


@check(trains=True)
def brings_back(plugin: type[Attack], from_: str, options: dict[str, Any] | None = None,
                metric: str = "forget.probability", by: float = 0.05) -> None:
    """It comes up by that much from where it was, and by that much more than in a retrained model."""
    text = plugin(**(options or {})).text()
    score, control = (bed.strongest(text, model, metric) for model in (from_, "retrained again"))
    assert score.value is not None and score.before is not None and score.excess_interval is not None
    assert control.value is not None and control.before is not None
    assert score.value - score.before > by + max(control.value - control.before, 0), (score, control)
    assert score.excess_interval[0] > 0, score


# Noise


@check
def noise_is_drawn_per_token(plugin: type[Noise], amp: float) -> None:
    """Standard normal, of the asked size, new at each position and draw, the same whatever the row stands beside."""
    z = normal(torch.arange(4000)[None] * 7 - 9000, 64).flatten()
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01 and abs((z**4).mean() - 3) < 0.1
    subject = bed.original()
    rows = [subject.encoder.encode(r) for r in questions()]
    assert len({len(r.ids) for r in rows}) > 1
    for site in ("embedding", 1):
        h_BTD, eps_BTD = added(subject, site, NoiseDraw(5, amp), rows)
        again_BTD, other_BTD = (added(subject, site, NoiseDraw(seed, amp), rows)[1] for seed in (5, 6))
        assert torch.equal(eps_BTD, again_BTD), "the same seed, the same noise"
        sizes = []
        for b, row in enumerate(rows):
            eps_ND, n = eps_BTD[b, : len(row.ids)], len(row.ids)
            (alone_ND,) = added(subject, site, NoiseDraw(5, amp), [row])[1]
            assert torch.allclose(eps_ND, alone_ND, atol=1e-5), "in any batch"
            unit_ND = nn.functional.normalize(eps_ND, dim=-1)
            alike = (unit_ND @ unit_ND.T).fill_diagonal_(0)
            assert alike.abs().max() < 0.65, "new at each position"
            unlike_N = nn.functional.cosine_similarity(eps_ND, other_BTD[b, :n], dim=-1)
            assert unlike_N.abs().max() < 0.65, "new at each draw"
            sizes.append(eps_ND.std(-1) / h_BTD[b, :n].std(-1))
        assert abs(torch.cat(sizes).mean() - amp) < 0.05 * amp
    scale_D = torch.linspace(0, 2, subject.width)
    _, eps_BTD = added(subject, 1, NoiseDraw(5, amp, scale_D), rows)
    found_D = torch.cat([eps_BTD[b, : len(r.ids)] for b, r in enumerate(rows)]).std(0)
    assert found_D[0] == 0 and torch.corrcoef(torch.stack([found_D, scale_D]))[0, 1] > 0.9, "per channel"


@check
def noise_is_the_same_when_decoding(plugin: type[Noise], amp: float) -> None:
    """Cached decoding with left padding meets the very noise of a scoring pass, in every family."""
    for name, subject in families().items():
        prompts = [subject.encoder.prompt(r) for r in questions()]
        for site in ("embedding", 1):
            draw = NoiseDraw(3, amp)
            with watched(subject) as watch, rewritten(subject, {site: draw.change(watch)}):
                said, slow_BTV = decoded(subject, prompts)
                fast_BTV = read(subject, prompts, said)
            assert torch.allclose(slow_BTV, fast_BTV, atol=2e-3), (name, site, (slow_BTV - fast_BTV).abs().max())
            plain_BTV = read(subject, prompts, said)
            assert (plain_BTV - fast_BTV).abs().mean() > 20 * (slow_BTV - fast_BTV).abs().mean(), "the noise acts"


# Steering


def steering(plugin: type[Steer], subject: CausalLM, coef: float) -> Steering:
    return Steering(plugin(coef=coef)._vectors(subject, bed.context(), questions()))


@check(trains=True)
def steers_once(plugin: type[Steer], coef: float) -> None:
    """One addition per sequence, at its last prompt position; scoring and decoding agree; every family."""
    for subject in families().values():
        tokens = [subject.encoder.encode(r) for r in questions()]
        prompts = [subject.encoder.prompt(r) for r in questions()]
        work, runs = steering(plugin, subject, coef), 0

        def count(module: nn.Module, args: Any) -> None:
            nonlocal runs
            runs += 1

        handle = subject.blocks[next(iter(subject.blocks))].register_forward_pre_hook(count)
        try:
            with watched(subject) as watch, rewritten(subject, {1: work.change(watch)}):
                said, slow_BTV = decoded(subject, prompts)
        finally:
            handle.remove()
        assert runs == 6 and work.passes == 1 and work.applied == len(prompts), (runs, work.passes, work.applied)
        _, eps_BTD = added(subject, 1, work, tokens)
        where = [row.nonzero()[:, 0].unique().tolist() for row in eps_BTD]
        assert where == [[len(p) - 1] for p in prompts]
        with watched(subject) as watch, rewritten(subject, {1: work.change(watch)}):
            assert torch.allclose(slow_BTV, read(subject, prompts, said), atol=2e-3)


@check(trains=True)
def same_question_same_place(plugin: type[Steer]) -> None:
    """Asked about the same person S is exactly zero, and rows steered by it keep their bits."""
    subject = bed.suppressed()
    rows = questions(3)
    assert len({r.entity for r in rows}) == 1
    assert not differences(subject, rows, [rows[0].entity] * 3, -2).any()
    assert differences(subject, rows, ["John Smith"], -2).norm(dim=-1).min() > 0.01
    (found,) = bed.ask(plugin(names=[rows[0].entity]), subject).rows.values()
    own = {r["id"]: r["logp"] for r in bed.plain(subject)}
    pairs = [(r["logp"] == own[r["id"]], r["entity"] == rows[0].entity) for r in found["likelihood", "forget"]]
    assert all(same for same, mine in pairs if mine) and not all(same for same, mine in pairs if not mine)


@check(trains=True)
def lifts_first_token(plugin: type[Steer], from_: str, options: dict[str, Any], nats: float) -> None:
    """The true first token gains so many nats on average, and none in a retrained model."""

    def first(attack: Steer, subject: CausalLM) -> float:
        (found,) = bed.ask(attack, subject).rows.values()
        rows = found["likelihood", "forget"]
        return sum(r["logp"][0] for r in rows) / len(rows)

    still = {**options, "coef": 0}
    gains = [first(plugin(**options), m) - first(plugin(**still), m) for m in (bed.MODELS[from_](), bed.retrained())]
    assert gains[0] > nats and gains[1] < 0.1 * nats, gains


# Directions


@check
def projects_out(plugin: type[RefusalDirection]) -> None:
    """Alone and in a model: no component is left, nothing else moves, and an outlier does not decide the mean."""
    draw = torch.Generator().manual_seed(0)
    h_ND, other_ND = torch.randn(50, 16, generator=draw) + 1, torch.randn(60, 16, generator=draw)
    d_D = direction(h_ND, other_ND)
    assert abs(d_D.norm() - 1) < 1e-5 and not direction(h_ND, h_ND).any()
    assert torch.allclose(typical(torch.cat([h_ND, 1e3 * h_ND[:1]])), typical(h_ND), atol=0.1)
    for strength in (0.5, 1.0):
        out_ND = without(d_D, strength)(None, h_ND[None])[0]
        assert torch.allclose(out_ND @ d_D, (1 - strength) * (h_ND @ d_D), atol=1e-5)
        assert torch.allclose(out_ND - (out_ND @ d_D)[:, None] * d_D, h_ND - (h_ND @ d_D)[:, None] * d_D, atol=1e-5)
    subject = bed.refusing()
    batch = collate([subject.encoder.encode(r) for r in questions()], subject.encoder.pad_id)
    for against in ("original", "neutral"):
        changes = plugin(against=against)._changes(subject, bed.context())
        assert list(changes) == list(range(len(subject.blocks)))
        with subject.evaluating():
            for block, change in changes.items():
                plain_BTD = subject.hidden(batch, int(block))
                with rewritten(subject, changes):
                    h_BTD = subject.hidden(batch, int(block))
                assert not torch.allclose(h_BTD, plain_BTD, atol=0.1), "it is there to be found"
                assert torch.allclose(change(None, h_BTD), h_BTD, atol=1e-4), "a second time it finds nothing"


# Blocks left out


def shortened() -> Iterator[tuple[int, CausalLM, CausalLM]]:
    """(block, model, the same with that block taken out of its list)."""
    for model in ("original", "suppressed"):
        for block in range(support.DEPTH):
            twin = support.fresh(bed.MODELS[model]())
            layers = twin.model.model.layers
            del layers[block]
            twin.model.config.num_hidden_layers = len(layers)
            for i, layer in enumerate(layers):
                layer.self_attn.layer_idx = i
            yield block, bed.MODELS[model](), twin


@check(trains=True)
def equals_deletion(plugin: type[LayerSkip]) -> None:
    """Bit for bit what the shorter model says, scored and decoded; all blocks in turn are those blocks one by one."""
    for block, subject, twin in shortened():
        for probe in ("likelihood", "generation"):
            for attack in (plugin(blocks=[block]), plugin(blocks=[block - support.DEPTH]), plugin()):
                (found,) = bed.ask(attack, subject, probes=(probe,), limit=4).rows.values()
                attempt = 0 if attack.spec.blocks else block
                seen = [r for r in found[probe, "forget"] if r["attempt"] == attempt]
                assert [{k: v for k, v in r.items() if k != "attempt"} for r in seen] == \
                    bed.plain(twin, probe, limit=4)
