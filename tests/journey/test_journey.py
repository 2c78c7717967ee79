"""From a config and a task to a page, through the command line, on a world small enough for seconds."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.models.language import CausalLM
from expunge.probes.generation import Generation
from expunge.probes.likelihood import Likelihood
from expunge.records.run import RunFolder, RunRecord
from expunge.records.score import Audit

METHOD = "npo + retain_kl"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(cli: Any, world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and audited run; nobody writes to it."""
    out = tmp_path_factory.mktemp("journey") / "run"
    cli("forget", world.original, "--task", world.task, "--method", METHOD, "--out", out, "--steps", 6, "--lr", "1e-3")
    cli("audit", out, "--task", world.task, "--retrained", world.retrained, "--suite", "scores")
    return out


def test_what_a_run_leaves(run: Path, world: Any) -> None:
    folder = RunFolder(run)
    assert {p.name for p in run.iterdir()} == {"audit.json", "examples.parquet", "model", "observations", "record.json",
                                             "steps.jsonl", "task.json"}
    record = RunRecord.read(folder.record)
    assert (record.schema_, record.kind, record.status) == ("expunge.run/1", "forget", "finished")
    assert record.recipe == METHOD and record.task == world.task
    assert record.recipe_full["0"]["npo"] == {"beta": 0.1, "ratio": "sum", "weight": 1.0}
    assert record.recipe_full["0"]["adamw"]["lr"] == 1e-3
    assert record.timing["steps"] == 6 and record.timing["tokens_per_s"] > 0 and record.peak_memory_bytes > 1e6
    assert record.reference["kind"] == "cached states" and record.reference["checksum"]
    assert record.best["kept"]["step"] in (3, 6) and "no checkpoint had 90%" in record.best["rule"]
    steps = lines(folder.steps)
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert all({"loss", "grad_norm", "lr", "seconds"} <= set(step) for step in steps)
    assert all(set(step["terms"]) == {"npo", "retain_kl"} for step in steps)
    assert -1 <= steps[0]["cosine"] <= 1 or steps[0]["cosine"] is None
    assert "npo + retain_kl" in (folder.model / "README.md").read_text(encoding="utf-8")
    assert (folder.model / "model.safetensors").is_file()


def test_what_an_audit_leaves(run: Path) -> None:
    audit = Audit.read(run / "audit.json")
    assert audit.schema_ == "expunge.audit/1" and audit.run == "record.json"
    assert audit.original and len(audit.retrained) == 1 and audit.verdict
    names = {score.name for score in audit.scores}
    assert {"forget_quality", "model_utility", "privleak", "forget.rouge_l", "mia.min_k_pp"} <= names
    for score in audit.scores:
        if score.name == "uds" and score.value is None:  # twins from different starts may not fit into each other
            assert "fit" in (score.unavailable or "")
            continue
        assert score.value is not None, f"{score.name}: {score.unavailable}"
        # The retrained model is the reference of one and the start of the distance of the other.
        alone = {"mia.reference", "weight_distance"}
        assert score.n > 0 and (set(score.controls) == {"original", "retrained"} or score.name in alone), score.name
    seen = {str(p.relative_to(run / "observations")) for p in (run / "observations").rglob("*.jsonl")}
    assert seen > {f"{role}/{probe}.{split}.jsonl" for role in ("subject", "original", "retrained")
                    for probe in ("likelihood", "generation")
                    for split in ("forget", "retain", "holdout", "neighbour", "utility")}


def test_the_run_changed_the_weights_and_says_so(run: Path, world: Any) -> None:
    from safetensors.torch import load_file

    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (world.original, run))
    assert set(before) == set(after) and any((before[name] != after[name]).any() for name in before)
    audit = Audit.read(run / "audit.json")
    assert audit.subject.fingerprint != audit.original.fingerprint  # type: ignore[union-attr]
    known = audit.score("forget.probability")
    assert known.value < known.controls["original"]  # type: ignore[union-attr, operator]


