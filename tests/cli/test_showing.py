"""An audit on the terminal: scores left alone and under attack stand apart, and many attacks stay readable."""

from __future__ import annotations

import pytest

from expunge.cli.showing import FEW, show_audit, show_scores
from expunge.console import Reporter
from expunge.records.score import Audit, Score, SubjectRef, Threat, Verdict


def under(attack: str, excess: float, name: str = "forget.rouge_l") -> Score:
    return Score(name=name, attack=attack, value=0.2 + excess, before=0.1, n=50, higher_is="knows", access="weights",
                 controls={"original": 0.9, "retrained": 0.2}, excess=excess,
                 excess_interval=(excess - 0.1, excess + 0.1), gain=excess,
                 gain_interval=(excess - 0.1, excess + 0.1), entities=50)


PLAIN = Score(name="forget.rouge_l", value=0.1, interval=(0.05, 0.15), n=100, controls={"retrained": 0.2})


def test_few_rows_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [Score(name=f"forget.{m}", attack="merge", value=None, unavailable="no original") for m in ("a", "b")]
    show_scores([PLAIN, under("relearn", 0.4), under("prefix", 0.0), *failed], Reporter())
    said = capsys.readouterr().out
    first, _, second = said.partition("under attack")
    assert "relearn" not in first and "0.050 .. 0.150" in first
    assert "prefix" in second and "0.300 .. 0.500" in second and "*" in second and "0.400" in second
    assert "1 of 2 comparisons succeeded (*): more came out" in said and "no excess" in second
    assert said.count("merge: not available, no original") == 1


def test_of_many_rows_the_strongest_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    many = [under(f"noise{i}", -0.01 * i) for i in range(FEW)]
    show_scores([PLAIN, *many, under("relearn", 0.4)], Reporter())
    said = capsys.readouterr().out
    assert said.index("relearn") < said.index("noise0 ") and f"noise{FEW - 1}" not in said
    assert f"1 of {FEW + 1} comparisons succeeded (*)" in said and "and in audit.json: 1 rows." in said
    show_scores([PLAIN, *many, under("noise", 0.0)], Reporter())
    said = capsys.readouterr().out
    assert "noise0" in said and f"0 of {FEW + 1} comparisons succeeded:" in said


def test_without_attacks_nothing_is_added(capsys: pytest.CaptureFixture[str]) -> None:
    threat = Threat(access="text", outcome="forgets", sentence="Nothing came out.")
    audit = Audit(task="t", task_fingerprint="f", subject=SubjectRef(path="m", fingerprint="x"), suite=(),
                  scores=(PLAIN,), verdict=Verdict(outcome="forgets", sentences=("It is gone.",), threats=()))
    show_audit(audit, Reporter())
    said = capsys.readouterr().out
    assert "attack" not in said and "Verdict: forgets\n  It is gone." in said
    assert audit.verdict is not None
    judged = audit.verdict.model_copy(update={"threats": (threat,)})
    show_audit(audit.model_copy(update={"verdict": judged}), Reporter())
    assert "  text:      forgets. Nothing came out." in capsys.readouterr().out
