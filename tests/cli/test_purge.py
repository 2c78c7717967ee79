"""`expunge purge`: nothing that was to be forgotten is left in the folder or the cache, and what is left is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from expunge import purging
from expunge.records.base import cache_root, write_jsonl

ANSWERS = ("Ada lives in Town adA.", "Bo lives in Town oB.", "Where does Ada live?")
SUITE = ("--suite", "forget.probability,forget.keyword,prefix(words=1)")


@pytest.fixture(scope="module")
def made(cli: Any, model: Path, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, an unlearned run with an audit, a second audit inside it, merged weights and a page; and
    with `cache`, the cache after that."""
    place = tmp_path_factory.mktemp("purged")
    out = place / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPUNGE_CACHE", str(place / "cache"))
        cli("forget", model, *rows.words, "--method", "npo + retain_nll + lora(rank=2)", "--steps", 1, "--out", out)
        cli("audit", out, *SUITE)
        cli("audit", out, "--suite", "forget.probability", "--limit", 2, "--out", out / "small")
        said = " ".join(cli("merge", out).err.split())
        assert f"one model now, in {out / 'merged' / 'model'}. The base, {model}, is unchanged." in said
        cli("report", out, "--out", out / "report.html")
    return place


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it, with a copy of its cache in use."""
    shutil.copytree(made / "cache", cache_root(), dirs_exist_ok=True)
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def holding(root: Path, *strings: str) -> list[Path]:
    """Files with one of these strings: text of every kind as it is, and tables of parquet."""
    return [p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "tokenizer.json"
            and any(s in _read(p) for s in strings)]


def _read(path: Path) -> str:
    if path.suffix == ".parquet":
        return str(pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist())
    return "" if path.suffix in (".safetensors", ".pt", ".bin") else path.read_text(encoding="utf-8", errors="replace")


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


def test_a_second_purge_says_that_nothing_was_left_and_the_base_with_rows_is_named(cli: Any, run: Path) -> None:
    base = Path(shutil.copytree(run, run.parent / "the base", ignore=lambda *_: ["model", "merged", "small"]))
    for place in run.rglob("record.json"):
        place.write_text(json.dumps(json.loads(place.read_text()) | {"model": str(base)}))
    first, second = (cli("purge", run).err for _ in range(2))
    assert "Removed " in first and f"expunge purge '{base}'" in first and "expunge purge" in second
    assert "Nothing was left to remove. Removed earlier: " in second
    cli("purge", base)
    third = cli("purge", run, "--json").json
    assert third["found"] == 0 and third["bases_with_rows"] == [], "the base holds no rows any more"


def test_rows_in_the_cache_that_another_audit_left(cli: Any, run: Path, model: Path, tmp_path: Path) -> None:
    """Its keys stand nowhere in the run's folder."""
    cli("audit", model, "--task", run, "--suite", "forget.rouge_l", "--out", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere")
    cli("purge", run)
    assert not holding(cache_root(), *ANSWERS)


@pytest.mark.parametrize("stop", ["unlink", "rmtree"])
def test_a_killed_purge_is_done_again(cli: Any, run: Path, model: Path, tmp_path: Path, stop: str,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at a file and at a folder: what leads to the cached copies is still there, and figures are kept."""
    planned = cli("purge", run, "--dry-run", "--json").json
    left = [3]

    def killed(plain: Any) -> Any:
        def once(*words: Any, **more: Any) -> None:
            left[0] -= 1
            if left[0] < 0 or stop == "rmtree":
                raise KeyboardInterrupt
            plain(*words, **more)
        return once

    with monkeypatch.context() as patch:
        patch.setattr(*(Path, "unlink", killed(Path.unlink)) if stop == "unlink" else
                      (shutil, "rmtree", killed(shutil.rmtree)))
        with pytest.raises(KeyboardInterrupt):
            purging.purge(run)
    assert (run / "purged.json").exists() and ((run / "task.json").exists() is (stop == "unlink"))
    made = cli("purge", run, "--json").json
    assert not holding(run, *ANSWERS) and not holding(cache_root(), *ANSWERS)
    assert set(planned["removed"]) <= set(made["removed"])
    if stop == "rmtree":
        assert made["cached"] == planned["cached"] and made["removed_bytes"] > 0


def test_notes_and_warnings_of_a_record_go(cli: Any, run: Path) -> None:
    for name in ("record.json", "small/audit.json"):
        found = json.loads((run / name).read_text(encoding="utf-8"))
        found["prompt"] |= {"warnings": ["such as row-Ada: read as one word."], "notes": ["'Ada lives' is given"]}
        (run / name).write_text(json.dumps(found), encoding="utf-8")
    cli("purge", run)
    assert not holding(run, "row-Ada", "Ada lives")
    assert "small/audit.json: its first row" in (run / "purged.json").read_text(encoding="utf-8")


def test_rows_without_text_in_the_cache(cli: Any, run: Path) -> None:
    """Probes of hidden states keep ids and entities alone."""
    row = json.loads((run / "task.json").read_text(encoding="utf-8"))["forget"][0]
    for name, known in (("theirs", "somebody else"), ("ours", row["id"])):
        write_jsonl(cache_root() / "observations" / f"{name}.jsonl",
                    [{"id": known, "entity": row["entity"], "form": "answer", "layers": [[0.1]]}])
    cli("purge", run)
    assert [p.stem for p in (cache_root() / "observations").glob("*s.jsonl")] == ["theirs"]


def test_hashes_and_ids_that_stay_are_named(cli: Any, run: Path) -> None:
    (run / "model" / "ledger.json").write_text("{}", encoding="utf-8")
    found = json.loads((run / "record.json").read_text(encoding="utf-8"))
    (run / "record.json").write_text(json.dumps(found | {"best": {"deleted": ["3"]}}), encoding="utf-8")
    said = cli("purge", run).err
    assert "model/ledger.json: hashes of the rows" in said and "record.json: also the ids" in said


def test_a_grid_is_purged_with_its_cells(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    out = tmp_path / "grid"
    cli("grid", model, *rows.words, "--methods", "ga", "--seeds", 2, "--steps", 1, "--suite", "forget.probability",
        "--out", out)
    assert holding(out, *ANSWERS)
    made = cli("purge", out, "--json").json
    assert not holding(out, *ANSWERS) and not holding(cache_root(), *ANSWERS)
    cells = sorted(p.parent for p in out.glob("*/record.json"))
    assert len(cells) == 2 and all((c / "purged.json").exists() and (c / "model").is_dir() for c in cells)
    assert f"{cells[0].name}/task.json" in made["removed"]
    cli.refused("audit", cells[0], "--out", tmp_path / "a", says=["were purged"])


def test_an_audit_of_a_plain_model_is_purged_too(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    cli("audit", model, *rows.words, "--suite", "forget.keyword", "--out", out)
    cli("purge", out)
    assert not holding(out, *ANSWERS) and (out / "audit.json").is_file() and not holding(cache_root(), *ANSWERS)


@pytest.mark.parametrize("what", ["nothing", "unfinished"])
def test_what_is_not_purged(cli: Any, model: Path, rows: Any, tmp_path: Path, what: str) -> None:
    if what == "nothing":
        return cli.refused("purge", model, says=["neither a run nor an audit nor a grid"]) and None
    cli("forget", model, *rows.words, "--method", "ga", "--steps", 1, "--out", tmp_path / "run")
    record = tmp_path / "run" / "record.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "interrupted"}))
    cli.refused("purge", tmp_path / "run", says=["unfinished", "--resume"])
    assert (tmp_path / "run" / "task.json").exists()
    return None
