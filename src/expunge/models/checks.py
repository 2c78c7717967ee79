"""Whether a folder or hub name can be what is asked, found out before any weight is read, each with its own reason."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

from expunge.errors import DataError, MissingError, UsageError, first_line
from expunge.models.language import CausalLM
from expunge.models.load import base_of, load_encoder, made_by, read_config, resolve, subject_class

POINTER = b"version https://git-lfs"
"""How a file begins that stands for a large file of Git LFS."""
OTHERS = {"gguf": "GGUF", "h5": "TensorFlow", "msgpack": "Flax", "onnx": "ONNX", "pth": "PyTorch", "pt": "PyTorch",
          "nemo": "NeMo"}
"""Endings of weights that transformers does not load by themselves."""
HEADS = {
    "ForMaskedLM": "It was trained to fill in masked words and reads a text in both directions.",
    "ForPreTraining": "It was trained to fill in masked words and reads a text in both directions.",
    "ForSequenceClassification": "It has a head that gives classes in place of the next token.",
    "ForTokenClassification": "It has a head that gives classes in place of the next token.",
    "ForQuestionAnswering": "It has a head that marks passages in place of giving the next token.",
    "ForMultipleChoice": "It has a head that picks one of several texts in place of giving the next token.",
    "Model": "It was saved without its output head, which would be random.",
}
"""Ending of the class that saved the weights -> why they are no causal language model."""
CAUSAL = "Name a causal language model, such as a Llama, Qwen or GPT-2."


def check_model(path: str | Path, *, train: bool = False) -> Any:
    """Find out cheaply whether `load_subject` could work, and return the config: no weights are read.

    Args:
        train: whether its weights are to be changed as well.

    Raises:
        MissingError: nothing is there, or a part of it is not.
        DataError: a file cannot be read, or is cut short.
        UsageError: it is a model of another kind, or lacks a package.
    """
    folder = Path(resolve(path))
    if folder.is_dir():
        _check_parts(path, folder)
    config = read_config(path)
    if subject_class(config) is CausalLM and not made_by(config):
        _check_kind(path, config)
    _check_quantised(path, config, train)
    base = Path(base_of(folder) or folder)
    for place in dict.fromkeys((folder, base)):
        if place.is_dir():
            _check_weights(place)
    load_encoder(str(folder), config)
    return config


def _check_parts(path: str | Path, folder: Path) -> None:
    """A folder that holds something else, or not all of a model."""
    if (folder / "adapter_config.json").exists():
        return
    config = folder / "config.json"
    if config.exists():
        try:
            found = json.loads(config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{config} is not valid JSON.", first_line(error),
                            "Copy or save the model again.") from None
        if not isinstance(found, dict) or "model_type" not in found:
            raise DataError(f"{config} names no model_type.", "transformers cannot tell what kind of model it is.",
                            "Add the model_type of its family, or save the model with transformers.")
        return
    other = [file for ending in OTHERS for file in sorted(folder.glob(f"*.{ending}"))]
    if other:
        raise DataError(f"{path} holds weights in the format {OTHERS[other[0].suffix[1:]]} ({other[0].name}).",
                        "There is no config.json, so transformers cannot load them from here.",
                        "Name the model they were made from, or convert them with transformers (save_pretrained).")
    if any(folder.glob("*.safetensors")) or any(folder.glob("*.bin")):
        raise MissingError(f"{path} holds weights but no config.json.", "The shape of the model is unknown.",
                           "Copy its config.json beside them.")


def _check_kind(path: str | Path, config: Any) -> None:
    """A model that does not give the next token from those before it."""
    from transformers.models.auto import modeling_auto as auto

    kind, saved = config.model_type, [str(name) for name in getattr(config, "architectures", None) or ()]
    of = f"{path} is a {saved[0] if saved else kind}"
    if getattr(config, "is_encoder_decoder", False):
        raise UsageError(f"{of}, an encoder-decoder model.",
                         "Its answers follow an encoded text; expunge works on models that continue a text.", CAUSAL)
    remote = getattr(config, "auto_map", None)
    if kind not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if remote:
            raise UsageError(f"{of}, whose code comes with the model.", "Code from a model folder is not run.",
                             "Name a model of a family that transformers holds.")
        raise UsageError(f"{of}, and transformers has no causal language model of the family {kind}.", "", CAUSAL)
    for ending, why in HEADS.items():
        tied = ending == "Model" and getattr(config, "tie_word_embeddings", False)
        if saved and not tied and all(name.endswith(ending) for name in saved):
            raise UsageError(f"{of}, not a causal language model.", why, CAUSAL)
    if getattr(config, "attn_type", None) == "bi":  # XLNet; only its own way of generating works around that
        raise UsageError(f"{of}, which reads a text in both directions.",
                         "A later token changes what it says of those before, so that no answer has a likelihood.",
                         CAUSAL)
    both_ways = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "causal", False)
    if both_ways and not getattr(config, "is_decoder", False):
        option = "causal" if hasattr(config, "causal") else "is_decoder"
        raise UsageError(f"{of}, which reads a text in both directions.",
                         f"Its config does not say {option}, so each token is predicted with itself in view.",
                         f"Set {option} to true in config.json if it was trained that way. Otherwise: {CAUSAL}")


def _check_quantised(path: str | Path, config: Any, train: bool) -> None:
    """Weights stored as codes, which need a package to be read and cannot be trained."""
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return
    from transformers.quantizers import AutoHfQuantizer

    settings = settings if isinstance(settings, dict) else settings.to_dict()
    method = getattr(settings.get("quant_method"), "value", settings.get("quant_method"))
    other = "Name the model it was quantised from"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantiser = AutoHfQuantizer.from_config(dict(settings), pre_quantized=True)
            quantiser.validate_environment(device_map=None)
    except Exception as error:  # a package that is not there, no GPU, an unknown method
        raise UsageError(f"The weights of {path} are quantised ({method}) and cannot be read here.",
                         first_line(error), f"{other}, or install what is missing.") from None
    if train and not getattr(quantiser.quantization_config, "dequantize", False):
        raise UsageError(f"The weights of {path} are quantised ({method}) and cannot be changed.",
                         "A step of unlearning is far smaller than the distance between two codes.",
                         f"{other}, or save it dequantised (model.dequantize()).")


def _check_weights(folder: Path) -> None:
    """Files of weights that are not there, cut short, or only stand for others."""
    files = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin"))]
    files = [file for file in files if file.name not in ("training_args.bin", "optimizer.bin", "scheduler.bin")]
    for index in sorted(folder.glob("*.index.json")):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{index} cannot be read.", first_line(error), "Copy the folder again.") from None
        lacking = sorted(name for name in named if not (folder / name).exists())
        if lacking:
            raise MissingError(f"{folder} lacks {len(lacking)} of its {len(named)} files of weights.",
                               f"{index.name} names {lacking[0]}.", "Copy the folder again.")
    if not files:
        raise MissingError(f"{folder} holds no weights.", "There is no *.safetensors or *.bin file in it.",
                           "Give the folder that save_pretrained wrote.")
    for file in files:
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise DataError(f"{file} is a pointer of Git LFS, not the weights.", "", "Run `git lfs pull` there.")
        why = _broken(file)
        if why is not None:
            raise DataError(f"{file} cannot be read: it is cut short or damaged.", why, "Copy or save the model again.")


def _broken(file: Path) -> str | None:
    """Why a file of weights cannot be read, from its index alone."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        try:
            with safe_open(file, "pt"):
                return None
        except Exception as error:  # safetensors has an exception type of its own
            return first_line(error)
    with file.open("rb") as opened:
        old = opened.read(2) != b"PK"  # PyTorch before 1.6; no index, so only loading tells
    whole = file.stat().st_size > 0 if old else zipfile.is_zipfile(file)
    return None if whole else "Its index, which is at the end, is missing."
