"""What attacks promise, on models that know, never knew, suppress or refuse (tests/attack_bed.py)."""

from __future__ import annotations

from typing import Any

from expunge.attacks.base import Attack, Sum
from expunge.judgement.leaks import leaks, needed
from expunge.models.subject import checksum

from .. import attack_bed as bed
from .. import support
from .base import check, invariant


@check(trains=True)
def keeps_the_contract(plugin: type[Attack], options: dict[str, Any] | None = None) -> None:
    """Subject untouched, same rows twice, same rows in other batches, views as announced, nothing global drawn from."""
    attack = plugin(**(options or {}))
    for model in ("suppressed", "original"):
        subject = bed.MODELS[model]()
        state, mode, marks = checksum(subject.model.state_dict()), subject.model.training, support.hooks(subject)
        names = [n for n, p in subject.model.named_parameters() if p.requires_grad]
        with support.same_random_state():
            first = bed.ask(attack, subject, limit=7)
            said = bed.ask(attack, subject, probes=("generation",), limit=5)
        assert tuple(first.rows) == attack.labels, "views are announced as they come"
        assert checksum(subject.model.state_dict()) == state and subject.model.training == mode
        assert support.hooks(subject) == marks
        assert names == [n for n, p in subject.model.named_parameters() if p.requires_grad]
    assert bed.ask(attack, subject, limit=7).rows == first.rows, "the same seed, the same rows"
    alone = bed.ask(attack, subject, probes=("generation",), probe_options={"batch_size": 2}, limit=5)
    assert alone.rows == said.rows, "batches change nothing"
    joined = Sum((attack, bed.made("prefix(words=1)")))
    assert tuple(bed.ask(joined, subject, limit=2).rows) == joined.labels, "it can be added to"
    assert plugin.card.asks and attack.cost(bed.context()) is not None


@check
def leaves_no_trace(plugin: type[Attack], options: dict[str, Any]) -> None:
    """At strength 0 every row is bit for bit what it is without the attack."""
    made = plugin(**options)
    for model in ("original", "suppressed"):
        subject = bed.MODELS[model]()
        for probe in ("likelihood", "generation"):
            for _, seen in bed.ask(made, subject, probes=(probe,), limit=6).pairs():
                assert [{k: v for k, v in r.items() if k != "attempt"} for r in seen.rows(probe, "forget")] == \
                    bed.plain(subject, probe, limit=6)


@check(trains=True)
def recovers(plugin: type[Attack], from_: str, options: dict[str, Any] | None = None,
             metric: str = "forget.probability", excess: float = 0.1, sure_gain: bool = True) -> None:
    """It brings something out of that model: more than of the retrained one by `excess`, and more than plain asking.

    Args:
        sure_gain: the interval of what it adds to plain asking lies above 0 too, which few entities may not allow.
    """
    score = bed.strongest(plugin(**(options or {})).text(), from_, metric)
    assert score.excess is not None and score.excess_interval is not None, score.unavailable
    assert score.gain is not None and score.gain_interval is not None
    assert score.excess > excess and score.excess_interval[0] > 0, score
    assert score.gain > 0 and (score.gain_interval[0] > 0 or not sure_gain), score


@check(trains=True)
def still_shows(plugin: type[Attack], from_: str, options: dict[str, Any] | None = None,
                metric: str = "forget.probability", excess: float = 0.1) -> None:
    """What that model shows without it is seen through it, if less clearly: more than of the retrained one."""
    score = bed.strongest(plugin(**(options or {})).text(), from_, metric)
    assert score.excess is not None and score.excess_interval is not None, score.unavailable
    assert score.excess > excess and score.excess_interval[0] > 0, score


@check(trains=True)
def finds_nothing(plugin: type[Attack], options: dict[str, Any] | None = None, metric: str = "forget.probability",
                  within: float = 0.12) -> None:
    """Of two models that never knew, neither looks as if it had, by any of the metrics that are taken under it."""
    attack = plugin(**(options or {}))
    every = {metric, *(m for m in attack.asks if m.startswith("forget."))}
    for model in ("retrained", "retrained again"):  # once for all metrics
        bed.under(attack.text(), model, bed.probes_of(*every))
    for score in bed.scored(attack.text(), "retrained again", metric):
        assert score.excess is not None and score.excess_interval is not None, score.unavailable
        assert score.excess_interval[0] <= 0 or score.excess < within, score
    for asked in sorted(every):
        for model, control in (("retrained", "retrained again"), ("retrained again", "retrained")):
            scores = bed.scored(attack.text(), model, asked, control)
            assert not leaks(scores)
            for score in scores:
                if score.gain is None or score.excess is None or not score.shows_knowledge:
                    continue
                # People are few here, so that a test of significance alone would excuse anything.
                assert min(score.excess, score.gain) < needed(score), score


@check(trains=True)
def points_are_shorter_attacks(plugin: type[Attack], steps: int, at: int) -> None:
    """A point of the curve is, bit for bit, the attack that ends there."""
    curve = bed.ask(plugin(steps=steps, at=[at]), bed.suppressed())
    alone = bed.ask(plugin(steps=at), bed.suppressed())
    assert len(curve.rows) == 2
    ((label, rows),) = alone.rows.items()
    assert curve.rows[label] == rows


@invariant("attack", trains=True)
def sees_what_the_original_knows(plugin: type[Attack]) -> None:
    """What it knows is seen through every attack; it is at its best already, so nothing can be gained.

    The other half, nothing on a second retrained model, is the promise `finds_nothing` of every card.
    """
    options: dict[str, Any] = next((p.args for p in plugin.must_show if p.check == "finds_nothing"), {})
    attack, metric = plugin(**options.get("options", {})), options.get("metric", "forget.probability")
    every = {metric, *(m for m in attack.asks if m.startswith("forget."))}
    bed.under(attack.text(), "retrained", bed.probes_of(*every))  # `finds_nothing` reads the rest of it
    score = bed.strongest(attack.text(), "original", metric)
    assert score.value is not None and score.excess is not None and score.excess_interval is not None
    if plugin.card.uses_original:  # the control gets the same knowledge, so its value is what there is to see
        assert score.value > 0.5
    else:
        assert score.excess > 0.1 and score.excess_interval[0] > 0, score
