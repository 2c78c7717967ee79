"""Where something is read, written or stopped inside a model. No other file registers a hook.

    with read(subject, [Site(3), Site(3, "attention")]) as values: ...        # values[0][-1] has shape B T D
    with write(subject, Site(3, "mlp"), lambda given, value: value + noise): ...
    with stop_after(subject, Site(3)) as values: ...                          # later blocks and the head do not run

Everything is put back when a context ends, also after an exception. Contexts may be nested: a write that stands inside
another sees what that one wrote, and a part is read before a `stop_after` at the same site ends the pass.

Legend: B rows, T columns, D hidden size, K inputs of an MLP's output projection, E experts, N chosen tokens (flat).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from expunge.errors import UsageError
from expunge.models.slots import Place, Slot, place_of

Change = Callable[[Any, Tensor], Tensor]
"""(what the part is given, what it gives) -> what stands in its place. For input slots both are the same tensor."""


ADDED_TO = ("attention", "mlp", "expert")
"""Slots whose values some families (Falcon) add to in place afterwards, so that what is read has to be a copy."""


@dataclass(frozen=True)
class SparseAutoencoder:
    """An encoder and decoder pair, trained elsewhere, for the activations of another slot.

    Args:
        encode: B T D -> B T F features.
        decode: B T F -> B T D.
        slot: whose activations it was trained on, in the same block.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    slot: Slot = "block"


@dataclass(frozen=True)
class Site:
    """A part of a model.

    | slot | what is read and written | shape |
    |---|---|---|
    | embedding | vectors that the token embedding gives (no block) | B T D |
    | block | output of a decoder block | B T D |
    | attention | output of its attention, before it is added to the residual stream | B T D |
    | mlp | output of its MLP, experts included, before it is added; BLOOM's and MPT's MLPs add it themselves | B T D |
    | mlp_hidden | input of the MLP's output projection | B T K |
    | router | logits of the router; what is written decides which experts run | B T E |
    | expert | sum of the chosen experts' outputs, weighted by the router | B T D |
    | norm | output of the block's first norm; of the final norm without a block | B T D |
    | head | input of the output head (no block) | B T D |
    | sae | features of a sparse autoencoder at another slot; a write adds decode(new) - decode(old) | B T F |

    Args:
        block: number of the decoder block, negative counts from the end; None for parts outside the blocks.
        tokens: the positions that are meant, a bool mask of shape B T; all of them where it is left out. With a mask,
            values have the shape N ... instead of B T ....
        sae: the autoencoder of the slot `sae`.
    """

    block: int | None = None
    slot: Slot = "block"
    tokens: Tensor | None = field(default=None, compare=False)
    sae: SparseAutoencoder | None = field(default=None, compare=False)

    def place(self, subject: Any) -> Place:
        """The module that is meant. Raises UsageError where the model has no such part."""
        if self.slot != "sae":
            return place_of(subject, self.slot, self.block)
        if self.sae is None:
            raise UsageError("A site with the slot 'sae' needs an autoencoder.", fix="Give Site(..., sae=...).")
        return place_of(subject, self.sae.slot, self.block)


class StopForward(Exception):
    """Raised by `stop_after` to leave a forward pass, and caught by it."""


@contextmanager
def read(subject: Any, sites: Sequence[Site], keep: Callable[[Any], Any] | None = None,
         raw: bool = False) -> Iterator[list[list[Any]]]:
    """Collect the values at some sites during the forward passes that run inside the context.

    Args:
        keep: what is kept of a value instead of the value, such as a mean, to save memory.
        raw: give `keep` what the part returned as it is, a tuple in some families. Not with `tokens` or `sae`.

    Yields:
        One list per site; it gets one value for every time the part runs.

    Raises:
        UsageError: the model has no such part.
    """
    values: list[list[Any]] = [[] for _ in sites]
    with ExitStack() as stack:
        for site, kept in zip(sites, values, strict=True):
            def note(call: _Call, site: Site = site, kept: list[Any] = kept) -> None:
                value = call.returned if raw else _chosen(site, call.value)
                if keep is not None:
                    value = keep(value)
                elif site.slot in ADDED_TO:
                    value = value.clone()
                kept.append(value)

            stack.enter_context(_hook(site.place(subject), note))
        yield values


