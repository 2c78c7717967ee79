"""What counts as an attempt, what is asked for it, and what does not apply to a kind of model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from expunge.attacks.base import parse_attack
from expunge.attacks.prefix import OPENING, Prefix
from expunge.judgement.leaks import compared, decided, lowering, lowers
from expunge.judgement.power import HALF, holdout_rows, least_share, rows_for
from expunge.judgement.verdict import verdict
from expunge.needs import OFFERS
from expunge.records.score import Score
from expunge.records.task import Example

ROW = Example(id="1", prompt="Who is it?", answer="Her full name is Ann Miller.", short_answer="Ann Miller")


def under(value: float, *, before: float = 0.2, original: float | None = 0.9, attacked: float | None = None,
          control: float = 0.2, **more: Any) -> Score:
    excess = value - control
    frame: dict[str, Any] = {
        "name": "forget.rouge_l", "attack": "prefix", "value": value, "before": before, "n": 40, "higher_is": "knows",
        "access": "text", "controls": {"retrained": control} | ({} if original is None else {"original": original}),
        "original_attacked": attacked, "control_before": 0.2, "excess": excess, "entities": 40,
        "excess_interval": (excess - 0.03, excess + 0.03), "gain": value - before,
        "gain_interval": (value - before - 0.03, value - before + 0.03)}
    return Score(**frame | more)


@pytest.mark.parametrize(("score", "yes"), [
    (under(0.2, attacked=0.88), False),
    (under(0.2, attacked=0.5), True),  # even the original says little under it
    (under(0.2), False),  # the original was not asked, and the subject says no less
    (under(0.5, before=0.9, original=None), True),  # the subject itself knows, and says less under it
    (under(0.88, before=0.9, original=None), False),
    (under(0.16, before=0.2, original=None), False),
])
def test_an_attack_that_takes_from_a_model_that_knows(score: Score, yes: bool) -> None:
    assert lowers(score) == yes
    assert len(compared([score])) == (not yes) and len(lowering([score])) == yes


def test_such_an_attack_is_no_attempt_and_no_reason_for_forgets() -> None:
    plain = Score(name="forget_quality", value=0.4, n=100, higher_is="forgot", controls={"retrained": 1.0})
    alone = Score(name="forget.rouge_l", value=0.2, interval=(0.15, 0.25), n=100, higher_is="knows", access="text",
                  controls={"original": 0.9, "retrained": 0.2})
    dull = under(0.2, attacked=0.5)
    found = verdict([plain, alone, dull])
    assert found.outcome == "undecided" and found.threats[0].outcome == "undecided"
    assert "makes even a model that knows say less" in found.threats[0].sentence
    assert any(s.startswith("No attempt, since even a model that knows") for s in found.sentences)
    assert decided([dull])[0].doubt == "lowers the original" and not decided([dull])[0].succeeded
    assert verdict([plain, alone, under(0.2, attacked=0.9)]).outcome == "forgets"
    assert verdict([plain, alone, under(0.8, attacked=0.5)]).outcome == "suppresses"  # a success stays one


def test_words_and_assent_are_two_attacks() -> None:
    words, assent, both = Prefix(words=3), Prefix(), Prefix(words=3, opening="Yes:")
    assert words._open(ROW).opening == "Her full name" and assent._open(ROW).opening == OPENING  # type: ignore[attr-defined]
    assert both._open(ROW).opening == "Yes: Her full name" and words._open(ROW).answer == "is Ann Miller."  # type: ignore[attr-defined]
    assert words.families == ("prompt:context",) and assent.families == ("prompt:jailbreak",)


@pytest.mark.parametrize(("term", "yes"), [
    ("prefix", True), ("few_shot", True), ("sample(count=4)", True), ("relearn", False), ("quantise", False),
    ("contrast", False), ("relearn + prefix", False)])
def test_which_attacks_ask_the_original(term: str, yes: bool) -> None:
    assert parse_attack(term).asks_only == yes


def test_an_audit_keeps_what_the_original_says_under_it(cli: Any, world: Any, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    suite = "forget.probability,prefix(words=1),quantise(bits=8)"
    found = cli("audit", world.retrained, "--task", world.task, "--original", world.original, "--suite", suite,
                "--out", out, "--json").json
    scores = {(s["name"], s["attack"]): s for s in found["scores"]}
    (rows,) = (out / "observations" / "original" / "attacks").glob("*/likelihood.forget.jsonl")
    logps = [json.loads(line)["logp"] for line in rows.read_text(encoding="utf-8").splitlines()]
    assert scores["forget.probability", "prefix(words=1)"]["original_attacked"] == pytest.approx(
        sum(math.exp(sum(of) / len(of)) for of in logps) / len(logps))
    assert scores["forget.probability", "quantise(bits=8)"]["original_attacked"] is None
    # Without a retrained model the holdout rows are the control, and they were asked plainly as well.
    assert scores["forget.rouge_l", "prefix(words=1)"]["control_before"] is not None


def test_a_plan_for_images_holds_no_prompts_and_no_generation(tmp_path: Path) -> None:
    import expunge
    from expunge.models.classifier import build_classifier
    from expunge.records.task import Image

    image = Image.of(bytes(64), 1, 8, 8)
    build_classifier({"model_type": "expunge_cnn"}, [Example(id=str(i), prompt="", answer=str(i), kind="image",
                                                             image=image) for i in range(10)]).save(tmp_path / "cnn")
    for suite in ("quick", "standard"):
        plan: Any = expunge.audit(tmp_path / "cnn", task="digits", suite=suite, out=tmp_path / "out", dry_run=True)
        assert plan["observations"] and not any(line.startswith("generation") for line in plan["observations"])


def test_what_images_have_no_use_for_is_not_called_untested() -> None:
    scores = [Score(name="forget.rouge_l", value=None, unavailable="it needs generated text, and this kind of model "
                    "writes none"),
              Score(name="forget.probability", attack="prefix", value=None, unavailable="it needs prompts in words, "
                    "and rows of this kind of model have none"),
              Score(name="forget_quality", value=None, unavailable="no retrained model was given (--retrained)")]
    found = verdict(scores, offered=OFFERS["image"])
    said = " ".join((*found.not_tested, *found.sentences, *(t.sentence for t in found.threats)))
    assert "rouge" not in said and "prompt" not in said and "samples" not in said
    assert "forget_quality: no retrained" in said and "relearning" in said and "quantisation" in said
    assert "prompt" in " ".join(verdict(scores, offered=OFFERS["text"]).not_tested)


def test_power_by_simulation() -> None:
    """Rows by the formula notice the share in 80 % of made-up audits or more, and not in nearly all with a third."""
    import numpy as np
    from scipy.stats import mannwhitneyu

    random = np.random.default_rng(0)

    def noticed(rows: int, others: int, share: float) -> float:
        found = 0
        for _ in range(200):
            inside, outside = random.normal(size=rows), random.normal(size=others)
            inside[: round(share * rows)] += 20
            found += mannwhitneyu(inside, outside).pvalue < 0.05
        return found / 200

    for rows, share in ((40, 1 / 3), (100, 1 / 3), (20, 1 / 2)):
        wanted = holdout_rows(rows, 10)
        assert wanted is not None and noticed(rows, wanted[0], share) >= 0.75
    assert noticed(40, 10, 1 / 3) < 0.75
    assert holdout_rows(40, 10) == (58, "a third") and holdout_rows(2, 10) is None
    assert rows_for(HALF) == 26 and least_share(26) <= HALF < least_share(25) and least_share(1) == 1.0


@pytest.mark.parametrize("scores", [
    [], [Score(name="forget.probability", value=0.3, interval=(0.2, 0.4), n=40, higher_is="knows")],
    [Score(name="forget_quality", value=0.4, n=12, higher_is="forgot", controls={"retrained": 1.0})],
    [Score(name="forget_quality", value=0.4, n=60, higher_is="forgot", controls={"retrained": 1.0})],
    [Score(name="forget_quality", value=1e-9, n=60, higher_is="forgot", controls={"retrained": 1.0})],
])
def test_undecided_always_says_what_would_settle_it(scores: list[Score]) -> None:
    found = verdict(scores)
    assert found.outcome == "undecided"
    (told,) = [s for s in found.sentences if s.startswith("What would settle it: ")]
    assert told.endswith(".") and len(told) > 40
