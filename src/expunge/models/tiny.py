"""Small models from a config and tokenizers from the rows: the test bed, without any download."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from expunge.data.text_encoder import TextEncoder
from expunge.errors import UsageError
from expunge.models.classifier import ImageClassifier, build_classifier
from expunge.models.fast.startup import resume_garbage_collection
from expunge.models.language import CausalLM
from expunge.models.load import CLASSIFIERS
from expunge.models.subject import Subject
from expunge.records.task import Task

PAD, BOS, EOS, USER, ASSISTANT = "<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}"
    "{{ eos_token }}{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Byte-level BPE with pad, bos, eos and two chat markers, trained on the texts in order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [PAD, BOS, EOS, USER, ASSISTANT]
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=BOS, eos_token=EOS,
        extra_special_tokens=[USER, ASSISTANT], clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHAT
    return made


def build_for(config: Mapping[str, Any], task: Task, *, seed: int = 0, max_length: int | None = None) -> Subject:
    """A randomly initialised model of this config for the rows of a task: their words, or their images and classes."""
    if config["model_type"] not in CLASSIFIERS:
        return build_subject(config, task.texts(), seed=seed, template=task.template, max_length=max_length)
    return build_classifier(config, task.rows(), seed=seed)


def epochs_from_scratch(config: Mapping[str, Any]) -> int:
    """Epochs of training a model of this config, unless the options say otherwise."""
    kind = ImageClassifier if config["model_type"] in CLASSIFIERS else CausalLM
    return kind.epochs_from_scratch


def build_subject(config: Mapping[str, Any], texts: Iterable[str], *, seed: int = 0,
                  template: str | None = None, max_length: int | None = None) -> CausalLM:
    """A randomly initialised causal LM of any Hugging Face family, with its own tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bars would tear ours
    options = dict(config)
    processor = train_tokenizer(texts, int(options.get("vocab_size", 2048)))
    ids = {"pad_token_id": processor.pad_token_id, "bos_token_id": processor.bos_token_id,
           "eos_token_id": processor.eos_token_id, "vocab_size": len(processor)}
    try:
        made = AutoConfig.for_model(**(options | ids))
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"No causal LM can be built from this config ({options.get('model_type')}).",
                         str(error).splitlines()[0][:200]) from None
    model.generation_config.eos_token_id = processor.eos_token_id
    model.generation_config.pad_token_id = processor.pad_token_id
    resume_garbage_collection()
    return CausalLM(model.eval(), TextEncoder(processor, template, max_length), "")
