"""What cannot be the model that is asked for is refused before any work, each with its own true reason."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cases import case, tofu_tiny

REFUSED: dict[str, tuple[str, ...]] = {
    "bert": ("BertForMaskedLM", "both directions"),
    "t5": ("T5ForConditionalGeneration", "encoder-decoder"),
    "gguf": ("GGUF", "model-q4.gguf"),
    "bnb": ("bitsandbytes", "quantised from"),
    "notok": ("no tokenizer", "tokenizer.json"),
    "truncated": ("model.safetensors", "cut short"),
    "emptydir": ("config.json",),
    "badtemplate": ("only foo", "--template"),
}
ACCEPTED = ("binonly", "sharded", "bf16", "fp16", "notemplate", "adapter")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the case builds."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["make_model_zoo.py", str(tofu_tiny())])
        runpy.run_path(str(case("make_model_zoo.py")))
    return folder


def commands(model: Path, rows: Any, out: Path) -> dict[str, list[object]]:
    return {"forget": ["forget", model, *rows.words, "--method", "npo + retain_kl + lora(rank=2)", "--out", out,
                       "--dry-run"],
            "audit": ["audit", model, *rows.words, "--suite", "forget.probability", "--out", out]}


@pytest.mark.slow  # it imports all of transformers
@pytest.mark.filterwarnings("ignore")  # of the script that builds the folders
def test_the_zoo(cli: Any, rows: Any, zoo: Path, tmp_path: Path) -> None:
    for name, says in REFUSED.items():
        for words in commands(zoo / name, rows, tmp_path / name).values():
            cli.refused(*words, says=says)
        assert not (tmp_path / name).exists()
    for name in ACCEPTED:
        cli(*commands(zoo / name, rows, tmp_path / name)["forget"])


def change(**values: Any) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        config = model / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | values))
    return edit


def save_as_shards(model: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model)
    (model / "model.safetensors").unlink()
    loaded.save_pretrained(model, max_shard_size="30KB")
    next(iter(sorted(model.glob("*.safetensors")))).unlink()


def cut_a_pickle(model: Path) -> None:
    import torch

    (model / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1000)}, model / "pytorch_model.bin")
    data = (model / "pytorch_model.bin").read_bytes()
    (model / "pytorch_model.bin").write_bytes(data[: len(data) // 2])


def drop(*names: str, **values: Any) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        for name in names:
            (model / name).unlink(missing_ok=True)
        if values:
            change(**values)(model)
    return edit


OWN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "pointer": (lambda m: (m / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
                ("Git LFS", "git lfs pull")),
    "lost shard": (save_as_shards, ("lacks 1 of its",)),
    "cut pickle": (cut_a_pickle, ("pytorch_model.bin", "cut short")),
    "no weights": (drop("model.safetensors"), ("holds no weights",)),
    "no config": (drop("config.json"), ("weights but no config.json",)),
    "no type": (lambda m: (m / "config.json").write_text("{}"), ("names no model_type",)),
    "half a config": (lambda m: (m / "config.json").write_text('{"model_type": "lla'), ("not valid JSON",)),
    "classes": (change(architectures=["LlamaForSequenceClassification"]), ("gives classes",)),
    "no head": (change(architectures=["LlamaModel"], tie_word_embeddings=False), ("without its output head",)),
    "bart": (change(model_type="bart", is_encoder_decoder=True, architectures=["BartForConditionalGeneration"]),
             ("encoder-decoder",)),
    "roberta": (change(model_type="roberta", architectures=["RobertaForCausalLM"]), ("both directions", "is_decoder")),
    "xlnet": (lambda m: (m / "config.json").write_text(
        '{"model_type": "xlnet", "architectures": ["XLNetLMHeadModel"]}'), ("XLNetLMHeadModel", "both directions")),
    "gptq": (change(quantization_config={"quant_method": "gptq", "bits": 4}), ("gptq", "optimum")),
    "made up": (change(quantization_config={"quant_method": "foo"}), ("foo", "Unknown")),
    "unknown family": (change(model_type="vit", architectures=["ViTModel"]), ("ViTModel",)),
    "empty words": (drop("tokenizer.json", "tokenizer_config.json", model_type="gpt2"), ("no tokenizer",)),
}


@pytest.mark.parametrize("name", OWN)
def test_more_of_the_kind(name: str, cli: Any, rows: Any, model: Path, tmp_path: Path) -> None:
    edit, says = OWN[name]
    shutil.copytree(model, tmp_path / "model")
    edit(tmp_path / "model")
    for words in commands(tmp_path / "model", rows, tmp_path / "out").values():
        said = cli.refused(*words, says=says)
    assert "Traceback" not in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["base", "weights", "config"])
def test_adapters(fault: str, cli: Any, rows: Any, model: Path, tmp_path: Path) -> None:
    """Without its base an adapter is nothing; without a tokenizer of its own it has the base's."""
    from expunge.models.adapter import add_adapter
    from expunge.models.load import load_subject

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(model, base)
    subject = load_subject(base)
    add_adapter(subject, rank=2)
    subject.model.save_pretrained(adapter)
    words = commands(adapter, rows, tmp_path / "out")["forget"]
    cli(*words)
    if fault == "base":
        shutil.rmtree(base)
        cli.refused(*words, says=(f"trained on {base}", "base_model_name_or_path"))
    elif fault == "weights":
        data = (adapter / "adapter_model.safetensors").read_bytes()
        (adapter / "adapter_model.safetensors").write_bytes(data[:-10])
        cli.refused(*words, says=("adapter_model.safetensors", "cut short"))
    else:
        (adapter / "adapter_config.json").write_text("{}")
        cli.refused(*words, says=("adapter_config.json",))
