"""The model under test, seen through four verbs: answers, hidden, generate, save.

Legend: B rows, T padded length, N supervised tokens (flat), V vocabulary, D hidden size.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.data.tokens import TokenBatch, Tokens, alike, collate, concat
from expunge.errors import UsageError
from expunge.models.answers import Answers
from expunge.models.linear import quicken
from expunge.models.sparing import sparing

STRETCH = 32
"""Greedy tokens between two looks at who has ended."""


def is_by_row(cache: Any) -> bool:
    """Whether a cache holds keys and values of every row and nothing else, so that rows can be picked from it."""
    layers = getattr(cache, "layers", None) or ()
    return bool(layers) and hasattr(cache, "batch_select_indices") and all(
        isinstance(getattr(layer, "keys", None), Tensor) and not hasattr(layer, "conv_states") for layer in layers)


def select(cache: Any, chosen: Tensor, rows: int) -> None:
    """Each row of a batch gets the keys and values of one of the `rows` there were; an ensemble has a stack of them."""
    members = len(cache.layers[0].keys) // rows
    cache.batch_select_indices(torch.cat([chosen + k * rows for k in range(members)]))


class _Reached(Exception):
    """Raised by a hook to leave a forward pass early."""


class Subject:
    """A causal language model with its tokenizer. Guards and attacks return the same shape.

    Args:
        model: a Hugging Face causal LM, or a PEFT model around one.
        tokens: how examples become token rows.
        path: where the weights came from, for records.
    """

    def __init__(self, model: Any, tokens: Tokens, path: str = "") -> None:
        quicken(model)
        self.model = model
        self.tokens = tokens
        self.path = path
        self._decode: Callable[..., Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def bare(self) -> bool:
        """Whether no hook looks on: one that counts positions or rows would see others than it expects."""
        return not any(m._forward_hooks or m._forward_pre_hooks for m in self.model.modules())

    @property
    def recomputes(self) -> bool:
        """Whether some block computes its activations again on the way back (gradient checkpointing)."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())

    @property
    def context(self) -> int | None:
        """Longest sequence the position encoding knows, where the config tells."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def width(self) -> int:
        """Size of the hidden states."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @cached_property
    def blocks(self) -> dict[str, nn.Module]:
        """The decoder blocks by module name, in order. Raises UsageError where they are not known."""
        if not self._blocks:
            raise UsageError("This model has no list of decoder blocks.", "layers(...) and rmu need one.")
        return self._blocks

    @cached_property
    def _blocks(self) -> dict[str, nn.Module]:
        """The first list as long as the config says; empty where there is none."""
        depth = getattr(self.model.config, "num_hidden_layers", None)
        lists = {name: m for name, m in self.model.named_modules() if isinstance(m, nn.ModuleList)}
        name = next((n for n, m in lists.items() if len(m) == depth), None)
        return {f"{name}.{i}": block for i, block in enumerate(lists[name])} if name is not None else {}

    def answers(self, batch: TokenBatch, past: Any = None) -> Answers:
        """Logits at the supervised positions only: the head never sees the others.

        A hook hands the output head the N hidden states that predict a supervised token, so no
        [B, T, V] array exists. Whatever a family does after its head (scaling, soft caps) still runs.

        Args:
            past: keys and values of what stands before each row, equally long for all; it is used up.
        """
        batch = batch.to(self.device)
        if not batch.rows:
            vocabulary = len(self.model.get_input_embeddings().weight)
            return Answers(batch, torch.zeros(0, vocabulary, device=self.device, dtype=self.model.dtype))
        inputs: dict[str, Any] = {"input_ids": batch.ids_BT, "attention_mask": batch.attention_BT, "use_cache": False}
        if past is not None:
            before_BP = batch.attention_BT.new_ones(len(batch), past.get_seq_length())
            inputs |= {"attention_mask": torch.cat([before_BP, batch.attention_BT], 1), "past_key_values": past,
                       "use_cache": True}
        if self.model.get_output_embeddings() is None:  # no separable head: full logits, then pick
            logits_BTV = self.model(**inputs).logits
            return Answers(batch, logits_BTV.flatten(0, 1)[batch.flat_N])
        with self._sparing(batch, batch.flat_N), self._heading(batch.flat_N):
            return Answers(batch, self.model(**inputs).logits.squeeze(0))

    def states(self, batch: TokenBatch) -> Tensor:
        """What the output head would be given to predict the supervised tokens, shape N D; the head is not run."""
        batch, caught = batch.to(self.device), []

        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            caught.append(args[0].flatten(0, 1)[batch.flat_N])

        with (self._sparing(batch, batch.flat_N), self.model.get_output_embeddings().register_forward_pre_hook(look),
              self.headless()):
            self.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False)
        return caught[0]

    def _sparing(self, batch: TokenBatch, last_N: Tensor) -> AbstractContextManager[None]:
        """No MLP in vain, except where a hook looks on, blocks run again on the way back or they are not known."""
        if self.recomputes or not self.bare or not self._blocks:
            return nullcontext()
        return sparing(list(self._blocks.values()), batch.ids_BT.shape, batch.real_N, last_N)

    def headless(self) -> AbstractContextManager[None]:
        """While it lasts, a forward pass computes no logits, where there is a head that can be told so."""
        return self._heading(torch.zeros(0, dtype=torch.long, device=self.device))

    @contextmanager
    def _heading(self, flat_N: Tensor) -> Iterator[None]:
        """While it lasts, the head is given the hidden states at these of all B*T positions, as one row."""
        head = self.model.get_output_embeddings()
        if head is None:
            yield
            return

        def pick(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0].flatten(0, 1)[flat_N].unsqueeze(0), *args[1:])

        handle = head.register_forward_pre_hook(pick)
        try:
            yield
        finally:
            handle.remove()

    def answers_of(self, batches: dict[str, TokenBatch]) -> dict[str, Answers]:
        """Several sides together, handed back apart. Which rows share a pass changes no number.

        An accelerator wants large passes: all rows share one. A processor wants rows of similar length, so that
        little is padded, and so few that what lies between two layers stays in its caches.
        """
        if self._splits:
            return {side: self._answers_by_length(batch) for side, batch in batches.items()}
        if len(batches) == 1:
            return {side: self.answers(batch) for side, batch in batches.items()}
        joint = self.answers(concat(list(batches.values()), self.tokens.pad_id))
        parts = joint.logits_NV.split([b.count("tokens") for b in batches.values()])
        return {side: Answers(b, part) for (side, b), part in zip(batches.items(), parts, strict=True)}

    def _answers_by_length(self, batch: TokenBatch) -> Answers:
        parts = alike(batch.rows)
        if len(parts) == 1:
            return self.answers(batch)
        found = [self.answers(self._some(batch, few)) for few in parts]
        return Answers(batch, found, [b for few in parts for b in few])

    def _some(self, batch: TokenBatch, few: Sequence[int]) -> TokenBatch:
        return collate([batch.rows[b] for b in few], self.tokens.pad_id, self.device)

    @property
    def _splits(self) -> bool:
        """Whether a batch may go through in parts: not where a hook counts its rows."""
        return self.device.type == "cpu" and self.bare

    def hidden(self, batch: TokenBatch, block: int) -> Tensor:
        """Output of decoder block `block` (negative counts from the end), shape B T D.

        The forward stops there: later blocks and the head are not run.
        """
        if not batch.rows:
            return torch.zeros(0, 0, self.width, device=self.device, dtype=self.model.dtype)
        parts = alike(batch.rows) if self._splits else []
        if len(parts) > 1:
            found = [self.hidden(self._some(batch, few), block) for few in parts]
            out_BTD = found[0].new_zeros(*batch.ids_BT.shape, self.width)
            for few, part in zip(parts, found, strict=True):
                out_BTD[few, : part.shape[1]] = part
            return out_BTD
        batch = batch.to(self.device)
        module = list(self.blocks.values())[block]
        caught: list[Tensor] = []

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)
            raise _Reached

        spared = self._sparing(batch, batch.real_N)
        handle = module.register_forward_hook(leave)
        recomputes = getattr(module, "gradient_checkpointing", False)
        if recomputes:  # what is left early cannot be run again
            module.gradient_checkpointing = False  # type: ignore[assignment]
        try:
            with spared:
                self.model(input_ids=batch.ids_BT, attention_mask=batch.attention_BT, use_cache=False)
        except _Reached:
            pass
        finally:
            handle.remove()
            if recomputes:
                module.gradient_checkpointing = True  # type: ignore[assignment]
        out_BTD = caught[0]
        # An ensemble runs the batch once per member, stacked; its representation is the mean.
        return out_BTD if len(out_BTD) == len(batch) else out_BTD.unflatten(0, (-1, len(batch))).mean(0)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int = 64,
                 progress: Callable[[int], None] | None = None, *, temperature: float | None = None,
                 seed: int = 0) -> list[tuple[str, bool]]:
        """Continuations, in the order given: (text, whether an end token came).

        Greedy unless a `temperature` is given; then tokens are drawn from the whole distribution, with `seed`
        and never from the global state. Rows run in batches of similar length, left-padded as decoding needs.
        """
        if temperature is not None:
            with torch.random.fork_rng():  # transformers samples from the global generator only
                torch.manual_seed(seed)
                sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
                return self._generate(prompts, max_new_tokens, batch_size, progress, sampling)
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return self._generate(prompts, max_new_tokens, batch_size, progress, greedy)

    def decoded(self, way: Callable[..., Tensor]) -> Subject:
        """The same model, decoding another way: `way(decode, **options)` stands where `decode(**options)` stood.

        `decode` is `model.generate`, or the way that was set before; it gives prompts and continuations, shape B T.
        """
        other = copy.copy(self)
        other._decode = partial(way, self._decode or self.model.generate)
        return other

    def _generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int,
                  progress: Callable[[int], None] | None, way: dict[str, Any]) -> list[tuple[str, bool]]:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, tuple[str, bool]] = {}
        stops = self._stop_ids()
        with self.evaluating():
            for start in range(0, len(order), batch_size):
                chosen = order[start: start + batch_size]
                width = max(len(prompts[i]) for i in chosen)
                ids = torch.full((len(chosen), width), self.tokens.pad_id, dtype=torch.long)
                attention = torch.zeros_like(ids)
                for b, i in enumerate(chosen):
                    ids[b, width - len(prompts[i]):] = torch.tensor(list(prompts[i]))
                    attention[b, width - len(prompts[i]):] = 1
                room = max_new_tokens if self.context is None else min(max_new_tokens, self.context - width)
                options = way | {"num_beams": 1, "use_cache": True, "pad_token_id": self.tokens.pad_id,
                                 "eos_token_id": sorted(stops) or None}
                said = self._decoded(ids.to(self.device), attention.to(self.device), max(room, 1), stops, options)
                for i, row in zip(chosen, said, strict=True):
                    end = next((t for t, token in enumerate(row) if token in stops), None)
                    text = self.tokens.processor.decode(row[:end], skip_special_tokens=True)
                    found[i] = (text.strip(), end is not None)
                if progress:
                    progress(len(chosen))
        return [found[i] for i in range(len(prompts))]

    def _decoded(self, ids_BT: Tensor, attention_BT: Tensor, room: int, stops: set[int],
                 options: dict[str, Any]) -> list[list[int]]:
        """New tokens of every row. Greedy rows that have ended leave the batch after every `STRETCH` tokens.

        Not where a hook looks on, or where the model's own settings count tokens from the beginning.
        """
        width, own = ids_BT.shape[1], getattr(self.model, "generation_config", None)
        counts = any(getattr(own, name, None) for name in ("forced_eos_token_id", "min_length", "min_new_tokens"))
        if self._decode is not None or options["do_sample"] or not stops or counts or not self.bare:
            out = (self._decode or self.model.generate)(
                input_ids=ids_BT, attention_mask=attention_BT, max_new_tokens=room, **options)
            return list(out[:, width:].tolist())
        said: list[list[int]] = [[] for _ in ids_BT]
        left, cache = list(range(len(said))), None
        while True:
            found = self.model.generate(
                input_ids=ids_BT, attention_mask=attention_BT, past_key_values=cache, return_dict_in_generate=True,
                max_new_tokens=min(STRETCH, room - len(said[left[0]])), **options)
            fresh = found.sequences[:, ids_BT.shape[1]:]
            for b, row in zip(left, fresh.tolist(), strict=True):
                said[b] += row
            going = [k for k, b in enumerate(left) if stops.isdisjoint(said[b]) and len(said[b]) < room]
            if not going:
                break
            cache = found.past_key_values
            if not is_by_row(cache):
                going = list(range(len(left)))  # nobody can leave
            chosen = torch.tensor(going, device=ids_BT.device)
            if len(going) < len(left):
                select(cache, chosen, len(left))
            left = [left[k] for k in going]
            ids_BT = found.sequences[chosen]
            attention_BT = torch.cat([attention_BT[chosen], attention_BT.new_ones(len(going), fresh.shape[1])], 1)
        return said

    def _stop_ids(self) -> set[int]:
        """End tokens: the tokenizer's, and those the model's generation config names."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        ids = {named} if isinstance(named, int) else set(named or ())
        return ids | ({self.tokens.eos_id} if self.tokens.eos_id is not None else set())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Dropout off, gradients off; the former mode comes back."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits over names and bytes of all weights, taken once."""
        return checksum(self.model.state_dict())

    def clone(self) -> Subject:
        """A copy whose weights may be changed; the tokenizer is shared."""
        if self._decode is not None:
            raise UsageError("A model that is made to decode another way is not changed after that.",
                             fix="Name attacks on weights before those on decoding.")
        return type(self)(copy.deepcopy(self.model), self.tokens, self.path)

    def save(self, folder: Path) -> None:
        """Weights (safetensors) and tokenizer, loadable with plain transformers or PEFT."""
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokens.processor.save_pretrained(folder)


def checksum(tensors: dict[str, Tensor]) -> str:
    """First 16 hex digits of a SHA-256 over names, dtypes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
