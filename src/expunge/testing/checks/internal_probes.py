"""Promises of probes that look inside.

Legend: B rows, T padded length, D hidden size, L blocks, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from expunge.data.text_encoder import collate
from expunge.errors import UsageError
from expunge.models.adapter import add_adapter
from expunge.models.language import CausalLM
from expunge.probes.base import Probe
from expunge.probes.hidden import Hidden
from expunge.probes.statements import statements
from expunge.records.observation import Row
from expunge.records.task import Example

from .. import support
from ..support import fresh, hooks, memoriser, moved, same_random_state, small_task, weights
from .base import check
from .probes import LONG


def _ask(plugin: type[Probe], subject: CausalLM, examples: list[Example], partner: CausalLM | None = None,
         **options: Any) -> list[Row]:
    beside = (partner or memoriser()) if plugin.uses_original else None
    return plugin(**options).observe(subject, examples, small_task(), partner=beside)


def _flat(value: Any) -> list[float]:
    return [v for part in value for v in _flat(part)] if isinstance(value, list) else [value]


def _alike(a: Row, b: Row) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, (float, list)) and not any(isinstance(v, str) for v in _flat(value)):
            assert _flat(b[name]) == pytest.approx(_flat(value), abs=1e-4, rel=1e-3), name
        else:
            assert b[name] == value, name


@check
def internals_ignore_padding_and_order(plugin: type[Probe]) -> None:
    """Alone, in a crowd or in reverse, a row gets the same numbers; the models and the global state stay."""
    task = small_task()
    examples = [*task.forget[:3], LONG, *task.retain[:2], task.holdout[0].model_copy(update={"answer": ""}),
                *task.holdout[:2]]
    for subject in (memoriser(), moved(8)):
        before, marks = weights(subject), hooks(subject)
        with same_random_state():
            together = _ask(plugin, subject, examples)
        assert all(torch.equal(p, before[n]) for n, p in weights(subject).items())
        assert hooks(subject) == marks and not subject.model.training
        assert not [b for s in (subject, memoriser()) for b in s.blocks.values() if "forward" in vars(b)]
        assert [r["id"] for r in together] == [e.id for e in examples if e.answer], "no answer, no row"
        alone = [row for e in examples for row in _ask(plugin, subject, [e])]
        backwards = _ask(plugin, subject, examples[::-1])[::-1]
        for one, single, turned in zip(together, alone, backwards, strict=True):
            _alike(one, single)
            _alike(one, turned)
    if plugin.uses_original and not plugin.original_optional:
        with pytest.raises(UsageError, match="none was given"):
            plugin().observe(subject, examples, task)


@check
def ends_in_the_models_own_output(plugin: type[Probe]) -> None:
    """The last layer of the lens is the mean log-prob of the answer as the model gives it; one value per block."""
    for subject in (memoriser(), moved(8)):
        rows = [*small_task().forget[:3], *small_task().holdout[:3]]
        for example, row in zip(rows, _ask(plugin, subject, rows), strict=True):
            tokens = subject.encoder.encode(example)
            with subject.evaluating():
                logp_N = subject.answers(collate([tokens], subject.encoder.pad_id)).logp_N[: tokens.answer]
            assert len(row["lens"]) == len(row["share"]) == len(subject.blocks)
            assert row["lens"][-1] == pytest.approx(float(logp_N.mean()), abs=1e-5)
            assert row["lens"][0] != pytest.approx(row["lens"][-1], abs=1e-3), "and an earlier layer is not"


@check
def lens_matches_norm_and_head(plugin: type[Probe]) -> None:
    """W_U norm(h_l) by hand, from the hidden states that transformers gives out."""
    for subject in (memoriser(), moved(8)):
        model: Any = fresh(subject).model  # transformers leaves hooks on a model that it was once asked the states of
        for example in (small_task().forget[0], small_task().holdout[1]):
            tokens = subject.encoder.encode(example)
            with torch.no_grad():
                out = model(input_ids=torch.tensor([tokens.ids]), output_hidden_states=True)
                states = [*out.hidden_states[1:-1]]  # the last of transformers is normed already
                logits = [model.lm_head(model.model.norm(h_BTD))[0] for h_BTD in states] + [out.logits[0]]
            (row,) = _ask(plugin, subject, [example])
            for layer, logits_TV in enumerate(logits):
                at = range(tokens.prompt - 1, tokens.prompt + tokens.answer - 1)
                logp = [float(logits_TV[t].log_softmax(-1)[tokens.ids[t + 1]]) for t in at]
                hits = [int(logits_TV[t].argmax()) == tokens.ids[t + 1] for t in at]
                assert row["lens"][layer] == pytest.approx(sum(logp) / len(logp), abs=1e-4)
                assert row["share"][layer] == pytest.approx(sum(hits) / len(hits))


@check
def statements_match_hidden(plugin: type[Probe]) -> None:
    """Row by row: each answer as the only one of its example; right first, and log-probs as the model gives them."""
    subject, example = moved(8), small_task().forget[0]
    (row,) = _ask(plugin, subject, [example], layers=2, wrong=2)
    texts = [example.answer, *example.wrong_answers[:2]]
    assert row["correct"] == [True, False, False]
    for text, logp, states in zip(texts, row["logp"], row["states"], strict=True):
        one = example.model_copy(update={"answer": text})
        (twin,) = Hidden(layers=2, pool="last").observe(subject, [one], small_task())
        assert twin["layers"] == row["layers"]
        assert _flat(states) == pytest.approx(_flat(twin["states"]), rel=1e-3, abs=1e-4)
        assert logp == pytest.approx(-support.loss(subject, [one]), rel=1e-4)
    given = (example.answer.upper(), " x", "X", "", "y", "z")
    told_apart = statements(example.model_copy(update={"wrong_answers": given}), 2)
    assert told_apart == [(example.answer, True), (" x", False), ("y", False)], "none twice, none that is right"


@check
def hidden_matches_slow_twin(plugin: type[Probe]) -> None:
    """The mean over the positions that predict the answer, of the states transformers gives out."""
    subject, example = moved(8), small_task().forget[0]
    tokens = subject.encoder.encode(example)
    caught: dict[int, torch.Tensor] = {}
    handles = [block.register_forward_hook(lambda m, a, out, i=i: caught.__setitem__(i, out))
               for i, block in enumerate(subject.blocks.values())]
    with torch.no_grad():
        subject.model(input_ids=torch.tensor([tokens.ids]))
    for handle in handles:
        handle.remove()
    first, end = tokens.prompt - 1, tokens.prompt + tokens.answer - 1
    wanted = {"answer": slice(first, end), "prompt": slice(first, first + 1), "last": slice(end, end + 1)}
    for pool, span in wanted.items():
        (row,) = _ask(plugin, subject, [example], pool=pool)
        assert row["layers"] == list(caught)
        for layer, states_D in zip(row["layers"], row["states"], strict=True):
            assert states_D == pytest.approx(caught[layer][0, span].mean(0).tolist(), rel=1e-4, abs=1e-5)
    (few,) = _ask(plugin, subject, [example], layers=2)
    assert few["layers"] == [1, 2] and len(few["states"]) == 2, "evenly spaced, the last among them"


@check
def same_neighbours_for_every_model(plugin: type[Probe]) -> None:
    """With the original beside them twins are asked the very same texts; without it the rows say so."""
    probe, example = plugin(), [*small_task().forget[:2]]
    turned = fresh(moved(8))
    with torch.no_grad():  # another table, so that its own neighbours would be others
        turned.model.get_input_embeddings().weight += torch.randn(
            turned.model.get_input_embeddings().weight.shape, generator=torch.Generator().manual_seed(0))
    asked: dict[str, list[tuple[int, ...]]] = {}
    for name, subject in (("memoriser", memoriser()), ("turned", turned)):
        seen = asked.setdefault(name, [])
        answers = subject.answers

        def note(batch: Any, answers: Any = answers, seen: list[tuple[int, ...]] = seen) -> Any:
            seen.extend(row.ids for row in batch.rows)
            return answers(batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subject, "answers", note)
            rows = probe.observe(subject, example, small_task(), partner=memoriser())
            assert {r["table"] for r in rows} == {"original"}
    assert asked["memoriser"] == asked["turned"] and len(set(asked["turned"])) > 10
    own = probe.observe(turned, example, small_task())
    assert {r["table"] for r in own} == {"own"} and own[0]["losses"] != rows[0]["losses"]


@check
def landscape_matches_slow_twin(plugin: type[Probe]) -> None:
    """The same losses one text at a time; only ordinary tokens change, each into a true nearest neighbour."""
    from expunge.probes.landscape import changed, nearest, special_ids

    subject, example = moved(8), small_task().forget[1]
    tokens, special = subject.encoder.encode(example), special_ids(subject)
    places = [t for t in range(tokens.prompt + tokens.answer) if tokens.ids[t] not in special]
    assert 0 < len(places) < tokens.prompt + tokens.answer, "the prompt has special tokens"
    near = nearest(memoriser(), sorted(set(tokens.ids)), 5)
    table_VD = memoriser().model.get_input_embeddings().weight
    for i in (tokens.ids[places[0]], tokens.ids[places[-1]]):
        cosine_V = torch.nn.functional.cosine_similarity(table_VD[i][None], table_VD, dim=-1)
        best = sorted((j for j in range(len(cosine_V)) if j not in special | {i}), key=lambda j: -float(cosine_V[j]))
        assert near[i] == best[:5]
    made = changed(tokens, places, near, count=10, share=0.3, reach=5, seed=0)
    (row,) = _ask(plugin, subject, [example])
    assert row["strengths"] == [strength for _, strength in made] == [1, 2, 3, 4, 5] * 2
    for (other, strength), loss in zip([(tokens, 0), *made], [row["l0"], *row["losses"]], strict=True):
        moved_at = [t for t, (a, b) in enumerate(zip(tokens.ids, other.ids, strict=True)) if a != b]
        assert set(moved_at) <= set(places) and bool(moved_at) == bool(strength)
        assert all(other.ids[t] == near[tokens.ids[t]][strength - 1] for t in moved_at)
        with torch.no_grad():
            logp_TV = subject.model(input_ids=torch.tensor([other.ids])).logits[0].log_softmax(-1)
        at = range(tokens.prompt, tokens.prompt + tokens.answer)
        slow = -sum(float(logp_TV[t - 1, other.ids[t]]) for t in at) / tokens.answer
        assert loss == pytest.approx(slow, abs=1e-4)


@check
def memorised_text_sits_in_a_sharp_minimum(plugin: type[Probe]) -> None:
    """On average the loss rises steeply around what is known by heart and much less around what was never seen."""
    def gap(subject: CausalLM, rows: tuple[Example, ...]) -> float:
        found = _ask(plugin, subject, list(rows[:12]))
        return sum(sum(r["losses"]) / len(r["losses"]) - r["l0"] for r in found) / len(found)

    known, unseen = gap(memoriser(), small_task().forget), gap(memoriser(), small_task().holdout)
    assert known > 2 and unseen < 0.7 * known, (known, unseen)


@check
def its_own_states_change_nothing(plugin: type[Probe]) -> None:
    rows = [*small_task().forget[:3], LONG]
    for row in _ask(plugin, memoriser(), rows):
        assert row["drops"] == [0.0] * len(memoriser().blocks)
    assert any(abs(d) > 1e-3 for r in _ask(plugin, moved(8), rows) for d in r["drops"])
    with pytest.raises(UsageError, match="one architecture"):
        _ask(plugin, _shorter(fresh()), rows)


@check
def depth_matches_slow_twin(plugin: type[Probe]) -> None:
    """One row, one block, one plain hook that writes the source's states at the entity's positions."""
    from expunge.probes.depth import fact_tokens

    source, target = moved(8), memoriser()
    example = next(r for r in small_task().forget if r.short_answer)
    tokens = source.encoder.encode(example)
    span = fact_tokens(source.encoder, tokens, example.short_answer)
    at = [tokens.prompt + t - 1 for t in span]
    ids = torch.tensor([tokens.ids])
    (row,) = _ask(plugin, source, [example], target)
    assert row["tokens"] == len(at) < tokens.answer

    def logp() -> float:
        with torch.no_grad():
            logp_TV = target.model(input_ids=ids).logits[0].log_softmax(-1)
        return sum(float(logp_TV[t, tokens.ids[t + 1]]) for t in at) / len(at)

    assert row["before"] == pytest.approx(logp(), abs=1e-5)
    for layer, name in enumerate(target.blocks):
        with torch.no_grad():
            given_TD = source.hidden(collate([tokens], 0), layer)[0]

        def write(module: nn.Module, args: Any, out: torch.Tensor, given_TD: torch.Tensor = given_TD) -> torch.Tensor:
            out = out.clone()
            out[0, at] = given_TD[at]
            return out

        handle = target.model.get_submodule(name).register_forward_hook(write)
        try:
            assert row["drops"][layer] == pytest.approx(row["before"] - logp(), abs=1e-4)
        finally:
            handle.remove()


@check
def marks_the_entity(plugin: type[Probe]) -> None:
    """The tokens marked spell the short answer and little more; without one, the whole answer is meant."""
    from expunge.probes.depth import fact_tokens

    tokens = memoriser().encoder
    facts = [r for r in small_task().forget if r.short_answer]
    assert len(facts) > 3
    for example in facts:
        row = tokens.encode(example)
        ids = row.ids[row.prompt: row.prompt + row.answer]
        span = fact_tokens(tokens, row, example.short_answer)
        said = tokens.processor.decode([ids[t] for t in span])
        assert example.short_answer in said
        assert example.short_answer not in tokens.processor.decode([ids[t] for t in span][1:])
        assert example.short_answer not in tokens.processor.decode([ids[t] for t in span][:-1])
        assert fact_tokens(tokens, row, "") == fact_tokens(tokens, row, "not there") == range(row.answer)
    assert fact_tokens(tokens, replace(row, answer=0), "x") == range(0)


@check
def weights_match_by_hand(plugin: type[Probe]) -> None:
    """Every weight of one block doubled: distance 1 there and 0 elsewhere; other shapes are refused."""
    subject = fresh()
    name = list(subject.blocks)[1]
    with torch.no_grad():
        for weight in subject.blocks[name].parameters():
            weight.mul_(2)
    rows = {r["id"]: r for r in _ask(plugin, subject, [])}
    assert list(rows) == [*subject.blocks, "embeddings", "other"], "the head is tied to the embeddings"
    assert {key: row["distance"] for key, row in rows.items()} == {key: float(key == name) for key in rows}
    norm = sum(float(w.double().square().sum()) for w in memoriser().blocks[name].parameters()) ** 0.5
    assert rows[name]["norm"] == rows[name]["change"] == pytest.approx(norm, rel=1e-6)
    assert sum(r["weights"] for r in rows.values()) == sum(w.numel() for w in subject.model.parameters())
    with pytest.raises(UsageError, match="none was given"):
        plugin().observe(subject, [], small_task())
    with pytest.raises(UsageError, match="do not have the same parameters"):
        _ask(plugin, memoriser(), [], _shorter(fresh()))


def _shorter(subject: CausalLM) -> CausalLM:
    """Without its last block."""
    subject.model.model.layers = subject.model.model.layers[:-1]
    subject.model.config.num_hidden_layers -= 1
    return subject


@check
def merges_adapters(plugin: type[Probe]) -> None:
    """An adapter counts as what it changes, and is not merged in the model that was handed over."""
    adapted = fresh()
    add_adapter(adapted, rank=2, targets=["q_proj"])
    names = set(adapted.model.state_dict())
    assert all(r["distance"] == 0 for r in _ask(plugin, adapted, [])), "a fresh adapter changes nothing"
    with torch.no_grad():
        for key, weight in adapted.model.named_parameters():
            if "lora_B" in key:
                weight += 0.1
    before = weights(adapted)
    moved_by = {r["id"]: r["distance"] for r in _ask(plugin, adapted, [])}
    assert all((value > 0) == (".layers." in key) for key, value in moved_by.items())
    assert set(adapted.model.state_dict()) == names
    assert all(torch.equal(p, before[n]) for n, p in weights(adapted).items())


@check
def restoration_of_the_original(plugin: type[Probe]) -> None:
    """Nothing in its own states is changed by its own latents: at strength 0 bit for bit, at 1 up to what they lack."""
    from expunge.probes.latents import restored

    rows = [*small_task().forget[:3], LONG]
    for row in _ask(plugin, memoriser(), rows):
        assert row["plain"] == row["original"]
        assert row["all"][-1] == row["experts"] == row["random"] == row["rebuilt"] == row["ceiling"]
        assert row["explained"] == row["explained_original"] > 0.5
    probe: Any = plugin()
    sae, expert_F = probe.autoencoder(memoriser(), small_task())
    draw = torch.Generator().manual_seed(0)
    own, other = (torch.randn(3, 4, memoriser().width, generator=draw) for _ in range(2))
    assert torch.equal(restored(sae, own, other, torch.ones_like(expert_F), 0.0), own)
    torch.testing.assert_close(restored(sae, own, other, torch.ones_like(expert_F), 1.0), sae.decode(sae.encode(other)))
    assert int(expert_F.sum()) == round(0.25 * sae.latents)
    with pytest.raises(UsageError, match="one architecture"):
        _ask(plugin, _shorter(fresh()), rows)


@check
def restoration_matches_slow_twin(plugin: type[Probe]) -> None:
    """One row, one plain hook, latents mixed by hand at every position but the first."""
    from expunge.probes.depth import fact_tokens
    from expunge.probes.latents import STRENGTHS

    subject, original, probe = moved(8), memoriser(), plugin()
    example = next(r for r in small_task().forget if r.short_answer)
    tokens = subject.encoder.encode(example)
    at = [tokens.prompt + t - 1 for t in fact_tokens(subject.encoder, tokens, example.short_answer)]
    ids, block = torch.tensor([tokens.ids]), probe.chosen_block(len(subject.blocks))  # type: ignore[attr-defined]
    sae, expert_F = probe.autoencoder(original, small_task())  # type: ignore[attr-defined]
    (row,) = _ask(plugin, subject, [example], original)
    with torch.no_grad():
        own, theirs = (model.hidden(collate([tokens], 0), block)[0, 1:] for model in (subject, original))
    mine, others = sae.encode(own), sae.encode(theirs)

    def logp(states_TD: torch.Tensor) -> float:
        def write(module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
            return torch.cat([out[:, :1], states_TD[None]], 1)

        handle = subject.model.get_submodule(list(subject.blocks)[block]).register_forward_hook(write)
        try:
            with torch.no_grad():
                logp_TV = subject.model(input_ids=ids).logits[0].log_softmax(-1)
        finally:
            handle.remove()
        return sum(float(logp_TV[t, tokens.ids[t + 1]]) for t in at) / len(at)

    assert row["plain"] == pytest.approx(logp(own), abs=1e-4)
    assert row["rebuilt"] == pytest.approx(logp(sae.decode(mine)), abs=1e-3)
    assert row["experts"] == pytest.approx(logp(sae.decode(torch.where(expert_F, others, mine))), abs=1e-3)
    for strength, found in zip(STRENGTHS, row["all"], strict=True):
        mixed = sae.decode(mine + strength * (others - mine)) + (1 - strength) * (own - sae.decode(mine))
        assert found == pytest.approx(logp(mixed), abs=1e-3)
    assert any(abs(found - row["plain"]) > 1e-2 for found in row["all"])
