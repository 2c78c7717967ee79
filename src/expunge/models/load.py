"""From a path, a hub name or a config to a subject. Every failure is one clear message."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from expunge import registry
from expunge.data.encoder import Encoder
from expunge.data.image_encoder import ImageEncoder
from expunge.data.text_encoder import TextEncoder
from expunge.errors import DataError, ExpungeError, MissingError, UsageError, first_line
from expunge.models.behaviour import is_causal
from expunge.models.endpoint import Endpoint
from expunge.models.endpoint_rows import EndpointConfig, EndpointEncoder
from expunge.models.fast.startup import resume_garbage_collection
from expunge.models.language import CausalLM
from expunge.models.places import check_place
from expunge.models.sizes import SIZES
from expunge.models.subject import Subject

OWN = "expunge_"
"""Model types of classes that a guard or an exact method registers: this, then the plug-in's name."""
CLASSIFIERS = {"expunge_cnn": "expunge.models.cnn", "expunge_resnet": "expunge.models.resnet"}
"""Model types of our own image classifiers, and the modules that register them."""


def resolve(path: str | Path) -> str:
    """A run folder stands for its model; anything else for itself."""
    inner = Path(path) / "model"
    return str(inner) if inner.is_dir() and not (Path(path) / "config.json").exists() else str(path)


def made_by(config: Any) -> str:
    """The guard or exact method that made a model of this config; empty for all others."""
    kind = str(getattr(config, "model_type", ""))
    return kind.removeprefix(OWN) if kind.startswith(OWN) and kind not in CLASSIFIERS else ""


def own_module(model_type: str) -> list[str]:
    """The module of ours that must be imported before transformers loads such a model; none for its own classes."""
    if model_type in CLASSIFIERS:
        return [CLASSIFIERS[model_type]]
    return [registry.find(model_type.removeprefix(OWN)).module] if model_type.startswith(OWN) else []


def subject_class(config: Any) -> type[Subject]:
    """What kind of subject a model of this config is, by the class that saved it."""
    from expunge.models.classifier import ImageClassifier

    if isinstance(config, EndpointConfig):
        return Endpoint
    saved = [str(name) for name in getattr(config, "architectures", None) or ()]
    image = getattr(config, "model_type", "") in CLASSIFIERS or any(n.endswith("ForImageClassification") for n in saved)
    return ImageClassifier if image else CausalLM


def auto_class(kind: type[Subject]) -> Any:
    """The class of transformers that loads, or builds, models of that kind."""
    import transformers

    return transformers.AutoModelForCausalLM if issubclass(kind, CausalLM) else (
        transformers.AutoModelForImageClassification)


def empty_subject(config: Any, encoder: Encoder) -> Subject:
    """A model of this config without weights (on the meta device). Raises whatever its class raises."""
    kind = subject_class(config)
    with torch.device("meta"):
        return kind(auto_class(kind).from_config(config), encoder)


