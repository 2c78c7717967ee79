"""A guarded model: the target, and a second pass for the rows whose prompt a detector fires on.

    prompt -> detector -> context before the question | other vectors for its tokens | other logits | other decoding

The target always runs on the rows as they are. Where no row fires, what it says is returned, bit for bit. Where a row
fires, its final hidden states are replaced by those of a second pass, before the output head. The second pass runs in a
view of the target, whose modules are copies without hooks and whose weights are the target's.

Legend: B rows, T columns, K columns of the second pass, D hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from expunge.errors import DataError, UsageError
from expunge.guards.cache import GuardCache
from expunge.guards.detector import Finding
from expunge.guards.frame import Prompt, QuestionFrame
from expunge.guards.store import Store, read_store
from expunge.guards.target_config import TargetConfig
from expunge.models.language import CausalLM
from expunge.models.load import load_processor
from expunge.models.sites import Site, read, without_hooks


class GuardConfig(TargetConfig, PretrainedConfig):
    """The target's config, its template, and the options of the guard.

    Args:
        text_config: config of the target; transformers reads decoding settings under this name.
        before, after, place: the `QuestionFrame` of the target's prompts.
        reserve: tokens of the context that a guard may put before a question.
        options: options of the guard.
    """

    def __init__(self, text_config: Any = None, before: Sequence[int] = (), after: Sequence[int] = (), place: int = 0,
                 reserve: int = 0, options: dict[str, Any] | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.before, self.after, self.place, self.reserve = list(before), list(after), place, reserve
        self.options = options or {}
        self.hold(text_config)

    @property
    def frame(self) -> QuestionFrame:
        return QuestionFrame(tuple(self.before), tuple(self.after), self.place)

    @property
    def max_position_embeddings(self) -> int:
        return super().max_position_embeddings - self.reserve


class _Shared:
    """A tokenizer, which copies of a model share."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class GuardedForCausalLM(PreTrainedModel, GenerationMixin):
    """Base of all guarded models. A guard overrides `decide`, and `context`, `corrupt` or `rule_out`."""

    config_class = GuardConfig
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    main_input_name = "input_ids"

    decodes_as_it_scores = False
    """What is decided depends on the prompt that is given."""
    decides_on_prompts = True
    """Rows must be read whole: the beginning of one alone is another prompt."""
    second_pass: ClassVar[bool] = True
    """False where a guard changes logits or decoding alone."""

    def __init__(self, config: GuardConfig) -> None:
        super().__init__(config)
        self.target = AutoModelForCausalLM.from_config(config.text_config)
        self.register_buffer("digest", torch.zeros(16, dtype=torch.uint8))
        self._shared: _Shared | None = None
        self._store: Store | None = None
        self._view: list[Any] = []  # in a list, so that its modules are not registered as submodules
        self.post_init()

    @classmethod
    def around(cls, target: Any, config: GuardConfig, store: Store, tokenizer: Any) -> Any:
        """Guard an existing model without copying its weights."""
        with torch.device("meta"):  # else weights would be allocated and discarded
            model = cls(config)
        model.target = target
        model.digest = torch.tensor(list(store.digest), dtype=torch.uint8, device=target.device)
        model.generation_config = copy.deepcopy(target.generation_config)
        model._open(store, tokenizer)
        return model.eval()

    @classmethod
    def from_pretrained(cls, where: Any, *args: Any, **options: Any) -> Any:
        """As transformers does, with the guard's store and its tokenizer from the same folder.

        Raises:
            MissingError: the store is not there, or was emptied.
            DataError: it is not the one that the model was saved with.
        """
        store = read_store(where)
        made = super().from_pretrained(where, *args, **options)
        model = made[0] if isinstance(made, tuple) else made
        if bytes(model.digest.tolist()) != store.digest:
            raise DataError(f"The store of the guard in {where} is not the one it was saved with.",
                            "Its digest differs from that in the weights.", "Copy the folder again.")
        model._open(store, load_processor(where))
        return made

    def save_pretrained(self, where: Any, *args: Any, **options: Any) -> None:
        """As transformers does, with the guard's store and its tokenizer."""
        super().save_pretrained(where, *args, **options)
        self.store.write(Path(where))
        self.tokenizer.save_pretrained(where)

    def _open(self, store: Store, tokenizer: Any) -> None:
        self._store, self._shared = store, _Shared(tokenizer)
        self.opened(store.data)

    @property
    def store(self) -> Store:
        """What the guard keeps. Raises UsageError for a model that was made from a config alone."""
        if self._store is None:
            raise UsageError("This guarded model has no store.", "It was made from a config alone.",
                             "Load it with from_pretrained, or build it with its guard.")
        return self._store

    @property
    def tokenizer(self) -> Any:
        return self._shared.tokenizer if self._shared is not None else None

    def opened(self, data: dict[str, Any]) -> None:
        """Make what is used at inference from the data of the store."""

    def decide(self, prompt: Prompt, state_D: Tensor | None) -> Finding:
        """Whether to guard a row.

        Args:
            state_D: mean over the prompt of the hidden state after block `state_block`, where there is one.
        """
        raise NotImplementedError

    @property
    def state_block(self) -> int | None:
        """The block whose states `decide` reads."""
        return None

    def context(self, prompt: Prompt, finding: Finding) -> str:
        """Text to put before the question of a row that fired."""
        return ""

    def corrupt(self, vectors_KD: Tensor, prompt: Prompt) -> Tensor:
        """Other vectors for the tokens of the prompt of a row that fired, shape as given; a new tensor."""
        return vectors_KD

    corrupts: ClassVar[bool] = False
    """Whether it overrides `corrupt`."""

    def fires(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> list[Finding]:
        """What the detector says of each prompt; the target runs once where it reads hidden states."""
        cache = self.cache()
        with torch.no_grad():
            self(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache)
        return [finding for _, finding in cache.decided or ()]

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                position_ids: Tensor | None = None, past_key_values: Any = None, use_cache: bool | None = None,
                labels: Tensor | None = None, return_dict: bool | None = None, **kwargs: Any) -> Any:
        """The forward pass of a causal language model of transformers.

        The prompt of a row ends where the template ends it last; a row without that is a prompt as a whole.
        """
        if input_ids is None:
            raise UsageError("A guarded model reads tokens, and was given vectors.",
                             "Its guard decides on the words of a prompt.", "Give input_ids.")
        use_cache = not self.training if use_cache is None else use_cache
        cache = self.cache() if use_cache and past_key_values is None else past_key_values
        if cache is not None and not isinstance(cache, GuardCache):
            raise UsageError(f"A guarded model cannot decode with a {type(cache).__name__}.",
                             "It has keys and values of a second pass, and what was decided of the prompt.",
                             "Leave past_key_values out, or pass model.cache().")
        inputs = kwargs | {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": use_cache}
        if position_ids is not None and "position_ids" in inspect.signature(self.target.forward).parameters:
            inputs["position_ids"] = position_ids
        mask_BT = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        with self._guarding(input_ids, mask_BT, cache) as decided:
            output = self.target(**inputs, past_key_values=cache, return_dict=True)
        logits = self.rule_out(output.logits, input_ids, mask_BT, decided)
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=logits.shape[-1])
        out = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache,
                                     hidden_states=output.get("hidden_states"), attentions=output.get("attentions"))
        return out.to_tuple() if return_dict is False else out

    def rule_out(self, logits_BTV: Tensor, ids_BT: Tensor, mask_BT: Tensor,
                 decided: Sequence[tuple[Prompt, Finding]]) -> Tensor:
        """Other logits for rows that fired; the very tensor where there are none."""
        return logits_BTV

    @contextmanager
    def _guarding(self, ids_BT: Tensor, mask_BT: Tensor,
                  cache: GuardCache | None) -> Iterator[list[tuple[Prompt, Finding]]]:
        """Within this context the target's decoder gives the states of the second pass for rows that fire."""
        decoder, found = self.target.get_decoder(), list[tuple[Prompt, Finding]]()
        plain, block = decoder.forward, self.state_block
        before = vars(decoder).get("forward")
        new = cache is None or cache.decided is None

        def run(*args: Any, **options: Any) -> Any:
            states_BTD = None
            if new and block is not None:
                with read(CausalLM(self.target, cast(Any, None)), [Site(block)]) as values:
                    output = plain(*args, **options)
                states_BTD = values[0][-1]
            else:
                output = plain(*args, **options)
            found.extend(self._decided(ids_BT, mask_BT, cache, states_BTD))
            if self.second_pass and any(finding.fired for _, finding in found):
                fired_B = torch.tensor([finding.fired for _, finding in found], device=ids_BT.device)
                other_BTD = self._second(ids_BT, mask_BT, cache, found)
                output[0 if isinstance(output, tuple) else "last_hidden_state"] = torch.where(
                    fired_B[:, None, None], other_BTD.to(output[0].dtype), output[0])
            return output

        decoder.forward = run
        try:
            yield found
        finally:
            if before is None:
                del decoder.forward
            else:
                decoder.forward = before
        if len(found) != len(ids_BT):  # never answer unguarded
            raise UsageError(f"A {type(self.target).__name__} cannot be guarded.",
                             "It does not call its decoder as other causal language models do.")

    def _decided(self, ids_BT: Tensor, mask_BT: Tensor, cache: GuardCache | None,
                 states_BTD: Tensor | None) -> list[tuple[Prompt, Finding]]:
        if cache is not None and cache.decided is not None:
            return cache.decided
        found: list[tuple[Prompt, Finding]] = []
        for b, (ids_T, mask_T) in enumerate(zip(ids_BT.tolist(), mask_BT.tolist(), strict=True)):
            columns = [t for t, real in enumerate(mask_T[-len(ids_T):]) if real]
            prompt = self.config.frame.prompt([ids_T[t] for t in columns], self.tokenizer)
            state_D = None if states_BTD is None else states_BTD[b, columns[: prompt.end]].float().mean(0)
            found.append((prompt, self.decide(prompt, state_D)))
        if cache is not None:
            cache.decided = found
        return found

    def _second(self, ids_BT: Tensor, mask_BT: Tensor, cache: GuardCache | None,
                found: Sequence[tuple[Prompt, Finding]]) -> Tensor:
        """Final hidden states of the second pass at the columns of the rows as given, shape B T D."""
        old_BK = None if cache is None else cache.mask_BT
        if old_BK is not None:  # decoding: the rows go on
            mask_BK = torch.cat([old_BK, mask_BT[:, -ids_BT.shape[1]:].to(old_BK)], 1)
            states_BTD = self._run(ids_BT, mask_BK, cache)
            assert cache is not None
            cache.mask_BT = mask_BK
            return states_BTD
        added = [self._added(prompt, finding) for prompt, finding in found]
        left = bool(mask_BT[:, -1].all())
        width = max(len(ids) + int(mask_T.sum()) for ids, mask_T in zip(added, mask_BT, strict=True))
        width = max(width, ids_BT.shape[1])  # without a context the columns stay where they are
        other_BK = ids_BT.new_zeros(len(ids_BT), width)
        mask_BK = mask_BT.new_zeros(len(ids_BT), width)
        where_BT = torch.zeros_like(ids_BT)
        for b, ((prompt, _), ids) in enumerate(zip(found, added, strict=True)):
            cut = min(self.config.place, len(prompt.ids))
            row = (*prompt.ids[:cut], *ids, *prompt.ids[cut:])
            first = width - len(row) if left else 0
            other_BK[b, first: first + len(row)] = torch.tensor(row)
            mask_BK[b, first: first + len(row)] = 1
            columns = mask_BT[b].nonzero()[:, 0]
            where = [first + t + (len(ids) if t >= cut else 0) for t in range(len(prompt.ids))]
            where_BT[b, columns] = torch.tensor(where, device=ids_BT.device)
        states_BKD = self._run(other_BK, mask_BK, cache, found)
        if cache is not None:
            cache.mask_BT = mask_BK
        return states_BKD.gather(1, where_BT[..., None].expand(-1, -1, states_BKD.shape[-1]))

    def _added(self, prompt: Prompt, finding: Finding) -> tuple[int, ...]:
        """The tokens of the context of a row, as many as there is room for."""
        text = self.context(prompt, finding) if finding.fired else ""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return tuple(ids[-self.config.reserve:] if self.config.reserve else ())

    def _run(self, ids_BK: Tensor, mask_BK: Tensor, cache: GuardCache | None,
             found: Sequence[tuple[Prompt, Finding]] = ()) -> Tensor:
        """One pass of the view over the last columns of the mask."""
        decoder = self.view.get_decoder()
        inputs: dict[str, Any] = {"input_ids": ids_BK, "attention_mask": mask_BK, "use_cache": cache is not None,
                                  "past_key_values": None if cache is None else cache.second}
        if "position_ids" in inspect.signature(decoder.forward).parameters:
            inputs["position_ids"] = (mask_BK.cumsum(-1) - 1).clamp(min=0)[:, -ids_BK.shape[1]:]
        if self.corrupts and found:
            vectors_BKD = self.target.get_input_embeddings()(ids_BK)
            rows = []
            for b, (prompt, finding) in enumerate(found):
                columns = mask_BK[b].nonzero()[: prompt.end, 0]
                row_KD = vectors_BKD[b]
                rows.append(row_KD.index_copy(0, columns, self.corrupt(row_KD[columns], prompt))
                            if finding.fired else row_KD)
            inputs |= {"input_ids": None, "inputs_embeds": torch.stack(rows)}
        states: Tensor = decoder(**inputs)[0]
        return states

    @property
    def view(self) -> Any:
        """The target's modules without hooks, with the target's weights; made anew when a module is replaced."""
        key = [id(module) for module in self.target.modules()]
        if not self._view or self._view[0] != key:
            embedding = self.target.get_input_embeddings()  # a module that both share: prompts of vectors reach both
            shared: list[Any] = [*self.target.parameters(), embedding]
            view = copy.deepcopy(self.target, {id(item): item for item in shared})
            without_hooks(view, keep=[embedding])
            for module in view.modules():
                module.__dict__.pop("forward", None)
            self._view[:] = [key, view]
        return self._view[1].train(self.training)

    def _apply(self, *args: Any, **options: Any) -> Any:
        self._view.clear()  # its buffers are copies, which `_apply` would not reach
        return super()._apply(*args, **options)

    def get_input_embeddings(self) -> Any:
        return self.target.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.target.get_output_embeddings()

    def cache(self) -> GuardCache:
        """An empty cache for decoding."""
        return GuardCache(self.target.config)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # by transformers
        return dict(self.target.prepare_inputs_for_generation(input_ids, **kwargs))

    def generate(self, *args: Any, **options: Any) -> Any:
        """Decoding of transformers with a GuardCache, unless caching is off."""
        settings = options.get("generation_config") or self.generation_config
        if getattr(settings, "prefill_chunk_size", None) or options.get("prefill_chunk_size"):
            raise UsageError("A guarded model reads a prompt whole, and prefill_chunk_size cuts it.",
                             "Its guard decides on the words of a prompt.", "Leave prefill_chunk_size out.")
        cached = options.get("use_cache", settings.use_cache) is not False
        if cached and options.get("past_key_values") is None:
            options["past_key_values"] = self.cache()
        return super().generate(*args, **options)


def register(config: type[GuardConfig], model: type[GuardedForCausalLM]) -> None:
    """Make `AutoModelForCausalLM` know a guarded model."""
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForCausalLM.register(config, model, exist_ok=True)


