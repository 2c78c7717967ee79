"""A run remembers its rows, says when it did not end, and what is printed as the next command can be pasted."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.records.run import RunRecord
from expunge.report.commands import run_command
from tests.conftest import write_rows

ONE = ("--suite", "forget.probability")


@pytest.fixture(scope="module")
def run(model: Path, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on files, in a folder whose name the shell would take apart."""
    from tests.conftest import Cli

    folder = tmp_path_factory.mktemp("remembered") / "a run; it's mine"
    Cli()("forget", model, *rows.words, "--method", "npo + retain_nll + lora(rank=2)", "--steps", 2, "--lr", "1e-3",
          "--out", folder, "--seed", 3)
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / run.name))


def next_command(text: str) -> list[str]:
    """The words of the line `Next: expunge ...`, as a shell reads them."""
    line, = (line for line in text.splitlines() if line.startswith("Next: expunge "))
    return [str(Path(word).expanduser()) if word.startswith("~") else word for word in shlex.split(line)[2:]]


def test_an_audit_of_a_run_needs_nothing_else(cli: Any, copy: Path, rows: Any) -> None:
    found = cli("audit", copy, *ONE, "--json").json
    with_files = cli("audit", copy, *rows.words, *ONE, "--out", copy.with_name("b"), "--json").json
    assert found["task_fingerprint"] == with_files["task_fingerprint"] and found["scores"] == with_files["scores"]
    assert found["notes"] == []
    again = expunge.audit(copy, suite="forget.probability", out=copy.with_name("c"))
    assert again.task_fingerprint == found["task_fingerprint"]  # type: ignore[union-attr]


def test_an_audit_scores_rows_as_long_as_the_run_trained_them(cli: Any, model: Path, tmp_path: Path) -> None:
    """Of an unlearned and of a trained model; another length may be given."""
    places = [write_rows(tmp_path / f"{side}.jsonl", [{"question": f"Who is {side}?", "answer": "one two three " * 12}])
              for side in ("forget", "retain")]
    files = ("--forget", places[0], "--retain", places[1])
    for verb, more in (("forget", ("--method", "ga")), ("train", ())):
        run = tmp_path / verb
        cli(verb, model, *files, *more, "--steps", 1, "--max-length", 24, "--out", run)
        made, same, other = (cli("audit", run, *files, *ONE, *length, "--out", tmp_path / f"{verb}-{number}",
                                 "--json").json
                             for number, length in enumerate(((), ("--max-length", 24), ("--max-length", 200))))
        assert made["settings"]["max_length"] == 24 and other["settings"]["max_length"] == 200
        assert made["scores"] == same["scores"] != other["scores"]


def test_another_model_is_asked_the_rows_of_a_run(cli: Any, copy: Path, model: Path, rows: Any,
                                                 tmp_path: Path) -> None:
    found = cli("audit", model, "--task", copy, *ONE, "--out", tmp_path / "a", "--json").json
    files = cli("audit", model, *rows.words, *ONE, "--out", tmp_path / "b", "--json").json
    assert found["scores"] == files["scores"]
    assert cli("audit", model, "--task", copy, "--limit", 2, *ONE, "--out", tmp_path / "c", "--json").json[
        "scores"][0]["n"] == 2


def test_other_rows_than_those_of_the_run_are_said(cli: Any, copy: Path, rows: Any, tmp_path: Path) -> None:
    swapped = ("--forget", rows.holdout, "--retain", rows.retain, "--holdout", rows.forget)
    said = cli("audit", copy, *swapped, *ONE, "--out", tmp_path / "a")
    assert "4 of the 4 forget rows of this audit are not among those that the run forgot" in said.err
    assert "4 of the 4 holdout rows of this audit are rows that the run was made with" in said.err
    kept = json.loads((tmp_path / "a" / "audit.json").read_text())["notes"]
    assert len(kept) == 2
    page = tmp_path / "page.html"
    cli("report", tmp_path / "a", "--out", page)
    assert kept[0] in page.read_text()
    (copy / "task.json").unlink()  # as in runs of earlier versions
    assert "by their fingerprints" in cli("audit", copy, *swapped, *ONE, "--out", tmp_path / "b").err


def test_a_part_of_the_rows_is_no_fault(cli: Any, copy: Path) -> None:
    assert cli("audit", copy, "--limit", 2, *ONE, "--json").json["notes"] == []