def register_own(where: str | Path) -> None:
    """Import the plug-in or module whose class a model folder needs; any other place is left to transformers.

    Raises:
        UsageError: no such plug-in is installed.
    """
    try:
        kind = json.loads((Path(where) / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):  # what is wrong with it is for the loader to say
        return
    if kind in CLASSIFIERS:
        importlib.import_module(CLASSIFIERS[kind])
    elif str(kind).startswith(OWN):
        registry.load(str(kind).removeprefix(OWN), "guard", "exact")


def base_of(where: str | Path) -> str | None:
    """What an adapter was trained on; None where a place holds no adapter.

    Raises:
        DataError: its config cannot be read.
        MissingError: the base is not there.
    """
    config = Path(where) / "adapter_config.json"
    if not config.exists():
        return None
    try:
        base = str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{config} cannot be read.", first_line(error), "Copy or save the adapter again.") from None
    try:
        check_place(base)
    except MissingError as error:
        raise MissingError(f"The adapter at {where} was trained on {base}, which is not there.", error.why,
                           f"Bring the base back, or write its new place into {config.name} "
                           "(base_model_name_or_path).") from None
    return base


def read_config(path: str | Path) -> Any:
    """The model's config alone, for preflight. Raises MissingError with what was looked for, at once."""
    from transformers import AutoConfig

    check_place(path)
    where = resolve(path)
    where = base_of(where) or where
    register_own(where)
    try:
        return AutoConfig.from_pretrained(where)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from None


def load_subject(path: str | Path, *, template: str | None = None, max_length: int | None = None,
                 encoder: Any = None, dtype: torch.dtype | None = None,
                 device: str | torch.device = "cpu") -> Subject:
    """Load weights and encoder, as the kind of subject that the config names.

    Args:
        path: a run folder, a model folder (full or adapter), or a hub name.
        template: plain prompt template; None for the tokenizer's own.
        max_length: cut rows at this many tokens.
        encoder: instead of the folder's own, where it is known to be this one.
        dtype: precision of the weights; None keeps what is stored.
        device: where the weights go.

    Raises:
        MissingError: nothing is there, or it is not a model.
        DataError: the weights are cut short or do not fit the config.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bars would tear ours
    where = resolve(path)
    config = read_config(path)
    kind = subject_class(config)
    encoder = encoder or load_encoder(where, config, template, max_length)
    adapter = base_of(where)
    base = adapter or where
    register_own(base)
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # what it remarks on while loading is said below, once
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, info = auto_class(kind).from_pretrained(
                base, dtype=dtype or "auto", output_loading_info=True
            )
            if adapter:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, where)
    except ExpungeError:  # a guard's store says itself what is wrong with it
        raise
    except Exception as error:  # transformers, safetensors and peft raise a dozen kinds
        raise _unreadable(path, error) from None
    finally:
        logging.set_verbosity(loud)
    if info["missing_keys"]:
        raise DataError(
            f"The weights of {path} do not fit its config: {len(info['missing_keys'])} tensors are missing.",
            f"The first is {sorted(info['missing_keys'])[0]}; they would have been random.",
            "Check that the folder is complete.",
        )
    if kind is CausalLM and encoder.pad_id >= model.get_input_embeddings().weight.shape[0]:
        encoder.pad_id = 0  # added to the tokenizer alone; masks never look at it
    resume_garbage_collection()
    made = kind(model.to(device).eval(), encoder, str(path))
    if isinstance(made, CausalLM) and not is_causal(made):
        raise UsageError(f"{path} is a {type(model).__name__} that reads a text in both directions.",
                         "A later token changes what it says of those before, so that no answer has a likelihood.",
                         "Name a causal language model, such as a Llama, Qwen or GPT-2.")
    return made


def load_encoder(where: str | Path, config: Any, template: str | None = None, max_length: int | None = None) -> Any:
    """What makes the rows of a model: its tokenizer with a template, or its classes and the size of its images."""
    if isinstance(config, EndpointConfig):
        return EndpointEncoder(config)
    if subject_class(config) is not CausalLM:
        return ImageEncoder.read(where, config)
    base = base_of(where)
    return TextEncoder(load_processor(base if base and not _has_tokenizer(where) else where), template, max_length)


TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
              "sentencepiece.bpe.model", "tekken.json")
"""Files of which a folder with a tokenizer holds one; or one that ends in .tiktoken."""


def _has_tokenizer(where: str | Path) -> bool:
    return any((Path(where) / name).exists() for name in TOKENIZERS) or any(Path(where).glob("*.tiktoken"))


def load_processor(where: str | Path) -> Any:
    """The tokenizer of a model folder or hub name.

    Raises:
        MissingError: a folder holds none; transformers would make up an empty one for some families.
        DataError: it cannot be read.
    """
    from transformers import AutoTokenizer

    register_own(where)  # it reads the config too
    if Path(where).is_dir() and (Path(where) / "config.json").exists() and not _has_tokenizer(where):
        raise MissingError(f"{where} holds a model but no tokenizer.", f"None of {', '.join(TOKENIZERS)} is in it.",
                           "Save the tokenizer beside the model (tokenizer.save_pretrained).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = AutoTokenizer.from_pretrained(where)
    except Exception as error:
        if Path(where).is_dir() and (Path(where) / "config.json").exists():
            raise DataError(f"The tokenizer in {where} cannot be read.", first_line(error),
                            "Copy or save it again (tokenizer.save_pretrained).") from None
        raise _unreadable(where, error) from None
    if len(made) <= len(set(made.all_special_ids)):
        raise DataError(f"The tokenizer in {where} knows no words.", "It has special tokens alone.",
                        "Save the tokenizer of the model there (tokenizer.save_pretrained).")
    return made


def _unreadable(path: str | Path, error: Exception) -> MissingError | DataError:
    folder = Path(resolve(path))
    if not folder.exists():
        return MissingError(
            f"There is no model at {str(path)!r}.",
            "It is neither a folder here nor a model that could be fetched by that name.",
            "Give a run folder, a folder with config.json and weights, or a hub name.",
        )
    if folder.is_dir() and not any((folder / n).exists() for n in ("config.json", "adapter_config.json")):
        return MissingError(f"{path} is not a model folder.", "It holds no config.json.",
                            "Give the folder that save_pretrained wrote, or a run folder.")
    return DataError(f"The model at {path} cannot be read.", first_line(error),
                     "A file may be cut short; copy or save the model again.")


def float32_master(subject: Subject) -> torch.dtype:
    """Cast trainable-to-be weights to float32 (float64 stays) and return the precision they had.

    A bfloat16 weight of 0.02 moves in steps of 1e-4, so an update of 1e-5 would be rounded away.
    """
    before: torch.dtype = next(subject.model.parameters()).dtype
    if before != torch.float64:
        subject.model.float()
    return before


def stochastic_round(tensor: torch.Tensor, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Cast down so that the expected value is exact: movements below half a step survive on average."""
    if dtype != torch.bfloat16 or tensor.dtype != torch.float32:
        return tensor.to(dtype)
    bits = tensor.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, generator=generator, device=bits.device)
    return ((bits + noise) & -65536).view(torch.float32).to(dtype)


