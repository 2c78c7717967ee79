"""What a tokenizer does, as a hash: equal for two tokenizers that make equal ids of every text and equal text of ids.

The vocabulary alone does not tell: a normaliser, a post-processor, a decoder, an end token or an option decide as much.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEFT_OUT = {"init_kwargs", "init_inputs", "name_or_path", "verbose", "deprecation_warnings", "files_loaded",
            "padding_side", "truncation_side", "model_max_length", "vocab_file"}
"""Attributes that say where a tokenizer came from, or that change neither ids nor text as expunge asks for them."""


def content(processor: Any) -> str:
    """32 hex digits over everything that decides ids and text: the fast backend or the vocabulary files, and options.

    Takes 0.1 s for a vocabulary of 128,000 tokens.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(processor):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _parts(processor: Any) -> Iterator[bytes]:
    yield type(processor).__name__.encode()
    for name, value in sorted(vars(processor).items()):
        if name.lstrip("_") not in LEFT_OUT and not name.startswith("_in_target") and _is_plain(value):
            yield f"{name}={_text(value)}".encode()
    yield f"{processor.all_special_ids}{processor.eos_token_id}{processor.pad_token_id}".encode()
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is not None:
        yield backend.to_str().encode()
        return
    yield repr(sorted(processor.get_vocab().items())).encode()
    yield repr(sorted((i, _text(token)) for i, token in processor.added_tokens_decoder.items())).encode()
    yield from _vocabulary_files(processor)


def _vocabulary_files(processor: Any) -> Iterator[bytes]:
    """Merges and scores of a tokenizer written in Python, which its vocabulary does not tell."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            processor.save_vocabulary(folder)
        except (AttributeError, NotImplementedError, OSError, ValueError):  # one that has no files
            return
        for path in sorted(Path(folder).iterdir()):
            yield path.name.encode() + path.read_bytes()


def _is_plain(value: Any) -> bool:
    """Whether its text tells its content: no address of an object in it."""
    if isinstance(value, dict):
        return all(_is_plain(v) for item in value.items() for v in item)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool) or type(value).__name__ == "AddedToken"


def _text(value: Any) -> str:
    """Sets and dictionaries in a fixed order."""
    if isinstance(value, dict):
        return repr(sorted((_text(k), _text(v)) for k, v in value.items()))
    if isinstance(value, set | frozenset):
        return repr(sorted(map(_text, value)))
    if isinstance(value, list | tuple):
        return repr(list(map(_text, value)))
    if type(value).__name__ == "AddedToken":
        flags = [getattr(value, n, None) for n in ("lstrip", "rstrip", "single_word", "normalized", "special")]
        return f"{value.content!r}{flags}"
    return repr(value)
