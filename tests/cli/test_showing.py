"""An audit on the terminal: scores left alone and under attack stand apart, and many attacks stay readable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.cli.plans import show_forgotten
from expunge.cli.showing import FEW, WIDTH, carrying, column, report_command, show_audit, show_scores, shown_path
from expunge.console import Reporter
from expunge.demonstration import demo
from expunge.errors import ExpungeError, PreflightError, UsageError
from expunge.judgement.leaks import decided
from expunge.records.coverage import Coverage
from expunge.records.run import RunRecord
from expunge.records.score import Audit, Score, SubjectRef, Threat, Verdict


def under(attack: str, excess: float, name: str = "forget.rouge_l") -> Score:
    return Score(name=name, attack=attack, value=0.2 + excess, before=0.1, n=50, higher_is="knows", access="weights",
                 controls={"original": 0.9, "retrained": 0.2}, excess=excess,
                 excess_interval=(excess - 0.1, excess + 0.1), gain=excess,
                 gain_interval=(excess - 0.1, excess + 0.1), entities=50)


PLAIN = Score(name="forget.rouge_l", value=0.1, interval=(0.05, 0.15), n=100, controls={"retrained": 0.2})


def test_few_rows_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [Score(name=f"forget.{m}", attack="merge", value=None, unavailable="no original") for m in ("a", "b")]
    show_scores(decided([PLAIN, under("relearn", 0.4), under("prefix", 0.0), *failed]), Reporter())
    said = capsys.readouterr().out
    first, _, second = said.partition("under attack")
    assert "relearn" not in first and "0.050 .. 0.150" in first
    assert "prefix" in second and "0.300 .. 0.500" in second and "*" in second and "0.400" in second
    assert "1 of 2 comparisons succeeded (*): more came out" in said and "no excess" in second
    assert said.count("merge: not available, no original") == 1


def test_of_many_rows_the_strongest_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    many = [under(f"noise{i}", -0.01 * i) for i in range(FEW)]
    show_scores(decided([PLAIN, *many, under("relearn", 0.4)]), Reporter())
    said = capsys.readouterr().out
    assert said.index("relearn") < said.index("noise0 ") and f"noise{FEW - 1}" not in said
    assert f"1 of {FEW + 1} comparisons succeeded (*)" in said and "and in audit.json: 1 rows." in said
    show_scores(decided([PLAIN, *many, under("noise", 0.0)]), Reporter())
    said = capsys.readouterr().out
    assert "noise0" in said and f"0 of {FEW + 1} comparisons succeeded:" in said


THREATS = tuple(Threat(access=access, outcome="forgets", sentence="Nothing came out.")  # type: ignore[arg-type]
                for access in ("text", "logits", "gradients", "weights"))
LONG = "a sentence about what was seen and about what it does and does not say of the forget set"


def audit_of(*scores: Score, **verdict: Any) -> Audit:
    judged = Verdict(**{"outcome": "forgets", "sentences": ("It is gone.",)} | verdict)
    return Audit(task="t", task_fingerprint="f", subject=SubjectRef(path="m", fingerprint="x"), suite=(),
                 scores=decided(scores), verdict=judged)


def shown(capsys: pytest.CaptureFixture[str], audit: Audit, **options: Any) -> str:
    show_audit(audit, Reporter(), "runs/here", **options)
    return capsys.readouterr().out


def test_one_screen_holds_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    plain = [PLAIN.model_copy(update={"name": name}) for name in (
        "forget.probability", "forget.keyword", "forget.rouge_l", "forget_quality", "privleak", "mia.loss",
        "model_utility", "retain.probability")]
    attacked = [under(f"noise(layers=[{i}], amp=0.5)", 0.0) for i in range(20)] + [under("relearn(steps=16)", 0.4)]
    audit = audit_of(*plain, *attacked, outcome="undecided", sentences=(LONG * 6,), threats=THREATS,
                     not_tested=tuple(f"{LONG} {i}: why" for i in range(9)))
    said = shown(capsys, audit, page="runs/here/report.html", follow_up="expunge audit run --out more")
    lines = said.splitlines()
    assert len(lines) <= 25 - 6, "the demo's four notes stay above it, and a long command wraps once"
    assert all(len(line) <= WIDTH for line in lines)
    assert [s.name for s in carrying(audit.scores)] == [
        "forget.probability", "forget.keyword", "forget_quality", "privleak", "model_utility"]
    order = ("Verdict: undecided. ", "By access: text forgets", "forget.probability", "1 of 21 succeeded.",
             "Strongest (weights): relearn", "Not tested: ",
             "Page: runs/here/report.html", "Next: expunge audit run --out more")
    places = [" ".join(said.split()).index(part) for part in order]
    assert places == sorted(places)


def test_the_verdict_says_what_it_covers(capsys: pytest.CaptureFixture[str]) -> None:
    """The ways that nobody tried stand in the headline, once; what was asked for and failed has a line of its own."""
    ways = Coverage(brought_out=("relearning",), silent=("plain questions", "hints", "paraphrases", "rounding",
                    "hidden states"), untested=("jailbreaks", "many samples", "searched prompts"))
    audit = audit_of(*[PLAIN] * 6, under("relearn(steps=16)", 0.4), outcome="suppresses", scope=ways,
                     threats=THREATS, not_tested=("uds: no retrained model", "jailbreak prompts"))
    said = shown(capsys, audit)
    line = " ".join(said.split())
    assert line.startswith("Verdict: suppresses (found by relearning; nothing found by plain questions, hints, "
        "paraphrases, "
                           "rounding, hidden states; not tried: jailbreaks, many samples, searched prompts). Left ")
    assert "Could not be tested: uds." in said and "jailbreak prompts" not in line and len(said.splitlines()) <= 25 - 6
    few = Coverage(silent=("plain questions",), untested=("jailbreaks",))
    said = shown(capsys, audit_of(PLAIN, scope=few, not_tested=("jailbreak prompts",)))
    assert said.startswith("\nVerdict: forgets (nothing found by plain questions; not tried: jailbreaks). ")
    assert "ot be tested" not in said


def test_what_decided_is_among_the_figures() -> None:
    known = PLAIN.model_copy(update={"name": "forget.exact_memorization", "value": 0.9, "interval": (0.8, 1.0),
                                     "higher_is": "knows", "controls": {"original": 1.0, "retrained": 0.2}})
    others = [PLAIN.model_copy(update={"name": name}) for name in ("forget.probability", "forget.keyword")]
    assert [s.name for s in carrying([*others, known])] == ["forget.exact_memorization", "forget.probability"]


def test_an_attack_that_failed_says_at_what(capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, audit_of(PLAIN, under("prefix", 0.0)))
    assert "it does not count, since no more came out than of the control." in " ".join(said.split())
    said = shown(capsys, audit_of(PLAIN))
    assert "Attacks: none was run." in said and "Kept in runs/here (" in said
    assert "Next: expunge report runs/here --out runs/here/report.html" in said


def test_verbose_adds_scores_and_findings(capsys: pytest.CaptureFixture[str]) -> None:
    audit = audit_of(PLAIN, under("relearn", 0.4), threats=THREATS)
    brief, whole = shown(capsys, audit), shown(capsys, audit, verbose=True)
    assert "under attack" not in brief and "It is gone." not in brief
    assert "under attack" in whole and "  It is gone." in whole and "  text:      forgets. Nothing came out." in whole
    assert whole.index("It is gone.") < whole.index("Verdict: forgets. ")


def test_paths_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/ann")
    assert shown_path("/people/ann/a b/c") == "~/'a b/c'" and shown_path("runs/here") == "runs/here"
    assert report_command("my run") == "expunge report 'my run' --out 'my run/report.html'"


def test_what_is_missing_is_one_line_for_each_reason(capsys: pytest.CaptureFixture[str]) -> None:
    def without(name: str, why: str, attack: str | None = None) -> Score:
        return Score(name=name, attack=attack, value=None, unavailable=why)

    lost = [without(f"retain.{i}", "the task has no retain rows") for i in range(40)]
    lost += [without("mia.loss", "no holdout rows")]
    lost += [without("forget.rouge_l", "no control", f"a{i}") for i in range(9)]
    show_scores(decided([PLAIN, *lost]), Reporter())
    said = capsys.readouterr().out
    assert said.count("not available") == 3 and "retain.0, retain.1," in said and "a0, a1, a2" in said
    said = shown(capsys, audit_of(PLAIN, *lost))
    assert said.count("Not available, ") == 2 and "Attacks: none of 9 was run since no control." in said


def test_every_reason_why_no_attack_ran_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = ["no control"] * 16 + ["no holdout rows"] * 8 + ["no depth"] * 2 + ["no texts"]
    lost = [Score(name="forget.rouge_l", attack=f"a{i}", value=None, unavailable=why) for i, why in enumerate(reasons)]
    said = " ".join(shown(capsys, audit_of(PLAIN, *lost)).split())
    assert ("none of 27 was run: 16 since no control; 8 since no holdout rows; 3 for other reasons "
            "(--verbose).") in said


@pytest.mark.parametrize("count", [1, 3, 40])
def test_what_was_not_tested_is_cut_between_names(capsys: pytest.CaptureFixture[str], count: int) -> None:
    names = [f"relearn(at=[5, 15], steps={i}) + sample(count=4)" for i in range(count)]
    said = shown(capsys, audit_of(PLAIN, not_tested=tuple(f"{name}: why" for name in names)))
    line = " ".join(said[said.index("Not tested: "):said.index("Kept in")].split())
    kept = sum(name in line for name in names)
    more = f"; and {count - kept} more" if kept < count else ""
    assert line == f"Not tested: {'; '.join(names[:kept])}{more}." and kept >= min(count, 3)


@pytest.mark.parametrize(("start", "kept", "says"), [
    (8e-5, 8e-5, "there was nothing to forget"), (0.9, 0.9, "are still known"), (0.9, 0.1, "")])
def test_a_model_that_never_knew_the_rows_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, start: float,
                                                   kept: float, says: str) -> None:
    best = {"start": {"forget": start}, "kept": {"forget": kept}}
    for record in (RunRecord.model_construct(model="m", status="finished", best=best),
                   RunRecord.model_construct(model="m", status="finished", best=best, stages=({"best": best},))):
        show_forgotten(record, tmp_path, Reporter())
        said = " ".join(capsys.readouterr().err.split())
        assert says in said and said.count("warning") == bool(says)


@pytest.mark.parametrize(("kind", "name"), [("forget", "unlearned"), ("train", "subject"), (None, "subject")])
def test_a_model_that_nobody_unlearned_is_the_subject(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                                      kind: Any, name: str) -> None:
    audit = audit_of(PLAIN)
    if kind:
        made = RunRecord.model_construct(kind=kind)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunRecord, "read", classmethod(lambda cls, path: made))
            (tmp_path / "record.json").touch()
            assert column(audit.model_copy(update={"run": "record.json"}), tmp_path) == name
    show_audit(audit.model_copy(update={"run": "../moved/record.json"}), Reporter(), tmp_path)
    assert "subject" in capsys.readouterr().out


def test_the_demo_says_how_rows_are_put_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.detail("Prompt format: plain.")
    reporter.brief = True
    reporter.detail("Prompt format: again.")
    reporter.note("3/4 audit")
    said = capsys.readouterr().err
    assert "plain" in said and "again" not in said and "3/4 audit" in said


def test_the_demo_refuses_a_wrong_recipe_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.demonstration.trained_world", lambda *a, **k: pytest.fail("it trained"))
    with pytest.raises(UsageError, match="no plug-in called 'sdd'"):
        demo(tmp_path / "run", method="sdd >> distil")
    with pytest.raises(ExpungeError, match="batch-size"):
        demo(tmp_path / "run", batch_size=0)
    with pytest.raises(PreflightError, match="99"):
        demo(tmp_path / "run", method="npo + layers(index=99)")