def save_in(subject: Subject, folder: Path, dtype: torch.dtype, seed: int) -> None:
    """Save in the precision the model came in, rounding stochastically on the way down."""
    if dtype != torch.float32:
        generator = torch.Generator(device="cpu").manual_seed(seed)
        with torch.no_grad():
            seen: set[int] = set()
            for tensor in subject.model.parameters():
                if tensor.data_ptr() not in seen and tensor.dtype == torch.float32:
                    tensor.data = stochastic_round(tensor.data.cpu(), dtype, generator).to(tensor.device)
                seen.add(tensor.data_ptr())
        subject.model.config.dtype = dtype
    subject.save(folder)


def config_from(text: str | Path) -> dict[str, Any]:
    """Read a model config file (JSON with `model_type`), or one of the built-in sizes by name."""
    if str(text) in SIZES:
        return dict(SIZES[str(text)])
    path = Path(text)
    if path.suffix != ".json" or not path.is_file():
        raise UsageError(f"{text} is neither a model folder, a config file nor a built-in size.",
                         f"Built-in sizes: {', '.join(SIZES)}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON.", str(error)) from None
    if not isinstance(found, dict) or "model_type" not in found:
        raise DataError(f"{path} names no model_type.", "A config is a JSON object such as"
                        ' {"model_type": "llama", "hidden_size": 128, ...}.')
    from transformers import AutoConfig

    for module in own_module(str(found["model_type"])):
        importlib.import_module(module)
    try:
        AutoConfig.for_model(**found)
    except Exception as error:  # every family checks its config in its own way
        raise DataError(f"No model can be built from {path}.", " ".join(str(error).split())[:300],
                        "Compare it with the config.json of a model of that family.") from None
    return found
