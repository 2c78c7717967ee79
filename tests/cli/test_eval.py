"""`expunge eval` through lm-eval: a made-up one everywhere, the real one where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TASK = """task: towns
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: 0
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def run(model: Path, rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import Cli

    out = tmp_path_factory.mktemp("eval") / "run"
    Cli()("forget", model, *rows.words, "--method", "ga + lora(rank=2)", "--steps", 1, "--out", out)
    return out


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A module of the same shape; what it was asked, in order."""
    asked: list[dict[str, Any]] = []

    class TaskManager:
        def __init__(self, include_path: str | None = None) -> None:
            self.all_tasks = ["arc_easy", "hellaswag", *(["mine"] if include_path else [])]

    def simple_evaluate(**options: Any) -> dict[str, Any]:
        asked.append(options)
        if "broken" in options["tasks"] or options["limit"] == 13:
            raise OSError("no data set\nmore")
        value = {"acc,none": 0.5 + len(asked) / 10, "acc_stderr,none": 0.01, "alias": "x", "sample_len": 4}
        return {"results": {task: value for task in options["tasks"]}}

    class HFLM:
        def __init__(self, pretrained: Any, tokenizer: Any, batch_size: int) -> None:
            self.weights, self.tokenizer = pretrained, tokenizer

    package, tasks = ModuleType("lm_eval"), ModuleType("lm_eval.tasks")
    models = ModuleType("lm_eval.models.huggingface")
    package.simple_evaluate, package.__version__ = simple_evaluate, "0.0"  # type: ignore[attr-defined]
    tasks.TaskManager, models.HFLM = TaskManager, HFLM  # type: ignore[attr-defined]
    for module in (package, tasks, ModuleType("lm_eval.models"), models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


def test_a_run_is_asked_beside_its_original(cli: Any, run: Path, model: Path, harness: list[dict[str, Any]]) -> None:
    found = cli("eval", run, "--tasks", "arc_easy, hellaswag", "--limit", 7, "--seed", 3, "--json").json
    assert [(r["task"], r["metric"], r["value"], r["error"], r["original"]) for r in found["results"]] == [
        (task, "acc", 0.6, 0.01, 0.7) for task in ("arc_easy", "hellaswag")]
    assert json.loads((run / "eval.json").read_text()) == found
    assert set(found["fingerprints"]) == {"subject", "original"}
    assert {(o["limit"], o["random_seed"], tuple(o["tasks"])) for o in harness} == {(7, 3, ("arc_easy", "hellaswag"))}
    assert [hasattr(o["model"].weights, "peft_config") for o in harness] == [True, False]
    assert "arc_easy" in cli("eval", run, "--tasks", "arc_easy", "--overwrite").out


def test_a_plain_model_leaves_no_file(cli: Any, model: Path, harness: list[dict[str, Any]], tmp_path: Path) -> None:
    cli("eval", model, "--tasks", "mine", "--include", tmp_path)
    assert len(harness) == 1 and not (model / "eval.json").exists()
    cli("eval", model, "--tasks", "arc_easy", "--out", tmp_path / "x.json", "--original", model)
    assert len(harness) == 3 and json.loads((tmp_path / "x.json").read_text())["schema"] == "expunge.eval/1"


def test_earlier_results_stay(cli: Any, run: Path, model: Path, harness: list[dict[str, Any]], tmp_path: Path) -> None:
    """Another task is added, the same one asked again replaces its own, other settings or models are refused."""
    words = ("eval", run, "--out", tmp_path / "x.json", "--limit", 7, "--tasks")
    first = cli(*words, "arc_easy,hellaswag", "--json").json["results"]
    found = cli(*words, "hellaswag", "--json").json
    assert found["tasks"] == ["arc_easy", "hellaswag"] and found["results"][0] == first[0]
    assert [r["value"] for r in found["results"]] == [0.6, 0.8] and json.loads(words[3].read_text()) == found
    cli.refused(*words, "hellaswag", "--seed", 5, says=["results with another seed", "--overwrite"])
    asked = len(harness)
    cli.refused(*words[:4], "--tasks", "arc_easy", says=["results with another limit"])
    assert len(harness) == asked, "said before anything is asked"
    cli.refused("eval", model, *words[2:], "arc_easy", says=["results with other models"])
    assert json.loads(words[3].read_text()) == found
    assert cli(*words, "arc_easy", "--seed", 5, "--overwrite", "--json").json["tasks"] == ["arc_easy"]


def test_only_errors_of_the_hub_are_told_so(cli: Any, model: Path, harness: Any,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**options: Any) -> Any:
        raise KeyError("doc_to_text")

    cli.refused("eval", model, "--tasks", "arc_easy", "--limit", 13, says=["ask the subject", "from the hub"])
    monkeypatch.setattr(sys.modules["lm_eval"], "simple_evaluate", broken)
    said = cli.refused("eval", model, "--tasks", "arc_easy", says=["ask the subject these tasks", "doc_to_text"])
    assert "from the hub" not in said


@pytest.mark.parametrize(("words", "says"), [
    (("--tasks", "arc_esy"), "Did you mean arc_easy"), (("--tasks", ","), "No task was named"),
    (("--tasks", "arc_easy", "--limit", "13"), "OSError: no data set")])
def test_what_cannot_be_asked(cli: Any, model: Path, harness: Any, words: tuple[str, ...], says: str) -> None:
    cli.refused("eval", model, *words, says=[says])


def test_without_lm_eval_the_extra_is_named(cli: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    cli.refused("eval", model, "--tasks", "arc_easy", says=["needs lm-eval", "pip install '.[eval]'"])
    said = cli("doctor", "--json").json
    assert all(said[f"extra {name}"] for name in ("eval", "hub", "tensorboard", "wandb", "trackio"))


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
@pytest.mark.filterwarnings("ignore")
def test_with_the_real_one(cli: Any, model: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"Where is Ada {i}?", "options": ["Town adA", "Rome"]}) + "\n"
                            for i in range(4)))
    (tmp_path / "towns.yaml").write_text(TASK.format(rows=rows))
    found = cli("eval", model, "--tasks", "towns", "--include", tmp_path, "--json").json
    assert [(r["task"], r["metric"]) for r in found["results"]] == [("towns", "acc")]
    assert 0 <= found["results"][0]["value"] <= 1
