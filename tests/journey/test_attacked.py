"""An audit with attacks, from the command line: killed, resumed, scored again, on a folder with nothing beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from expunge.models.language import CausalLM

SUITE = "forget.probability,forget.rouge_l,prefix(words=1),relearn(steps=4, rank=2, at=[2]),prefix(words=2)"


def command(world: Any, out: Path, *words: object) -> list[str]:
    return [str(w) for w in ("audit", world.original, "--task", world.task, "--retrained", world.retrained,
                             "--suite", SUITE, "--out", out, *words)]


def scores(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "audit.json").read_text())["scores"]
    return found


@pytest.fixture(scope="module")
def audited(cli: Any, world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attacked") / "audit"
    cli(*command(world, out))
    return out


def test_every_attack_is_scored_beside_its_control(audited: Path) -> None:
    under = [s for s in scores(audited) if s["attack"]]
    assert [s["attack"] for s in under if s["name"] == "forget.probability"] == [
        "prefix(words=1)", "relearn(steps=2, rank=2)", "relearn(steps=4, rank=2)", "prefix(words=2)"]
    for score in under:
        if score["name"].startswith("forget."):
            assert score["excess"] == pytest.approx(score["value"] - score["controls"]["retrained"], abs=1e-9)
            assert score["excess_interval"][0] <= score["excess"] <= score["excess_interval"][1]
            assert score["before"] is not None and set(score["controls"]) == {"retrained"}
    record = json.loads((audited / "audit.json").read_text())
    assert [a["term"] for a in record["attacks"]] == ["prefix(words=1)", "relearn(steps=4, at=[2], rank=2)",
                                                      "prefix(words=2)"]
    assert {a["access"] for a in record["attacks"]} == {"text", "weights"}


def test_killed_and_resumed(world: Any, cli: Any, audited: Path, tmp_path: Path, own_cache: Path) -> None:
    """After kill -9 nothing that was finished is asked again, and the scores are those of an unbroken audit."""
    out = tmp_path / "audit"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "EXPUNGE_CACHE": str(own_cache / "killed")}
    process = subprocess.Popen([sys.executable, "-m", "expunge.cli.main", *command(world, out)], env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list(out.glob("observations/subject/attacks/relearn*/*.jsonl")):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "audit.json").exists(), "it was through before it could be killed"
    done = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*.jsonl")}
    assert any("prefix" in str(p) for p in done)
    cli(*command(world, out, "--resume"))
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in done} == done, "a finished part was repeated"
    for old, new in zip(scores(audited), scores(out), strict=True):
        assert (new["name"], new["attack"]) == (old["name"], old["attack"])
        assert new["value"] == pytest.approx(old["value"], rel=1e-4, abs=1e-4)


def test_scored_again_without_a_model(cli: Any, audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("expunge.auditing.load_subject", refuse)
    monkeypatch.setattr(CausalLM, "answers", refuse)
    assert cli("audit", "--rescore", audited, "--json").json == scores(audited)


def test_a_plain_folder_with_forget_rows_alone(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """No task and no reference: what can be had is there, and each missing score says what it lacks."""
    out = tmp_path / "audit"
    cli("audit", model, "--forget", rows.forget, "--suite", f"scores,{SUITE}", "--out", out)
    found = scores(out)
    have = {(s["name"], s["attack"]) for s in found if s["value"] is not None}
    assert {("forget.probability", None), ("forget.probability", "prefix(words=1)"),
            ("forget.probability", "relearn(steps=4, rank=2)")} <= have
    assert all(s["unavailable"] for s in found if s["value"] is None)
    lacking = {s["name"]: s["unavailable"] for s in found if s["value"] is None}
    assert "retrained" in lacking["forget_quality"] and "holdout" in lacking["mia.loss"]
    assert all(s["excess"] is None for s in found), "there is no control to exceed"
    assert cli("audit", "--rescore", out, "--json").json == found


def strangers(folder: Path, **more: str) -> Path:
    """A file of holdout rows, enough to be a control."""
    file = folder / "holdout.jsonl"
    names = [f"Mx {i}" for i in range(24)]
    file.write_text("".join(json.dumps({"question": f"Where does {who} live?", "answer": f"{who} lives in Town {i}."}
                                       | more) + "\n" for i, who in enumerate(names)))
    return file


def test_holdout_rows_are_the_control_without_a_retrained_model(cli: Any, model: Path, rows: Any,
                                                               tmp_path: Path) -> None:
    out = tmp_path / "audit"
    cli("audit", model, "--forget", rows.forget, "--holdout", strangers(tmp_path), "--suite", SUITE, "--out", out)
    under = [s for s in scores(out) if s["attack"] and s["name"] == "forget.probability"]
    assert under and all(set(s["controls"]) == {"holdout"} for s in under)
    for score in under:  # a random model knows neither side
        assert score["excess"] == pytest.approx(score["value"] - score["controls"]["holdout"])
        assert abs(score["excess"]) < 0.01 and score["excess_interval"][0] <= score["excess"]
    assert cli("audit", "--rescore", out, "--json").json == scores(out)


def test_a_folder_used_before_is_scored_as_this_audit(cli: Any, world: Any, tmp_path: Path) -> None:
    """Rows of models and attacks that are no longer asked for are gone, and --rescore gives the very scores."""
    out = tmp_path / "audit"
    whole = command(world, out)
    cli(*whole, "--retrained", world.original)
    places = {p.name for p in (out / "observations").iterdir()}
    assert "retrained2" in places
    cli.refused(*whole, "--resume", "--suite", "prefix(words=1)", says=("not this one", "--overwrite"))
    cli.refused(*whole, "--resume", "--seed", 3, says=("another seed",))
    assert {p.name for p in (out / "observations").iterdir()} == places, "a refusal changes nothing"
    cli.refused(*whole, "--resume", says=("another number of retrained models",))
    (out / "audit.json").unlink()  # as if it had been interrupted
    cli(*whole, "--resume", "--suite", "forget.probability,prefix(words=1)")
    assert {p.name for p in (out / "observations").iterdir()} == places - {"retrained2"}
    assert [p.name[:14] for p in (out / "observations/subject/attacks").iterdir()] == ["prefix-words-1"]
    assert cli("audit", "--rescore", out, "--json").json == scores(out)


def test_one_holdout_person_is_no_control(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """Half of one person's rows cannot be learned and the other half asked; the audit says so and goes on."""
    out, one = tmp_path / "audit", strangers(tmp_path, entity="Ada")
    cli("audit", model, "--forget", rows.forget, "--holdout", one, "--suite",
        "relearn(steps=2),refusal_direction(against=neutral),soft_prompt(steps=2),prefix(words=1)", "--retain",
        rows.retain, "--out", out)
    found = {s["attack"]: s for s in scores(out) if s["name"] == "forget.probability"}
    assert found["prefix(words=1)"]["excess"] is not None
    for label in ("relearn(steps=2)", "refusal_direction(against='neutral')", "soft_prompt(steps=2)"):
        assert found[label]["excess"] is None and "holdout" in found[label]["uncontrolled"], found[label]


