"""Every parameter may change."""

from __future__ import annotations

from expunge.methods.base import Rows, ScopePlugin
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Card, Property


class All(ScopePlugin):
    """Full finetuning (the default)."""

    card = Card(
        name="all", kind="scope",
        summary="every parameter may change (the default)",
        paper="TOFU, Maini et al. 2024 (arXiv 2401.06121)",
        defaults="full finetuning, as most unlearning papers",
    )
    must_show = (Property("scope_keeps_bits", {}, "nothing outside moves under AdamW with weight decay"),)

    def apply(self, subject: Subject, rows: Rows | None = None) -> Scope:
        return Scope(subject, tuple(name for name, _ in subject.model.named_parameters()))
