"""`--require`: what can be required, what is refused before the work, what fails, and the file for a build server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from safetensors.torch import load_file, save_file

import expunge
from expunge.errors import RequirementError, UsageError
from expunge.models.load import resolve
from expunge.records.requirement import parse_requirement
from expunge.records.score import Audit
from tests.conftest import write_rows

SUITE = "forget.probability,forget.keyword,retain.probability,prefix(words=1),relearn(steps=2,at=[1])"
SMALL = "forget.probability,prefix(words=1)"


@pytest.fixture(scope="module")
def audited(model: Path, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import Cli

    out = tmp_path_factory.mktemp("gate") / "audit"
    Cli()("audit", model, *rows.words, "--suite", SUITE, "--out", out, "--original", model)
    return out


@pytest.fixture
def stored(audited: Path) -> Audit:
    return Audit.read(audited / "audit.json")


@pytest.mark.parametrize(("text", "read"), [
    ("verdict=forgets", ("verdict", "=", "forgets", None, "value", None)),
    ("verdict != over-forgets", ("verdict", "!=", "over-forgets", None, "value", None)),
    ("verdict.weights!=retains", ("verdict", "!=", "retains", None, "value", "weights")),
    ("forget_quality>=0.05", ("forget_quality", ">=", 0.05, None, "value", None)),
    ("forget_quality(variant=legacy) > 1e-3", ("forget_quality(variant=legacy)", ">", 1e-3, None, "value", None)),
    ("forget.keyword@relearn<=.2", ("forget.keyword", "<=", 0.2, "relearn", "value", None)),
    ("forget.keyword@relearn(at=[5, 15]).excess<=0.05",
     ("forget.keyword", "<=", 0.05, "relearn(at=[5, 15])", "excess", None)),
    ("forget.keyword@noise(amp=0.5).recovered < 1", ("forget.keyword", "<", 1.0, "noise(amp=0.5)", "recovered", None)),
    ("forget.keyword@relearn(steps=1) + prefix.gain<1",
     ("forget.keyword", "<", 1.0, "relearn(steps=1) + prefix", "gain", None)),
    ("forget.probability@*.before>=0", ("forget.probability", ">=", 0.0, "*", "before", None))])
def test_what_can_be_required(text: str, read: tuple[Any, ...]) -> None:
    found = parse_requirement(text)
    assert (found.name, found.sign, found.bound, found.attack, found.figure, found.access) == read


@pytest.mark.parametrize(("text", "says"), [
    ("forget_quality", "is not a condition"), ("forget_quality=0.05", "is not a condition"),
    ("forget_quality>=--", "is not a condition"), ("a>=1e", "is not a condition"), (">=1", "is not a condition"),
    ("verdict>=forgets", "is not a condition"), ("verdict=0.05", "is not a condition"),
    ("forget.keyword<=low", "is not a condition"), ("verdict=forget", "Did you mean forgets"),
    ("forget_quality=>0.05", 'Write "forget_quality>=0.05"'), ("forget.keyword=<0.1", 'Write "forget.keyword<=0.1"'),
    ("verdict=!retains", 'Write "verdict!=retains"'), ("verdict<>retains", 'Write "verdict!=retains"'),
    ("forget.keyword@relearn.excess≤0.1", 'Write "forget.keyword@relearn.excess<=0.1"'),
    ("verdict=even if broken", "there is no verdict"), ("forget.keyword<=0.1 even if broken", "is not a condition"),
    ("verdict.weight=forgets", "Did you mean weights"), ("forget.keyword.excess<=0.05", "only under an attack"),
    ("forget.keyword@<=0.05", "No attack stands"), ("forget.keyword@relearn.exces<=0.05", "Did you mean excess")])
def test_what_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_requirement(text)


@pytest.mark.parametrize(("text", "says"), [
    ("forget_quality", "is not a condition"),
    ("forget.rouge_l<0.5", "no score called 'forget.rouge_l'"),
    ("forget.keywrd<0.5", "Did you mean forget.keyword"),
    ("forget.keyword@relearm<0.5", "Did you mean relearn"),
    ("forget.keyword@quantise<0.5", "runs no attack called 'quantise'"),
    ("retain.accuracy@relearn<0.5", "no score called 'retain.accuracy' under relearn"),
    ("durability<=0.05", "runs no quantise"),
    ("forget_quality>=0.05", "needs a retrained model")])
def test_what_cannot_be_had_is_refused_before_the_work(cli: Any, model: Path, rows: Any, tmp_path: Path, text: str,
                                                     says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, the exit code of a wrong request, and no model was loaded."""
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("expunge.auditing.load_subject", refuse)
    suite = SUITE + (",forget_quality" if "quality" in text else "")
    cli.refused("audit", model, *rows.words, "--suite", suite, "--out", tmp_path / "out", "--require", text,
                says=[says])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("suite", "text", "count", "says"), [
    ("standard", "verdict=forgets", 0, "only a comparison with a retrained model"),
    ("standard", "verdict.text=forgets", 0, "only a comparison with a retrained model"),
    ("standard", "verdict=forgets", 25, "25 forget rows are too few"),
    ("forget.probability,prefix", "verdict=forgets", 26, "does not take forget_quality"),
    ("forget.probability,prefix", "verdict.weights=forgets", 26, "does not take forget_quality"),
    ("scores", "verdict=forgets", 26, "runs no attack that"),
    ("forget_quality,interpolate", "verdict=forgets", 26, "runs no attack that"),  # there is no original
    ("forget_quality,prefix", "verdict.weights=forgets", 26, "runs no attack by weights"),
    ("forget_quality,prefix", "verdict.gradients=forgets", 26, "runs no attack by gradients"),
    ("forget_quality,prefix", "verdict=forgets", 26, ""), ("forget_quality,prefix", "verdict.text=forgets", 26, ""),
    ("forget_quality,prefix", "verdict.logits=forgets", 26, ""), ("prefix", "verdict.text=forgets", 26, ""),
    ("forget_quality,relearn(steps=1)", "verdict.weights=forgets", 26, ""),
    ("prefix", "verdict!=retains", 0, ""), ("prefix", "verdict!=forgets", 0, ""), ("scores", "verdict=retains", 0, "")])