def test_the_weights_load_with_plain_transformers(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    processor = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    ids = processor("Where was", return_tensors="pt")["input_ids"]
    assert model(input_ids=ids).logits.isfinite().all()


def test_the_page(cli: Any, run: Path, world: Any, tmp_path: Path) -> None:
    cli("audit", world.original, "--task", world.task, "--retrained", world.retrained, "--suite", "quick",
        "--out", tmp_path / "other")
    for folders in ((run,), (run, tmp_path / "other")):
        page = tmp_path / f"page{len(folders)}.html"
        assert cli("report", *folders, "--out", page).out.strip() == str(page)
        text = page.read_text(encoding="utf-8")
        assert text.startswith("<!doctype html>") or text.startswith("<!DOCTYPE html>")
        assert "forget_quality" in text or "forget quality" in text.lower()


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """(probe, number of rows) of every time a probe really asks a model."""
    calls: list[str] = []
    for probe in (Likelihood, Generation):
        def observe(self: Any, subject: Any, examples: Any, task: Any, progress: Any = None,
                    plain: Callable[..., Any] = probe.observe, **more: Any) -> Any:
            calls.append(f"{self.card.name} {examples[0].id.split('/')[1]}")
            return plain(self, subject, examples, task, progress, **more)

        monkeypatch.setattr(probe, "observe", observe)
    return calls


def test_an_audit_goes_on_where_it_stopped(cli: Any, run: Path, world: Any, own_cache: Path, tmp_path: Path,
                                           observed: list[str]) -> None:
    """Only what is missing is asked again, and the scores are the same."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = read(copy / "audit.json")
    rows = {p: p.read_bytes() for p in (copy / "observations").rglob("*.jsonl")}
    gone = ("subject/likelihood.forget.jsonl", "retrained/generation.holdout.jsonl")
    for name in gone:
        (copy / "observations" / name).unlink()
    (copy / "audit.json").unlink()  # as a kill in the middle leaves it
    assert not list(own_cache.rglob("*.jsonl"))
    cli("audit", copy, "--task", world.task, "--retrained", world.retrained, "--suite", "scores", "--resume")
    assert observed == ["likelihood forget", "generation holdout"]
    for name in gone:
        del rows[copy / "observations" / name]
    assert {p: p.read_bytes() for p in rows} == rows
    # The same model read again gives the same numbers up to the last digits of a float32 sum.
    for old, new in zip(before["scores"], read(copy / "audit.json")["scores"], strict=True):
        assert new["name"] == old["name"] and new["value"] == pytest.approx(old["value"], rel=1e-4, abs=1e-4)


def test_scoring_again_loads_no_model(cli: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("expunge.api.load_subject", refuse)
    monkeypatch.setattr(CausalLM, "answers", refuse)
    again = cli("audit", "--rescore", run, "--json").json
    stored = (run / "audit.json").read_bytes()
    assert again == read(run / "audit.json")["scores"]
    assert "forget_quality" in cli("audit", "--rescore", run).out
    assert (run / "audit.json").read_bytes() == stored, "it prints, and changes nothing"
    said = cli("audit", "--rescore", run, "--require", "forget.probability<0", code=1)
    assert "required: forget.probability<0 fails: forget.probability is" in said.err


def test_a_reference_is_asked_once(cli: Any, run: Path, world: Any, tmp_path: Path, observed: list[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """A second audit against the same models takes their rows from the cache: no forward pass at all."""
    words = ("--task", world.task, "--original", world.original, "--retrained", world.retrained, "--suite",
             "forget_quality,mia.loss,retain.probability")
    cli("audit", run, *words, "--out", tmp_path / "first")
    assert len(observed) == 9  # likelihood of forget, retain and holdout rows, for three models
    observed.clear()

    def refuse(self: CausalLM, *args: Any) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr(CausalLM, "answers", refuse)
    monkeypatch.setattr(CausalLM, "generate", refuse)
    cli("audit", run, *words, "--out", tmp_path / "second")
    assert observed == []
    first, second = (read(tmp_path / name / "audit.json") for name in ("first", "second"))
    assert first["scores"] == second["scores"]


def test_other_settings_are_observed_anew(cli: Any, world: Any, tmp_path: Path, observed: list[str]) -> None:
    """Rows on disk count only for the question they were an answer to."""
    words = ("audit", world.original, "--task", world.task, "--suite", "forget.probability", "--out", tmp_path / "a")
    cli(*words)
    cli(*words, "--resume")
    assert observed == ["likelihood forget"]
    assert read(tmp_path / "a" / "audit.json")["settings"]["max_length"] is None
    cli.refused(*words, "--resume", "--max-length", 40, says=("another max length",))
    cli(*words, "--overwrite", "--max-length", 40)
    stored = read(tmp_path / "a" / "audit.json")
    assert stored.pop("settings")["max_length"] == 40
    (tmp_path / "a" / "audit.json").write_text(json.dumps(stored), encoding="utf-8")  # as of an earlier version
    cli(*words, "--resume", "--max-length", 40)
    assert observed == ["likelihood forget"] * 2


def test_changed_weights_are_observed_anew(cli: Any, run: Path, world: Any, tmp_path: Path,
                                           observed: list[str]) -> None:
    words = ("--task", world.task, "--suite", "forget.probability", "--out", tmp_path / "a")
    cli("audit", world.original, *words)
    cli.refused("audit", run, *words, "--resume", says=("another model",))
    cli("audit", run, *words, "--overwrite")
    assert len(observed) == 2  # the run's own; as its control, the original comes from the cache


# Adapters and stages


def test_lora_leaves_an_adapter_that_loads_with_peft(cli: Any, world: Any, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import AutoPeftModelForCausalLM

    monkeypatch.chdir(world.original.parent)
    out = tmp_path / "run"
    cli("forget", "original", "--task", world.task, "--method", f"{METHOD} + lora(rank=2)", "--out", out,
        "--steps", 3, "--lr", "1e-2")
    assert read(out / "record.json")["reference"]["kind"] == "adapter off"
    monkeypatch.chdir(tmp_path)  # what is saved must not hang on where one stood
    assert (out / "model" / "adapter_model.safetensors").is_file()
    assert not (out / "model" / "model.safetensors").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers deprecates
        model = AutoPeftModelForCausalLM.from_pretrained(out / "model")
    assert any("lora_B" in name and parameter.abs().sum() > 0 for name, parameter in model.named_parameters())
    cli("audit", out, "--task", world.task, "--suite", "quick", "--original", world.original)


def probabilities(path: Path, task_name: str) -> Any:
    """Log-probs of the first forget rows, as another process would find them."""
    from expunge.benchmarks.loading import load_task
    from expunge.data.text_encoder import collate
    from expunge.models.load import load_subject

    subject = load_subject(path)
    batch = collate([subject.encoder.encode(e) for e in load_task(task_name).forget[:4]], subject.encoder.pad_id)
    with subject.evaluating():
        return subject.answers(batch).logp_N


def test_fewer_tokens_told_apart(cli: Any, world: Any, tmp_path: Path) -> None:
    """As many as the recipe says are kept of the original, and the record tells how much the others hold."""
    out = tmp_path / "run"
    words = ("forget", world.original, "--task", world.task, "--method", "npo + retain_kl_top(k=3)", "--lr", "5e-3")
    assert "cached likeliest tokens" in cli(*words, "--dry-run", "--out", out).out
    cli(*words, "--steps", 4, "--keep", "last", "--out", out)
    terms = [step["terms"]["retain_kl_top"] for step in lines(out / "steps.jsonl")]
    assert terms[0] == pytest.approx(0, abs=1e-6) and terms[-1] > 1e-3
    told = json.loads((out / "record.json").read_text(encoding="utf-8"))["reference"]
    assert told["kind"] == "cached likeliest tokens" and 0 < float(told["others"].split()[0]) < 1


@pytest.mark.parametrize("method", [
    "ga + layers(index=1) >> npo + retain_kl",
    "ga >> npo + retain_kl + lora(rank=2)",
    "ga + lora(rank=2) >> npo + layers(index=0)",
    "ga + lora(rank=2) >> npo + lora(rank=2)",
    "ga + reglu(rank=2) >> npo + retain_kl + reglu(rank=2)",
])
def test_stages(cli: Any, world: Any, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage starts from the first, is saved so that it loads, and resumes."""
    import expunge.runs
    from expunge.runs import fit

    out, again = tmp_path / "run", tmp_path / "again"
    words = ("forget", world.original, "--task", world.task, "--method", method, "--steps", 2, "--lr", "5e-3",
             "--keep", "last")
    held: list[Any] = []
    monkeypatch.setattr(expunge.runs, "fit", lambda *a, **k: (held.append(a[1]), fit(*a, **k))[1])
    cli(*words, "--out", out)
    assert (out / "stages" / "0" / "model").is_dir() and len(lines(out / "steps.jsonl")) == 2
    from expunge.benchmarks.loading import load_task
    from expunge.data.text_encoder import collate

    subject = held[-1]
    batch = collate([subject.encoder.encode(e) for e in load_task(world.task).forget[:4]], subject.encoder.pad_id)
    with subject.evaluating():
        in_memory = subject.answers(batch).logp_N
    assert (in_memory - probabilities(out, world.task)).abs().max() < 1e-4

    calls: list[int] = []

    def fails(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*args, **options)

    monkeypatch.setattr(expunge.runs, "fit", fails)
    cli(*words, "--out", again, code=4)
    monkeypatch.setattr(expunge.runs, "fit", fit)
    cli(*words, "--out", again, "--resume")
    name = "adapter_model.safetensors" if "lora" in method.split(">>")[1] else "model.safetensors"
    assert (out / "model" / name).read_bytes() == (again / "model" / name).read_bytes()


@pytest.mark.parametrize("scope", ["all", "lora(rank=3)"])
def test_forgetting_again_from_an_adapter(cli: Any, world: Any, tmp_path: Path, scope: str) -> None:
    """A run that left an adapter is a model like any other: the next run adds to it."""
    task = ("--task", world.task)
    cli("forget", world.original, *task, "--method", "npo + lora(rank=2)", "--out", tmp_path / "one",
        "--steps", 2, "--lr", "2e-2", "--keep", "last")
    cli("forget", tmp_path / "one", *task, "--method", f"npo + {scope}", "--out", tmp_path / "two", "--steps", 1,
        "--lr", "1e-9", "--keep", "last")
    original, one, two = (probabilities(p, world.task) for p in (world.original, tmp_path / "one", tmp_path / "two"))
    assert (one - original).abs().max() > 1e-2
    assert (two - one).abs().max() < 1e-4


def test_the_python_verbs_do_the_same(world: Any, run: Path, tmp_path: Path) -> None:
    import expunge

    expunge.forget(world.original, task=world.task, method=METHOD, out=tmp_path / "run", steps=6, lr=1e-3)
    found = expunge.audit(tmp_path / "run", task=world.task, retrained=[world.retrained], suite="scores")
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()
    stored = Audit.read(run / "audit.json").score("forget.probability")
    assert found.score("forget.probability") == stored  # type: ignore[union-attr]
    assert expunge.report([tmp_path / "run"], out=tmp_path / "page.html").is_file()
