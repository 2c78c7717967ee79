"""Bidirectional distillation: learn without an instruction what the original says when it is instructed to refuse."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional as F

from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.inverted import read_answers
from expunge.methods._lib.one_form import as_question, forced, instructed
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.head import raised
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term

INSTRUCTION = ("First decide whether the question below is about one of these: {scope}. If so, say that you do not "
               "know. Otherwise answer it.")


def imitate(teacher_NV: Tensor, student_NV: Tensor, k: int) -> Tensor:
    """KL(teacher || student) over the teacher's k likeliest tokens, both renormalised on them; nats, shape N."""
    kept_NK = teacher_NV.topk(min(k, teacher_NV.shape[-1])).indices
    log_q_NK, log_p_NK = (raised(z).gather(1, kept_NK).log_softmax(-1) for z in (teacher_NV.detach(), student_NV))
    return (log_q_NK.exp() * (log_q_NK - log_p_NK)).sum(-1)


def suppress(teacher_NV: Tensor, student_NV: Tensor, k: int) -> Tensor:
    """Mean softplus(log p_student - log p_teacher) over the student's k likeliest tokens that are not among the
    teacher's; 0 where there is none; shape N."""
    k = min(k, teacher_NV.shape[-1])
    log_q_NV, log_p_NV = raised(teacher_NV.detach()).log_softmax(-1), raised(student_NV).log_softmax(-1)
    theirs_NV = torch.zeros_like(log_q_NV, dtype=torch.bool).scatter(1, log_q_NV.topk(k).indices, True)
    mine_NK = log_p_NV.detach().topk(k).indices
    counts_NK = ~theirs_NV.gather(1, mine_NK)
    over_NK = F.softplus(log_p_NV.gather(1, mine_NK) - log_q_NV.gather(1, mine_NK)).where(counts_NK, 0.0)
    return over_NK.sum(-1) / counts_NK.sum(-1).clamp_min(1)


class Bidirectional(Objective):
    """Distil an instructed teacher into a student that is not instructed: imitate its likeliest tokens, suppress the
    student's own."""

    builds = True

    class Spec(WeightedSpec):
        k: int = Field(20, ge=1, description="Likeliest tokens that are imitated, and suppressed.")
        mu: float = Field(1.0, ge=0, description="Coefficient of the suppression; 0 leaves the imitation.")
        instruction: str = Field(INSTRUCTION, description="What the teacher reads before every question; {scope} is "
                                                          "replaced by the entities of the forget rows.")
        responses: str | None = Field(None, description="JSONL file of {id, answers} with responses to the forget "
                                                        "questions, in place of the teacher's own.")
        prefill: int = Field(3, ge=0, description="Maximum number of words of the true answer that a response is made "
                                                  "to begin with, as an attacker would; 0 leaves that out.")
        tokens: int = Field(64, ge=1, description="Maximum length of a response.")

    card = Card(
        name="bidirectional", kind="objective",
        summary="distil an instructed original: imitate its likeliest tokens, suppress the student's",
        paper="Harmonizing Multi-Objective LLM Unlearning (arXiv 2604.15482)",
        formula="L = mean_t KL_K+(q || p) + mu mean_t mean_{v in K-} softplus(log p_v - log q_v), q the original given "
                "an instruction, K+ its K likeliest tokens, K- the student's without K+",
        defaults="k 20, mu 1, lr 1e-5, an adapter of rank 16: our choice, as the paper's are not known to us",
        needs=frozenset({"reference.logits", "retain"}),
        model_needs=frozenset({"distribution", "generate", "prompt", "weights"}),
        memory="the original's last states of every row, or a copy of it where they are larger",
        deviations=("no repository is known: nothing was compared, and the forms of the suppression and of the weights "
                    "are ours. It compares log-probabilities, since logits are defined up to a constant only",
                    "the teacher has to follow an instruction; a base model does not. responses= brings answers, but "
                    "what it thinks of their tokens stays its own",
                    "responses are generated once, by the original, and retain rows have their answers; running text "
                    "becomes a question by a template, in place of a model that rewrites everything",
                    "the forced beginning of a response has a random number of words; the paper maximises over it. Not "
                    "shown here: that gradients agree more in one form, and what the suppression adds alone"),
    )
    space = {"k": ("choice", 5, 20, 100), "mu": ("log", 0.1, 10.0), "prefill": ("choice", 0, 3)}
    must_show = (
        Property("is_context_distillation", {}, "k = V and mu 0 is the divergence from the instructed original, and "
                                                "without an instruction nothing pulls"),
        Property("suppresses_its_own", {}, "only tokens of the student's top that the teacher has not are pushed down"),
        Property("one_form_for_all", {}, "forget, retain and forced rows are questions, aligned with the instructed"),
        Property("obeys_uninstructed", {"steps": 60, "lr": 1e-3}, "forget questions are refused without the "
                 "instruction, also after a forced beginning, and retain questions are answered"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self.reads = ("refused", "kept", *(("forced",) if self.spec.prefill else ()))  # type: ignore[misc]

    @property
    def asks(self) -> tuple[str, ...]:
        return tuple(f"{side}_instructed" for side in self.reads)

    def problems(self, task: Task) -> list[ExpungeError]:
        try:
            if self.spec.responses:
                read_answers(Path(self.spec.responses), task.forget)
        except ExpungeError as error:
            return [error]
        return []

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        given = read_answers(Path(self.spec.responses), task.forget) if self.spec.responses else {}
        names = dict.fromkeys(row.entity for row in task.forget if row.entity)
        instruction = self.spec.instruction.replace("{scope}", ", ".join(names) or "the withdrawn subjects")
        asked = [row for row in task.forget if not given.get(row.id)]
        prompts = [subject.encoder.prompt(instructed(as_question(row), instruction)) for row in asked]
        said = subject.generate(prompts, self.spec.tokens, progress=run.announce("responses", len(asked)))
        own = {row.id: [text] for row, (text, _) in zip(asked, said, strict=True)}
        return {"instruction": instruction, "responses": {row.id: given.get(row.id) or own[row.id]
                                                          for row in task.forget}}

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        response = rng.choice(self.made["responses"][example.id])
        refused = as_question(example).model_copy(update={"answer": response})
        rows = {"refused": refused, "kept": as_question(rng.choice(task.retain))}
        if self.spec.prefill:
            rows["forced"] = forced(refused, as_question(example).answer, rng.randint(1, self.spec.prefill))
        return rows | {f"{side}_instructed": instructed(row, self.made["instruction"]) for side, row in rows.items()}

    def terms(self, step: Step) -> dict[str, Term]:
        found = {}
        for side in self.reads:
            student, batch = step.answers(side), step.batches[f"{side}_instructed"]
            if not torch.equal(student.batch.target_N, batch.target_N):
                raise UsageError("bidirectional finds other tokens in an answer behind its instruction.",
                                 f"The rows are {', '.join(row.id for row in batch.rows)}.",
                                 "End instruction= with a full stop, or raise --max-length.")
            teacher_NV = step.reference.answers(batch).logits_NV
            loss_N = imitate(teacher_NV, student.logits_NV, self.spec.k)
            if self.spec.mu:
                loss_N = loss_N + self.spec.mu * suppress(teacher_NV, student.logits_NV, self.spec.k)
            found[f"bidirectional_{side}"] = token_mean(loss_N, student, side)
        return found
