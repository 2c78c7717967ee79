"""One attack or probe that raises costs its own scores alone; a killed audit goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.attacks.prefix import Prefix
from expunge.attacks.relearn import Relearn
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood

SUITE = "forget.probability,relearn(steps=2, at=[1], rank=2),prefix(words=1),quantise(bits=8)"
RELEARN = "relearn(steps=2, at=[1], rank=2)"


def command(model: Path, rows: Any, out: Path, *words: object) -> list[object]:
    return ["audit", model, *rows.words, "--suite", SUITE, "--out", out, *words]


def read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return found


def values(audit: dict[str, Any]) -> dict[tuple[str, str | None], float | None]:
    return {(s["name"], s["attack"]): s["value"] for s in audit["scores"]}


@pytest.fixture(scope="module")
def whole(cli: Any, model: Path, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "audit"
    cli(*command(model, rows, out))
    return read(out)


def out_of_memory(subject: Any) -> None:
    raise torch.OutOfMemoryError("tried to allocate 80 GiB\nand more lines")


def mark(subject: Any) -> None:
    with torch.no_grad():
        next(subject.model.parameters()).add_(1)
    raise RuntimeError("half done")


def leave_a_hook(subject: Any) -> None:
    subject.model.register_forward_pre_hook(lambda *a: None)
    raise KeyError("experts.0")


@pytest.mark.parametrize(("fault", "says"), [
    (out_of_memory, "OutOfMemoryError: tried to allocate 80 GiB"), (mark, "RuntimeError: half done"),
    (leave_a_hook, "KeyError: 'experts.0'")])
def test_all_others_are_scored(fault: Any, says: str, cli: Any, model: Path, rows: Any, tmp_path: Path,
                               whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relearn, "run", lambda self, subject, context, ask: fault(subject))
    said = cli(*command(model, rows, tmp_path / "a", "--verbose"))
    found = read(tmp_path / "a")
    for (name, attack), value in values(found).items():
        if (attack or "").startswith("relearn"):
            assert value is None
        else:
            assert value == pytest.approx(values(whole)[name, attack]), (name, attack)
    reasons = {s["unavailable"] for s in found["scores"] if (s["attack"] or "").startswith("relearn")}
    assert len(reasons) == 1 and f"it failed: {says}" in reasons.pop()
    failed = {a["term"]: a["failed"] for a in found["attacks"]}
    assert says in failed.pop(RELEARN) and set(failed.values()) == {None}
    # The verdict names it among what was not tested.
    assert any(RELEARN in line and says in line for line in found["verdict"]["not_tested"])
    assert says in said.out + said.err
    assert json.loads(cli("audit", "--rescore", tmp_path / "a", "--json").out) == found["scores"]
    cli("report", tmp_path / "a", "--out", tmp_path / "page.html")
    assert says.split("'")[0] in (tmp_path / "page.html").read_text()
    # The same audit again tries it again, and it alone.
    monkeypatch.undo()
    monkeypatch.setattr(Prefix, "run", lambda *a: pytest.fail("a finished part was repeated"))
    cli(*command(model, rows, tmp_path / "a", "--resume"))
    assert read(tmp_path / "a")["scores"] == whole["scores"]


def test_an_interrupt_is_no_failure(cli: Any, model: Path, rows: Any, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Prefix, "run", interrupt)
        said = cli(*command(model, rows, tmp_path / "a"), code=4)
    assert "--resume" in said.err and not (tmp_path / "a/audit.json").exists()
    monkeypatch.setattr(Likelihood, "count", lambda *a: pytest.fail("a finished part was asked again"))
    with pytest.raises(BaseException, match="asked again"):  # by the attack that was interrupted, not by what was done
        cli(*command(model, rows, tmp_path / "a", "--resume"))
    assert list((tmp_path / "a").glob("observations/subject/attacks/relearn*"))


@pytest.mark.parametrize("probe", [Generation, Likelihood])
def test_one_probe_that_fails(probe: Any, cli: Any, model: Path, rows: Any, tmp_path: Path,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise IndexError("a strange cache")

    monkeypatch.setattr(probe, "observe", fail)
    cli("audit", model, *rows.words, "--suite", "forget.probability,forget.rouge_l", "--out", tmp_path / "a")
    lost, kept = ("forget.rouge_l", "forget.probability")[:: 1 if probe is Generation else -1]
    found = {s["name"]: s for s in read(tmp_path / "a")["scores"]}
    assert "IndexError: a strange cache" in found[lost]["unavailable"] and found[kept]["value"] is not None
    monkeypatch.setattr(Generation, "observe", fail)
    monkeypatch.setattr(Likelihood, "observe", fail)
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "empty"))
    with pytest.raises(IndexError):  # nothing at all could be asked
        cli("audit", model, *rows.words, "--suite", "forget.probability,forget.rouge_l", "--out", tmp_path / "b")
