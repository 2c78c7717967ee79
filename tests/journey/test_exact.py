"""A model trained for it forgets rows exactly, through the command line: every file is that of the retrained twin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.exact import shards
from expunge.exact.ensemble import assemble
from expunge.methods.scopes.lora import LoRA
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.subject import checksum
from expunge.models.tiny import build_subject
from expunge.records.task import Example

from .test_families import FAMILIES

METHOD = "sisa(shards=2, slices=2, rank=4, batches=2)"
SUITE = "forget.probability,retain.probability,forget.rouge_l,mia.loss,forget.exact_memorization,privleak"
ROUTE = ("--batch-size", 4, "--steps", 24, "--lr", "2e-2")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files(folder: Path) -> dict[str, bytes]:
    """Weights, checkpoints and ledger of a run."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted((folder / "model").rglob("*"))
            if p.suffix == ".safetensors" or p.name in ("ledger.json", "config.json")}


def train(cli: Any, base: Path, rows: Any, out: Path, *words: object, code: int = 0) -> Any:
    return cli("train", base, "--forget", rows.forget, "--retain", rows.retain, "--method", METHOD, *ROUTE,
               "--out", out, *words, code=code)


@pytest.fixture(scope="module")
def original(cli: Any, model: Path, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained in shards; nobody writes to it."""
    out = tmp_path_factory.mktemp("exact") / "original"
    train(cli, model, rows, out)
    return out


def test_the_whole_way(cli: Any, model: Path, original: Path, rows: Any, tmp_path: Path) -> None:
    run, twin = tmp_path / "run", tmp_path / "twin"
    cli("forget", original, *rows.words, "--method", "sisa", "--out", run)
    train(cli, model, rows, twin, "--split", "retain")
    assert files(run) == files(twin) != files(original)
    assert len(files(run)) == 3 + 4

    found = read(run / "record.json")["best"]
    assert found["deleted"] == ["forget/0", "forget/1", "forget/2", "forget/3"]
    assert found["saw_them_before"] and found["saw_them_after"] == []
    assert 0 < found["share_of_work"] <= 1 and found["plan"]["lr"] == 2e-2
    assert len(found["retrained"]) + len(found["untouched"]) == 4
    assert all(c["before"] == c["after"] for c in found["untouched"].values())

    audit = cli("audit", run, *rows.words, "--retrained", twin, "--suite", SUITE, "--json").json
    assert audit["subject"]["fingerprint"] == audit["retrained"][0]["fingerprint"] != audit["original"]["fingerprint"]
    scores = {score["name"]: score for score in audit["scores"]}
    # The very weights of the model trained without the rows: proof by itself, and no control.
    assert "very weights of the subject" in audit["controls"][0]["problem"]
    assert not any("retrained" in s["controls"] for s in scores.values())
    known = scores["forget.probability"]
    assert known["value"] < known["controls"]["original"]
    page = tmp_path / "page.html"
    cli("report", run, "--out", page)
    assert "sisa" in page.read_text(encoding="utf-8")


def test_rows_nobody_saw(cli: Any, original: Path, rows: Any, tmp_path: Path) -> None:
    strangers = tmp_path / "strangers.jsonl"
    strangers.write_text('{"question": "Who?", "answer": "Nobody.", "id": "x"}\n', encoding="utf-8")
    cli("forget", original, "--forget", strangers, "--retain", rows.retain, "--method", "sisa",
        "--out", tmp_path / "run")
    assert files(tmp_path / "run") == files(original)
    assert "nothing was changed" in read(tmp_path / "run" / "record.json")["best"]["note"]


def test_a_killed_deletion_goes_on(cli: Any, original: Path, rows: Any, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished stages are not repeated, and the result has the same bytes."""
    done: list[str] = []
    stage = shards.train_stage

    def mortal(base: Any, plan: Any, shard: int, slice_: int, *rest: Any) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(f"{shard}.{slice_}")
        stage(base, plan, shard, slice_, *rest)

    def counted(base: Any, plan: Any, shard: int, slice_: int, *rest: Any) -> None:
        done.append(f"{shard}.{slice_}")
        stage(base, plan, shard, slice_, *rest)

    words = ("forget", original, *rows.words, "--method", "sisa", "--out")
    monkeypatch.setattr(shards, "train_stage", mortal)
    cli(*words, tmp_path / "run", code=4)
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.setattr(shards, "train_stage", counted)
    cli(*words, tmp_path / "run", "--resume")
    assert len(done) == len(set(done)) > 1
    monkeypatch.undo()
    cli(*words, tmp_path / "whole")
    assert files(tmp_path / "run") == files(tmp_path / "whole")


# Refusals


def test_a_model_that_was_not_trained_for_it(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    cli.refused("forget", model, *rows.words, "--method", "sisa", "--out", tmp_path / "run", code=3,
                says=["not a model that sisa can delete from", "ledger.json", "expunge train BASE"])
    assert not (tmp_path / "run").exists()


def test_weights_that_changed_since(cli: Any, original: Path, rows: Any, tmp_path: Path) -> None:
    """Other methods are refused, since the ledger would no longer describe the model; other weights are noticed."""
    cli.refused("forget", original, *rows.words, "--method", "ga", "--steps", 1, "--out", tmp_path / "ga", code=3,
                says=["ga cannot start from a model that sisa has made"])
    moved = Path(shutil.copytree(original, tmp_path / "moved"))
    weights = moved / "model" / "model.safetensors"
    tensors = load_file(weights)
    name = max(tensors)
    save_file(tensors | {name: tensors[name] + 1}, weights, metadata={"format": "pt"})
    cli.refused("forget", moved, *rows.words, "--method", "sisa", "--out", tmp_path / "run",
                says=["not those that the model's ledger describes"])


def test_a_checkpoint_that_changed(cli: Any, original: Path, rows: Any, tmp_path: Path) -> None:
    copy = tmp_path / "original"
    shutil.copytree(original, copy)
    ledger = read(copy / "model" / "ledger.json")
    kept = next(name for name, c in ledger["checkpoints"].items() if "forget/0" not in c["saw"])
    path = copy / "model" / "shards" / kept.split(".")[0] / f"{kept.split('.')[1]}.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    one = tmp_path / "one.jsonl"
    lines = rows.forget.read_text(encoding="utf-8").splitlines(keepends=True)
    one.write_text(lines[0], encoding="utf-8")
    rest = tmp_path / "rest.jsonl"
    rest.write_text("".join(lines[1:]) + rows.retain.read_text(encoding="utf-8"), encoding="utf-8")
    cli.refused("forget", copy, "--forget", one, "--retain", rest, "--method", "sisa", "--out", tmp_path / "run",
                says=[f"The checkpoint {kept} is not the one"])


def test_requests_that_do_not_fit(cli: Any, original: Path, rows: Any, tmp_path: Path) -> None:
    words = ("--out", tmp_path / "run")
    cli.refused("forget", original, *rows.words, "--method", "sisa(shards=5)", *words, code=3,
                says=["this model was trained with 2"])
    cli.refused("forget", original, "--forget", rows.forget, "--method", "sisa", *words, code=3,
                says=["must be trained on again are not in the task", "retain/"])
    other = tmp_path / "forget.jsonl"
    other.write_text('{"question": "Who?", "answer": "Nobody.", "id": "forget/1"}\n', encoding="utf-8")
    cli.refused("forget", original, "--forget", other, "--retain", rows.retain, "--method", "sisa", *words, code=3,
                says=["Row forget/1 was trained on with another text"])
    assert not (tmp_path / "run").exists()


def test_training_that_could_not_be_taken_back(cli: Any, model: Path, original: Path, rows: Any,
                                               tmp_path: Path) -> None:
    task, out = ("--forget", rows.forget, "--retain", rows.retain), ("--out", tmp_path / "out")
    cli.refused("train", "tiny", *task, "--method", METHOD, *out, says=["needs a model to start from", "tokenizer"])
    cli.refused("train", model, *task, "--method", "npo", *out, says=["no way to train", "expunge ls exacts"])
    cli.refused("train", model, *task, "--method", f"{METHOD} + retain_kl", *out, says=["no way to train"])
    cli.refused("train", original, *task, "--method", METHOD, *out, code=3, says=["wrapped by a method"])
    cli("forget", model, *rows.words, "--method", "npo + lora(rank=2)", "--steps", 1, "--out", tmp_path / "adapter")
    cli.refused("train", tmp_path / "adapter", *task, "--method", METHOD, *out, code=3, says=["this is an adapter"])
    assert not (tmp_path / "out").exists()


# Orders of slices

ORDERS = "s3t(shards=1, slices=2, rank=4, batches=2)"


@pytest.mark.slow
def test_orders_the_whole_way(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """A deletion that leaves an order trains nothing; one that leaves none trains the shard again; all rows are too
    many."""
    out, one = tmp_path / "original", tmp_path / "one.jsonl"
    words = ("train", model, "--forget", rows.forget, "--retain", rows.retain, "--method", ORDERS, *ROUTE)
    cli(*words, "--out", out)
    lines = rows.forget.read_text(encoding="utf-8").splitlines(keepends=True)
    one.write_text(lines[0], encoding="utf-8")
    rest = tmp_path / "rest.jsonl"
    rest.write_text("".join(lines[1:]) + rows.retain.read_text(encoding="utf-8"), encoding="utf-8")
    cli("forget", out, "--forget", one, "--retain", rest, "--method", "s3t", "--out", tmp_path / "run")
    found = read(tmp_path / "run" / "record.json")["best"]
    assert found["retrained"] == {} and found["dropped"] and found["saw_them_after"] == []
    assert found["serving"]["0"]["stages"] == 1 and found["rows_walked"] == 0
    cli("audit", tmp_path / "run", *rows.words, "--suite", "forget.probability")

    cli("forget", out, *rows.words, "--method", "s3t", "--out", tmp_path / "again")
    cli(*words, "--split", "retain", "--out", tmp_path / "twin")
    assert files(tmp_path / "again") == files(tmp_path / "twin") != files(out)

    every = tmp_path / "every.jsonl"
    every.write_text(rows.forget.read_text(encoding="utf-8") + rows.retain.read_text(encoding="utf-8"),
                     encoding="utf-8")
    cli.refused("forget", out, "--forget", every, "--method", "s3t", "--out", tmp_path / "none", code=3,
                says=["No stage would be left"])
    cli.refused("forget", out, *rows.words, "--method", "s3t(orders=1)", "--out", tmp_path / "none", code=3,
                says=["this model was trained with 2"])
    cli.refused("forget", out, *rows.words, "--method", "sisa", "--out", tmp_path / "none", code=3,
                says=["sisa cannot start from a model that s3t has made"])
    cli.refused("train", model, "--forget", rows.forget, "--retain", rows.retain, "--method", "s3t(slices=4)",
                "--out", tmp_path / "none", code=3, says=["needs as many blocks"])
    cli.refused("train", model, "--forget", rows.forget, "--method", "s3t(slices=2, orders=3)", "--out",
                tmp_path / "none", says=["2 slices have 2 orders"])
    assert not (tmp_path / "none").exists()


# Families


def built(family: str) -> CausalLM:
    texts = [f"Where does {who} live? {who} lives in Town {who[::-1]}." for who in ("Ada", "Bo", "Cy", "Di", "Ed")]
    return build_subject({"model_type": family} | FAMILIES[family], texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_ensemble_is_its_shards(family: str, tmp_path: Path) -> None:
    """Stacked adapters say what each says alone, load as they were saved, and leave the base as it was."""
    subject = built(family)
    before, adapters, apart = checksum(subject.model.state_dict()), [], []
    ids = torch.tensor([subject.encoder.prompt(Example(id="x", prompt="Where does Ada live?", answer="Here"))])
    for shard in range(3):
        scope = LoRA(rank=2, targets="all-linear" if family != "mixtral" else ["q_proj", "v_proj"]).apply(subject)
        generator = torch.Generator().manual_seed(shard)
        with torch.no_grad():
            for parameter in scope.parameters.values():
                parameter.normal_(0, 0.3, generator=generator)
            apart.append(subject.model.eval()(input_ids=ids).logits)
        adapters.append({rename(name): p.detach().clone() for name, p in scope.parameters.items()})
        subject.model = subject.model.unload()
    model = assemble(subject.model, adapters, scale=2.0, average="logprob")
    with torch.no_grad():
        found = model(input_ids=ids).logits.log_softmax(-1)
    expected = torch.stack(apart).log_softmax(-1).mean(0).log_softmax(-1)
    assert float((apart[0] - apart[1]).abs().max()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    subject.model = model
    subject.save(tmp_path)
    again = load_subject(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.model(input_ids=ids).logits.log_softmax(-1), found)
    assert checksum(again.model.unwrap().state_dict()) == before


def rename(name: str) -> str:
    """A PEFT parameter's name as `assemble` takes it."""
    module, half = name.removeprefix("base_model.model.").split(".lora_")
    return f"{module}.{'down_SRI' if half[0] == 'A' else 'up_SOR'}"


@pytest.mark.parametrize(("family", "targets"), [("gpt2", "all-linear"), ("mixtral", ["q_proj", "v_proj"])])
def test_half_precision(cli: Any, rows: Any, tmp_path: Path, family: str, targets: Any) -> None:
    """In bfloat16 the checkpoints stay in float32, and the ensemble comes as the base does."""
    base = built(family)
    base.model.to(torch.bfloat16)
    base.save(tmp_path / "base")
    words = (tmp_path / "base", "--forget", rows.forget, "--retain", rows.retain, "--steps", 4, "--lr", "1e-2",
             "--method", f"sisa(shards=2, slices=1, rank=2, batches=2, targets={targets!r})")
    for split in ("full", "retain"):
        cli("train", *words, "--split", split, "--out", tmp_path / split)
    cli("forget", tmp_path / "full", *rows.words, "--method", "sisa", "--out", tmp_path / "run")
    assert files(tmp_path / "run") == files(tmp_path / "retain") != files(tmp_path / "full")
    assert load_subject(tmp_path / "run").model.dtype == torch.bfloat16 and len(files(tmp_path / "run")) == 3 + 2


def test_experts_are_refused(cli: Any, rows: Any, tmp_path: Path) -> None:
    built("mixtral").save(tmp_path / "base")
    cli.refused("train", tmp_path / "base", "--forget", rows.forget, "--retain", rows.retain, "--method", "sisa",
                "--out", tmp_path / "out", code=3, says=["experts", "targets="])
