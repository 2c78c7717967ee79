"""A new output head on frozen features: what the features still tell apart was not removed from them."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt
from torch import nn

from expunge import plugin
from expunge.attacks._lib.matrices import merged_clone
from expunge.attacks.base import AND_RETAIN, Ask, AttackCard, AttackContext, Curve, View
from expunge.errors import UsageError
from expunge.models.load import float32_master
from expunge.models.scope import Scope
from expunge.models.subject import Subject
from expunge.plugin import Property
from expunge.records.task import Example
from expunge.seeding import derive, stream
from expunge.training.plain import Plain, train_plainly


def head_scope(subject: Subject) -> Scope:
    """The parameters of the output head, with a copy of its own where it shares them with the embedding.

    Raises:
        UsageError: the head is put together from several models, as that of an ensemble is.
    """
    head, model = subject.head, subject.model
    if not any(True for _ in head.parameters()):
        raise UsageError("The output head of this model has no parameters of its own.",
                         "Its logits are put together from those of several models.",
                         "Leave the attack refit_head out, or attack the models one by one.")
    outside = {id(p) for name, m in model.named_modules() if m is not head for p in m.parameters(recurse=False)}
    for name, parameter in list(head.named_parameters(recurse=False)):
        if id(parameter) in outside:
            setattr(head, name, nn.Parameter(parameter.detach().clone()))
    own = {id(p) for p in head.parameters()}
    return Scope(subject, tuple(name for name, p in model.named_parameters() if id(p) in own))


class RefitHead(Curve):
    """Train only the output head of a copy, on half of the entities, and ask about the other half."""

    class Spec(plugin.Spec):
        steps: int = Field(50, ge=0, description="Optimizer steps; 0 does nothing.")
        at: list[NonNegativeInt] = Field([], description="Earlier steps at which to ask as well, for a curve.")
        lr: float = Field(3e-3, gt=0, description="Learning rate of AdamW.")
        batch_size: int = Field(16, ge=1, description="Rows per step.")

    card = AttackCard(
        name="refit_head", kind="attack", access="weights", asks=AND_RETAIN,
        family="internals", model_needs=frozenset({"logp", "weights"}), splits_entities=True,
        summary="train a new output head on frozen features",
        paper="linear probes, Alain & Bengio 2016 (arXiv 1610.01644); features of unlearned classifiers, "
              "Kim et al. 2025 (arXiv 2503.06991)",
        formula="W <- AdamW on -log p(answer | features, W) over learned forget rows and as many retain rows, then ask",
        defaults="none published for this use; 50 steps of 16 rows at 3e-3 are ours",
        deviations=("the head starts from the subject's own, not from random numbers: a language model's head is too "
                    "large to be fitted to a few hundred rows",
                    "the rate is constant, so that the points of a curve are exactly the shorter attacks",
                    "on the tiny models of the tests it undoes suppression by the head (probability 0.05 to 0.23), not "
                    "by npo in all layers (0.04 to 0.05)",
                    "a PEFT adapter is merged first; a head that shares its weights with the embedding gets a copy"),
        caution="Good features tell new classes apart too, so a model that never saw the forget set recovers part of a "
                "class: only the excess over the control counts.",
    )
    must_show = (
        Property("keeps_the_contract", {"options": {"steps": 4, "at": [2]}}, "a copy is trained, never the subject"),
        Property("leaves_no_trace", {"options": {"steps": 0}}, "no step, no change"),
        Property("points_are_shorter_attacks", {"steps": 6, "at": 3}, "a curve in one run"),
        Property("moves_the_head_only", {}, "features keep their bits, also where the head is tied to the embedding"),
        Property("recovers", {"from_": "head suppressed"}, "a model that was suppressed in its head comes back"),
        Property("finds_nothing", {}, "a retrained model does not"),
    )

    def cost(self, context: AttackContext) -> str:
        return f"{self.spec.steps} steps of {self.spec.batch_size} on {len(self._rows(context))} rows, head only"

    def problem(self, context: AttackContext) -> str | None:
        return None if context.learned or not self.spec.steps else f"there are no {context.split} rows to learn from"

    def _rows(self, context: AttackContext) -> list[Example]:
        """The learned rows, and as many others, so that the new head does not answer everything alike."""
        others = list(context.task.retain or context.task.neighbour)
        stream(derive(context.seed, "refit_head")).shuffle(others)
        return [*context.learned, *others[: len(context.learned)]]

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        if 0 in self.points:
            ask(View(self.label(0), subject, context.tested))
        if not self.spec.steps:
            return
        copy = merged_clone(subject)
        float32_master(copy)
        tick = context.announce("refit the head", self.spec.steps)

        def observe(step: int) -> None:
            tick(1)
            if step in self.points:
                ask(View(self.label(step), copy, context.tested))

        train_plainly(copy, head_scope(copy), self._rows(context), Plain(self.spec.lr), steps=self.spec.steps,
                      batch_size=self.spec.batch_size, seed=context.seed, on_step=observe)
