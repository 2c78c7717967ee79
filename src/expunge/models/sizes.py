"""Models that can be trained from scratch by name. No torch here, since `expunge train --help` names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"model_type": "llama", "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 344,
             "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
             "max_position_embeddings": 256, "tie_word_embeddings": True},
    "small": {"model_type": "llama", "vocab_size": 4096, "hidden_size": 192, "intermediate_size": 512,
              "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 6,
              "max_position_embeddings": 512, "tie_word_embeddings": True},
    "cnn": {"model_type": "expunge_cnn"},
    "resnet20": {"model_type": "expunge_resnet", "depth": 20},
}


def is_fresh(model: str | Path) -> bool:
    """Whether a name stands for a model without weights: a config file, or a size and no folder of that name."""
    return Path(model).suffix == ".json" or (str(model) in SIZES and not Path(model).exists())
