"""The switch for tricks, and a whole run and audit with all of them against none."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from expunge.models import fast
from expunge.models.fast import startup

WORDS = "forget.probability,retain.probability,forget.rouge_l,mia.min_k_pp,forget.truth_ratio"


@pytest.mark.parametrize(("value", "off"), [
    ("", set()), ("0", set()), ("1", set(fast.TRICKS)), ("late_head", {"late_head"}),
    ("fused_adamw, ended_rows", {"fused_adamw", "ended_rows"})])
def test_the_variable_is_read_at_call_time(value: str, off: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_process_wide", True)
    monkeypatch.setenv(fast.VARIABLE, value)
    assert {name for name in fast.TRICKS if not fast.enabled(name)} == off


def test_what_changes_the_process_is_off_in_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_process_wide", False)
    monkeypatch.delenv(fast.VARIABLE, raising=False)
    assert {name for name in fast.TRICKS if not fast.enabled(name)} == fast.PROCESS_WIDE
    with pytest.raises(KeyError):
        fast.enabled("magic")


def test_importing_expunge_changes_no_process(tmp_path: Path) -> None:
    code = ("import gc, os; import expunge.cli.main, expunge.api, expunge.models.load; assert gc.isenabled(); "
            "assert 'THP_MEM_ALLOC_ENABLE' not in os.environ")
    clean = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=clean)
    told = {}
    for plain in ("", "1"):
        found = subprocess.run([sys.executable, "-m", "expunge.cli.main", "doctor", "--plain", "--json"], check=True,
                               capture_output=True, text=True, env=clean | {fast.VARIABLE: plain})
        told[plain] = {name: value.split(":")[0] for name, value in json.loads(found.stdout).items()
                       if name in fast.TRICKS}
    assert told[""] == dict.fromkeys(fast.TRICKS, "on") and told["1"] == dict.fromkeys(fast.TRICKS, "off")


def test_the_collector_comes_back_as_it_was() -> None:
    assert gc.isenabled()
    startup.resume_garbage_collection()
    assert gc.isenabled(), "nothing was paused"
    startup.pause_garbage_collection()
    assert not gc.isenabled()
    startup.resume_garbage_collection()
    assert gc.isenabled()
    gc.disable()
    try:
        startup.pause_garbage_collection()
        startup.resume_garbage_collection()
        assert not gc.isenabled(), "the user had turned it off"
    finally:
        gc.enable()
        gc.unfreeze()


def test_every_trick_is_used_and_named_on_its_page() -> None:
    """A name that no code asks for switches nothing."""
    root = Path(fast.__file__).parents[2]
    text = "".join(path.read_text(encoding="utf-8") for path in root.rglob("*.py"))
    assert set(re.findall(r'\benabled\("(\w+)"\)', text)) == set(fast.TRICKS)
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| [A-Z]", page, re.MULTILINE) == list(fast.TRICKS)


def test_a_run_and_its_audit_give_the_same_numbers(cli: Any, model: Path, rows: Any, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trick, those of the command line included, against the plain computations."""
    found: dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]] = {}
    for name, plain in (("fast", ""), ("plain", "1")):
        monkeypatch.setattr(fast, "_process_wide", True)
        monkeypatch.setenv(fast.VARIABLE, plain)
        monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / f"cache-{name}"))
        out = tmp_path / name
        cli("forget", model, *rows.words, "--method", "npo + retain_kl", "--steps", 4, "--batch-size", 4,
            "--lr", "1e-3", "--keep", "last", "--out", out)
        audit = cli("audit", out, *rows.words, "--suite", WORDS, "--json").json
        scored = {score["name"]: score["value"] for score in audit["scores"] if score["value"] is not None}
        found[name] = load_file(out / "model" / "model.safetensors"), scored
    (quick, scores), (slow, expected) = found["fast"], found["plain"]
    before = load_file(model / "model.safetensors")
    assert max(float((quick[key] - before[key]).abs().max()) for key in before) > 1e-3, "it moved"
    for key in slow:
        torch.testing.assert_close(quick[key], slow[key], atol=1e-5, rtol=1e-4)
    assert len(scores) > 3 and scores == pytest.approx(expected, abs=1e-5)