def test_a_verdict_that_can_never_be_is_refused_before_the_work(cli: Any, model: Path, tmp_path: Path, suite: str,
                                                               text: str, count: int, says: str) -> None:
    """A count of rows says that there is a retrained model as well."""
    rows = write_rows(tmp_path / "rows.jsonl", [{"question": f"Who is number {i}?", "answer": f"It is N{i}."}
                                                for i in range(count or 30)])
    words = ("audit", model, "--forget", rows, "--suite", suite, "--out", tmp_path / "out", "--dry-run", "--require",
             text, *(("--retrained", model) if count else ()))
    cli.refused(*words, says=[says]) if says else cli(*words)


def test_few_rows_are_no_reason_where_power_is_measured(cli: Any, model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"question": f"Who is number {i}?", "answer": f"It is N{i}."}
                                                for i in range(12)])
    words = ("audit", model, "--forget", rows, "--suite", "forget_quality,prefix", "--out", tmp_path / "out",
             "--dry-run", "--retrained", model, "--require", "verdict=forgets")
    cli.refused(*words, says=["12 forget rows are too few"])
    cli(*words, "--original", model)
    by_text = (*words[:-1], "verdict.text=forgets", "--original", model)
    cli.refused(*by_text, says=["12 forget rows are too few"])  # power is measured on probabilities


