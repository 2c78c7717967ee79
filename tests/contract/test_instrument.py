"""Attacks as an instrument: doing nothing is no success, and options change what an attack needs."""

from __future__ import annotations

import pytest

from expunge.attacks.base import parse_attack
from expunge.errors import UsageError
from expunge.judgement.leaks import leaks
from expunge.testing import attack_bed as bed
from expunge.testing import checks  # noqa: F401  # more models to attack


@pytest.mark.parametrize("idle", ["prefix(opening='')", "quantise(bits=32)", "relearn(steps=0)"])
def test_doing_nothing_is_no_success(idle: str) -> None:
    """Even of models that show more than the control anyway."""
    for model in ("original", "refusing"):
        for score in bed.scored(idle, model, "forget.probability"):
            assert score.excess is not None and score.excess > 0.1 and abs(score.gain or 0.0) < 1e-6, score
            assert not leaks([score]) and not leaks([score.model_copy(update={"people": 1000, "floor": 0.0})])


def test_options_change_what_an_attack_needs_and_asks() -> None:
    assert [parse_attack(t).access for t in ("emphasis", "emphasis(on=subject)", "suffix(on=original)", "suffix",
                                             "extend", "extend(beams=1)", "prefix + quantise")] == [
        "text", "logits", "text", "gradients", "logits", "text", "weights"]
    assert "forget.pass_at_k(k=4)" in parse_attack("sample(count=4)").asks
    for wrong in ("relearn(at=[-1])", "soft_prompt(at=[-1])", "quantise(bits=5, backend=torchao)"):
        with pytest.raises(UsageError):
            parse_attack(wrong)
    with pytest.raises(UsageError, match="twice"):
        parse_attack("layer_skip(blocks=[0, -3])").run(bed.original(), bed.context(), lambda view: None)


def test_rows_are_filed_under_every_option() -> None:
    """A default that changes, or a raised version, is another attack, though its label stays."""
    short, curve = parse_attack("relearn(steps=5)"), parse_attack("relearn(at=[5])")
    assert parse_attack(curve.labels[0]).identity == short.identity != parse_attack("relearn(steps=6)").identity
    assert "48" in str(parse_attack("relearn").identity) and parse_attack("relearn").text() == "relearn"


def test_learned_rows_tell_nothing_of_tested_people() -> None:
    """Where a mentor was born is told of the pupil too."""
    context = bed.context()
    tested = {r.id for r in context.tested("forget")}
    held = [r for r in bed.task().forget if r.id not in tested]
    assert not any(tested & set(r.links) for r in context.learned)
    assert any(tested & set(r.links) for r in held) and len(context.learned) > 0.8 * len(held)
