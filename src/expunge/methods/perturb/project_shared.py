"""Project what tokens share out of the forget gradient of the MLPs' matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from expunge import plugin
from expunge.methods._lib.selective import mlp_matrices
from expunge.methods._lib.shared_directions import Moments, off
from expunge.methods.base import Perturb
from expunge.models.language import CausalLM
from expunge.models.scope import Scope
from expunge.models.sites import watch_gradients
from expunge.plugin import Card, Property
from expunge.training.gradients import Gradient, Oracle, inner
from expunge.training.step import Step


class ProjectShared(Perturb):
    """Rebuild the gradient of each matrix from its tokens, without the directions that most tokens have in common."""

    class Spec(plugin.Spec):
        inputs: int = Field(24, ge=0, description="Directions taken out of a matrix's inputs: their mean, then "
                                                  "principal components; 0 takes none.")
        gradients: int = Field(36, ge=0, description="The same of the gradients by its outputs.")
        every: int = Field(8, ge=1, description="Steps from which directions are found, for the steps after them; an "
                                                "epoch in the authors' code. The first ones only look.")
        normalise: bool = Field(True, description="Divide the forget gradient by its norm.")

    card = Card(
        name="project_shared", kind="perturb",
        summary="forget gradients without the directions that tokens share",
        paper="Collapse of Irrelevant Representations (CIR, arXiv 2509.11816)",
        formula="G = sum_t off_g(g_t) off_a(a_t)^T / ||G||, off_b: without mean and principal components "
                "of the steps before",
        defaults="24 directions of inputs and 36 of gradients, as published for Llama-3.2-1B",
        model_needs=frozenset({"sequence", "weights"}),
        conflicts=frozenset({"lora", "reglu", "zeroth_order", "hybrid"}),
        memory="two square matrices in float64 for every matrix of the MLPs, of its inputs and of its outputs",
        deviations=("an adapter has fewer rows and columns than directions that are taken out, so lora is refused; and "
                    "without backpropagation, as with zeroth_order, there are no gradients by outputs",
                    "components are exact, from sums of products; the authors use a randomised decomposition",
                    "mean and components are made orthonormal first; the authors project one after another",
                    "a row's first and last token are left out; in the authors' code the last column of a batch",
                    "it is the last perturbation of a recipe: what others do inside it would count as its own passes",
                    "an objective that runs the model on other rows than forget rows is refused, and so are several "
                    "processes: a gradient is rebuilt from the passes of forget rows in this process",
                    "weights outside the MLPs' matrices do not move; routers and stacks of experts are no such matrix"),
    )
    reads: ClassVar[tuple[str, ...]] = ("forget",)
    backpropagates = True
    forget_passes_only = True
    space = {"inputs": ("choice", 1, 8, 24), "gradients": ("choice", 1, 12, 36)}
    must_show = (
        Property("does_nothing", {"options": {"inputs": 0, "gradients": 0, "normalise": False}}, "nothing taken out"),
        Property("restores_weights", {}, "no bit changes at a rate of 0, and no hook stays"),
        Property("rebuilds_gradients", {}, "without directions it is the gradient of backpropagation, where first and "
                                           "last tokens carry none"),
        Property("takes_out_shared", {}, "nothing is left along the directions, at either end of a matrix"),
    )

    def __init__(self, spec: Any = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._seen: dict[str, tuple[Moments, Moments]] = {}
        self._bases: dict[str, tuple[Tensor, Tensor]] = {}
        self._asked = -1

    @property
    def idle(self) -> bool:
        return bool(self.spec.inputs == self.spec.gradients == 0 and not self.spec.normalise)

    def check_model(self, subject: CausalLM) -> None:
        mlp_matrices(subject)

    def state(self) -> dict[str, Any]:
        seen = {name: [part for m in pair for part in (m.count, m.sum_D, m.product_DD)]
                for name, pair in self._seen.items()}
        return {"seen": seen, "bases": {name: list(pair) for name, pair in self._bases.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, parts in state["seen"].items():
            pair = tuple(Moments(len(parts[i + 1]), parts[i + 1]) for i in (0, 3))
            for moments, at in zip(pair, (0, 3), strict=True):
                moments.count, moments.sum_D, moments.product_DD = parts[at: at + 3]
            self._seen[name] = pair  # type: ignore[assignment]
        self._bases = {name: (inputs, outputs) for name, (inputs, outputs) in state["bases"].items()}

    def gradient(self, subject: CausalLM, scope: Scope, plain: Oracle, *, step: int, total: int, seed: int) -> Gradient:
        spec = self.spec
        turned = {name: t for name, t in mlp_matrices(subject).items() if name in scope.parameters}
        names = {subject.model.get_submodule(name.removesuffix(".weight")): name for name in turned}
        if step == 0:  # the stage may be run again
            self._seen, self._bases = {}, {}
        # A perturbation around this one asks several times in a step.
        if step % spec.every == 0 and self._seen and step != self._asked:
            self._bases = {name: (inputs.basis(spec.inputs), outputs.basis(spec.gradients))
                           for name, (inputs, outputs) in self._seen.items()}
            self._seen = {}
        self._asked = step
        rebuilt = {name: torch.zeros_like(scope.parameters[name]) for name in turned}
        kept = list[Tensor]()

        def note(now: Step) -> None:
            kept[:] = [_inner_tokens(now).flatten()]

        def see(module: nn.Module, given: Tensor, slope: Tensor) -> None:
            name = names[module]
            # An MLP beside experts is given its positions laid flat.
            inputs_NI, slopes_NO = (part.flatten(0, -2)[kept[0]] for part in (given, slope))
            if name not in self._seen:
                self._seen[name] = Moments(inputs_NI.shape[1], inputs_NI), Moments(slopes_NO.shape[1], slopes_NO)
            for moments, vectors in zip(self._seen[name], (inputs_NI, slopes_NO), strict=True):
                moments.add(vectors)
            if name in self._bases:
                ends = zip((inputs_NI, slopes_NO), self._bases[name], strict=True)
                inputs_NI, slopes_NO = (off(vectors, basis) for vectors, basis in ends)
            matrix_OI = slopes_NO.T @ inputs_NI
            rebuilt[name] += (matrix_OI.T if turned[name] else matrix_OI).to(rebuilt[name])

        with watch_gradients(list(names), see):
            plain(note)
        looking = not self._bases and (spec.inputs or spec.gradients)
        found = [torch.zeros_like(p) if looking or name not in rebuilt else rebuilt[name]
                 for name, p in scope.parameters.items()]
        scope.mask(found)
        norm = inner(found, found) ** 0.5 if spec.normalise else 1.0
        return [part / norm for part in found] if norm > 0 else found


def _inner_tokens(step: Step) -> Tensor:
    """Every real token of forget rows but their first and last, bool, shape B T."""
    batch = step.batches["forget"]
    kept_BT = batch.attention_BT.bool()
    for b, row in enumerate(batch.rows):
        kept_BT[b, [0, len(row.ids) - 1]] = False
    return kept_BT
