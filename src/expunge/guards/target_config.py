"""What the config of a model that wraps a target has of the target."""

from __future__ import annotations

from typing import Any, cast

from transformers import AutoConfig


class TargetConfig:
    """The target's config, as `text_config`, and its sizes.

    A class beside transformers' configs and not one of them: each subclass of those gets an `__init__` of its own.
    """

    sub_configs = {"text_config": AutoConfig}

    def hold(self, text_config: Any) -> None:
        """Keep the target's config, given as such or as a dictionary, with the attention of the whole model."""
        self.text_config = AutoConfig.for_model(**text_config) if isinstance(text_config, dict) else text_config
        attention = self._attn_implementation  # type: ignore[attr-defined]
        if self.text_config is not None and attention is not None:
            self.text_config._attn_implementation = attention

    @property
    def num_hidden_layers(self) -> int:
        return cast(int, self.text_config.num_hidden_layers)

    @property
    def vocab_size(self) -> int:
        return cast(int, self.text_config.vocab_size)

    @property
    def hidden_size(self) -> int:
        return cast(int, self.text_config.hidden_size)

    @property
    def max_position_embeddings(self) -> int:
        return cast(int, self.text_config.max_position_embeddings)
