"""Only the token embeddings may change."""

from __future__ import annotations

from torch import nn

from expunge.methods.base import Rows, ScopePlugin
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property


def names_within(subject: Subject, module: nn.Module) -> tuple[str, ...]:
    """Full names of a module's parameters; a tied one has its first name."""
    wanted = {id(p) for p in module.parameters()}
    return tuple(name for name, p in subject.model.named_parameters() if id(p) in wanted)


class Embedding(ScopePlugin):
    """Train the token embedding table only."""

    card = Card(
        name="embedding", kind="scope",
        summary="only the input embeddings may change (and an output head tied to them)",
        paper="A More Practical Approach to Machine Unlearning, 2024 (arXiv 2406.09391)",
        defaults="no options",
        model_needs=frozenset({"prompt", "weights"}),
        deviations=("with tied input and output embeddings, as in GPT-2, the output head is the same tensor "
                    "and changes too", "position embeddings stay"),
    )
    must_show = (
        Property("scope_keeps_bits", {}, "every other tensor keeps its bits"),
        Property("moves_only_embeddings", {}, "it is the table of the tokens, with a tied head and without"),
    )

    def apply(self, subject: Subject, rows: Rows | None = None) -> Scope:
        return Scope(subject, names_within(subject, subject.model.get_input_embeddings()))