def test_the_next_commands_run(cli: Any, copy: Path, model: Path, rows: Any, tmp_path: Path) -> None:
    """From training to the page by nothing but pasting; two of them with a suite that takes no minutes."""
    said = cli("train", model, *rows.words[:4], "--steps", 1, "--out", tmp_path / "an original")
    words = next_command(said.err)
    said = cli(*words, "--steps", 1)
    words = next_command(said.err)
    assert words[0] == "audit"
    said = cli(*words, *ONE)
    words = next_command(said.out)
    assert words[0] == "report" and Path(cli(*words).out.strip()).is_file()


def test_an_adapter_is_said_to_sit_on_a_base_that_knows(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    words = ("forget", model, *rows.words, "--steps", 1, "--out")
    said = cli(*words, tmp_path / "adapter", "--method", "npo + retain_nll + lora(rank=2)").err
    assert "still knows the rows" in said and "expunge merge" in said
    assert "still knows" not in cli(*words, tmp_path / "full", "--method", "npo + retain_nll").err


def test_merged_weights_say_what_the_adapter_says(cli: Any, copy: Path, model: Path) -> None:
    from transformers import AutoModelForCausalLM

    made = Path(cli("merge", copy, "--json").json["path"])
    assert made == copy / "merged" and not (made / "model" / "adapter_config.json").exists()
    AutoModelForCausalLM.from_pretrained(made / "model")
    whole = cli("audit", made, *ONE, "--json").json
    apart = cli("audit", copy, *ONE, "--json").json
    base = cli("audit", model, "--task", copy, *ONE, "--out", copy.with_name("base"), "--json").json
    one, two, plain = (found["scores"][0]["value"] for found in (whole, apart, base))
    assert one == pytest.approx(two, rel=1e-4) and one != pytest.approx(plain, rel=1e-4)
    assert whole["original"]["path"] == apart["original"]["path"]
    cli.refused("merge", made, says=["nothing to merge", "whole"])
    cli.refused("merge", model, says=["nothing to merge"])
    cli.refused("merge", copy, says=["already exists"])


# Runs that did not end


def killed(run: Path, status: str, reason: str = "") -> Path:
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps(record | {"status": status, "reason": reason}))
    shutil.rmtree(run / "model")
    return run


@pytest.mark.parametrize(("status", "reason", "says"), [
    ("running", "", "killed, or still at work"), ("interrupted", "Interrupted at step 1.", "Interrupted at step 1"),
    ("failed", "Step 2: the loss is not finite.", "the loss is not finite")])
def test_an_unfinished_run_is_said_to_be_one_wherever_it_is_read(cli: Any, copy: Path, rows: Any, tmp_path: Path,
                                                               status: str, reason: str, says: str) -> None:
    killed(copy, status, reason)
    for words in (("audit", copy), ("audit", copy, *rows.words),
                  ("forget", copy, *rows.words, "--method", "ga", "--out", tmp_path / "on")):
        cli.refused(*words, says=["unfinished", says, "--resume"])
    page = tmp_path / "page.html"
    cli("report", copy, "--out", page)
    assert "This run is unfinished" in page.read_text() and "--resume" in page.read_text()
    listed = cli("ls", copy.parent)
    assert "unfinished" in " ".join(listed.out.split())
    found, = cli("ls", copy.parent, "--json").json
    assert found["status"] == f"unfinished ({found['status'].partition('(')[2].partition(')')[0]}), go on with --resume"
    assert says in found["status"]


def test_the_command_to_go_on_goes_on(cli: Any, copy: Path) -> None:
    killed(copy, "interrupted", "Interrupted.")
    found, = cli("ls", copy, "--json").json
    words = shlex.split(found["next"])[1:]
    cli(*words)
    assert RunRecord.read(copy / "record.json").unfinished == "" and (copy / "model").is_dir()
    found, = cli("ls", copy, "--json").json
    assert found["status"] == "finished" and found["next"].startswith("expunge audit ")


@pytest.mark.parametrize("words", [
    ("--method", "npo(beta=0.2) + retain_kl(weight=2)", "--keep", "last", "--epochs", 1.5, "--limit", 3),
    ("--method", "ga + adamw(lr=1e-4)", "--steps", 2, "--stop-at-floor", "--batch-size", 2),
    ("--method", "ssd"), ("--method", "ga >> npo + retain_nll", "--lr", "3e-4", "--steps", 1),
    ("--method", "npo", "--lr", "1.23456789e-05", "--utility-floor", "0.123456789", "--epochs", "0.12345678")])
