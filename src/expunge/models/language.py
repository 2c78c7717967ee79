"""A causal language model under test: what every subject has, and hidden states and continuations beside.

Legend: B rows, T padded length, N supervised tokens (flat), V vocabulary, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expunge.data.model_config import context_of, depth_of, has_experts, has_heads
from expunge.data.text_encoder import TextEncoder, TokenBatch, TokenRow
from expunge.errors import UsageError
from expunge.models import fast
from expunge.models.answers import Answers
from expunge.models.attention import attention_maps
from expunge.models.behaviour import pads_right
from expunge.models.decoding import Watch, continued, stop_ids, stripped
from expunge.models.head import LazyLogits, is_plain
from expunge.models.sites import Site, read, stop_after, write
from expunge.models.slots import block_number
from expunge.models.subject import Subject
from expunge.needs import ModelNeed
from expunge.records.task import Example


class CausalLM(Subject):
    """A causal language model with its tokenizer. Guards and attacks return the same shape.

    Args:
        model: a Hugging Face causal LM, or a PEFT model around one.
        encoder: how examples become token rows.
        path: where the weights came from, for records.
    """

    modality: ClassVar[str] = "text"
    encoder: TextEncoder

    def __init__(self, model: Any, encoder: TextEncoder, path: str = "") -> None:
        super().__init__(model, encoder, path)
        if getattr(getattr(model, "config", None), "rescale_every", 0):
            # RWKV halves weights in place whenever it goes from training to evaluation: against overflow in fp16, but
            # then no checksum holds, no graph is whole, and what is saved depends on the mode.
            model.config.rescale_every = 0
        self.decode: Callable[..., Tensor] | None = None  # another way than the model's own
        self._pads: tuple[Any, bool] = (None, True)  # the model that was tried, and whether rows may be padded
        self._seen: tuple[Any, bool] = (None, False)  # the model whose head was looked at, and whether that is all

    @classmethod
    def offers(cls, config: Any) -> frozenset[ModelNeed]:
        """A router only where the config names experts, attention maps only where it names heads."""
        offered = set(super().offers(config))
        if not has_experts(config):
            offered.discard("router")
        if not has_heads(config):
            offered.discard("attention")
        return frozenset(offered)

    @property
    def outcomes(self) -> int:
        """The vocabulary."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def embedding(self) -> nn.Module:
        found: nn.Module = self.model.get_input_embeddings()
        return found

    @property
    def head(self) -> nn.Module:
        """The output embedding."""
        found: nn.Module | None = self.model.get_output_embeddings()
        if found is None:
            raise UsageError("This model has no output head of its own.", "Its logits are made by a larger module.")
        return found

    @property
    def adapter_task(self) -> str:
        return "CAUSAL_LM"

    @property
    def context(self) -> int | None:
        """Longest sequence the position encoding knows, where the config tells."""
        return context_of(self.model.config)

    @property
    def width(self) -> int:
        """Size of the hidden states."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    def as_read(self, example: Example) -> list[Any]:
        """As its parent's: ids, and where prompt, answer and end are cut."""
        encode = self.encoder.encode
        sentences = (example.answer.replace(example.short_answer, o) if example.short_answer else o
                     for o in example.options)
        answers = dict.fromkeys((*example.paraphrased_answers, *example.wrong_answers, *sentences))
        rows = [encode(example), *(encode(example, answer=answer) for answer in answers),
                *(encode(example, prompt=prompt) for prompt in example.paraphrased_prompts)]
        return [[*row.ids, -row.prompt, -row.answer, -row.end] for row in rows]

    @property
    def decoding(self) -> dict[str, Any]:
        """As its parent's: the generation config, end tokens and padding."""
        own = getattr(self.model, "generation_config", None)
        return {"settings": own.to_diff_dict() if own is not None else {}, "stops": sorted(stop_ids(self)),
                "pad": self.encoder.pad_id}

    def check_room(self, examples: Sequence[Example], extra: int) -> None:
        """As its parent's."""
        longest = max((len(self.encoder.encode(r).ids) for r in examples), default=0)
        if self.context is None or longest + extra <= self.context:
            return
        more = f", and {extra} more" if extra else ""
        raise UsageError(f"The longest row has {longest} tokens{more}: too long for a context of {self.context}.",
                         "The attack adds words to the prompt.", "Choose options that add fewer.")

    @cached_property
    def _blocks(self) -> dict[str, nn.Module]:
        """The first list as long as the config says, in the decoder of text if there is one; empty without any."""
        depth = depth_of(self.model.config)
        lists = {name: m for name, m in self.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth}
        mine = set(map(id, _decoder(self.model).modules()))  # a vision tower may have as many blocks
        name = next((n for n, m in lists.items() if id(m) in mine), next(iter(lists), None))
        return {f"{name}.{i}": block for i, block in enumerate(lists[name])} if name is not None else {}

    @property
    def adapted(self) -> str | list[str]:
        """As its parent's: the linear layers of the decoder blocks, where these are known."""
        from expunge.models.adapter import DEFAULT, layers_to_adapt

        return layers_to_adapt(self) or DEFAULT

    def answers(self, batch: TokenBatch, past: Any = None, keep: bool = False) -> Answers:
        """What the model says at the supervised positions only: the head never sees the others.

        The output head is given the N hidden states that predict a supervised token, so no [B, T, V] array exists.
        Where the head alone makes the logits it does not run here, but when they are asked for (`LazyLogits`). Families
        that scale or cap the logits afterwards, and models with hooks, need it to run in its place.

        Args:
            past: keys and values of what stands before each row, equally long for all; it is used up.
            keep: leave keys and values on the answers, where the model has any.
        """
        batch = batch.to(self.device)
        if not batch.rows:
            vocabulary = len(self.model.get_input_embeddings().weight)
            return Answers(batch, torch.zeros(0, vocabulary, device=self.device, dtype=self.model.dtype))
        if past is None and not keep and (groups := self._by_length(batch)):
            return self._answers_by_length(batch, groups)
        inputs: dict[str, Any] = {"input_ids": batch.ids_BT, "attention_mask": batch.attention_BT, "use_cache": keep}
        if past is not None:
            before_BP = batch.attention_BT.new_ones(len(batch), past.get_seq_length())
            inputs |= {"attention_mask": torch.cat([before_BP, batch.attention_BT], 1), "past_key_values": past,
                       "use_cache": True}
        head = self.model.get_output_embeddings()
        if head is None:  # no separable head: full logits, then pick
            said = self.model(**inputs)
            return Answers(batch, said.logits.flatten(0, 1)[batch.flat_N], _past(said) if keep else None)
        plain = fast.enabled("late_head") and is_plain(head, self.device) and self.bare
        late = plain and self._seen == (self.model, True)
        with self._on_real_positions(batch, batch.flat_N), self._head_given(batch.flat_N, run=not late) as given:
            said = self.model(**inputs)
        logits_1NV, past = said.logits, _past(said) if keep else None
        if plain and self._seen[0] is not self.model and len(batch.flat_N):
            # Some families scale or cap what their head says: look once, where there is something to look at.
            with torch.no_grad():
                again = [head(states_ND[None]) for states_ND in given]
            self._seen = self.model, len(again) == 1 and again[0].dtype == logits_1NV.dtype and torch.equal(
                again[0], logits_1NV)
        if plain and self._seen == (self.model, True):
            return Answers(batch, LazyLogits.from_states(given[0], head.weight, head.bias), past)
        return Answers(batch, logits_1NV.squeeze(0), past)

    @property
    def pads_right(self) -> bool:
        """Whether a row before padding is scored as it is alone."""
        if self._pads[0] is not self.model:
            self._pads = self.model, pads_right(self)
        return self._pads[1]

    def _by_length(self, batch: TokenBatch) -> dict[int, list[int]]:
        """Length -> the rows of a batch that have it; nothing where all may go together."""
        lengths = batch.attention_BT.sum(1).tolist()
        if len(set(lengths)) < 2 or self.pads_right:
            return {}
        return {length: [b for b, own in enumerate(lengths) if own == length] for length in set(lengths)}

    def _answers_by_length(self, batch: TokenBatch, groups: Mapping[int, Sequence[int]]) -> Answers:
        """The same from one pass for every length, for families whose rows feel the padding behind them."""
        parts: dict[int, Tensor] = {}
        for length, rows in groups.items():
            few = self.answers(_cut(batch, rows, length))
            counts = [batch.rows[b].supervised for b in rows]
            parts |= dict(zip(rows, few.logits_NV.split(counts), strict=True))
        return Answers(batch, torch.cat([parts[b] for b in range(len(batch))]))

    def _on_real_positions(self, batch: TokenBatch, last_N: Tensor | None) -> AbstractContextManager[None]:
        """No MLP runs on padding, unless tricks are off."""
        if not fast.enabled("real_positions"):
            return nullcontext()
        from expunge.models.fast.real_positions import mlps_on_real_positions

        return mlps_on_real_positions(self, batch.attention_BT, last_N)

    @contextmanager
    def _head_given(self, flat_N: Tensor, run: bool = True) -> Iterator[list[Tensor]]:
        """The head is given the hidden states at these of all B*T positions, as one row; none unless `run`.

        Yields a list to which these states are added, shape N D.
        """
        given = list[Tensor]()

        def pick(states_BTD: Tensor, same: Tensor) -> Tensor:
            given.append(states_BTD.flatten(0, 1)[flat_N])
            return given[-1][None] if run else given[-1][None, :0]

        with write(self, Site(slot="head"), pick):
            yield given

    def answers_in_parts(self, rows: Sequence[TokenRow],
                         chosen: Sequence[int]) -> Iterator[tuple[list[tuple[int, ...]], Answers]]:
        """As its parent's; what several rows begin with runs once for all of them, unless tricks are off."""
        decides = getattr(self.model, "decides_on_prompts", False)  # a guard reads a prompt whole
        if decides or not (fast.enabled("shared_prefixes") and self.bare and self.pads_right):
            return super().answers_in_parts(rows, chosen)
        from expunge.models.fast.prefixes import answers_in_parts

        return answers_in_parts(self, rows, chosen)

    def answers_of(self, batches: Mapping[str, TokenBatch]) -> dict[str, Answers]:
        """As its parent's. On an accelerator, which wants large passes, the rows of all sides share one."""
        if len(batches) == 1 or self.device.type == "cpu":
            return super().answers_of(batches)
        joint = self.answers(self.encoder.concat(list(batches.values())))
        return dict(zip(batches, joint.split(list(batches.values())), strict=True))

    def hidden(self, batch: TokenBatch, block: int) -> Tensor:
        """Output of decoder block `block` (negative counts from the end), shape B T D.

        The forward stops there: later blocks and the head are not run.
        """
        if not batch.rows:
            return torch.zeros(0, 0, self.width, device=self.device, dtype=self.model.dtype)
        batch = batch.to(self.device)
        if groups := self._by_length(batch):
            out_BTD = torch.zeros(0)
            for length, rows in groups.items():
                few_BTD = self.hidden(_cut(batch, rows, length), block)
                if not out_BTD.numel():
                    out_BTD = few_BTD.new_zeros(*batch.ids_BT.shape, few_BTD.shape[-1])
                out_BTD[rows, :length] = few_BTD
            return out_BTD
        with self._on_real_positions(batch, None), stop_after(self, Site(block)) as values:
            self.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False)
        out_BTD = values[0]
        # An ensemble runs the batch once per member, stacked; its representation is the mean.
        return out_BTD if len(out_BTD) == len(batch) else out_BTD.unflatten(0, (-1, len(batch))).mean(0)

    def at(self, batch: TokenBatch, sites: Sequence[Site]) -> list[Tensor]:
        """Values at sites within blocks, shape B T ... each; the forward stops after the last block named."""
        batch, last = batch.to(self.device), max(block_number(self, site.block or 0) for site in sites)
        found: list[Tensor] = []
        lengths = self._by_length(batch) or {batch.ids_BT.shape[1]: list(range(len(batch)))}
        for length, rows in lengths.items():
            few = _cut(batch, rows, length)
            with read(self, sites) as values, stop_after(self, Site(last)):
                self.model(input_ids=few.ids_BT, attention_mask=few.attention_BT, use_cache=False)
            if len(lengths) == 1:
                return [kept[-1] for kept in values]
            found = found or [kept[-1].new_zeros(*batch.ids_BT.shape, *kept[-1].shape[2:]) for kept in values]
            for whole, kept in zip(found, values, strict=True):
                whole[rows, :length] = kept[-1]
        return found

    def attention(self, batch: TokenBatch) -> list[Tensor]:
        """How much each token looks at each before it: of each block that attends, shape B H T T; padding is 0.

        Dropout is off, in training too. Raises UsageError where the family gives no maps.
        """
        batch = batch.to(self.device)
        groups = self._by_length(batch) or {batch.ids_BT.shape[1]: list(range(len(batch)))}
        parts = {length: attention_maps(self, _cut(batch, rows, length)) for length, rows in groups.items()}
        maps = []
        for of_block in zip(*parts.values(), strict=True):
            width = batch.ids_BT.shape[1]
            whole_BHTT = of_block[0].new_zeros(len(batch), of_block[0].shape[1], width, width)
            for (length, rows), part in zip(groups.items(), of_block, strict=True):
                whole_BHTT[rows, :, :length, :length] = part
            maps.append(whole_BHTT * (batch.attention_BT[:, None, :, None] * batch.attention_BT[:, None, None]))
        return maps

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int = 64,
                 progress: Callable[[int], None] | None = None, *, temperature: float | None = None,
                 seed: int = 0, begun: Sequence[Sequence[int]] = (), keep_lines: bool = False, top_p: float = 1.0,
                 watch: Watch | None = None) -> list[tuple[str, bool]]:
        """Continuations, in the order given: (text, whether an end token came).

        Greedy unless a `temperature` is given; then tokens are drawn from the whole distribution, or from the fewest
        tokens with `top_p` of the probability, with `seed` and never from the global state. Rows run in batches of
        similar length.

        Args:
            watch: is told of every token as it comes, and may end a continuation.
            begun: the first tokens of each greedy continuation, where the likelihood probe found them. Decoding starts
                after them. The words stay the same, up to rounding.
            keep_lines: keep line breaks before the first word, after which some scores read no more.
        """
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
        with self.evaluating(), torch.random.fork_rng(enabled=temperature is not None):
            if temperature is not None:
                torch.manual_seed(seed)  # transformers samples from the global generator only
            said = continued(self, prompts, max_new_tokens, batch_size, greedy if temperature is None else sampling,
                             begun, progress, watch)
        return [(stripped(self.encoder.processor.decode(tokens, skip_special_tokens=True), keep_lines), ended)
                for tokens, ended in said]

    def decoded(self, way: Callable[..., Tensor]) -> CausalLM:
        """The same model, decoding another way: `way(decode, **options)` stands where `decode(**options)` stood.

        `decode` is `model.generate`, or the way that was set before; it gives prompts and continuations, shape B T.
        """
        other = copy.copy(self)
        other.decode = partial(way, self.decode or self.model.generate)
        return other

    def clone(self) -> CausalLM:
        """As its parent's. Raises UsageError where the model decodes another way."""
        if self.decode is not None:
            raise UsageError("A model that is made to decode another way is not changed after that.",
                             fix="Name attacks on weights before those on decoding.")
        return super().clone()


def _decoder(model: Any) -> nn.Module:
    """The part of a model that holds the blocks of text, as its family says; the whole where it does not."""
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    try:
        found = plain.get_decoder()
    except (AttributeError, NotImplementedError):
        found = plain
    return found if isinstance(found, nn.Module) else plain


def _cut(batch: TokenBatch, rows: Sequence[int], length: int) -> TokenBatch:
    """Some rows of a batch, all of this length."""
    chosen = list(rows)
    return TokenBatch(tuple(batch.rows[b] for b in rows), batch.ids_BT[chosen, :length],
                      batch.attention_BT[chosen, :length])


def _past(said: Any) -> Any:
    """Keys and values that a model leaves behind, if it does."""
    return getattr(said, "past_key_values", None)
