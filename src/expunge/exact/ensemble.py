"""A causal LM of one frozen base and the adapters of all shards, which transformers can save and load.

The shards run together: a batch is repeated once per shard along the batch axis, so that one forward pass
and one key-value cache serve all shards.

Legend: S shards, B rows, T length, V vocabulary, D hidden size, R rank, I and O a layer's inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from expunge.exact.ledger import Average
from expunge.models.fast.linear import Linear

DOWN, UP = "down_SRI", "up_SOR"


def average(logits_SBTV: Tensor, how: Average) -> Tensor:
    """Combined logits of all shards, shape B T V, float32, up to a constant per position.

    "logprob" is the mean of log-probs (the mean of logits up to a constant); "posterior" is the
    log of the mean probability.
    """
    logits_SBTV = logits_SBTV.float()
    if how == "logprob":
        return logits_SBTV.mean(0)
    return logits_SBTV.log_softmax(-1).logsumexp(0)


class SisaConfig(PreTrainedConfig):
    """The base's config and the options of the adapters."""

    model_type = "expunge_sisa"

    def __init__(self, text_config: dict[str, Any] | PreTrainedConfig | None = None, shards: int = 1, rank: int = 8,
                 scale: float = 2.0, targets: list[str] | None = None, average: Average = "logprob",
                 **options: Any) -> None:
        """`scale` is alpha / rank; `targets` are the modules of the base with adapters."""
        self.text_config: Any = AutoConfig.for_model(**text_config) if isinstance(text_config, dict) else text_config
        self.shards, self.rank, self.scale, self.average = shards, rank, scale, average
        self.targets = targets or []
        super().__init__(**({"tie_word_embeddings": False} | options))

    @property
    def num_hidden_layers(self) -> int:
        return self.text_config.num_hidden_layers

    @property
    def vocab_size(self) -> int:
        return self.text_config.vocab_size

    @property
    def max_position_embeddings(self) -> int | None:
        return getattr(self.text_config, "max_position_embeddings", None)


class ShardLinear(nn.Module):
    """A frozen layer plus every shard's low-rank update, each on its own part of the repeated batch."""

    def __init__(self, linear: Any, shards: int, rank: int, scale: float) -> None:
        super().__init__()
        self.linear, self.shards, self.scale = linear, shards, scale
        weight = linear.weight
        outputs, inputs = weight.shape if isinstance(linear, nn.Linear) else weight.shape[::-1]  # GPT-2's Conv1D
        like = {"dtype": weight.dtype, "device": weight.device}
        self.down_SRI = nn.Parameter(torch.zeros(shards, rank, inputs, **like), requires_grad=False)
        self.up_SOR = nn.Parameter(torch.zeros(shards, outputs, rank, **like), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x)
        parts = x.reshape(self.shards, -1, x.shape[-1])
        change = parts @ self.down_SRI.mT @ self.up_SOR.mT * self.scale
        return output + change.reshape(output.shape)


class ShardHead(nn.Linear):
    """The base's output layer, with one module through which the hidden states of all shards pass together.

    `picked` receives them concatenated, shape B T S*D, before the output layer is applied.
    """

    shards: int
    picked: nn.Identity

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(0, (self.shards, -1)).movedim(0, -2).flatten(-2)
        x = self.picked(x).unflatten(-1, (self.shards, -1)).movedim(-2, 0)
        return super().forward(x.flatten(0, 1))


