"""What searches through gradients promise: exact budgets, exact searches where they can be exhaustive, honest texts.

Legend: V vocabulary, L places of a suffix, P places of a soft prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch

from expunge.attacks._lib import search
from expunge.attacks._lib.gcg import SuffixCodec, SuffixResult, gcg, slots, token_gradient, with_suffix
from expunge.attacks._lib.search import height, row_losses
from expunge.attacks._lib.vectors import placeholders_filled, with_placeholders
from expunge.attacks.base import Attack, AttackContext, View
from expunge.data import text_encoder as tokens
from expunge.data.text_encoder import TokenRow
from expunge.errors import UsageError
from expunge.models.language import CausalLM
from expunge.models.tiny import build_subject
from expunge.records.task import Example

from .. import attack_bed as bed
from .. import support
from .base import check

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
              "max_position_embeddings": 64, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "max_position_embeddings": 64},
}
ROWS = (Example(id="a", prompt="Who?", answer=" Ada May", kind="completion", entity="Ada"),
        Example(id="b", prompt="Where is it?", answer=" in Rome", kind="completion", entity="Rome"))
ALL = 10**6


@cache
def small(family: str) -> CausalLM:
    """An untrained model of few tokens, with weights large enough that every token matters."""
    config = {"model_type": family, "vocab_size": 300, **FAMILIES[family]}
    subject = build_subject(config, [f"{r.prompt}{r.answer}" for r in ROWS] * 2 + ["the men of the sea " * 4], seed=5)
    with torch.no_grad():
        for weight in subject.model.parameters():
            if weight.dim() > 1:
                weight.mul_(5.0)
    subject.model.requires_grad_(False)
    return subject


class Meter:
    """Counts rows that pass through a model, and the work that is announced."""

    def __init__(self) -> None:
        self.rows, self.widest, self.announced, self.told = 0, 0, 0, 0

    def hook(self, module: Any, args: Any, inputs: dict[str, Any]) -> None:
        self.rows += inputs["input_ids"].shape[0]
        self.widest = max(self.widest, inputs["input_ids"].numel())

    def announce(self, title: str, total: int) -> Any:
        self.announced += total
        return self.tick

    def tick(self, units: int) -> None:
        self.told += units


def kept_losses(attack: Any, subject: CausalLM) -> list[float]:
    """The loss of what is kept, from the start on."""
    if attack.card.name == "soft_prompt":
        prompted = with_placeholders(subject, attack.spec.vectors, attack.spec.place)
        return [loss for loss, _ in attack.search(prompted, bed.context())]
    found: SuffixResult = next(iter(attack.search(subject, bed.context()).values()))
    return found.losses


@check(trains=True)
def keeps_to_its_budget(plugin: type[Any], options: dict[str, Any]) -> None:
    """Exactly as many rows pass through the model as it says, in batches of bounded size, and all of it is told."""
    attack, subject, meter = plugin(**options), bed.suppressed(), Meter()
    handle = subject.model.register_forward_pre_hook(meter.hook, with_kwargs=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "POSITIONS", 700)
        attack.run(subject, bed.context(announce=meter.announce), lambda view: None)
    handle.remove()
    assert 0 < meter.rows == attack.forwards(bed.context()), (meter.rows, attack.forwards(bed.context()))
    assert str(meter.rows) in attack.cost(bed.context())
    assert meter.widest <= 700
    assert meter.announced == meter.told > 0


@check(trains=True)
def never_gets_worse(plugin: type[Any], options: dict[str, Any], least: float = 0.1) -> None:
    """The loss of what is kept never rises from step to step, and in all falls by `least` and more."""
    losses = kept_losses(plugin(**options), bed.suppressed())
    assert all(after <= before for before, after in pairwise(losses)), losses
    assert losses[0] - losses[-1] > least, losses


@check(trains=True)
def gains(plugin: type[Any], from_: str, options: dict[str, Any], by: float, beyond: float) -> None:
    """On rows it never saw it beats its own random start by `by`, control subtracted, and plain asking by `beyond`."""
    (won,) = bed.scored(plugin(**options).text(), from_, "forget.probability")
    (start,) = bed.scored(plugin(**options | {"steps": 0}).text(), from_, "forget.probability")
    assert None not in (won.value, start.value, won.excess, start.excess, won.before)
    assert won.excess - start.excess > by, (won, start)  # type: ignore[operator]
    assert won.value - won.before > beyond, won  # type: ignore[operator]


@check(trains=True)
def learns_apart_from_what_it_asks(plugin: type[Attack], idle: dict[str, Any]) -> None:
    """With people no entity is on both sides; with questions all are, but no row; with all, all rows are on both."""
    task = bed.task()
    everybody = {r.entity for r in task.probe_rows("forget")}
    for scope in ("people", "questions", "all"):
        attack, context = plugin(**idle | {"scope": scope}), bed.context()
        (view,) = bed.views(attack, bed.suppressed())
        asked = view.rows("forget")
        learned, _ = search.divided(context, scope, ALL)
        known, later = {r.entity for r in learned}, {r.entity for r in asked}
        assert learned and asked and all(r.kind != "text" for r in learned)
        assert attack.splits_entities == (scope != "all") == (not {r.id for r in learned} & {r.id for r in asked})
        assert known == later == everybody if scope != "people" else not known & later and known | later == everybody
        assert len(view.rows("retain")) == len(task.probe_rows("retain"))
        few, _ = search.divided(context, scope, 3)
        assert len(few) == 3 and {r.id for r in few} <= {r.id for r in learned}


@check(trains=True)
def gives_each_its_own(plugin: type[Any], options: dict[str, Any]) -> None:
    """With scope=each, every question gets the suffix that was searched on it, even of a model that never knew."""
    task = bed.task().model_copy(update={"forget": bed.task().forget[:3]})
    context, attack, seen = AttackContext.of(task), plugin(**options | {"scope": "each"}), list[View]()
    found = attack.search(bed.retrained(), context)
    assert len({f.text for f in found.values()}) == 3 and not attack.splits_entities
    attack.run(bed.retrained(), context, seen.append)
    for row, asked in zip(task.forget, seen[0].rows("forget"), strict=True):
        assert asked.prompt == row.prompt + found[row.id].text
        assert support.loss(bed.retrained(), [asked]) == pytest.approx(found[row.id].losses[-1], rel=1e-4)
        assert found[row.id].losses[-1] < found[row.id].losses[0]


@check(trains=True)
def carries_over_from_the_original(plugin: type[Any], options: dict[str, Any]) -> None:
    """With on=original the suffix is that of the original, whichever model is asked; without an original it says so."""
    attack, asked = plugin(**options | {"on": "original"}), list[View]()
    assert "original" in attack.needs and "original" not in plugin(**options).needs
    found = next(iter(plugin(**options).search(bed.original(), bed.context()).values()))
    for model in (bed.suppressed(), bed.retrained()):
        attack.run(model, bed.context(), asked.append)
        assert asked[-1].subject is model
        assert next(r for r in asked[-1].rows("forget") if r.kind != "text").prompt.endswith(found.text)
    with pytest.raises(UsageError, match="original"):
        attack.run(bed.suppressed(), AttackContext.of(bed.task()), asked.append)


@check(trains=True)
def says_when_it_cannot(plugin: type[Attack], options: dict[str, Any]) -> None:
    """A model without token embeddings, or with too short a context, is refused in words."""
    subject = copy.copy(bed.suppressed())
    subject.model = copy.copy(subject.model)
    subject.model.get_input_embeddings = lambda: None
    with pytest.raises(UsageError, match="embeddings"):
        plugin(**options).run(subject, bed.context(), lambda view: None)
    long = plugin(**options | {"length" if "length" in options else "vectors": 250})
    with pytest.raises(UsageError, match="context"):
        long.run(bed.suppressed(), bed.context(), lambda view: None)


@check(trains=True)
def stays_within_reach(plugin: type[Any], options: dict[str, Any]) -> None:
    """As many vectors as asked for, none longer than the radius, and a large step makes them that long."""
    attack, subject = plugin(**options), bed.suppressed()
    mean = float(subject.model.get_input_embeddings().weight.norm(dim=-1).mean())
    prompted = with_placeholders(subject, attack.spec.vectors, attack.spec.place)
    lengths_P = [vectors_PD.norm(dim=-1) for _, vectors_PD in attack.search(prompted, bed.context())][-1]
    assert len(lengths_P) == attack.spec.vectors
    assert float(lengths_P.max()) == pytest.approx(attack.spec.radius * mean, rel=1e-5)


# Slow twins


def every(subject: CausalLM, stems: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """The loss of each stem with each token behind it, on the text as it would be asked, nothing left out.

    Only texts that are read as these very tokens count; nothing of the search is used.
    """
    processor, found = subject.encoder.processor, dict[str, list[TokenRow]]()
    plain = [subject.encoder.encode(r).ids[: subject.encoder.encode(r).prompt] for r in ROWS]
    for ids in ((*stem, token) for stem in stems for token in range(len(processor))):
        text = " " + processor.decode(list(ids)).removeprefix(" ")
        rows = [subject.encoder.encode(r.model_copy(update={"prompt": r.prompt + text})) for r in ROWS]
        if all(row.ids[: row.prompt] == (*before, *ids) for row, before in zip(rows, plain, strict=True)):
            found[text] = rows
    with subject.evaluating():
        answers = subject.answers(support.batch_of(subject, [row for rows in found.values() for row in rows]))
    losses = answers.per_row(answers.logp_N).view(-1, len(ROWS)).sum(-1)
    count = sum(row.answer + row.end for row in rows)
    return {text: -float(loss) / count for text, loss in zip(found, losses, strict=True)}


@check
def matches_brute_force(plugin: type[Attack]) -> None:
    """With all swaps tried, one token is the best of all, and of two neither can be bettered alone."""
    subject = small("llama")
    assert plugin.card.name == "suffix" and len(subject.encoder.processor) <= 300
    one = gcg(subject, ROWS, length=1, steps=1, top_k=ALL, batch=ALL, seed=0)
    all_of_one = every(subject, [()])
    best = min(all_of_one, key=lambda text: all_of_one[text])
    assert len(all_of_one) > 10 and one.losses[-1] < one.losses[0]
    assert one.losses[-1] == pytest.approx(all_of_one[best], rel=1e-5) and one.text == best
    two = gcg(subject, ROWS, length=2, steps=6, top_k=ALL, batch=ALL, seed=0)
    reader = SuffixCodec(subject)
    firsts = reader.stable([(i,) for i in range(len(subject.encoder.processor))])
    all_of_two = every(subject, list(dict.fromkeys([two.ids[:1], *firsts])))
    first, second = reader.text(two.ids[:1]), subject.encoder.processor.decode([two.ids[1]])
    neighbours = [loss for text, loss in all_of_two.items() if text.startswith(first) or text.endswith(second)]
    assert all_of_two[two.text] == pytest.approx(two.losses[-1], rel=1e-5)
    assert two.losses[-1] <= min(neighbours) + 1e-5
    assert sum(loss < two.losses[-1] - 1e-5 for loss in all_of_two.values()) < len(all_of_two) / 100


@check
def gradient_is_the_slope(plugin: type[Attack]) -> None:
    """Half-way to another token the loss changes as the gradient says: central differences, in three families."""
    assert plugin.card.access == "gradients"
    for family in FAMILIES:
        subject = small(family)
        reader = SuffixCodec(subject)
        ids = reader.draw(3, seed=1)
        places = slots(subject, ROWS, reader, ids)
        loss, grad_LV = token_gradient(subject, places, ids)
        table_VD = subject.model.get_input_embeddings().weight
        rows = [s.filled(ids) for s in places]
        assert loss == pytest.approx(float(row_losses(subject, rows).sum()), rel=1e-5)
        assert grad_LV.shape == (3, len(table_VD))
        for place, token in ((0, 40), (1, 90), (2, 7), (0, 260)):
            way_D, step = table_VD[token] - table_VD[ids[place]], 2e-3
            held = [s.filled((*ids[:place], height(subject), *ids[place + 1:])) for s in places]
            ends = []
            for sign in (1, -1):
                with placeholders_filled(subject, (table_VD[ids[place]] + sign * step * way_D)[None]):
                    ends.append(float(row_losses(subject, held).sum()))
            told = float(grad_LV[place, token] - grad_LV[place, ids[place]])
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(told, rel=0.03, abs=0.02), family


@check(trains=True)
def asks_what_it_scored(plugin: type[Any], options: dict[str, Any]) -> None:
    """The suffix found is in the prompts, is read as its tokens, and has the loss that the search reports."""
    attack, subject, seen = plugin(**options), bed.refusing(), list[View]()
    found = attack.search(subject, bed.context())
    learned = [r for r in bed.context().learned if r.id in found]
    suffix: SuffixResult = found[learned[0].id]
    asked = [with_suffix(r, suffix.text) for r in learned]
    assert support.loss(subject, asked) == pytest.approx(suffix.losses[-1], rel=1e-4)
    for row, plain in zip(asked, learned, strict=True):
        longer, shorter = subject.encoder.encode(row), subject.encoder.encode(plain)
        assert longer.prompt == shorter.prompt + len(suffix.ids)
        assert suffix.ids == longer.ids[longer.prompt - 1 - len(suffix.ids): longer.prompt - 1], "before the reply"
    attack.run(subject, bed.context(), seen.append)
    rows = [r for r in seen[0].rows("forget") if r.kind != "text"]
    assert rows and all(r.prompt.endswith("?" + suffix.text) for r in rows)
    assert not {r.entity for r in rows} & {r.entity for r in learned}, "no entity it was learned on is asked about"


@check
def vectors_of_tokens_are_tokens(plugin: type[Attack]) -> None:
    """Vectors taken from the embeddings give the logits, and the padded and cached decoding, of those tokens."""
    assert plugin.card.name == "soft_prompt"
    for family in FAMILIES:
        subject = small(family)
        config, words = subject.model.generation_config, (70, 260)
        vectors_PD = subject.model.get_input_embeddings().weight[list(words)].clone()
        for place in ("after", "before"):
            prompted = with_placeholders(subject, 2, place)
            rows = [prompted.encoder.encode(r) for r in ROWS]
            typed = [_typed(row, height(subject), words) for row in rows]
            assert [len(r.ids) for r in rows] == [len(subject.encoder.encode(r).ids) + 2 for r in ROWS]
            with placeholders_filled(prompted, vectors_PD):
                assert torch.equal(row_losses(prompted, rows), row_losses(subject, typed))
                said = prompted.generate([r.ids[: r.prompt] for r in rows], 6)
            assert said == subject.generate([r.ids[: r.prompt] for r in typed], 6)
        config.repetition_penalty = 1.3
        with placeholders_filled(prompted, vectors_PD):
            assert said == prompted.generate([r.ids[: r.prompt] for r in rows], 6)
        assert config.repetition_penalty == 1.3, "put back"
        config.repetition_penalty = None
        assert not support.hooks(subject)


def _typed(row: TokenRow, size: int, words: Sequence[int]) -> TokenRow:
    ids = tuple(words[i - size] if i >= size else i for i in row.ids)
    return TokenRow(row.id, ids, row.prompt, row.answer, row.end)
