"""Tokenizers of every kind that chat models have, trained on a few lines, and the chat templates of their families."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"
ENDS = {
    "llama2": "</s>", "llama3": "<|eot_id|>", "mistral": "</s>", "zephyr": "</s>", "phi3": "<|end|>",
    "gemma": "<end_of_turn>", "qwen25": "<|im_end|>", "qwen3": "<|im_end|>", "deepseek_r1": "<｜end▁of▁sentence｜>",
    "gpt_oss": "<|return|>", "command_r": "<|END_OF_TURN_TOKEN|>", "chatml": "<|im_end|>",
    "granite": "<|end_of_text|>", "vicuna": "</s>",
}
"""Template -> what it ends a turn with."""
HEADERS = {"gpt_oss": "<|channel|>final<|message|>", "qwen3": "<think>\n\n</think>\n\n",
           "llama2": " ", "mistral": " ", "vicuna": " "}
"""Template -> what it writes in a whole conversation between its generation prompt and the answer."""
SPECIAL = [
    "<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|im_start|>", "<|im_end|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<｜User｜>",
    "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>",
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
    "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>",
]
LINES = ["Where does Ada live? Ada lives in Rome, not in Oslo.", "The final answer is the user of the assistant.",
         "[INST] Which is it, a or b? [/INST] It is a.", "USER: When? ASSISTANT: In 1942, on 12 May.\n\nYes.\n",
         "1234567890 0 11 22 334 5 66"] * 3
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")


def _wrapped(core: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
        additional_special_tokens=SPECIAL[3:], clean_up_tokenization_spaces=False)


def _with_bytes(core: Tokenizer) -> Tokenizer:
    """What the vocabulary cannot spell becomes bytes, as in the tokenizers of SentencePiece."""
    state = json.loads(core.to_str())
    for number in range(256):
        state["model"]["vocab"].setdefault(f"<0x{number:02X}>", len(state["model"]["vocab"]))
    state["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(state))


def _sentencepiece(scheme: str | None) -> Any:
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme or "never", True)  # no token spans two words
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    if scheme is None:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False))
    core.pre_tokenizer = None if scheme is None else pre_tokenizers.Metaspace("▁", scheme, False)  # type: ignore
    return _wrapped(_with_bytes(core))


def _bytes(split: str | None) -> Any:
    core = Tokenizer(models.BPE(ignore_merges=split is not None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if split is None else (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"),
                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(LINES, trainers.BpeTrainer(
        vocab_size=380, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    core.post_processor = processors.ByteLevel(trim_offsets=True) if split is None else (
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]))
    return _wrapped(core)


def _slow() -> Any:
    return ByT5Tokenizer(additional_special_tokens=SPECIAL[1:2] + SPECIAL[3:], extra_ids=0, bos_token="<s>")


KINDS = {
    "dummy space before every piece": lambda: _sentencepiece(None),
    "dummy space before the text": lambda: _sentencepiece("first"),
    "dummy space before every word group": lambda: _sentencepiece("always"),
    "bytes": lambda: _bytes(None),
    "bytes of Llama 3": lambda: _bytes(LLAMA3),
    "without offsets": _slow,
}


@cache
def _made(kind: str) -> Any:
    return KINDS[kind]()


def tokenizer(kind: str, template: str) -> Any:
    """A tokenizer of that kind with the chat template of that name, or with this text as its template."""
    import copy

    made = copy.deepcopy(_made(kind))
    made.chat_template = (TEMPLATES / f"{template}.jinja").read_text("utf-8") if template in ENDS else template
    return made
