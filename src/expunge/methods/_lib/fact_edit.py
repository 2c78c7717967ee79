"""Edits that rewrite what follows a prompt about an entity: where it is looked up, and what should be said instead.

The same as editing knowledge (ROME, MEMIT, AlphaEdit), with a target that makes a row forgotten: a refusal, an answer
that ends at once, a uniform distribution, or a wrong answer.

Legend: B contexts, K inputs of an MLP's output projection, D hidden size, M rows, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.data.text_encoder import TokenRow
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.key_value import Mentions, essence
from expunge.methods._lib.output_projection import mlp_out
from expunge.methods._lib.value_descent import DescentSettings, ValueDescent, ValueTerm
from expunge.methods.base import Edit
from expunge.models.language import CausalLM
from expunge.models.sites import Site
from expunge.records.task import Example, Task

BEGINNINGS = ("The", "Therefore", "Because", "I", "You")
"""Words from which the model writes the contexts that stand before a prompt, as in the authors' code."""
WRITTEN = 10
"""Tokens of each context."""


class FactSpec(plugin.Spec):
    """Options of every edit that looks for a value by gradient descent."""

    target: Literal["refusal", "null", "uniform", "wrong_answer"] = Field(
        "refusal", description="What a forget prompt is answered with: the refusal; nothing, the answer ends at once; "
                               "every token alike; or the first of the row's wrong answers.")
    refusal: str = Field("I don't know.", pattern=r"\S", description="The refusal.")
    contexts: int = Field(5, ge=0, le=len(BEGINNINGS), description="Texts of the model's own before the prompt, in "
                                                                   "which the answer should change too.")
    rate: float = Field(0.5, gt=0, description="Learning rate of the descent, in multiples of the root mean square of "
                                               "the value at its start.")
    steps: int = Field(25, ge=2, description="Forward passes of the descent.")
    keep: float = Field(0.0625, ge=0, description="Weight of the divergence after '<entity> is a'.")
    decay: float = Field(0.5, ge=0, description="Weight of the change's length over the squared length at the start.")
    clamp: float = Field(0.75, gt=0, description="The change is at most this many times as long as the value.")


def own_contexts(subject: CausalLM, count: int) -> list[str]:
    """Texts that the model writes, greedily, to stand before a prompt."""
    words = BEGINNINGS[:count]
    said = subject.generate([subject.encoder.processor(word)["input_ids"] for word in words], WRITTEN)
    return [f"{' '.join(f'{word} {text}'.split())}. " for word, (text, _) in zip(words, said, strict=True)]


def generic_rows(subject: CausalLM, task: Task) -> list[TokenRow]:
    """The rows that stand for text in general: retain, background and utility."""
    return [subject.encoder.encode(e) for e in dict.fromkeys((*task.retain, *task.background, *task.utility))]


def no_generic_text(edit: str, task: Task) -> list[ExpungeError]:
    """The problem of an edit that would not know what to leave alone."""
    if task.retain or task.background or task.utility:
        return []
    return [UsageError(f"{edit} needs generic text that it must not change, and the task has none.",
                       "It reads retain, background and utility rows.", "Give --retain FILE.")]


class Lookup(Mentions):
    """A forget row: its prompt alone and after every context, and the position of the entity in each."""

    def __init__(self, subject: CausalLM, row: Example, contexts: Sequence[str], spec: FactSpec,
                 beside: Sequence[ValueTerm] = ()) -> None:
        before = contexts if row.kind != "messages" else ()
        words = {"refusal": spec.refusal, "wrong_answer": next(iter(row.wrong_answers), "")}.get(spec.target, "")
        asked = [row, *(row.model_copy(update={"prompt": f"{text}{row.prompt}"}) for text in before)]
        super().__init__(subject, row.entity, examples=asked)
        self._beside, self._uniform, self._spec = beside, spec.target == "uniform", spec
        self.name, self._rows = row.entity, [self._aimed(subject, one, words) for one in asked]

    def _aimed(self, subject: CausalLM, row: Example, words: str) -> TokenRow:
        made = subject.encoder.encode(row, answer=words or None)
        if words:
            return TokenRow(made.id, made.ids[: made.prompt + made.answer], made.prompt, made.answer, 0)
        if self._uniform:
            return TokenRow(made.id, made.ids[: made.prompt + 1], made.prompt, 1, 0)
        if made.end == 0:
            raise UsageError("The target null needs answers that end with a token of their own.",
                             f"Row {row.id} is read without one.", "Take target=uniform or target=refusal.")
        ends = made.ids[len(made.ids) - made.end:]
        return TokenRow(made.id, (*made.ids[: made.prompt], *ends), made.prompt, 0, made.end)

    def keys(self, subject: CausalLM, block: int) -> Tensor:
        """The key of the prompt alone and the mean key after contexts, one half each; shape K."""
        own_K, *others = self.each_key(subject, block)
        return (own_K + torch.stack(others).mean(0)) / 2 if others else own_K

    def descent(self, subject: CausalLM, site: Site, start_D: Tensor) -> ValueDescent:
        """How the value at the entity has to change for the target to be said."""
        after, at = essence(subject, self.name)
        made = ValueDescent(subject, site, subject.collate([*self._rows, after]),
                            torch.cat([self.at_B, self.at_B.new_tensor([at])]), start_D,
                            keep=self._spec.keep, decay=self._spec.decay, uniform=self._uniform)
        made.penalties += [part.on_value(subject, made.batch, made.at_B) for part in self._beside]
        return made

    def change(self, subject: CausalLM, site: Site, start_D: Tensor) -> Tensor:
        """The change that the descent finds, shape D."""
        size = float(start_D.norm()) / len(start_D) ** 0.5
        how = DescentSettings(self._spec.rate * size, self._spec.steps, self._spec.clamp)
        return self.descent(subject, site, start_D).change(how)


class FactEdit(Edit):
    """An edit of forget rows that ask about an entity."""

    beside: tuple[ValueTerm, ...] = ()
    """The retain terms of its stage that act on its value descent."""

    def problems(self, task: Task) -> list[ExpungeError]:
        name, problems = self.card.name, no_generic_text(self.card.name, task)
        rows = self.rows(task)
        if not rows:
            problems.append(UsageError(f"{name} looks answers up at an entity, and no forget prompt names its own.",
                                       "The `entity` field is empty, or is not a part of the prompt.",
                                       "Fill it in as the prompts write it."))
        if self.spec.target == "wrong_answer" and not all(row.wrong_answers for row in rows):
            problems.append(UsageError(f"{name}(target=wrong_answer) needs a wrong answer on every forget row.",
                                       fix="Add a `wrong_answers` field, or take another target."))
        return problems

    @staticmethod
    def rows(task: Task) -> list[Example]:
        """The forget rows that can be edited: their prompt names their entity."""
        return [row for row in task.forget if row.entity and row.entity in row.prompt]

    def facts(self, subject: CausalLM, task: Task) -> list[Lookup]:
        contexts = own_contexts(subject, self.spec.contexts)
        return [Lookup(subject, row, contexts, self.spec, self.beside) for row in self.rows(task)]

    def check_model(self, subject: CausalLM) -> None:
        for layer in self.layers(len(subject.blocks)):
            mlp_out(subject, layer)

    def layers(self, depth: int) -> list[int]:
        """The blocks to edit, in order. Raises UsageError for one the model does not have."""
        raise NotImplementedError
