"""The commands and options that others script against, and what each prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from expunge.cli.listing import PLURALS
from expunge.cli.main import app
from expunge.plugin import KINDS, METHODS
from expunge.registry import entries

TASK_OPTIONS = {"--task", "--forget", "--retain", "--map", "--data-dir", "--on-overlap", "--limit", "--max-length",
                "--template"}
LOOP_OPTIONS = {"--epochs", "--steps", "--lr", "--batch-size", "--accumulate", "--eval-every",
                "--gradient-checkpointing"}
RUN_OPTIONS = {"--out", "--seed", "--resume", "--overwrite", "--dry-run", "--json"}
FROZEN: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "demo": ((), {"--out", "--method", "--seed", "--verbose", "--json"}),
    "train": (("model",), TASK_OPTIONS | LOOP_OPTIONS | RUN_OPTIONS | {"--split", "--method", "--track", "--plugin"}),
    "forget": (("model",), TASK_OPTIONS | LOOP_OPTIONS | RUN_OPTIONS | {
        "--method", "--preset", "--holdout", "--keep", "--utility-floor", "--forget-target", "--stop-at-target",
        "--stop-at-floor", "--checkpoint-every", "--track", "--plugin", "--against", "--utility", "--risk",
        "--confidence", "--budget", "--cost"}),
    "audit": (("subject",), TASK_OPTIONS | RUN_OPTIONS | {
        "--holdout", "--original", "--retrained", "--suite", "--require", "--junit", "--rescore", "--verbose",
        "--plugin", "--api-key-file"}),
    "sweep": (("model",), TASK_OPTIONS - {"--max-length"} | RUN_OPTIONS | {
        "--method", "--holdout", "--retrained", "--trials", "--suite", "--epochs", "--steps", "--batch-size",
        "--plugin"}),
    "grid": (("model",), TASK_OPTIONS | LOOP_OPTIONS | RUN_OPTIONS - {"--seed"} | {
        "--methods", "--seeds", "--holdout", "--retrained", "--suite", "--jobs", "--keep", "--utility-floor",
        "--forget-target", "--stop-at-target", "--stop-at-floor", "--checkpoint-every", "--plugin"}),
    "bench": (("task",), LOOP_OPTIONS | RUN_OPTIONS - {"--seed", "--dry-run"} | {
        "--max-length", "--on-overlap", "--limit", "--template", "--data-dir", "--model", "--retrained",
        "--methods", "--seeds", "--trials", "--from", "--suite", "--jobs", "--keep",
        "--utility-floor", "--forget-target", "--stop-at-target", "--stop-at-floor", "--checkpoint-every", "--plugin"}),
    "compare": (("folders",), {"--format", "--scores", "--page", "--projection", "--redact", "--serve", "--port",
                                "--json"}),
    "serve": (("model",), {
        "--task", "--forget", "--retain", "--map", "--data-dir", "--plugin", "--guard", "--host", "--port",
        "--api-key-file", "--no-key", "--name", "--no-logprobs", "--log-prompts", "--rate", "--max-prompt",
        "--max-tokens", "--batch", "--queue", "--wait", "--drain"}),
    "shadows": (("model",), TASK_OPTIONS - {"--max-length"} | RUN_OPTIONS | {
        "--method", "--trainer", "--holdout", "--count", "--train-epochs", "--train-lr", "--epochs", "--lr",
        "--batch-size", "--plugin"}),
    "study": (("name", "model"), TASK_OPTIONS - {"--max-length"} | RUN_OPTIONS | {
        "--holdout", "--count", "--steps", "--epochs", "--lr", "--method", "--batch-size", "--plugin"}),
    "report": (("folders",), {"--out", "--title", "--redact", "--mail", "--json"}),
    "eval": (("model",), {"--tasks", "--original", "--include", "--limit", "--batch-size", "--seed", "--out",
                          "--overwrite", "--json"}),
    "purge": (("run",), {"--guards", "--dry-run", "--json"}),
    "certify": (("run",), {"--key", "--ledger", "--out", "--audit", "--request", "--new-key", "--days", "--revoke",
                           "--reason", "--json"}),
    "verify": (("certificate",), {"--model", "--ledger", "--key", "--keys", "--audit", "--rows", "--salt", "--map",
                                  "--rerun", "--json"}),
    "requests": ((), set()),
    "merge": (("run",), {"--out", "--overwrite", "--json"}),
    "ls": (("what",), {"--by", "--json", "--plugin"}),
    "presets": (("name",), {"--json"}),
    "explain": (("name",), {"--json", "--plugin"}),
    "doctor": ((), {"--plain", "--json", "--plugin"}),
    "fetch": (("name",), {"--json"}),
}
"""Command -> arguments and options. Adding one here is a decision; losing one breaks somebody's script."""


def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_the_commands_are_frozen() -> None:
    assert set(commands()) == set(FROZEN)


@pytest.mark.parametrize("name", FROZEN)
def test_the_options_are_frozen(name: str) -> None:
    parameters = commands()[name].params
    arguments = tuple(p.name for p in parameters if p.param_type_name == "argument")
    options = {o for p in parameters if p.param_type_name == "option" for o in p.opts}
    assert (arguments, options) == FROZEN[name]


@pytest.mark.parametrize("name", FROZEN)
def test_every_option_is_explained(cli: Any, name: str) -> None:
    assert all(p.help for p in commands()[name].params)
    assert cli(name, "--help").out


def test_help_names_the_exit_codes(cli: Any) -> None:
    assert ("0 ok, 1 a requirement does not hold, a cell of a grid or every trial of a sweep failed, 2 usage, "
            "3 preflight refused, 4 interrupted") in " ".join(cli("--help").out.split())


