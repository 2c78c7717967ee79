"""The guarded model of `uld`: a target, and an assistant that is a view of the target with adapters.

The assistant is the target's first blocks, its final norm and its head, so only its adapters are new:
the frozen weights are shared with the target, in memory and on disk. Importing this module registers the class
with transformers (`AutoModelForCausalLM`).

Legend: B rows, T padded length, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.pytorch_utils import Conv1D

from expunge.errors import UsageError
from expunge.guards.adapter import Adapted, Adapter
from expunge.guards.target_config import TargetConfig
from expunge.models.language import CausalLM
from expunge.models.load import OWN
from expunge.models.sites import without_hooks

RULED_OUT = -1e3
"""Logit of a filtered token during decoding."""


def candidates(target_V: Tensor, share: float) -> Tensor:
    """Mask of the tokens that the target finds plausible, same shape as its logits.

    Those at least as likely as min(the floor(share * V)-th likeliest, share * the likeliest), so that the
    subtraction cannot raise an implausible token (arXiv 2406.08607, after contrastive decoding).
    """
    logp_V = torch.log_softmax(target_V.float(), dim=-1)
    count = max(int(share * logp_V.shape[-1]), 1)
    nth = logp_V.topk(count, dim=-1).values[..., -1:]
    return logp_V >= torch.minimum(nth, logp_V.amax(-1, keepdim=True) + math.log(share))


def subtract(target_V: Tensor, assistant_V: Tensor, weight: float, share: float, *, generating: bool = False) -> Tensor:
    """target - weight * assistant on the candidates, in the target's precision.

    The assistant's logits are centred first: softmax is invariant to it, and a uniform assistant then subtracts 0,
    as on filtered tokens. With `generating`, filtered tokens get the logit RULED_OUT instead.
    """
    centred_V = assistant_V.float() - assistant_V.float().mean(-1, keepdim=True)
    kept_V = candidates(target_V, share)
    logits_V = target_V - weight * centred_V.where(kept_V, 0.0)
    if generating:
        logits_V = logits_V.masked_fill(~kept_V, RULED_OUT)
    return logits_V.to(target_V.dtype)


class ULDConfig(TargetConfig, PretrainedConfig):
    """The target's config and the options of the guard.

    Args:
        text_config: config of the target; transformers reads decoding settings under this name.
        weight, filter: weight and share of `subtract`.
        blocks: number of the target's blocks that the assistant uses.
        rank, alpha, dropout: options of its adapters.
    """

    model_type = OWN + "uld"

    def __init__(self, text_config: Any = None, weight: float = 0.8, filter: float = 0.01, blocks: int = 1,
                 rank: int = 32, alpha: float = 32.0, dropout: float = 0.05, **others: Any) -> None:
        super().__init__(**others)
        self.weight, self.filter, self.blocks = weight, filter, blocks
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.hold(text_config)


def _on_both(name: str) -> Callable[..., None]:
    def call(self: PairedCache, *args: Any) -> None:
        getattr(DynamicCache, name)(self, *args)
        getattr(self.assistant, name)(*args)
    return call


class PairedCache(DynamicCache):
    """Key-value caches of the target and of the assistant."""

    def __init__(self, target: Any, assistant: Any) -> None:
        super().__init__(config=target)
        self.assistant = DynamicCache(config=assistant)

    reset, crop, reorder_cache = map(_on_both, ("reset", "crop", "reorder_cache"))
    batch_repeat_interleave, batch_select_indices = map(_on_both, ("batch_repeat_interleave", "batch_select_indices"))


class ULDForCausalLM(PreTrainedModel, GenerationMixin):
    """Target logits minus weighted assistant logits, for scoring and for decoding."""

    config_class = ULDConfig
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    main_input_name = "input_ids"

    decodes_as_it_scores = False
    """Filtered tokens keep the target's logit in scoring and are excluded in decoding."""

    def __init__(self, config: ULDConfig) -> None:
        super().__init__(config)
        self.target = AutoModelForCausalLM.from_config(config.text_config)
        self.adapters = nn.ModuleDict(adapters_for(self.target, config))
        self._view: list[nn.Module] = []  # in a list, so that its modules are not registered as submodules
        self.post_init()

    @classmethod
    def around(cls, target: Any, config: ULDConfig, generator: torch.Generator) -> ULDForCausalLM:
        """Guard an existing model without copying its weights.

        Adapters are in float32 for any dtype of the target, because they are trained.
        """
        with torch.device("meta"):  # else weights would be allocated and discarded
            model = cls(config)
        model.target = target
        model.adapters.to_empty(device=target.device).float()
        for adapter in model.adapters.values():
            cast(Adapter, adapter).start(generator)
        model.generation_config = copy.deepcopy(target.generation_config)
        return model.eval()

    @property
    def assistant(self) -> Any:
        """The target's first blocks with adapters, as a causal language model."""
        if not self._view:
            self._view.append(view_of(self.target, self.config.blocks, self.adapters).train(self.training))
        return self._view[0]

    def _apply(self, *args: Any, **options: Any) -> Any:
        self._view.clear()  # its buffers are copies, which `_apply` would not reach
        return super()._apply(*args, **options)

    def train(self, mode: bool = True) -> Any:
        for view in self._view:
            view.train(mode)
        return super().train(mode)

    def get_input_embeddings(self) -> Any:
        """The target's embeddings, a module that the assistant shares: a hook on it applies to both."""
        return self.target.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """The target's head, a module that the assistant shares: a hook on it applies to both."""
        return self.target.get_output_embeddings()

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                position_ids: Tensor | None = None, past_key_values: Any = None, use_cache: bool | None = None,
                labels: Tensor | None = None, generating: bool = False, return_dict: bool | None = None,
                **kwargs: Any) -> Any:
        """The forward pass of a causal language model of transformers.

        With `generating`, filtered tokens are excluded; in scoring they keep the target's logit.
        """
        use_cache = not self.training if use_cache is None else use_cache
        cache = self.cache() if use_cache and past_key_values is None else past_key_values
        if cache is not None and not isinstance(cache, PairedCache):
            raise UsageError(f"A guarded model cannot decode with a {type(cache).__name__}.",
                             "Target and assistant each need their own keys and values.",
                             "Leave past_key_values out, or pass model.cache().")
        inputs = kwargs | {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": use_cache}
        if position_ids is not None and "position_ids" in inspect.signature(self.target.forward).parameters:
            inputs["position_ids"] = position_ids
        output = self.target(**inputs, past_key_values=cache, return_dict=True)
        logits = output.logits
        if self.config.weight:
            other = self.assistant(**inputs, past_key_values=None if cache is None else cache.assistant,
                                   return_dict=True).logits
            logits = subtract(logits, other, self.config.weight, self.config.filter, generating=generating)
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=logits.shape[-1])
        out = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache,
                                     hidden_states=output.get("hidden_states"), attentions=output.get("attentions"))
        return out.to_tuple() if return_dict is False else out

    def cache(self) -> PairedCache:
        """An empty cache for decoding."""
        return PairedCache(self.target.config, self.assistant.config)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # by transformers
        return dict(self.target.prepare_inputs_for_generation(input_ids, **kwargs)) | {"generating": True}

    def generate(self, *args: Any, **options: Any) -> Any:
        """Decoding of transformers with a PairedCache, unless caching is off."""
        settings = options.get("generation_config") or self.generation_config
        cached = options.get("use_cache", settings.use_cache) is not False
        if cached and options.get("past_key_values") is None:
            options["past_key_values"] = self.cache()
        return super().generate(*args, **options)


