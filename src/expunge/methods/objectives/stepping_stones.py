"""Stepping stones: a wrong answer is learned after sentences that make it less of a surprise."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from pydantic import Field

from expunge.data.themes import on_theme
from expunge.errors import ExpungeError
from expunge.methods._lib.inverted import answer_problems, answer_sources, given_answers, read_answers
from expunge.methods._lib.stepping import choose_likeliest, key_words, led_up, templated_stones
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.training.step import Step, Term


class SteppingStones(Objective):
    """Train on wrong answers, each behind the sentence after which the model finds its key word likeliest."""

    builds = True

    class Spec(WeightedSpec):
        top_k: int = Field(3, ge=1, description="Wrong answers per question; one is drawn each time.")
        inverted: str | None = Field(None, description="JSONL file of {id, answers} with wrong answers; the rows' "
                                                       "wrong_answers if left out.")
        stones: str | None = Field(None, description="JSONL file of {id, answers} with sentences to put before an "
                                                     "answer; templates of ours and answers on the same "
                                                     "theme if left out.")
        kin: int = Field(8, ge=0, description="Most answers of retain rows on the same theme to try before an answer.")
        plain: bool = Field(False, description="Whether answers stay as they are, for comparison.")

    card = Card(
        name="stepping_stones", kind="objective",
        summary="finetuning on wrong answers that are led up to, so that they spread less to other contexts",
        paper="Sun et al. 2025, How new data permeates LLM knowledge and how to dilute it, ICLR 2025 "
              "(arXiv 2504.09522)",
        formula="L = mean_t -log p((s, y')_t | x), y' a wrong answer, s = argmax_s p(key of y' | x, s, y' before the "
                "key), s of some sentences and none",
        defaults="three wrong answers; the paper rewrites texts with a language model and has no such option",
        model_needs=frozenset({"logp", "prompt", "weights"}),
        deviations=("written from a summary; no code is public, and nothing was compared",
                    "the paper changes a text that is to be learned; here it is a wrong answer that stands in for the "
                    "forget answer, so that forgetting spreads less",
                    "sentences are templates, answers of retain rows on the same theme, or those of a file; the "
                    "paper's come from a language model. One that says the key word or the true fact is left out",
                    "key word: the last words that neither the prompt nor the true or another wrong answer holds",
                    "a row without wrong answers uses those of another row about its entity"),
    )
    reads = ("inverted",)
    space = {"top_k": ("choice", 1, 3, 5), "plain": ("choice", True, False)}
    must_show = (
        Property("raises_key", {}, "after a stone the key word is likelier than without, by construction"),
        Property("keeps_the_answer", {}, "the text ends with the wrong answer, and no stone says its key word"),
        Property("finds_keys", {}, "the words that tell a wrong answer from the others and from the truth"),
        Property("reads_stones", {}, "sentences of a file replace the templates; a useless one is never taken"),
        Property("reads_answers", {"option": "inverted", "options": {"plain": True}}, "a file replaces the rows' own "
                                                                                     "wrong answers"),
        Property("leaves_no_mark", {}, "building changes neither weights nor the global random state"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("never_negative", {}, "a negative log-likelihood"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        found = answer_problems("stepping_stones", task, self.spec.inverted)
        try:
            self._given(task)
        except ExpungeError as error:
            return [*found, error]
        return found

    def _given(self, task: Task) -> dict[str, list[str]]:
        return read_answers(Path(self.spec.stones), task.forget) if self.spec.stones else {}

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        answers, given = given_answers(task, self.spec.inverted), self._given(task)
        choices: dict[str, list[Example]] = {}
        for row in task.forget:
            texts = answers.get(row.id, [])
            known = f"{row.prompt} {row.answer}"
            keys = [key_words(text, [t for t in texts if t != text], known) for text in texts]
            kin = [other.answer for other in on_theme(row, task.retain, self.spec.kin)]
            for i, (text, key) in enumerate(zip(texts[: self.spec.top_k], keys, strict=False)):
                stones = given.get(row.id, []) if self.spec.stones else [*templated_stones(key, keys), *kin]
                changed = row.model_copy(update={"answer": text})
                choices[f"{row.id}\n{i}"] = led_up(changed, key, [] if self.spec.plain else stones, row.short_answer)
        chosen: dict[str, list[str]] = {}
        logps: dict[str, list[tuple[float, float]]] = {}
        for name, (best, high, first) in choose_likeliest(subject, choices).items():
            chosen.setdefault(name.split("\n")[0], []).append(best.answer)
            logps.setdefault(name.split("\n")[0], []).append((first, high))
        return {"chosen": chosen, "lenders": answer_sources(task.forget, answers),
                "logp": {id: [list(pair) for pair in pairs] for id, pairs in logps.items()}}

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        source = rng.choice(self.made["lenders"][example.id])
        row = example if source == example.id else next(r for r in task.forget if r.id == source)
        return {"inverted": row.model_copy(update={"answer": rng.choice(self.made["chosen"][source])})}

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("inverted")
        return {"stepping_stones": token_mean(-answers.logp_N, answers, "inverted")}