@pytest.mark.parametrize("words", [["nonsense"], ["forget"], ["forget", "m", "--method", "ga"],
                                   ["ls", "--nonsense"],
                                   ["forget", "m", "--method", "ga", "--out", "o", "--steps", "x"]])
def test_misuse_is_exit_code_2(cli: Any, words: list[str]) -> None:
    assert "Traceback" not in cli(*words, code=2).err


def test_the_console_script_and_the_module_answer() -> None:
    script = Path(sys.executable).with_name("expunge")
    for command in ([str(script)], [sys.executable, "-m", "expunge.cli.main"], [sys.executable, "-m", "expunge"]):
        done = subprocess.run([*command, "ls", "nonsense"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: There is nothing called 'nonsense' to list.")


# ls, explain, doctor


def test_ls_shows_everything_once(cli: Any) -> None:
    found = cli("ls", "--json").json
    names = [name for group, listed in found.items() if group != "suites" for name in listed]
    assert sorted(names) == sorted(entries())
    assert {"authors", "tofu"} <= found["tasks"].keys()
    text = cli("ls").out
    assert all(f"  {name} " in text or f"  {name}\n" in text for name in names)


@pytest.mark.parametrize("what", ["all", "methods", "suites", *PLURALS, *PLURALS.values()])
def test_ls_takes_every_group_in_both_numbers(cli: Any, what: str) -> None:
    found = cli("ls", what, "--json").json
    assert isinstance(found, dict)
    if what == "methods":
        assert set(found) <= {KINDS[kind].plural for kind in METHODS}


def test_ls_offers_the_nearest(cli: Any) -> None:
    cli.refused("ls", "objectivs", says=["objectivs", "Did you mean objectives"])


@pytest.mark.parametrize("name", sorted(entries()))
def test_explain_every_plugin(cli: Any, name: str) -> None:
    card = cli("explain", name, "--json").json
    assert card["name"] == name and card["summary"] and card["kind"] == entries()[name].kind
    text = cli("explain", name).out
    assert text.startswith(f"{name} ({card['kind']}): ")
    for option, about in card["options"].items():
        assert about["description"], f"{name}({option}=) is not described"
        assert f"{option} = " in text


def test_explain_offers_the_nearest(cli: Any) -> None:
    cli.refused("explain", "simpno", says=["simpno", "Did you mean simnpo"])


def test_doctor(cli: Any, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = cli("doctor", "--json").json
    assert found["problems"] == "none" and str(own_cache) in found["cache"] and int(found["plug-ins"]) > 20
    assert "problems" in cli("doctor").out
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "nowhere"))
    assert "nowhere is not a folder" in cli("doctor", "--json", code=3).json["problems"]
    monkeypatch.delenv("EXPUNGE_DATA")
    (tmp_path / "file").touch()
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot be written" in cli("doctor", "--json", code=3).json["problems"]


# --json and --dry-run


def test_json_and_dry_run(cli: Any, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdout is exactly one JSON document; a dry run leaves nothing behind, not even a folder."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    task = ("--task", world.task)
    plan = cli("train", world.config, *task, "--out", out, "--dry-run", "--json").json
    assert plan["recipe"] == "retain_nll" and plan["rows"]["forget"] == 20
    plan = cli("forget", world.original, *task, "--method", "npo + retain_kl", "--out", out, "--dry-run",
               "--steps", 7, "--json").json
    assert plan["steps"] == [7] and plan["rows"]["forget"] == 20
    assert plan["reference"] == ["cached states, or a frozen copy where they are larger"]
    assert plan["stages"][0]["npo"]["beta"] == 0.1
    plan = cli("audit", world.original, *task, "--out", out, "--suite", "quick", "--dry-run",
               "--json").json
    assert "forget_quality" in plan["terms"] and "likelihood on 20 forget rows" in plan["observations"]
    plan = cli("shadows", "--method", "npo", "--method", "ga", "--count", 4, "--out", out, "--dry-run", "--json").json
    assert (plan["schema"], plan["trainings"], plan["results"]) == ("expunge.shadows/1", 16, {})
    assert sorted(tmp_path.rglob("*")) == before

    record = cli("forget", world.original, *task, "--method", "npo", "--out", out, "--steps", 1, "--json")
    assert record.json["schema"] == "expunge.run/1" and record.err == ""
    assert json.loads((out / "record.json").read_text()) == record.json
    found = cli("audit", out, *task, "--suite", "forget.probability", "--json")
    assert found.json["schema"] == "expunge.audit/1" and found.err == ""
    assert json.loads((out / "audit.json").read_text()) == found.json
    scores = cli("audit", "--rescore", out, "--json").json
    assert scores == found.json["scores"]
    page = cli("report", out, "--out", tmp_path / "page.html", "--json").json
    assert Path(page["report"]).is_file()
    record = cli("train", world.config, *task, "--out", tmp_path / "t", "--steps", 1, "--json").json
    assert record["kind"] == "train" and record["status"] == "finished"


def test_limit_keeps_the_first_rows_of_every_split(cli: Any, world: Any, tmp_path: Path) -> None:
    plan = cli("forget", world.original, "--task", world.task, "--method", "ga", "--out", tmp_path / "out",
               "--limit", 3, "--dry-run", "--json").json
    assert set(plan["rows"].values()) == {3}


def test_map_reads_other_field_names(cli: Any, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "Who?", "a": "Ada."}\n', encoding="utf-8")
    plan = cli("forget", model, "--forget", path, "--map", "question=q,answer=a", "--method", "ga",
               "--out", tmp_path / "out", "--dry-run", "--json").json
    assert plan["rows"]["forget"] == 1
