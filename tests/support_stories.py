"""A real checkpoint in another project's format, as a folder that plain transformers loads.

The format is that of llama2.c: a header of seven 32-bit integers, then float32 tensors in a fixed
order; the vocabulary is a list of (score, bytes). Queries and keys are stored for a rotation of
neighbouring pairs, where transformers rotates the first half against the second.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

HEADER = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
SPACE = "▁"


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (pair, member) order to (member, pair) order."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(0, 2, 1, 3).reshape(rows, columns)


def read_checkpoint(path: Path) -> tuple[dict[str, int], dict[str, np.ndarray], bool]:
    """Header, tensors under the names of transformers, and whether the output head is the embedding."""
    data = path.read_bytes()
    size = struct.calcsize("7i")
    head = dict(zip(HEADER, struct.unpack("7i", data[:size]), strict=True))
    tied, head["vocab_size"] = head["vocab_size"] > 0, abs(head["vocab_size"])
    values = np.frombuffer(data, dtype="<f4", offset=size)
    at = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        count = int(np.prod(shape))
        at += count
        return values[at - count: at].reshape(shape)

    dim, hidden, layers, heads = head["dim"], head["hidden_dim"], head["n_layers"], head["n_heads"]
    width = dim // heads * head["n_kv_heads"]
    tensors = {"model.embed_tokens.weight": take(head["vocab_size"], dim)}
    stacked = [
        ("input_layernorm", (dim,)), ("self_attn.q_proj", (dim, dim)), ("self_attn.k_proj", (width, dim)),
        ("self_attn.v_proj", (width, dim)), ("self_attn.o_proj", (dim, dim)), ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)), ("mlp.down_proj", (dim, hidden)), ("mlp.up_proj", (hidden, dim)),
    ]
    for name, shape in stacked:  # each kind of tensor lies together for all layers
        for i, weight in enumerate(take(layers, *shape)):
            if name.endswith(("q_proj", "k_proj")):
                weight = halves(weight, heads if name.endswith("q_proj") else head["n_kv_heads"])
            tensors[f"model.layers.{i}.{name}.weight"] = weight
    tensors["model.norm.weight"] = take(dim)
    take(2, head["seq_len"], dim // heads // 2)  # tables of cosines and sines, which are computed anew
    if not tied:
        tensors["lm_head.weight"] = take(head["vocab_size"], dim)
    assert at == len(values), f"{len(values) - at} numbers of {path} were not read"
    return head, tensors, tied


def read_vocabulary(path: Path) -> list[tuple[float, str]]:
    """(score, piece) by id, the pieces as sentencepiece writes them."""
    data, at, pieces = path.read_bytes(), 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        at += 8 + length
        pieces.append((score, data[at - length: at].decode("utf-8").replace(" ", SPACE)))
    return pieces


def tokenizer_of(pieces: list[tuple[float, str]]) -> Any:
    """Byte-fallback BPE: the pair that makes the best-scored piece is merged first."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    names = [piece for _, piece in pieces]
    names[1:3] = ["<s>", "</s>"]
    ids = {piece: i for i, piece in enumerate(names)}
    found = []
    for i, (score, piece) in enumerate(pieces):
        if i > 258:  # after the three special pieces and the 256 bytes
            found += [(-score, cut, piece[:cut], piece[cut:]) for cut in range(1, len(piece))
                      if piece[:cut] in ids and piece[cut:] in ids]
    bpe = Tokenizer(models.BPE(ids, [(left, right) for *_, left, right in sorted(found)], unk_token="<unk>",
                               byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    bpe.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    from tokenizers.processors import TemplateProcessing

    bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                                   clean_up_tokenization_spaces=False)


def convert(source: Path, folder: Path) -> Path:
    """Write config, weights and tokenizer of the checkpoint in `source` to `folder`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    head, tensors, tied = read_checkpoint(source / "stories260K.bin")
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=head["vocab_size"], hidden_size=head["dim"], intermediate_size=head["hidden_dim"],
        num_hidden_layers=head["n_layers"], num_attention_heads=head["n_heads"],
        num_key_value_heads=head["n_kv_heads"], max_position_embeddings=head["seq_len"], rms_norm_eps=1e-5,
        tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2,
    ))
    missing, unexpected = model.load_state_dict({k: torch.tensor(v) for k, v in tensors.items()}, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if tied else set())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer_of(read_vocabulary(source / "tok512.bin")).save_pretrained(folder)
    return folder
