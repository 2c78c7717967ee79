"""The commands of four people, as they type them: a deletion request, a grid, a foreign model, a fresh install."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import question, write_rows

ROOT = Path(__file__).parents[2]
PEOPLE = ("Ada", "Bo", "Cy", "Di")
SOURCES = {".py", ".js", ".css", ".j2", ".jsonl", ".typed"}


def spreadsheet(path: Path) -> Path:
    """Rows as an office exports them: semicolons, and a byte-order mark."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, ["question", "answer"], delimiter=";")
        table.writeheader()
        table.writerows(question(who, f"Town {who[::-1]}") for who in PEOPLE)
    return path


def test_a_deletion_request(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """Own rows, a gate for a build server, a page to mail, whole weights, and the rows gone in the end."""
    run, page, junit = tmp_path / "run", tmp_path / "page.html", tmp_path / "gate.xml"
    cli("forget", model, "--forget", spreadsheet(tmp_path / "request.csv"), "--retain", rows.retain,
        "--holdout", rows.holdout, "--method", "npo + retain_kl + lora(rank=2)", "--lr", "1e-4", "--steps", 2,
        "--out", run)
    cli("audit", run, "--suite", "forget.probability,forget.keyword,prefix(words=1)",
        "--require", "forget.probability<=1", "--require", "verdict!=retains", "--junit", junit)
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    assert suite is not None and suite.get("tests") == "2" and suite.get("failures") == "0"
    cli("audit", run, "--require", "forget.probability<0", code=1)  # the finished audit is gated again, without work
    cli("report", run, "--mail", "--out", page)
    text = page.read_text(encoding="utf-8")
    assert not [who for who in PEOPLE if f"{who} lives" in text or f"does {who} live" in text]
    assert str(tmp_path) not in text
    cli("merge", run)
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(run / "merged" / "model")
    cli("purge", run)
    left = [p for p in run.rglob("*") if p.is_file() and p.suffix != ".safetensors" and p.name != "tokenizer.json"
            and (p.stem == "examples" or "Ada lives" in p.read_text(encoding="utf-8", errors="replace"))]
    assert not left


def test_a_grid(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """Methods, rates and seeds in one command, gone on with, compared in three formats, on one page."""
    out, words = tmp_path / "grid", ("--suite", "forget.probability,retain.probability", "--steps", 1)
    command = ("grid", model, *rows.words, "--methods", "ga, npo + retain_nll", "--lr", "1e-3", *words, "--out", out)
    cli(*command, "--seeds", 1)
    cells = {p: p.stat().st_mtime_ns for p in out.rglob("audit.json")}
    cli(*command, "--seeds", 2, "--resume")
    after = {p: p.stat().st_mtime_ns for p in out.rglob("audit.json")}
    assert len(cells) == 2 and len(after) == 4 and cells.items() <= after.items(), "finished cells stay as they are"
    assert "npo + retain_nll" in cli("compare", out).out
    assert len(list(csv.DictReader(cli("compare", out, "--format", "csv").out.splitlines()))) >= 2
    assert r"\begin{tabular}" in cli("compare", out, "--format", "latex").out
    json.loads(cli("compare", out, "--format", "json").out)
    cli("report", out, "--out", tmp_path / "grid.html")
    assert "npo + retain_nll" in (tmp_path / "grid.html").read_text(encoding="utf-8")


def test_a_foreign_model(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """An auditor has a model and a file; the model never saw the rows, so nothing may be claimed."""
    alone = cli("audit", model, "--forget", rows.forget, "--suite", "quick", "--out", tmp_path / "alone", "--json").json
    assert alone["verdict"]["outcome"] == "undecided"
    beside = cli("audit", model, "--forget", rows.forget, "--holdout", rows.holdout, "--suite", "quick",
                 "--out", tmp_path / "beside", "--json").json
    assert beside["verdict"]["outcome"] == "undecided"


@pytest.mark.slow
def test_a_wheel_elsewhere(tmp_path: Path) -> None:
    """What the wheel holds is enough: every command lists, explains and reports from it, with the tree out of sight."""
    built = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
                           capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("expunge-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        inside = [entry for entry in opened.infolist() if ".dist-info/" not in entry.filename]
    # Sources alone. The bound on the whole wheel grows with the plug-ins; that on a file does not.
    assert {Path(entry.filename).suffix for entry in inside} <= SOURCES
    assert max(entry.file_size for entry in inside) < 30_000 and wheel.stat().st_size < 2_000_000
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "site", wheel]
    subprocess.run(install, check=True)
    write_rows(tmp_path / "forget.jsonl", [question(who, "Rome") for who in PEOPLE])
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "EXPUNGE_CACHE": str(tmp_path / "cache")}

    def expunge(*words: object) -> str:
        done = subprocess.run([sys.executable, "-P", "-m", "expunge", *map(str, words)], cwd=tmp_path, env=env,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    find = [sys.executable, "-P", "-c", "import expunge; print(expunge.__file__)"]
    where = subprocess.run(find, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
    assert str(tmp_path / "site") in where
    assert "npo" in expunge("ls") and "arXiv" in expunge("explain", "npo") and expunge("--version").strip()
    expunge("train", "tiny", "--task", "authors(forget=2,retain=6,holdout=2,neighbours=1)", "--steps", 2, "--out", "m")
    expunge("forget", "m", "--forget", "forget.jsonl", "--method", "ga", "--steps", 1, "--out", "run")
    expunge("audit", "run", "--suite", "forget.probability,prefix", "--out", "audit")
    expunge("report", "audit", "--out", "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000
