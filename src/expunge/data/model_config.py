"""What a model's config says of the part that reads text, under whatever names a family gives it."""

from __future__ import annotations

from typing import Any

CONTEXT = ("max_seq_len", "max_position_embeddings", "n_positions")
"""Names of the longest sequence; MPT has the first."""


def text_config(config: Any) -> Any:
    """The config of the decoder of text: that of a multimodal model is a part of its own."""
    getter = getattr(config, "get_text_config", None)
    if getter is None:
        return config
    try:
        return getter(decoder=True)
    except ValueError:  # several of them; transformers does not choose
        return getattr(config, "text_config", config)


def depth_of(config: Any) -> int | None:
    """Number of decoder blocks, where the config tells."""
    found = getattr(text_config(config), "num_hidden_layers", None)
    return found if isinstance(found, int) else None


def context_of(config: Any) -> int | None:
    """Longest sequence that the positions allow, where the config tells."""
    own = text_config(config)
    found = next((getattr(own, name) for name in CONTEXT if getattr(own, name, None) is not None), None)
    return found if isinstance(found, int) and found > 0 else None


def vocabulary_of(config: Any) -> int | None:
    """Size of the vocabulary, where the config tells."""
    found = getattr(text_config(config), "vocab_size", None)
    return found if isinstance(found, int) else None


def has_heads(config: Any) -> bool:
    """Whether it names attention heads, so that there may be attention maps."""
    return bool(getattr(text_config(config), "num_attention_heads", None))


def has_experts(config: Any) -> bool:
    """Whether it names experts, so that there may be a router."""
    return any(getattr(text_config(config), name, None) for name in (
        "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"))