def test_a_prompt_that_grows_too_long_is_refused(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    template = tmp_path / "long.txt"
    template.write_text("Tell me. " * 400 + "{prompt}")
    out = tmp_path / "audit"
    cli("audit", model, *rows.words, "--suite", f"roleplay(templates=[], file='{template}'),prefix(words=1)", "--out",
        out)
    found = {s["attack"]: s for s in scores(out) if s["name"] == "forget.probability"}
    assert found["prefix(words=1)"]["value"] is not None
    assert "too long for a context" in next(v["unavailable"] for k, v in found.items() if k.startswith("roleplay"))


def test_what_cannot_run_says_so(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """One attack that does not fit loses no other."""
    out = tmp_path / "audit"
    cli("audit", model, "--forget", rows.forget, "--suite", "relearn(on=related),prefix(words=1)", "--out", out)
    found = {(s["name"], s["attack"]): s for s in scores(out)}
    assert "related" in found["forget.probability", "relearn(on='related')"]["unavailable"]
    assert found["forget.probability", "prefix(words=1)"]["value"] is not None


def test_the_cost_is_said_before(cli: Any, world: Any, tmp_path: Path) -> None:
    plan = cli(*command(world, tmp_path / "audit", "--dry-run", "--json")).json
    assert plan["attacks"]["relearn(steps=4, at=[2], rank=2)"].startswith("4 steps")
    assert not (tmp_path / "audit").exists()
    for wrong, says in (("relearm", "relearn"), ("relearn(stepz=3)", "steps"), ("relearn >> prefix", "joined by +")):
        cli.refused(*command(world, tmp_path / "audit")[:-4], "--suite", wrong, "--out", tmp_path / "a", says=(says,))
