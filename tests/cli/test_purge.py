"""`expunge purge`: nothing that was to be forgotten is left in the folder or the cache, and what is left is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from expunge.records.base import cache_root

ANSWERS = ("Ada lives in Town adA.", "Bo lives in Town oB.", "Where does Ada live?")
SUITE = ("--suite", "forget.probability,forget.keyword,prefix(words=1)")


@pytest.fixture
def run(cli: Any, model: Path, rows: Any, tmp_path: Path) -> Path:
    """An unlearned run with an audit, a second audit inside it, merged weights and a page."""
    out = tmp_path / "run"
    cli("forget", model, *rows.words, "--method", "npo + retain_nll + lora(rank=2)", "--steps", 1, "--out", out)
    cli("audit", out, *SUITE)
    cli("audit", out, "--suite", "forget.probability", "--limit", 2, "--out", out / "small")
    cli("merge", out)
    cli("report", out, "--out", out / "report.html")
    return out


def holding(root: Path, *strings: str) -> list[Path]:
    """Files with one of these strings."""
    return [p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix in (".json", ".jsonl", ".html", ".md")
            and p.name != "tokenizer.json" and any(s in p.read_text(encoding="utf-8") for s in strings)]


def test_the_rows_are_gone_and_the_rest_is_named(cli: Any, run: Path) -> None:
    assert holding(run, *ANSWERS) and holding(cache_root(), *ANSWERS), "there was something to remove"
    before = {p.relative_to(run) for p in run.rglob("*")}
    planned = cli("purge", run, "--dry-run", "--json").json
    assert {p.relative_to(run) for p in run.rglob("*")} == before, "a dry run changes nothing"
    made = cli("purge", run, "--json").json
    assert made["removed"] == planned["removed"] and made["cached"] == planned["cached"] > 0
    assert not holding(run, *ANSWERS) and not holding(cache_root(), *ANSWERS)
    assert {"task.json", "observations", "report.html", "small/observations",
            "merged/task.json"} <= set(made["removed"])
    kept = {line.partition(":")[0] for line in made["kept"]}
    assert {"model", "record.json", "audit.json", "merged", "steps.jsonl"} <= kept
    assert json.loads((run / "purged.json").read_text())["removed"] == made["removed"]
    assert (run / "model" / "adapter_model.safetensors").is_file() and (run / "merged" / "model").is_dir()


def test_after_it_the_folder_is_still_read(cli: Any, run: Path, rows: Any, tmp_path: Path) -> None:
    cli("purge", run)
    cli.refused("audit", run, "--out", tmp_path / "a", says=["were purged", "--forget FILE"])
    page = tmp_path / "page.html"
    cli("report", run, "--out", page)
    assert "Its rows were purged on" in page.read_text()
    cli("audit", run, *rows.words, "--suite", "forget.probability", "--out", tmp_path / "b")
    again = cli("purge", run, "--json").json
    assert "task.json" in again["removed"], "what was removed before stays on the record"


def test_rows_in_the_cache_that_another_audit_left(cli: Any, run: Path, model: Path, tmp_path: Path) -> None:
    """Its keys stand nowhere in the run's folder."""
    cli("audit", model, "--task", run, "--suite", "forget.rouge_l", "--out", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere")
    cli("purge", run)
    assert not holding(cache_root(), *ANSWERS)


def test_an_audit_of_a_plain_model_is_purged_too(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    cli("audit", model, *rows.words, "--suite", "forget.keyword", "--out", out)
    cli("purge", out)
    assert not holding(out, *ANSWERS) and (out / "audit.json").is_file() and not holding(cache_root(), *ANSWERS)


@pytest.mark.parametrize("what", ["nothing", "unfinished"])
def test_what_is_not_purged(cli: Any, model: Path, rows: Any, tmp_path: Path, what: str) -> None:
    if what == "nothing":
        return cli.refused("purge", model, says=["neither a run nor an audit"]) and None
    cli("forget", model, *rows.words, "--method", "ga", "--steps", 1, "--out", tmp_path / "run")
    record = tmp_path / "run" / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "interrupted"}))
    cli.refused("purge", tmp_path / "run", says=["unfinished", "--resume"])
    assert (tmp_path / "run" / "task.json").exists()
    return None
