"""Only some decoder blocks may change."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from expunge import plugin
from expunge.errors import UsageError, did_you_mean
from expunge.methods.base import Rows, ScopePlugin
from expunge.models.scope import Scope
from expunge.models.slots import MLP_OUT
from expunge.models.subject import Subject
from expunge.plugin import Card, Property


class Layers(ScopePlugin):
    """Train the chosen blocks, or the chosen modules within them."""

    class Spec(plugin.Spec):
        index: int | list[int] | str | None = Field(None, description='Blocks from 0: an int, a list, or a range '
                                                                      '"a-b"; all blocks when only modules= is given.')
        modules: str | None = Field(None, description='Only parameters whose name contains this; "mlp_out" finds '
                                                      "the MLP output projection of any family.")

        @field_validator("index")
        @classmethod
        def _readable(cls, value: int | list[int] | str | None) -> int | list[int] | str | None:
            if isinstance(value, str) and not re.fullmatch(r"\d+(-\d+)?", value):
                raise ValueError('a range is written "a-b", such as "2-4"')
            return value

    card = Card(
        name="layers", kind="scope",
        model_needs=frozenset({"blocks", "weights"}),
        summary="only the chosen blocks of layers may change",
        paper="Li et al. 2024, RMU (arXiv 2403.03218), which trains three",
        defaults="no default: name the blocks, the modules or both",
    )
    must_show = (
        Property("scope_keeps_bits", {"options": {"index": 1}}, "other blocks keep their bits"),
        Property("scope_keeps_bits", {"options": {"modules": "q_proj"}}, "so do other modules, in every block"),
        Property("moves_every", {"modules": "q_proj"}, "without an index the modules of all blocks move"),
    )

    def blocks(self, depth: int) -> list[int]:
        """The chosen block numbers; raises UsageError for one the model does not have."""
        index = self.spec.index
        if index is None:
            if self.spec.modules is None:
                raise UsageError("layers(index=..., modules=...) needs at least one of the two.",
                                 str(self.Spec.model_fields["index"].description))
            return list(range(depth))
        if isinstance(index, str):
            low, _, high = index.partition("-")
            index = list(range(int(low), int(high or low) + 1))
        chosen = [index] if isinstance(index, int) else list(index)
        wrong = [i for i in chosen if not 0 <= i < depth]
        if wrong or not chosen:
            raise UsageError(f"layers(index={self.spec.index!r}): the model has no block {wrong or 'of that range'}.",
                             f"It has {depth}, numbered 0 to {depth - 1}.")
        return chosen

    def apply(self, subject: Subject, rows: Rows | None = None) -> Scope:
        prefixes = list(subject.blocks)
        chosen = tuple(prefixes[i] + "." for i in self.blocks(len(prefixes)))
        inside = [n for n, _ in subject.model.named_parameters() if n.startswith(chosen)]
        wanted = MLP_OUT if self.spec.modules == "mlp_out" else (self.spec.modules or "",)
        names = tuple(n for n in inside if any(part in n for part in wanted))
        if not names:
            known = {n.split(".", 3)[-1].rsplit(".", 1)[0] for n in inside}
            raise UsageError(f"layers(modules={self.spec.modules!r}) matches no parameter of those blocks.",
                             did_you_mean(str(self.spec.modules), known))
        return Scope(subject, names)