def test_the_command_of_a_record_makes_the_same_run(cli: Any, model: Path, rows: Any, tmp_path: Path,
                                                   words: tuple[object, ...]) -> None:
    cli("forget", model, *rows.words, *words, "--out", tmp_path / "one", "--seed", 5)
    record = RunRecord.read(tmp_path / "one" / "record.json")
    typed = shlex.split(run_command(record, rows=tmp_path / "one", out=tmp_path / "two"))[1:]
    cli(*typed)
    again = RunRecord.read(tmp_path / "two" / "record.json")
    for name in ("recipe_full", "settings", "task_fingerprints", "model_fingerprint", "seed"):
        assert getattr(again, name) == getattr(record, name)


def test_ls_of_a_folder_without_runs(cli: Any, tmp_path: Path) -> None:
    cli.refused("ls", tmp_path, says=["holds no run, no audit and no grid"])


def test_ls_shows_audits_that_were_killed_and_rows_that_were_purged(cli: Any, copy: Path, model: Path) -> None:
    def listed() -> dict[str, Any]:
        return {Path(one["folder"]).name: one for one in cli("ls", copy.parent, "--json").json}

    apart = copy.with_name("apart")
    cli("audit", copy, *ONE)
    cli("audit", model, "--task", copy, *ONE, "--out", apart)
    assert [listed()[name]["status"] for name in (copy.name, "apart")] == ["finished", "audited"]
    for folder in (copy, apart):
        (folder / "audit.json").unlink()
    found = listed()
    assert "its audit is unfinished (killed" in found[copy.name]["status"] and found["apart"]["kind"] == "audit"
    assert found["apart"]["status"].startswith("unfinished (killed") and "--resume" in found["apart"]["next"]
    cli(*shlex.split(found[copy.name]["next"])[1:], *ONE)
    cli("purge", copy)
    assert "its rows were purged on 2" in listed()[copy.name]["status"]
    (copy / "audit.json").unlink()
    assert listed()[copy.name]["next"].endswith("--forget FILE")


def test_a_run_that_its_own_rule_ended_is_finished(copy: Path) -> None:
    """Earlier versions called it stopped, which reads like interrupted."""
    place = copy / "record.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"status": "stopped"}))
    assert RunRecord.read(place).status == "finished" and not RunRecord.read(place).unfinished


# Plans


def test_the_plan_of_a_training_can_be_read(cli: Any, world: Any, tmp_path: Path) -> None:
    words = ("train", world.config, "--task", world.task, "--out", tmp_path / "o", "--dry-run")
    said = cli(*words).out
    assert said.startswith("Nothing was run.") and "{" not in said.splitlines()[1]
    for name in ("recipe", "rows", "steps", "prompt"):
        assert f"\n  {name} " in said
    assert cli(*words, "--json").json["recipe"] == "retain_nll" and not (tmp_path / "o").exists()


def test_plans_of_forgetting_and_auditing_can_be_read(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    said = cli("forget", model, *rows.words, "--method", "npo", "--out", tmp_path / "o", "--dry-run").out
    assert said.startswith("Nothing was run.") and "\n  steps " in said and "{" not in said.splitlines()[1]
    words = ("audit", model, *rows.words, "--suite", "forget.probability,prefix(words=1)", "--out", tmp_path / "o",
             "--dry-run")
    said, plan = cli(*words).out, cli(*words, "--json").json
    assert said.startswith("Nothing was run.") and "\n  terms " in said and plan["observations"][0] in said
    assert all(f"{attack}: " in said for attack in plan["attacks"]) and not (tmp_path / "o").exists()


def test_without_retain_rows_the_utility_floor_is_said_to_be_empty(cli: Any, model: Path, rows: Any,
                                                                  tmp_path: Path) -> None:
    words = ("forget", model, "--forget", rows.forget, "--method", "npo", "--steps", 1)
    cli(*words, "--out", tmp_path / "a")
    assert any("no retain rows" in a for a in RunRecord.read(tmp_path / "a" / "record.json").alarms)
    plan = cli(*words, "--out", tmp_path / "b", "--dry-run", "--json").json
    assert any("no retain rows" in note for note in plan["notes"])
    plan = cli(*words, "--out", tmp_path / "b", "--dry-run", "--json", "--utility-floor", 0).json
    assert not any("no retain rows" in note for note in plan["notes"])