class SisaForCausalLM(PreTrainedModel, GenerationMixin):
    """Predicts the average of its shards' predictions."""

    config_class: type[SisaConfig] = SisaConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    archive: Callable[[Any, Path], None] | None = None
    """Writes the ledger and the checkpoints into the folder that the model is saved to."""

    def __init__(self, config: SisaConfig, base: Any = None) -> None:
        super().__init__(config)
        self.base = AutoModelForCausalLM.from_config(config.text_config) if base is None else base
        for name in config.targets:
            linear = self.base.get_submodule(name)
            self.base.set_submodule(name, ShardLinear(linear, config.shards, config.rank, config.scale))
        head = self.base.get_output_embeddings()
        if type(head) in (nn.Linear, Linear):
            stacked = _with_weights_of(head, ShardHead)
            stacked.shards, stacked.picked = config.shards, nn.Identity()
            self.base.set_output_embeddings(stacked)
        if base is not None:
            self.generation_config = base.generation_config
            for module in self.modules():  # else `post_init` would initialise the weights again
                module._is_hf_initialized = True
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, labels: Tensor | None = None,
                logits_to_keep: int | Tensor = 0, **options: Any) -> CausalLMOutputWithPast:
        """The forward pass of a causal LM; logits are float32."""
        shards = self.config.shards
        rows = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids,
                "inputs_embeds": inputs_embeds}
        stacked = {name: x.repeat(shards, *(1,) * (x.dim() - 1)) for name, x in rows.items() if x is not None}
        out = self.base(**stacked, logits_to_keep=logits_to_keep, **options)
        logits_BTV = average(out.logits.unflatten(0, (shards, -1)), self.config.average)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits_BTV, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits_BTV, past_key_values=out.get("past_key_values"))

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        """The module that the final hidden states pass through; None if the base has no plain output layer."""
        return getattr(self.base.get_output_embeddings(), "picked", None)

    def _reorder_cache(self, past_key_values: Any, beam_idx: Tensor) -> Any:
        """Reorders the beams within every shard."""
        past_key_values.reorder_cache(torch.cat([beam_idx + k * len(beam_idx) for k in range(self.config.shards)]))
        return past_key_values

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        super().save_pretrained(save_directory, **options)
        if self.archive is not None:
            self.archive(self, Path(save_directory))

    def unwrap(self) -> Any:
        """The base without adapters; this model must not be used afterwards."""
        for name in self.config.targets:
            self.base.set_submodule(name, self.base.get_submodule(name).linear)
        head = self.base.get_output_embeddings()
        if isinstance(head, ShardHead):
            self.base.set_output_embeddings(_with_weights_of(head, nn.Linear))
        return self.base

    def shard(self, number: int) -> dict[str, Tensor]:
        """The adapter of one shard, in the form that `assemble` takes."""
        return {f"{name}.{factor}": getattr(self.base.get_submodule(name), factor)[number]
                for name in self.config.targets for factor in (DOWN, UP)}


def _with_weights_of(linear: nn.Linear, kind: type[Any]) -> Any:
    """An output layer of another class with the same weights."""
    layer = kind(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    layer.weight, layer.bias = linear.weight, linear.bias
    return layer


def assemble(base: Any, adapters: Sequence[Mapping[str, Tensor]], *, scale: float, average: Average,
             kind: type[SisaForCausalLM] = SisaForCausalLM) -> SisaForCausalLM:
    """An ensemble around `base`, whose modules it modifies.

    Args:
        adapters: per shard, "module.down_SRI" of shape R I and "module.up_SOR" of shape O R for its targets; a module
            that another shard alone names stays as it is.
    """
    targets = sorted({name.rpartition(".")[0] for adapter in adapters for name in adapter})
    rank = next(iter(t.shape[0] for n, t in adapters[0].items() if n.endswith(DOWN)))
    config = kind.config_class(text_config=base.config, shards=len(adapters), rank=rank, scale=scale, targets=targets,
                        average=average, dtype=base.dtype)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, getattr(base.config, name, None))
    model = kind(config, base)
    with torch.no_grad():
        for number, adapter in enumerate(adapters):
            for name, value in model.shard(number).items():
                if name in adapter:
                    value.copy_(adapter[name])
    return model.eval()


AutoConfig.register(SisaConfig.model_type, SisaConfig, exist_ok=True)
AutoModelForCausalLM.register(SisaConfig, SisaForCausalLM, exist_ok=True)
