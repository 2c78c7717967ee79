"""GRIP: every parameter may change, but routers keep their choices of experts on retain rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from expunge import plugin
from expunge.errors import UsageError
from expunge.methods._lib.routing import HeldRouter, evenly
from expunge.methods.base import Rows, ScopePlugin
from expunge.methods.scopes.salun import rows_of
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.models.sites import Site, watch_calls
from expunge.models.slots import slots_of
from expunge.plugin import Card, Property


@dataclass
class RouterScope(Scope):
    """A scope that brings routers back after every step."""

    held: list[HeldRouter] = field(default_factory=list)

    def enforce(self) -> None:
        super().enforce()
        for router in self.held:
            router.bring_back()


class GRIP(ScopePlugin):
    """Forgetting cannot hide in the router: on retain tokens the same experts are chosen throughout."""

    class Spec(plugin.Spec):
        rows: int = Field(128, ge=1, description="Most retain rows whose tokens are held.")
        tokens: int = Field(2048, ge=1, description="Most tokens of them for each router, at even distances.")
        null: float = Field(1e-2, ge=0, description="Squared singular value above which a direction of the tokens that "
                                                    "chose an expert is closed to its row.")
        margin: float = Field(1e-2, ge=0, description="Distance in score that an expert which was not chosen keeps, or "
                                                      "half of what it has.")

    card = Card(
        name="grip", kind="scope",
        summary="all parameters may change, and routers choose the same experts on retain rows",
        paper="GRIP: Algorithm-Agnostic Machine Unlearning for Mixture-of-Experts via Geometric Router Constraints "
              "(arXiv 2601.16905)",
        formula="row j of a router moves by u with <u, x> = 0 where x chose j and <u, x> <= tau(x) - margin elsewhere",
        defaults="128 rows, null 1e-2, margin 1e-2, 100 rounds: those of a port; the authors' are not known here",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"hidden", "router", "weights"}),
        deviations=("no code was compared",
                    "the whole move since the start is projected, so that steps do not add up past the margin",
                    "the most violated token is corrected, in place of one drawn by its length, and within the open "
                    "directions, so that corrections do not undo the first projection; what then is left is shortened",
                    "tokens are those of the model at the start: as blocks below change, choices on what they give "
                    "later may change",
                    "where tokens span all directions a router stays as it is: take fewer rows or a larger null",
                    "the correction after training (the paper's second method) is not offered"),
    )
    reads: ClassVar[tuple[str, ...]] = ("retain",)
    space = {"null": ("log", 1e-4, 10.0)}
    must_show = (
        Property("scope_keeps_bits", {}, "without a router it is all parameters"),
        Property("choices_stay", {}, "on Mixtral, Qwen3-MoE and OLMoE no choice on held tokens changes, whatever the "
                                     "step, and the router does move"),
    )

    def apply(self, subject: CausalLM, rows: Rows | None = None) -> Scope:
        names = tuple(name for name, _ in subject.model.named_parameters())
        blocks = [i for i in range(len(subject.blocks)) if "router" in slots_of(subject, i)]
        routers = [Site(i, "router").place(subject).module for i in blocks]
        return RouterScope(subject, names, held=self._held(subject, routers, rows) if routers else [])

    def _held(self, subject: CausalLM, routers: list[nn.Module], rows: Rows | None) -> list[HeldRouter]:
        inputs: dict[nn.Module, list[Tensor]] = {router: [] for router in routers}
        counts = [_count(router) for router in routers]

        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            inputs[module].append(given.detach().flatten(0, -2))

        with subject.evaluating(), watch_calls(routers, see):
            for row in rows_of("grip", rows, self.reads)[: self.spec.rows]:  # one by one: no padding is held
                subject.hidden(subject.collate([row]), len(subject.blocks) - 1)
        return [HeldRouter(router.weight, evenly(inputs[router], self.spec.tokens), count, self.spec.null,  # type: ignore[arg-type]
                           self.spec.margin) for router, count in zip(routers, counts, strict=True)]


def _count(router: nn.Module) -> int:
    """How many experts it chooses. Raises UsageError where it does not choose by products with its weights alone."""
    names = {name for name, _ in (*router.named_parameters(), *router.named_buffers())}
    count = getattr(router, "top_k", None)
    if names != {"weight"} or not isinstance(count, int):
        raise UsageError("grip holds routers that choose the largest products with their weights.",
                         f"This one ({type(router).__name__}) chooses in another way.", "Use another scope.")
    return count