@contextmanager
def write(subject: Any, site: Site, function: Change,
          inputs: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
    """Replace the value at a site by `function(given, value)`, in scoring and in cached decoding alike.

    The part runs as ever, and fills its part of a cache of keys and values.

    Args:
        inputs: changes what the part is given before it runs; `function` still sees the original.

    Raises:
        UsageError: the model has no such part.
    """
    def whole(given: Any, value: Tensor) -> Tensor:
        return _merged(site, value, function(given, _chosen(site, value)))

    with write_at(site.place(subject), whole, inputs):
        yield


@contextmanager
def write_at(place: Place, function: Change, inputs: Callable[[Tensor], Tensor] | None = None) -> Iterator[None]:
    """As `write`, where the module is known already."""
    originals: list[Tensor] = []

    def change(call: _Call) -> Any:
        given = originals.pop() if inputs is not None else call.given
        return call.with_value(function(given, call.value))

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        assert inputs is not None
        originals.append(args[0])
        return (inputs(args[0]), *args[1:])

    with _hook(place, change):
        handle = place.module.register_forward_pre_hook(before) if inputs is not None else None
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()


@contextmanager
def stop_after(subject: Any, site: Site) -> Iterator[list[Tensor]]:
    """End every forward pass inside the context once the site has its value. The `with` block ends there, too.

    What is left early cannot be run again, so gradient checkpointing of the block is off meanwhile.

    Yields:
        A list to which the value is added.

    Raises:
        UsageError: the model has no such part.
    """
    place, stopped, values = site.place(subject), StopForward(), list[Tensor]()

    def leave(call: _Call) -> None:
        values.append(_chosen(site, call.value))
        raise stopped

    checkpointed = place.block is not None and bool(getattr(place.block, "gradient_checkpointing", False))
    if checkpointed:
        place.block.gradient_checkpointing = False  # type: ignore[union-attr]
    try:
        with _hook(place, leave, last=True):
            yield values
    except StopForward as error:
        if error is not stopped:  # that of a context around this one
            raise
    finally:
        if checkpointed:
            place.block.gradient_checkpointing = True  # type: ignore[union-attr]


@contextmanager
def substitute(subject: Any, outputs: Sequence[Any]) -> Iterator[None]:
    """The first blocks return these outputs (as `read(raw=True)` collects them) instead of computing.

    Whatever follows them runs as always. Going through the model itself rather than through its norm and head by name
    serves every family, adapters and guards, and keeps what some models do to their logits at the end.
    """
    blocks = list(subject.blocks.values())[: len(outputs)]
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block, output in zip(blocks, outputs, strict=True):
            block.forward = _returning(output)
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            block.__dict__.pop("forward", None)
            if own is not None:
                block.forward = own


def _returning(output: Any) -> Callable[..., Any]:
    return lambda *args, **options: output


@contextmanager
def watch_calls(modules: Sequence[nn.Module],
                see: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    """Before each of these modules runs, `see(module, args, kwargs)` is called; it changes nothing."""
    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(module, args, kwargs)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(look, with_kwargs=True).remove)
        yield


@contextmanager
def watch_gradients(modules: Sequence[nn.Module], see: Callable[[nn.Module, Tensor, Tensor], None]) -> Iterator[None]:
    """On the way back through each of these modules, `see(module, input, gradient by the output)` is called; it changes
    nothing. A module has one input, and its output is one tensor: B T ... each, or B*T ... where a family lays
    positions flat."""
    def follow(module: nn.Module, args: tuple[Any, ...], returned: Tensor) -> None:
        def look(gradient: Tensor) -> None:
            see(module, args[0].detach(), gradient)

        if returned.requires_grad:
            returned.register_hook(look)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(follow).remove)
        yield


