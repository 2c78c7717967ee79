"""What people get wrong: one message with a way on, the documented exit code, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import NonFiniteError

Edit = Callable[[Path], None]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def refused(cli: Any, model: Path, rows: Any, out: Path) -> Callable[..., str]:
    """`expunge forget` on good input, but for what is said; nothing may be left in --out."""

    def run(*words: object, subject: object = model, data: tuple[object, ...] = rows.words,
            method: str = "npo + retain_kl", code: int = 2, says: tuple[str, ...] = (), plain: bool = False) -> str:
        said = cli.refused("forget", subject, *data, "--method", method, "--out", out, "--steps", 1, *words,
                           code=code, says=says, plain=plain)
        assert not out.exists()
        return str(said)

    return run


# Models


def cut_short(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def cut_in_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:40])


def lose_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def lose_the_tokenizer(folder: Path) -> None:
    for path in folder.glob("token*"):
        path.unlink()


def break_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def lose_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def break_the_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",', encoding="utf-8")


def name_an_unknown_family(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nonesuch"}', encoding="utf-8")


def lose_the_config(folder: Path) -> None:
    (folder / "config.json").unlink()


MODELS: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "weights cut short": (cut_short, ("cannot be read", "cut short", "Copy or save the model again")),
    "weights cut in the header": (cut_in_header, ("cannot be read", "cut short")),
    "a tensor is missing": (lose_a_tensor, ("do not fit its config: 1 tensors are missing", "layers.1.mlp.up_proj",
                                            "folder is complete")),
    "no tokenizer": (lose_the_tokenizer, ("holds a model but no tokenizer", "save_pretrained")),
    "a broken tokenizer": (break_the_tokenizer, ("tokenizer", "cannot be read", "save_pretrained")),
    "no weights": (lose_the_weights, ("holds no weights",)),
    "a broken config": (break_the_config, ("not valid JSON",)),
    "an unknown family": (name_an_unknown_family, ("cannot be read", "nonesuch")),
    "no config": (lose_the_config, ("weights but no config.json", "beside them")),
}


@pytest.fixture
def broken(model: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    def make(edit: Edit) -> Path:
        folder = Path(shutil.copytree(model, tmp_path / "broken"))
        edit(folder)
        return folder

    return make


@pytest.mark.parametrize("case", MODELS)
def test_a_broken_model(refused: Any, broken: Any, case: str) -> None:
    edit, says = MODELS[case]
    refused(subject=broken(edit), says=says)


@pytest.mark.parametrize(("role", "case"), [
    (role, case) for role in ("subject", "--original", "--retrained") for case in MODELS
    if role == "subject" or case != "a tensor is missing"  # which shows only when the weights are read
])
def test_an_audit_looks_at_every_model_first(cli: Any, model: Path, rows: Any, broken: Any, out: Path, case: str,
                                             role: str) -> None:
    """Also a retrained model that is only asked last; minutes of work must not hang on its name."""
    edit, says = MODELS[case]
    bad = broken(edit)
    words = (bad,) if role == "subject" else (model, role, bad)
    cli.refused("audit", *words, *rows.words, "--suite", "forget.probability", "--out", out, says=says)
    assert not out.exists()


def test_no_model_there(cli: Any, refused: Any, rows: Any, world: Any, tmp_path: Path, out: Path) -> None:
    says = ("There is no model at", "No folder of that name is here", "Give a run folder")
    refused(subject=tmp_path / "nothing", says=says)
    refused(subject="nobody/nothing", says=says)
    refused(subject="nothing", says=says)
    for role in ((tmp_path / "nothing",), (world.original, "--retrained", tmp_path / "nothing")):
        cli.refused("audit", *role, *rows.words, "--out", out, says=says)
        assert not out.exists()
    for name in (tmp_path / "nothing", "nothing"):
        cli.refused("train", name, *rows.words[:4], "--out", out, says=says)
        assert not out.exists()
    (tmp_path / "empty").mkdir()
    refused(subject=tmp_path / "empty", says=("is not a model folder",))
    (tmp_path / "file.txt").write_text("hello", encoding="utf-8")
    refused(subject=tmp_path / "file.txt")


@pytest.mark.parametrize(("text", "says"), [
    ('{"model_type": "llama",', ("is not valid JSON", "line 1")),
    ('["llama"]', ("names no model_type", '{"model_type": "llama"')),
    ('{"hidden_size": 64}', ("names no model_type",)),
    ('{"model_type": "nonesuch"}', ("No model can be built", "nonesuch")),
    ('{"model_type": "llama", "hidden_size": "wide"}', ("No model can be built", "hidden_size")),
    ('{"model_type": "llama", "hidden_size": 33, "num_attention_heads": 2}', ("No model can be built", "33")),
    ('{"model_type": "vit"}', ("No causal LM can be built", "vit")),
])
def test_a_config_that_cannot_be_trained(cli: Any, rows: Any, out: Path, tmp_path: Path, text: str,
                                         says: tuple[str, ...]) -> None:
    config = tmp_path / "config.json"
    config.write_text(text, encoding="utf-8")
    cli.refused("train", config, *rows.words[:4], "--out", out, says=says)
    assert not out.exists()
    cli.refused("train", tmp_path / "gone.json", *rows.words[:4], "--out", out, says=("gone.json", "built-in size"))


def test_a_tokenizer_that_does_not_fit(cli: Any, refused: Any, model: Path, rows: Any, tmp_path: Path,
                                       out: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(shutil.copytree(model, tmp_path / "model"))
    config = AutoConfig.from_pretrained(model, vocab_size=50)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    says = ("tokenizer does not fit the model", "trained with")
    refused(subject=folder, code=3, says=says)
    cli.refused("audit", folder, *rows.words, "--out", out, code=3, says=says)


# Tasks and rows


def test_no_task(cli: Any, refused: Any, model: Path, out: Path) -> None:
    says = ("No task was given", "authors, blur_bench:tofu, code_leaks, conceptvectors, counterfact, crosslingual",
            "digits, dusk, dynamicqa:static, dynamicqa:temporal, dynamicqa:disputable, faithun, graph_reasoning, "
            "impossible, kid, knowledge_preference, ", "--forget FILE")
    refused(data=(), says=says)
    cli.refused("audit", model, "--out", out, says=says)
    cli.refused("train", "tiny", "--out", out, says=says)
    cli.refused("audit", "--out", out, says=("No model was given",))
    cli.refused("audit", model, "--task", "authors", says=("needs an output folder", "--out"))


@pytest.mark.parametrize(("name", "says"), [
    ("autors", ("no task 'autors'", "Did you mean authors")),
    ("tofu:forget11", ("no task 'tofu:forget11'", "tofu:forget10")),
    ("authors(forgets=2)", ("no option 'forgets'", "Did you mean forget")),
    ("authors(forget=0)", ("forget",)),
])
def test_an_unknown_task(refused: Any, name: str, says: tuple[str, ...]) -> None:
    refused(data=("--task", name), says=says)


def test_data_that_is_not_there(refused: Any, rows: Any, tmp_path: Path) -> None:
    refused(data=("--task", "authors(forget=two)"), says=("authors(forget='two') is not possible", "valid integer"),
            plain=True)
    gone = tmp_path / "gone.jsonl"
    for words in (("--forget", gone), ("--forget", rows.forget, "--retain", gone)):
        refused(data=words, says=("gone.jsonl does not exist",), plain=True)
    refused(data=("--task", "tofu:forget10", "--data-dir", tmp_path), says=("does not hold the TOFU data",))
    refused(data=("--task", "authors", *rows.words), says=("brings its own rows", "Leave out"))


@pytest.mark.parametrize(("name", "text", "says"), [
    ("f.jsonl", "", ("f.jsonl has no rows",)),
    ("f.json", "[]", ("f.json has no rows",)),
    ("f.csv", "question,answer\n", ("f.csv has no rows",)),
    ("f.jsonl", '{"question": "Q", "answer": "A"}\n{"question": "Q2"}\n',
     ("f.jsonl, line 2", "has 'question' but no 'answer', so none of the known shapes", "It has: 'question'",
      "Add 'answer', leave the row out")),
    ("f.jsonl", '{"question": "Q"}\n{"question": "Q2"}\n', ("no 'answer'", "Add 'answer'")),  # not text=question
    ("f.jsonl", '{"prompt": "Q", "compl": 3}\n', ("no 'completion'", "--map prompt=prompt,completion=")),
    ("f.csv", "answer\nA\nB\n", ("has 'answer' but no 'question'", "Add 'question'")),
    ("f.jsonl", '{"question": "Q", "answer": ""}\n', ("f.jsonl, line 1", "'answer' is empty")),
    ("f.jsonl", '{"question": "Q", "answer": true}\n', ("f.jsonl, line 1", "must be text")),
    ("f.jsonl", '{"question": "Q", "answer": "A"}\n{"quest', ("f.jsonl, line 2", "not valid JSON")),
    ("f.csv", "question,answer\nQ,A\nQ2,A2,more\n", ("f.csv, line 3", "more or fewer cells")),
    ("f.doc", "hello", ("'.doc' cannot be read", ".jsonl")),
    ("f.parquet", "no parquet", ("not a readable parquet file",)),
])
def test_rows_that_cannot_be_used(refused: Any, tmp_path: Path, name: str, text: str, says: tuple[str, ...]) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    refused(data=("--forget", path), method="ga", says=says, plain=True)


@pytest.mark.parametrize(("mapping", "says"), [
    ("question", ("cannot be read at 'question'", "question=q,answer=a")),
    ("quest=q", ("no field 'quest'", "Did you mean question")),
    ("question=nope", ("No row has the field 'nope'",)),
])
def test_a_map_that_fits_nothing(refused: Any, rows: Any, mapping: str, says: tuple[str, ...]) -> None:
    refused("--map", mapping, data=("--forget", rows.forget), method="ga", says=says)


def test_forget_rows_that_stand_in_retain(cli: Any, refused: Any, model: Path, rows: Any, tmp_path: Path,
                                          out: Path) -> None:
    both = tmp_path / "both.jsonl"
    both.write_text(rows.retain.read_text() + rows.forget.read_text().splitlines()[1].upper().replace(
        "QUESTION", "question").replace("ANSWER", "answer") + "\n", encoding="utf-8")
    says = ("1 of 4 forget rows also stand in retain", "The first is forget/1", "--on-overlap drop")
    data = ("--forget", rows.forget, "--retain", both)
    refused(data=data, says=says)
    cli.refused("audit", model, *data, "--out", out, says=says)
    cli.refused("train", "tiny", *data, "--out", out, says=says)
    assert not out.exists()
    words = (*data, "--on-overlap", "keep", "--dry-run", "--json", "--out", out)
    assert cli("forget", model, *words, "--method", "ga").json["rows"]["retain"] == 7
    assert cli("train", "tiny", *words).json["rows"]["retain"] == 7
    assert cli("audit", model, *words).json["observations"]


def test_a_limit_that_leaves_nothing(refused: Any) -> None:
    refused("--limit", 0, says=("leaves nothing", "1 or more"))


# Recipes


@pytest.mark.parametrize(("method", "code", "says"), [
    ("npoo + retain_kl", 2, ("npoo", "Did you mean npo")),
    ("npo + retain_lk", 2, ("retain_lk", "Did you mean retain_kl")),
    ("npo(bta=0.1)", 2, ("npo has no option 'bta'", "Did you mean beta", "expunge explain npo")),
    ("npo(beta=-1)", 2, ("npo(beta=-1) is not possible", "greater than 0", "expunge explain npo")),
    ("npo(beta=high)", 2, ("npo(beta='high') is not possible",)),
    ("lora(rank=0) + ga", 2, ("lora(rank=0) is not possible",)),
    ("npo(0.1)", 2, ("Options are named", "npo(option=value)")),
    ("npo +", 2, ("This is not a recipe", "character", "npo(beta=0.1) + retain_kl(weight=1)")),
    ("npo - retain_kl", 2, ("is not the name of a term", "joined by +")),
    ("", 2, ("The recipe is empty", "npo + retain_nll")),
    ("npo + ga", 2, ("one source of forgetting", "npo and ga", ">>")),
    ("npo + grad_diff", 2, ("one source of forgetting",)),
    ("retain_kl", 2, ("no source of forgetting", "expunge ls methods")),
    ("npo(weight=0)", 2, ("no source of forgetting",)),
    ("npo >> retain_kl", 2, ("no source of forgetting",)),
    ("npo + forget_quality", 2, ("There is no plug-in called 'forget_quality'",)),
    ("npo + layers(index=99)", 3, ("the model has no block [99]", "It has 2, numbered 0 to 1")),
    ("npo + layers(index=1-3)", 3, ("layers(index='1-3')", "numbered 0 to 1")),
    ("npo + layers(index=b)", 2, ("a range is written",)),
    ("npo + layers", 3, ("layers(index=", "Blocks from 0")),
    ("rmu(layer=99)", 3, ("rmu(layer=99): the model has no such block", "numbered 0 to 1")),
    ("dpo(refusals=off)", 3, ("dpo needs alternative answers, and their builder is off", "refusals=")),
    ("idk(refusals=off)", 3, ("idk needs alternative answers",)),
    ("adamw(lr=-1) + npo", 2, ("adamw(lr=-1) is not possible",)),
])
def test_a_recipe_that_cannot_be(refused: Any, method: str, code: int, says: tuple[str, ...]) -> None:
    refused(method=method, code=code, says=says)
    refused("--dry-run", method=method, code=code, says=says)


@pytest.mark.parametrize(("method", "says"), [
    ("npo + lora + layers(index=1)", ("A stage has one scope, and this has lora and layers",)),
    ("npo + retain_kl + retain_kl(weight=2)", ("retain_kl stands twice in one stage",)),
])
def test_a_recipe_with_one_part_too_many(refused: Any, method: str, says: tuple[str, ...]) -> None:
    refused(method=method, says=says, plain=True)


def test_a_recipe_whose_needs_the_task_cannot_meet(refused: Any, rows: Any, tmp_path: Path) -> None:
    refused(data=("--forget", rows.forget), code=3, says=("retain_kl needs retain rows", "Give --retain FILE"))
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "Once upon a time there was a fox."}\n', encoding="utf-8")
    for method in ("dpo", "idk"):
        refused(data=("--forget", text, "--retain", rows.retain), method=method, code=3,
                says=(f"{method} needs questions to answer", "running text", "such as npo"))


def test_all_problems_are_shown_together(refused: Any, rows: Any) -> None:
    refused("--max-length", 2, data=("--forget", rows.forget), code=3,
            method="npo + retain_kl + layers(index=99) >> rmu(layer=9)",
            says=("The plan has 7 problems; nothing was run", "1. retain_kl needs retain rows",
                          "no block [99]", "rmu(layer=9)", "--max-length leaves 4", "  7. "))


def test_a_module_no_block_has(refused: Any) -> None:
    refused(method="npo + layers(index=1, modules=nose)", code=3, says=("layers(modules='nose') matches no parameter",))
    refused(method="npo + lora(targets=nose)", code=3, says=("lora(targets='nose') fits no module",))


@pytest.mark.parametrize(("words", "says"), [
    (("--keep", "worst"), ("--keep 'worst'", "best or last")),
])
def test_options_that_cannot_be(refused: Any, words: tuple[str, ...], says: tuple[str, ...]) -> None:
    refused(*words, says=says)


@pytest.mark.parametrize("words", [("--steps", "0"), ("--batch-size", "0"), ("--max-length", "0"), ("--steps", "many"),
                                   ("--utility-floor", "2"), ("--checkpoint-every", "0"), ("--lr", "-1")])
def test_options_the_parser_refuses(cli: Any, model: Path, rows: Any, out: Path, words: tuple[str, str]) -> None:
    said = cli("forget", model, *rows.words, "--method", "ga", "--out", out, *words, code=2)
    assert f"Invalid value for '{words[0]}'" in said.err and not out.exists()


def test_a_split_that_is_none(cli: Any, rows: Any, out: Path) -> None:
    cli.refused("train", "tiny", *rows.words[:4], "--split", "half", "--out", out, says=("--split 'half'",
                                                                                         "full or retain"))
    cli.refused("train", "tiny", "--forget", rows.forget, "--split", "retain", "--out", out,
                says=("no rows for --split retain", "--retain FILE"))
    assert not out.exists()


# Metrics


@pytest.mark.parametrize(("suite", "says"), [
    ("quik", ("quik", "Did you mean quick")),
    ("forget.probabilty", ("probabilty", "Did you mean probability")),
    ("forgot.probability", ("no split called 'forgot'", "Did you mean forget")),
    ("forget.probability,mia.nonesuch", ("mia.nonesuch",)),
    ("mia.min_k(q=0.2)", ("no option 'q'",)),
    ("forget.forget_quality", ("forget_quality",)),
    ("npo", ("npo",)),
    ("forget.probability,,", ("an empty entry",)),
])
def test_a_suite_that_is_none(cli: Any, model: Path, rows: Any, out: Path, suite: str, says: tuple[str, ...]) -> None:
    cli.refused("audit", model, *rows.words, "--suite", suite, "--out", out, says=says)
    assert not out.exists()


def test_forget_quality_without_a_retrained_model(cli: Any, world: Any, out: Path) -> None:
    """Missing evidence is said, with its reason; it is no failure."""
    said = cli("audit", world.original, "--task", world.task, "--suite", "forget_quality", "--out", out)
    assert "Not available, no retrained model was given (--retrained): forget_quality" in " ".join(said.out.split())
    score, = json.loads((out / "audit.json").read_text())["scores"]
    assert score["value"] is None and "--retrained" in score["unavailable"]


def test_rescoring_what_is_not_there(cli: Any, tmp_path: Path) -> None:
    cli.refused("audit", "--rescore", tmp_path, says=("holds no audit to score again", "expunge audit"))
    cli.refused("report", tmp_path / "gone", "--out", tmp_path / "page.html", says=("gone",))
    assert not (tmp_path / "page.html").exists()


# Tokenizers and lengths


def test_no_pad_token_and_no_template(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """Both are filled in: padding never counts, and the plain question template is used."""
    bare = Path(shutil.copytree(model, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    made = json.loads((bare / "tokenizer_config.json").read_text())
    for name in ("pad_token", "chat_template"):
        made.pop(name, None)
    (bare / "tokenizer_config.json").write_text(json.dumps(made), encoding="utf-8")
    cli("forget", bare, *rows.words, "--method", "npo + retain_kl", "--steps", 2, "--out", tmp_path / "run")
    found = cli("audit", tmp_path / "run", *rows.words, "--suite", "forget.probability,forget.rouge_l", "--json").json
    assert [score["n"] for score in found["scores"]] == [4, 4]


def test_no_special_tokens_at_all(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(model, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    (bare / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")
    config = json.loads((bare / "config.json").read_text())
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        config[name] = None
    (bare / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (bare / "generation_config.json").unlink()
    cli("forget", bare, *rows.words, "--method", "npo + retain_kl", "--steps", 2, "--out", tmp_path / "run")
    found = cli("audit", tmp_path / "run", *rows.words, "--suite", "forget.probability,forget.rouge_l", "--json").json
    assert [score["n"] for score in found["scores"]] == [4, 4]
    assert all(0 <= score["value"] <= 1 for score in found["scores"])


@pytest.mark.parametrize("split", ["forget", "retain", "holdout"])
def test_rows_longer_than_the_context(cli: Any, refused: Any, model: Path, rows: Any, tmp_path: Path, out: Path,
                                      split: str) -> None:
    long = tmp_path / "long.jsonl"
    told = {"question": "What now?", "answer": "and so on " * 300}
    long.write_text(getattr(rows, split).read_text() + json.dumps(told) + "\n", encoding="utf-8")
    files = {name: getattr(rows, name) for name in ("forget", "retain", "holdout")} | {split: long}
    data = tuple(word for name, path in files.items() for word in (f"--{name}", path))
    says = ("1 of ", "rows are longer than the model's context of 512 tokens", f"{split}/", "Pass --max-length 512")
    refused(data=data, code=3, says=says)
    cli.refused("audit", model, *data, "--out", out, code=3, says=says)
    if split != "holdout":
        cli.refused("train", model, *data[:4], "--out", out, code=3, says=says)
    assert not out.exists()

    words = (*data, "--max-length", 512)
    plan = cli("forget", model, *words, "--method", "npo + retain_kl", "--out", out, "--dry-run",
               "--json").json
    assert plan["truncated"] == 1
    said = cli("forget", model, *words, "--method", "npo + retain_kl", "--out", out, "--steps", 1)
    assert "1 rows are cut to --max-length 512" in said.err
    said = cli("audit", out, *words, "--suite", "forget.probability")
    assert "1 rows are cut to --max-length 512" in said.err


def test_a_length_that_leaves_no_answer(cli: Any, refused: Any, model: Path, rows: Any, out: Path) -> None:
    says = ("--max-length leaves", "without an answer, such as", "Use a larger --max-length")
    refused("--max-length", 2, code=3, says=says)
    cli.refused("train", model, *rows.words[:4], "--max-length", 2, "--out", out, code=3, says=says)
    cli.refused("audit", model, *rows.words, "--max-length", 2, "--out", out, code=3, says=says)
    assert not out.exists()


# Output folders


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def finished(cli: Any, model: Path, rows: Any, tmp_path: Path) -> tuple[Path, tuple[object, ...]]:
    """A run that is done, and the command that made it."""
    words = ("forget", model, *rows.words, "--method", "npo + retain_kl", "--steps", 1, "--out", tmp_path / "run")
    cli(*words)
    return tmp_path / "run", words


def test_a_folder_that_exists(cli: Any, finished: Any, model: Path, rows: Any) -> None:
    run, words = finished
    before = tree(run)
    three = ("already exists", "Nothing was changed", "--resume", "--out", "--overwrite")
    cli.refused(*words, says=three)
    cli.refused("train", model, *rows.words[:4], "--out", run, says=three)
    cli.refused("audit", model, *rows.words, "--out", run, says=three)
    assert tree(run) == before
    assert "is already finished" in cli(*words, "--resume").err
    assert tree(run) == before
    cli(*words, "--overwrite")
    assert tree(run)["model/model.safetensors"] == before["model/model.safetensors"]


def test_an_audit_that_exists(cli: Any, finished: Any, rows: Any) -> None:
    run, _ = finished
    words = ("audit", run, *rows.words, "--suite", "forget.probability")
    cli(*words)
    before = tree(run)
    cli.refused(*words, says=("already holds an audit", "--resume", "--out", "--overwrite"))
    assert tree(run) == before
    cli(*words, "--resume")
    cli(*words, "--overwrite")
    assert (run / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("content", [None, "{}", "not json", '{"schema": "other/1"}'])
def test_a_foreign_folder_is_never_overwritten(cli: Any, model: Path, rows: Any, tmp_path: Path,
                                               content: str | None) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("years of work", encoding="utf-8")
    if content is not None:
        (folder / "record.json").write_text(content, encoding="utf-8")
    before = tree(folder)
    words = (*rows.words, "--out", folder, "--overwrite")
    says = ("was not written by expunge", "Use another --out")
    cli.refused("forget", model, *words, "--method", "ga", "--steps", 1, says=says)
    cli.refused("audit", model, *words, says=says)
    cli.refused("train", "tiny", *rows.words[:4], "--out", folder, "--overwrite", says=says)
    assert tree(folder) == before


def test_a_command_never_overwrites_what_it_reads(cli: Any, finished: Any, rows: Any, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = finished
    before = tree(run)
    monkeypatch.chdir(tmp_path)
    for subject in (run, run / "model", "run", "run/model"):
        cli.refused("forget", subject, *rows.words, "--method", "ga", "--steps", 1, "--out", run, "--overwrite",
                    says=("which this command reads", "Use another --out"))
    cli.refused("audit", "run/model", *rows.words, "--suite", "forget.probability", "--out", run, "--overwrite",
                says=("which this command reads",))
    cli("audit", "run", *rows.words, "--suite", "forget.probability", "--out", run)  # its own folder, spelt otherwise
    assert {k: v for k, v in tree(run).items() if k in before} == before


@pytest.mark.parametrize("kind", ["under a file", "a file", "no such device"])
def test_output_that_cannot_be_written(cli: Any, model: Path, rows: Any, tmp_path: Path, kind: str) -> None:
    """As root a folder without the write bit stops nothing, so the path itself is impossible."""
    (tmp_path / "file").write_text("here first", encoding="utf-8")
    out = {"under a file": tmp_path / "file" / "x", "a file": tmp_path / "file",
           "no such device": Path("/proc/nowhere/x")}[kind]
    for words in (("forget", model, *rows.words, "--method", "ga", "--steps", 1),
                  ("audit", model, *rows.words, "--suite", "forget.probability"),
                  ("train", model, *rows.words[:4], "--steps", 1)):
        cli.refused(*words, "--out", out, says=("--out",))
    assert (tmp_path / "file").read_text() == "here first"


def test_a_page_that_cannot_be_written(cli: Any, finished: Any, rows: Any, tmp_path: Path) -> None:
    run, _ = finished
    cli("audit", run, *rows.words, "--suite", "forget.probability")
    (tmp_path / "file").touch()
    cli.refused("report", run, "--out", tmp_path / "file" / "page.html", says=("file", "Check the path"))


@pytest.mark.parametrize(("words", "says"), [
    (("--method", "npo(beta=0.2) + retain_kl"), "npo.beta was 0.1 and is now 0.2."),
    (("--steps", "2"), "settings.steps was 1 and is now 2."),
    (("--seed", "1"), "seed was 0 and is now 1."),
    (("--limit", "3"), "settings.limit was null and is now 3."),
])
def test_resuming_another_run(cli: Any, finished: Any, words: tuple[str, str], says: str) -> None:
    run, command = finished
    before = tree(run)
    changed = [*command]
    if words[0] in changed:
        changed[changed.index(words[0]) + 1] = words[1]
    else:
        changed += words
    cli.refused(*changed, "--resume", says=("made with other options or inputs", says, "another --out"))
    assert tree(run) == before


def test_a_record_that_was_edited(cli: Any, finished: Any) -> None:
    run, command = finished
    (run / "record.json").write_text('{"schema": "expunge.run/1", "kind": "forget"}', encoding="utf-8")
    cli.refused(*command, "--resume", says=("is not a readable RunRecord", "At recipe", "edited by hand"))


# A loss that turns NaN


@pytest.mark.parametrize("scope", ["all", "lora(rank=2)"])
def test_a_loss_that_turns_nan(cli: Any, model: Path, rows: Any, out: Path, scope: str) -> None:
    """It stops, says where, and leaves the last finite weights; trying again says the same."""
    from safetensors.torch import load_file

    words = ("forget", model, *rows.words, "--method", f"npo + retain_kl + {scope} + adamw(clip=None)", "--lr", "1e25",
             "--steps", 6, "--batch-size", 2, "--eval-every", 6, "--out", out)
    err = cli.refused(*words, code=3, says=("is not finite", "last finite ones", "smaller learning rate"))
    step = int(err.split("Step ")[1].split(":")[0])
    assert 2 <= step <= 6 and f"after step {step - 1}" in err
    assert len((out / "steps.jsonl").read_text().splitlines()) == step - 1
    record = json.loads((out / "record.json").read_text())
    assert record["status"] == "failed" and f"Step {step}" in record["reason"]
    assert not (out / "model").exists()
    kept = load_file(out / "checkpoint" / f"step-{step - 1}" / "weights.safetensors")
    assert kept and all(tensor.isfinite().all() for tensor in kept.values())
    cli.refused(*words, "--resume", code=3, says=(f"Step {step}:",))


def test_the_term_that_turns_nan_is_named(cli: Any, model: Path, rows: Any, out: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.methods.objectives import npo

    plain, calls = npo.npo, []

    def breaks(log_ratio_B: Any, beta: float) -> Any:
        calls.append(beta)
        return plain(log_ratio_B, beta) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(npo, "npo", breaks)
    words = ("forget", model, *rows.words, "--method", "npo + retain_kl", "--steps", 4, "--batch-size", 2,
             "--out", out)
    cli.refused(*words, code=3, says=("Step 3: the term npo is not finite", "after step 2"))
    monkeypatch.setattr(npo, "npo", plain)
    assert "Resuming" in cli(*words, "--resume").err  # the cause is gone, so the run goes on where it stopped
    assert [json.loads(line)["step"] for line in (out / "steps.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert issubclass(NonFiniteError, ArithmeticError)


def test_a_model_that_is_broken_from_the_start(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(model, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    cli.refused("forget", folder, *rows.words, "--method", "npo", "--steps", 2, "--out", tmp_path / "out", code=3,
                says=("Before the first step the model's answers are not finite", "weights are broken"))


def test_a_last_step_that_ruins_the_model(cli: Any, model: Path, rows: Any, out: Path) -> None:
    """The step after which nothing is finite may be the last: no later loss would show it."""
    cli.refused("forget", model, *rows.words, "--method", "npo + retain_kl", "--lr", "1e18", "--steps", 1,
                "--out", out, code=3, says=("Step 1:", "not finite", "smaller learning rate"))
    assert not (out / "model").exists()


# Folders of another kind


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that hold something else than a model, and a file."""
    root = tmp_path_factory.mktemp("places")
    for name, holds in (("grid", "grid.json"), ("sweep", "sweep.json"), ("audit", "audit.json"), ("empty", ""),
                        ("killed", "observations/subject/source.json")):
        (root / name / holds).parent.mkdir(parents=True, exist_ok=True)
        (root / name / holds).touch() if holds else (root / name).mkdir(exist_ok=True)
    (root / "config.json").write_text("{}", encoding="utf-8")
    return root