def test_attacks_that_need_less_count_for_an_access(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    plan = cli("audit", model, *rows.words, "--suite", SMALL, "--out", tmp_path / "out", "--dry-run", "--json",
               "--require", "verdict.gradients!=retains").json
    assert plan["attacks"] and not (tmp_path / "out").exists(), "it is planned, and nothing is run"


def test_without_attacks_or_controls_little_can_be_required(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    words = ("audit", model, "--forget", rows.forget, "--out", tmp_path / "out", "--suite")
    for suite, text, says in (
            ("forget.probability", "verdict.weights!=retains", "runs no attack that weights allows"),
            ("prefix(words=1)", "forget.keyword@prefix.excess<=0.1", "has no control"),
            ("prefix(words=1)", "forget.keyword@prefix.recovered<=0.1", "no original model"),
            ("mia.loss", "mia.loss<=0.6", "needs holdout rows"),
            ("retain.probability,forget.probability", "retain.probability>=0.6", "the task has no retain rows"),
            ("interpolate", "forget.probability@interpolate<=1", "needs the original model")):
        cli.refused(*words, suite, "--require", text, says=[says])


def test_attacks_without_a_control_are_left_out_unless_named(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """Attacks that only a suite asks for are not run; a name, or a condition on them, asks for them."""
    words, left = ("audit", model, "--forget", rows.forget, "--suite"), "not run: there is no control, without which"
    beside = ("--out", tmp_path / "out", "--dry-run", "--json")

    def run(*more: object) -> list[str]:
        plan = cli(*words, *more, *beside).json
        count = sum(said.startswith(left) for said in plan["attacks"].values())
        assert any(f"so {count} attack" in note for note in plan["notes"]) == bool(count)
        return [attack for attack, said in plan["attacks"].items() if not said.startswith(left)]

    assert run("quick") == [] and run("quick,quantise") == ["quantise"]
    assert run("quick", "--require", "forget.keyword@prefix<=1") == ["prefix(words=3)"]
    assert len(run("quick", "--holdout", rows.holdout)) == len(run("quick", "--original", model)) == len(
        run("quick", "--retrained", model)) == 4
    cli.refused(*words, "quick", *beside[:3], "--require", "verdict.weights!=retains", says=["are left out"])
    assert run("quick", "--require", "verdict.text!=retains") == []


def test_what_was_left_out_stands_in_the_audit(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = cli("audit", model, "--forget", rows.forget, "--suite", "quick", "--out", out)
    assert "4 attacks of the suite could show nothing and will not be run" in said.err
    assert "Attacks: none of 4 was run since there is no control, without which" in " ".join(said.out.split())
    assert not (out / "observations/subject/attacks").exists()
    verdict = Audit.read(out).verdict
    left, = [line for line in (verdict.not_tested if verdict else ()) if "there is no control" in line]
    assert left.startswith("4 attacks (prefix(words=3), paraphrase, relearn(steps=16), quantise): ")
    assert "there is no control" in cli("audit", "--rescore", out, "--verbose").out
    cli("audit", model, "--forget", rows.forget, "--suite", "quick,prefix(words=3)", "--out", out, "--resume")
    assert Audit.read(out).score("forget.probability", "prefix(words=3)").value is not None  # type: ignore[union-attr]


def test_a_line_for_each_that_holds_and_each_that_fails(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    out, junit = tmp_path / "audit", tmp_path / "ci" / "report.xml"
    words = ("audit", model, *rows.words, "--out", out, "--suite", SMALL, "--junit", junit)
    good = ("forget.probability<=1", "forget.probability@prefix<=1", "verdict!=forgets")
    said = cli(*words, *(word for text in good for word in ("--require", text)))
    assert all(f"required: {text} holds" in said.err for text in good)
    said = cli(*words, "--resume", "--require", "forget.probability>=1", "--require", good[0],
               "--require", "verdict=suppresses", code=1)
    assert "required: forget.probability>=1 fails: forget.probability is" in said.err
    assert "required: verdict=suppresses fails: the verdict is undecided" in said.err and "holds" in said.err
    assert (out / "audit.json").exists()
    suite, = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    cases = {case.get("name"): case.find("failure") for case in suite}
    assert cases[good[0]] is None
    assert "which is not >= 1" in cases["forget.probability>=1"].get("message")  # type: ignore[union-attr]


def test_a_finished_audit_is_gated_without_a_model(cli: Any, audited: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(audited, tmp_path / "sent"))
    shutil.rmtree(folder / "observations")
    monkeypatch.setattr("expunge.auditing.load_subject", lambda *a, **k: 1 / 0)
    said = cli("audit", folder, "--require", "forget.probability<=1", "--junit", tmp_path / "j.xml")
    assert "forget.probability<=1 holds" in said.err and (tmp_path / "j.xml").exists()
    made = Audit.read(audited).created
    assert f"from the finished audit in {folder} of {made[:10]}" in said.err and "no longer" not in said.err
    said = cli("audit", folder, "--require", "forget.probability<=1", "--require", "verdict=retains", "--json", code=1)
    assert [check["holds"] for check in said.json["checks"]] == [True, False] and said.json["created"] == made
    assert "verdict=retains fails" in said.err
    cli("audit", folder, "--require", "verdict=suppresses", code=1)
    cli.refused("audit", folder, "--require", "forget.rouge_l<=1", says=["no score called 'forget.rouge_l'"])
    cli.refused("audit", folder, "--require", "forget.keyword@steer<=1", says=["no attack called 'steer'"])


def test_changed_weights_are_told(cli: Any, audited: Path, model: Path, tmp_path: Path) -> None:
    """By the weights themselves: a new date alone is no change."""
    folder = Path(shutil.copytree(audited, tmp_path / "run"))
    shutil.copytree(resolve(model), folder / "model")
    words = ("audit", folder, "--require", "forget.probability<=1")
    assert "no longer" not in cli(*words).err
    file = folder / "model" / "model.safetensors"
    weights = load_file(file)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, file, {"format": "pt"})
    assert "are no longer those of this audit" in cli(*words).err
    assert "no longer those" in cli(*words, "--json").json["warnings"][0]
    file.write_bytes(b"")
    assert "changed after its audit and cannot be read" in cli(*words).err


def test_a_report_that_cannot_be_is_refused_before_the_work(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    words = ("audit", model, *rows.words, "--suite", SMALL, "--out", tmp_path / "out", "--junit")
    good, file = ("--require", "forget.probability<=1"), tmp_path / "file"
    file.write_text("")
    cli.refused(*words, tmp_path / "k.xml", says=["--junit has nothing to report"])
    cli.refused(*words, tmp_path, *good, says=["It is a folder"])
    cli.refused(*words, file / "k.xml", *good, says=["cannot be written"])
    cli.refused(*words, file / "deep" / "k.xml", *good, says=["cannot be written"])
    assert not (tmp_path / "out").exists()


def test_junit_without_a_requirement_is_refused(cli: Any, audited: Path, tmp_path: Path) -> None:
    said = cli("audit", "--rescore", audited, "--junit", tmp_path / "k.xml", code=2)
    assert "--junit has nothing to report" in said.err and not (tmp_path / "k.xml").exists()


def test_every_strength_of_an_attack_must_hold(stored: Audit) -> None:
    found = {s.attack: s.value or 0.0 for s in stored.scores
             if s.name == "forget.probability" and (s.attack or "").startswith("relearn")}
    assert len(found) == 2
    between, weaker = sum(found.values()) / 2, min(found, key=lambda label: found[label])
    whole, low, high = stored.check(f"forget.probability@relearn<={between:.8g}",
                                    f"forget.probability@{weaker}<={between:.8g}",
                                    f"forget.probability@relearn>={between:.8g}")
    assert (whole.holds, low.holds, high.holds) == (False, True, False)
    assert "the worst of 2" in whole.found


@pytest.mark.parametrize(("text", "says"), [
    ("forget.keyword<=0.5", "not available"), ("durability<=1", "no precision was tried"),
    ("verdict=forgets", "the verdict is undecided"),
    ("verdict.gradients!=retains", "nothing was tested")])
def test_what_was_not_measured_never_holds(stored: Audit, text: str, says: str) -> None:
    scores = tuple(s.model_copy(update={"value": None, "unavailable": "gone"}) if s.name == "forget.keyword" else s
                   for s in stored.scores)
    threats = tuple(t.model_copy(update={"outcome": "not tested"}) for t in stored.verdict.threats)  # type: ignore[union-attr]
    verdict = stored.verdict.model_copy(update={"threats": threats})  # type: ignore[union-attr]
    found, = stored.model_copy(update={"scores": scores, "verdict": verdict}).check(text)
    assert not found.holds and says in found.found


ALARM = "The answers to forget rows read like word salad: 100% of them repeat themselves. Read them."


@pytest.fixture
def salad(audited: Path, tmp_path: Path) -> Path:
    """The folder of an audit whose model says word salad."""
    folder = Path(shutil.copytree(audited, tmp_path / "salad"))
    alarms = {"notes": ("Another.", ALARM), "broken": (ALARM,)}
    Audit.read(folder).model_copy(update=alarms).write(folder / "audit.json")
    return folder


@pytest.mark.parametrize("text", ["verdict!=retains", "verdict=undecided", "verdict.text!=retains"])
def test_a_verdict_on_word_salad_never_holds_unless_it_is_meant(stored: Audit, salad: Path, text: str) -> None:
    assert stored.check(text)[0].holds
    plain, waived, other = Audit.read(salad).check(text, text + " even if broken", "verdict=retains even if broken")
    assert not plain.holds and "the model is broken. The answers to forget rows read like word salad" in plain.found
    assert f'"{text} even if broken"' in plain.found
    assert waived.holds and not other.holds and stored.check(text + " even if broken")[0].holds


@pytest.mark.parametrize(("conditions", "counts", "kind"), [
    (["verdict!=retains", "forget.probability<=1"], ("3", "2", "0"), "failure"),
    (["verdict!=retains even if broken"], ("2", "0", "1"), "skipped"),
    (["forget.probability<=1"], ("2", "0", "1"), "skipped"),
    (["forget.probability<0"], ("2", "1", "1"), "skipped")])
def test_the_file_of_a_build_server_holds_the_alarm(cli: Any, salad: Path, tmp_path: Path, conditions: list[str],
                                                    counts: tuple[str, str, str], kind: str) -> None:
    junit, words = tmp_path / "j.xml", [word for text in conditions for word in ("--require", text)]
    said = cli("audit", salad, *words, "--junit", junit, code=int(counts[1] != "0"))
    assert f"warning: {ALARM}" in said.err
    suite, = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == counts
    found = next(case for case in suite.iter("testcase") if case.get("name") == "answers").find(kind)
    assert found is not None and found.get("message") == ALARM
    assert suite.findtext("system-out") == f"Another.\n{ALARM}"
    assert ALARM in cli("audit", salad, *words, "--json", code=int(counts[1] != "0")).json["warnings"]


def test_in_python(model: Path, rows: Any, tmp_path: Path) -> None:
    words: dict[str, Any] = {"forget": rows.forget, "holdout": rows.holdout, "suite": "forget.probability"}
    made = expunge.audit(model, out=tmp_path / "a", require=["forget.probability<=1"], **words)
    assert isinstance(made, Audit) and made.check("forget.probability<=1")[0].holds
    with pytest.raises(RequirementError, match=r"forget\.probability>=1 fails") as met:
        expunge.audit(model, out=tmp_path / "b", require=["forget.probability>=1"], **words)
    assert met.value.audit.scores == made.scores and met.value.exit_code == 1
    with pytest.raises(UsageError, match="no score called"):
        expunge.audit(model, out=tmp_path / "c", require=["forget.keyword<=1"], **words)