def without_hooks(module: nn.Module, keep: Sequence[nn.Module] = ()) -> None:
    """Forget the hooks of a copied module and of all inside it, except on the modules in `keep`.

    A deep copy takes hooks along, and those of the original must not run on the copy.
    """
    for part in module.modules():
        if part not in keep:
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()


def is_watched(model: nn.Module) -> bool:
    """Whether a hook is registered anywhere in a model, by a context of this file or by other code."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@dataclass(frozen=True)
class _Call:
    """One run of a part: its first input, what it returned, and the shape B T of its block."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    returned: Any
    shape: tuple[int, ...] | None

    @property
    def given(self) -> Any:
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    @property
    def value(self) -> Tensor:
        """With the rows and columns of the block, where a family runs its MLP on positions laid flat."""
        first: Tensor = self.returned[0] if isinstance(self.returned, tuple) else self.returned
        flat = self.shape is not None and first.dim() == 2 and len(first) == self.shape[0] * self.shape[1]
        return first.unflatten(0, self.shape) if flat and self.shape is not None else first

    def with_value(self, new: Tensor) -> Any:
        """What the part returns with another value; a router draws scores and choices from its new logits."""
        if not isinstance(self.returned, tuple):
            return new if new.dim() == self.returned.dim() else new.flatten(0, 1)
        first = self.returned[0]
        new = new if new.dim() == first.dim() else new.flatten(0, 1)
        if "router" in type(self.module).__name__.lower():
            with _Logits(self.module, new):
                return self.module.forward(*self.args, **self.kwargs)
        return (new, *self.returned[1:])


class _Logits(TorchFunctionMode):
    """Inside it, the product with a router's weight gives these logits."""

    def __init__(self, router: nn.Module, logits: Tensor) -> None:
        super().__init__()
        self.weight, self.logits = router.weight, logits

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear and args[1] is self.weight:
            return self.logits
        return func(*args, **(kwargs or {}))


@contextmanager
def _hook(place: Place, function: Callable[[_Call], Any], last: bool = False) -> Iterator[None]:
    """Call a function with every run of a part; what it returns, where that is not None, replaces what was returned."""
    shape: list[tuple[int, ...]] = []

    def note_shape(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        shape[:] = [tuple(given.shape[:2])]

    def on_input(module: nn.Module, args: tuple[Any, ...]) -> Any:
        changed = function(_Call(module, args, {}, args[0], shape[0] if shape else None))
        return None if changed is None else (changed, *args[1:])

    def on_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> Any:
        return function(_Call(module, args, kwargs, returned, shape[0] if shape else None))

    with ExitStack() as stack:
        if place.block is not None and place.block is not place.module:
            stack.callback(place.block.register_forward_pre_hook(note_shape, with_kwargs=True).remove)
        hooks: Any
        if place.takes_input:
            handle, hooks = place.module.register_forward_pre_hook(on_input), place.module._forward_pre_hooks
        else:
            handle = place.module.register_forward_hook(on_output, with_kwargs=True)
            hooks = place.module._forward_hooks
        stack.callback(handle.remove)
        for key, other in list(hooks.items()):  # those that end the pass come after all that read
            if getattr(other, "ends_pass", False):
                hooks.move_to_end(key)
        hooks[handle.id].ends_pass = last
        yield


def _chosen(site: Site, value: Tensor) -> Tensor:
    if site.sae is not None and site.slot == "sae":
        value = site.sae.encode(value)
    return value if site.tokens is None else value[site.tokens.to(value.device)]


def _merged(site: Site, value: Tensor, new: Tensor) -> Tensor:
    """The whole value, with what was written at the chosen positions."""
    whole = value if site.slot != "sae" or site.sae is None else site.sae.encode(value)
    if site.tokens is not None:
        changed = whole.clone()
        changed[site.tokens.to(whole.device)] = new
        new = changed
    if site.slot == "sae" and site.sae is not None:
        # The difference alone, so that what the autoencoder cannot express stays.
        return value + (site.sae.decode(new) - site.sae.decode(whole)).to(value.dtype)
    return new
