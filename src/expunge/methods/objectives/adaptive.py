"""Adaptive unlearning: push down the unknown names in what the model itself says, and keep the known ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from expunge.data.encoder import Batch
from expunge.errors import ExpungeError, UsageError
from expunge.methods._lib.names import FALSE, NAME, TRUE, names_in, read_names, token_roles
from expunge.methods._lib.rollouts import reworded, sample_answers
from expunge.methods._lib.weighted_likelihood import below_one, log1mexp
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.seeding import derive
from expunge.training.step import Step, Term


def unlikelihood(logp_N: Tensor) -> Tensor:
    """-log(1 - p) of each token; its slope by log p, p / (1 - p), holds at p = 1 too, where p is cut at 1 - 1e-6."""
    below_N = below_one(logp_N.detach())
    rest_N = log1mexp(below_N)
    return -rest_N + (below_N - rest_N).exp() * (logp_N - logp_N.detach())


class Adaptive(Objective):
    """Sample answers, tell known names from unknown ones, and train on both in opposite directions."""

    builds = True

    class Spec(WeightedSpec):
        samples: int = Field(4, ge=1, description="Answers sampled per question and step.")
        false: float = Field(1.0, ge=0, description="Coefficient of the tokens of unknown names; 0 leaves finetuning "
                                                    "on the known ones.")
        reword: bool = Field(True, description="Ask what brought out an unknown name again in other words: by a "
                                               "paraphrase of the row, or as the model rewords it.")
        known: str | None = Field(None, description="File of known names, one per line; those of retain and background "
                                                    "rows and of all questions if left out.")
        pattern: str = Field(NAME, description="Regular expression of a name; capitalised words by default.")
        tokens: int = Field(48, ge=1, description="Maximum length of a sampled answer.")

    card = Card(
        name="adaptive", kind="objective", target="entity",
        summary="unlearn the unknown names in the model's own answers, round by round",
        paper="LLM Ghostbusters: Surgical Hallucination Suppression via Adaptive Unlearning (arXiv 2605.01047)",
        formula="L = mean_{known} -log p_t + false * mean_{unknown} -log(1 - p_t), over tokens of names in own answers",
        defaults="4 answers at temperature 1 and coefficient 1 are our choice; a round is a step",
        needs=frozenset({"questions"}),
        model_needs=frozenset({"generate", "logp", "prompt", "weights"}),
        companions="retain_kl",
        deviations=("no official repository is known: nothing was compared; the paper's weights, rounds and sampling "
                    "are not known to us",
                    "of its losses -log(1 - p) alone: the ascent has no bound; no divergence on other tokens of own "
                    "answers, which retain_kl brings for retain rows",
                    "every step samples anew; the paper trains a few epochs on what a round has found",
                    "whether a name is real is read from a fixed list, or from the rows; no registry is asked",
                    "without known= a forgotten fact that a retain row names too counts as known, and numbers and "
                    "words in small letters are no names: give short lists of known names, or another pattern=",
                    "a model that cannot reword questions needs rows with paraphrases",
                    "answers are decoded and tokenised again; a cut answer carries no end token",
                    "it does not end when unknown names are rare. Not shown here: that other tokens hardly move"),
    )
    reads = ("said",)
    space = {"false": ("log", 0.1, 10.0), "samples": ("choice", 2, 4, 8)}
    must_show = (
        Property("roles_partition_tokens", {}, "every token has one role, and an unknown name is marked from where it "
                                               "leaves a known one"),
        Property("without_false_names_is_finetuning", {}, "coefficient 0 is finetuning on the known names and ends"),
        Property("asks_again_what_failed", {}, "what brought out an unknown name is asked in other words"),
        Property("reads_known_names", {}, "a file replaces the names of the rows; one that cannot be used is refused"),
        Property("suppresses_unknown_names", {"steps": 20, "lr": 2e-4}, "on questions never asked unknown names become "
                 "rare round by round, and known ones are said as before"),
    )

    def __init__(self, spec: BaseModel | None = None, **options: Any) -> None:
        super().__init__(spec, **options)
        self._figures: dict[str, float] = {}
        self._processor: Any = None

    def problems(self, task: Task) -> list[ExpungeError]:
        try:
            re.compile(self.spec.pattern)
            if self.spec.known:
                read_names(Path(self.spec.known))
        except re.error as error:
            return [UsageError(f"adaptive(pattern={self.spec.pattern!r}) is no regular expression.", str(error))]
        except ExpungeError as problem:
            return [problem]
        return []

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        if self.spec.known:
            return {"known": read_names(Path(self.spec.known))}
        said = [text for row in (*task.retain, *task.background) for text in (row.prompt, row.answer)]
        return {"known": sorted(names_in([*said, *(row.prompt for row in task.forget)], self.spec.pattern))}

    def rollout(self, subject: CausalLM, draws: Sequence[Mapping[str, Example]],
                seed: int) -> Sequence[Mapping[str, Example]]:
        spec, known, made, flags = self.spec, set(self.made["known"]), list[dict[str, Example]](), list[bool]()
        asked: Sequence[Mapping[str, Example]] = draws
        for again in (False, True):
            groups = sample_answers(subject, [draw["forget"] for draw in asked], spec.samples, tokens=spec.tokens,
                                    seed=derive(seed, int(again)))
            bad = [[bool(names_in([said.answer], spec.pattern) - known) for said in group] for group in groups]
            flags += [flag for group in bad for flag in group]
            made += [{**draw, "said": said} for draw, group in zip(asked, groups, strict=True) for said in group]
            failed = [draw for draw, group in zip(asked, bad, strict=True) if any(group)]
            if again or not failed or not spec.reword:
                break
            words = reworded(subject, [draw["forget"] for draw in failed], seed, spec.tokens)
            asked = [{**draw, "forget": row} for draw, row in zip(failed, words, strict=True)]
        self._figures = {"reward": 1 - sum(flags) / len(flags)}
        return made

    def figures(self) -> dict[str, float]:
        return self._figures

    def terms(self, step: Step) -> dict[str, Term]:
        answers, self._processor = step.answers("said"), step.subject.encoder.processor
        known_N, unknown_N = (torch.tensor(self._roles(answers.batch), device=answers.batch.device) == role
                              for role in (TRUE, FALSE))
        push_N = self.spec.false * unlikelihood(answers.logp_N)
        return {"adaptive_known": Term(answers.per_row((-answers.logp_N).where(known_N, 0.0)), self.known, "said"),
                "adaptive_unknown": Term(answers.per_row(push_N.where(unknown_N, 0.0)), self.unknown, "said")}

    def known(self, batch: Batch) -> int:
        """Tokens of known names and ends in a batch."""
        return self._roles(batch).count(TRUE)

    def unknown(self, batch: Batch) -> int:
        """Tokens of unknown names in a batch."""
        return self._roles(batch).count(FALSE)

    def _roles(self, batch: Batch) -> list[int]:
        known = frozenset(self.made["known"])
        return [role for row in batch.rows for role in token_roles(row, known, self._processor, self.spec.pattern)]