@pytest.mark.parametrize(("name", "says"), [
    ("grid", "holds a grid, not a model"), ("sweep", "holds a sweep, not a model"), ("audit", "holds an audit, not"),
    ("killed", "an audit that did not end"), ("empty", "holds no config.json"),
    ("config.json", "is a file, not a model")])
def test_what_is_no_model_is_called_what_it_is(cli: Any, places: Path, rows: Any, name: str, says: str) -> None:
    at = places / name
    for words in (("forget", at, *rows.words, "--method", "ga", "--out", places / "o"), ("merge", at),
                  ("audit", at, *rows.words, "--out", places / "o")):
        cli.refused(*words, says=(says,))


def test_a_model_is_no_run(cli: Any, model: Path, places: Path) -> None:
    cli.refused("report", model, says=("holds a model, and no run and no audit", "expunge audit"))
    cli.refused("compare", model, says=("holds a model, and no run and no audit",))
    cli.refused("purge", places / "nowhere", says=("There is no folder",))


@pytest.mark.parametrize(("words", "says"), [
    (("--method", "npoo"), "npoo"), (("--method", "npo", "--retain", "nowhere.jsonl"), "nowhere.jsonl")])
def test_what_costs_nothing_is_checked_before_the_hub_is_asked(cli: Any, rows: Any, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch, words: Any,
                                                               says: str) -> None:
    def asked(name: str) -> str:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("expunge.models.places._not_on_the_hub", asked)
    for command in ("--dry-run", "--resume"):
        cli.refused("forget", "some/model", "--forget", rows.forget, *words, "--out", tmp_path / "o", command,
                    says=(says,))


def test_the_plans_of_many_runs_can_be_read(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    said = cli("sweep", "--method", "npo + retain_nll", "--out", tmp_path / "s", "--dry-run")
    assert said.out.startswith("Nothing was run.") and "npo.beta: 0.02 to 1, on a log scale" in said.out
    said = cli("shadows", "--method", "npo", "--count", 4, "--out", tmp_path / "s", "--dry-run")
    assert said.out.startswith("Nothing was run.") and "4, each with an original" in said.out and "12 runs" in said.out
    assert cli("sweep", "--method", "npo", "--out", tmp_path / "s", "--dry-run", "--json").json["recipe"] == "npo"
    assert not (tmp_path / "s").exists()
