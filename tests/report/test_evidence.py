"""Hand-worked values for what the charts draw."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from expunge.records.observation import Observations
from expunge.records.score import Verdict
from expunge.report import charts, evidence, text


def row(identity: str, form: str, index: int, logp: list[float]) -> dict:
    return {"id": identity, "form": form, "index": index, "logp": logp}


def test_truth_ratio_by_hand() -> None:
    observations = Observations(
        {
            ("likelihood", "forget"): [
                row("a", "paraphrase", 0, [math.log(0.5), math.log(0.5)]),
                row("a", "wrong", 0, [math.log(0.1)]),
                row("a", "wrong", 1, [math.log(0.4), math.log(0.1)]),
                row("b", "wrong", 0, [math.log(0.1)]),  # nothing right: left out
                row("c", "paraphrase", 0, []),
                row("c", "wrong", 0, [-1.0]),  # no tokens: left out
            ]
        }
    )
    assert evidence.truth_ratios(observations, "forget") == pytest.approx([(0.1 + 0.2) / 2 / 0.5])


def test_truth_ratio_survives_tiny_probabilities() -> None:
    observations = Observations(
        {("likelihood", "forget"): [row("a", "paraphrase", 0, [-2000.0]), row("a", "wrong", 0, [-2001.0])]}
    )
    assert evidence.truth_ratios(observations, "forget") == pytest.approx([math.exp(-1)])


def test_losses_are_nats_per_token() -> None:
    observations = Observations({("likelihood", "forget"): [row("a", "answer", 0, [-1.0, -2.0])]})
    assert evidence.losses(observations, "forget") == [1.5]
    assert evidence.losses(observations, "holdout") == []


def test_long_curves_are_averaged() -> None:
    (panel,) = evidence.panels([{"step": i, "loss": float(i)} for i in range(1, 601)])
    assert panel.bin == 2
    assert panel.series["loss"][0] == (1.5, 1.5)


def test_steps_that_restart_are_counted_by_line() -> None:
    (panel,) = evidence.panels([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 1, "loss": 1.0}])
    assert panel.series["loss"] == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]


def test_highlight_leaves_prompt_and_common_words() -> None:
    pieces = evidence.highlight(
        "Mara was born in Oslo.", "Mara Olsen was born in Oslo", "Where was Mara born?"
    )
    assert [piece for piece, known in pieces if known] == ["Oslo"]
    assert "".join(piece for piece, _ in pieces) == "Mara was born in Oslo."


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.1234, "0.123"),
        (-0.5, "−0.500"),
        (0.0, "0.000"),
        (2.1e-13, "2.1e−13"),
        (None, "–"),
        (123.45, "123.5"),
        (float("nan"), "not finite"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


def test_every_metric_name_is_explained_by_its_base() -> None:
    assert text.explain("forget.rouge_l") == text.METRICS["rouge_l"]
    assert text.explain("mia.loss") == text.METRICS["mia.loss"]
    assert text.explain("mia.unheard_of(k=0.2)") == text.METRICS["mia"]
    assert text.explain("unheard_of") == ""


def test_charts_of_one_point_and_of_equal_values_draw() -> None:
    spec = charts.forget_utility([charts.Point("A", "unlearned", 0.2, 0.2)], "x", "y", unit=False)
    assert "<svg" in charts.to_svg(spec, "a")
    assert "<svg" in charts.to_svg(
        charts.ecdf([charts.Line("original", "original", [1.0, 1.0])], "x", log=True), "b"
    )
    assert "<svg" in charts.to_svg(charts.curve("loss", {"loss": [(1.0, 2.0)]}), "c")


def test_labels_in_charts_are_escaped() -> None:
    svg = charts.to_svg(charts.curve('<script>"', {"<script>": [(1.0, 2.0)], "b": [(1.0, 1.0)]}), "d")
    assert "<script" not in svg


def test_truth_ratio_of_the_plain_answer_and_of_impossible_tokens() -> None:
    rows = [row("a", "answer", 0, [math.log(0.2)]), row("a", "wrong", 0, [math.log(0.1)])]
    rows += [row("b", "answer", 0, [-math.inf]), row("b", "wrong", 0, [-math.inf])]
    rows += [row("c", "answer", 0, [math.nan]), row("c", "wrong", 0, [-1.0])]
    observations = Observations({("likelihood", "forget"): rows})
    assert evidence.truth_ratios(observations, "forget") == pytest.approx([0.5, 1.0])


def test_truth_ratios_agree_with_the_metric() -> None:
    truth_ratio = pytest.importorskip("expunge.metrics.truth_ratio", reason="the metrics are not installed")
    from expunge.metrics.rows import by_example

    rows = [
        row("a", "answer", 0, [-1.0]),
        row("a", "paraphrase", 0, [-0.5, -1.5]),
        row("a", "wrong", 0, [-2.0]),
    ]
    rows += [row("a", "wrong", 1, [-3.0, -1.0]), row("b", "answer", 0, [-1.0]), row("b", "wrong", 0, [-0.5])]
    rows = [r | {"group": "", "correct": r["form"] != "wrong", "end": 1} for r in rows]
    expected = truth_ratio.log_truth_ratios(by_example(rows))
    found = evidence.truth_ratios(Observations({("likelihood", "forget"): rows}), "forget")
    assert [math.log(r) for r in found] == pytest.approx(list(expected.values()))


def test_every_outcome_has_a_headline() -> None:
    assert set(text.HEADLINES) == set(get_args(Verdict.model_fields["outcome"].annotation))