def linear_layers(target: Any, blocks: int) -> dict[str, tuple[int, int]]:
    """Every linear layer of the first blocks by name, with its input and output size."""
    names = list(CausalLM(target, cast(Any, None)).blocks)
    inside = tuple(f"{name}." for name in names[:blocks])
    sizes_of = {}
    for name, module in target.named_modules():
        if name.startswith(inside) and isinstance(module, nn.Linear | Conv1D):
            sizes = tuple(module.weight.shape)  # Linear stores (out, in), Conv1D (in, out)
            sizes_of[name] = sizes if isinstance(module, Conv1D) else sizes[::-1]
    return sizes_of


def adapters_for(target: Any, config: ULDConfig) -> dict[str, Adapter]:
    """One adapter per linear layer; dots become dashes, since a module name must not contain dots."""
    return {name.replace(".", "-"): Adapter(*sizes, config.rank, config.alpha, config.dropout)
            for name, sizes in linear_layers(target, config.blocks).items()}


def view_of(target: Any, blocks: int, adapters: nn.ModuleDict) -> Any:
    """The first blocks of `target`, its final norm, embeddings and head.

    All weights are shared with the target, and so are the modules of embeddings and head, so that a hook on one of
    these applies to the whole guarded model. The other modules are copied.
    """
    ends = [end for end in (target.get_input_embeddings(), target.get_output_embeddings()) if end is not None]
    shared = [*target.parameters(), *ends]
    view = copy.deepcopy(target, {id(item): item for item in shared})
    names = list(CausalLM(view, cast(Any, None)).blocks)
    del view.get_submodule(names[0].rpartition(".")[0])[blocks:]
    view.config.num_hidden_layers = blocks
    if getattr(view.config, "layer_types", None):
        view.config.layer_types = view.config.layer_types[:blocks]
    without_hooks(view, keep=ends)
    for key, adapter in adapters.items():
        parent, _, name = key.replace("-", ".").rpartition(".")
        place = view.get_submodule(parent)
        setattr(place, name, Adapted(getattr(place, name), cast(Adapter, adapter)))
    return view


AutoConfig.register(ULDConfig.model_type, ULDConfig, exist_ok=True)
AutoModelForCausalLM.register(ULDConfig, ULDForCausalLM, exist_ok=True)
