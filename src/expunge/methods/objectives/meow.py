"""MEOW: finetuning on inverted facts, chosen by how strongly the model has memorised them."""

from __future__ import annotations

import random
from typing import Any, Literal

from pydantic import Field

from expunge.errors import ExpungeError
from expunge.methods._lib.inverted import answer_problems, answer_sources, given_answers
from expunge.methods._lib.memo import memo
from expunge.methods._lib.weighted_likelihood import token_mean
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.seeding import stream
from expunge.training.step import Step, Term

Select = Literal["largest", "smallest", "random"]


def choose(scores: list[float], count: int, select: Select, rng: random.Random) -> list[int]:
    """Indices of `count` candidates (all if there are fewer) by score; ties keep their order."""
    order = list(range(len(scores)))
    if select == "random":
        rng.shuffle(order)
    else:
        order.sort(key=lambda i: (-scores[i] if select == "largest" else scores[i], i))
    return order[:count]


class MEOW(Objective):
    """Train on answers that contradict the truth, chosen by the largest (or smallest) MEMO score."""

    class Spec(WeightedSpec):
        copies: int = Field(8, ge=1, description="Training copies per question; its chosen answers are used in turn.")
        top_k: int = Field(3, ge=1, description="Inverted answers chosen per question.")
        select: Select = Field("largest", description="Which MEMO scores are chosen.")
        inverted: str | None = Field(None, description="JSONL file of {id, answers} with inverted answers; the rows' "
                                                       "wrong_answers if left out.")
        mode: Literal["suffix", "prefix"] = Field("suffix", description="MEMO cuts answers, or questions.")
        share: Literal["precision", "recall", "f1"] = Field("precision", description="Share of ROUGE-1 in MEMO.")
        window: int = Field(5, ge=1, description="Characters between the cuts of MEMO.")
        cuts: int | None = Field(8, ge=1, description="Maximum cuts per text in MEMO, evenly spaced; None takes all.")
        max_new_tokens: int = Field(200, ge=1, description="Maximum length of a continuation in MEMO.")

    card = Card(
        name="meow", kind="objective",
        summary="finetuning on inverted facts chosen by the model's memorisation",
        paper="Gu et al. 2024, MEOW: MEMOry Supervised LLM Unlearning Via Inverted Facts (arXiv 2409.11844)",
        formula="L = mean_t -log p(y'_t | q), y' among the top_k of q's inverted answers by MEMO",
        defaults="8 copies, top_k 3, largest, ROUGE-1 precision, window 5 (the authors' script); lr 1e-5, at most 10 "
                 "epochs, weight decay 0.01, no retain term",
        model_needs=frozenset({"generate", "logp", "prompt", "weights"}),
        deviations=("inverted answers come from the rows or from a file; no second model generates them during a run",
                    "an epoch draws one of a question's copies, in the published proportions, so that 8 epochs "
                    "are one published epoch",
                    "MEMO uses 8 cuts per text unless cuts=None, since every cut costs a generation",
                    "MEMO puts the question into the run's template, decodes greedily and skips cuts without "
                    "a word after them; the authors use the bare text and the model's own sampling settings",
                    "a row without inverted answers (running text) uses those of another row about its entity"),
    )
    reads = ("inverted",)
    builds = True
    space = {"top_k": ("choice", 1, 3, 5), "select": ("choice", "largest", "smallest", "random")}
    must_show = (
        Property("memo_tells_memorised", {"above": 0.8, "below": 0.3},
                 "MEMO of a memorised answer is above 0.8, of an unseen one below 0.3"),
        Property("memo_grows", {}, "MEMO rises with finetuning epochs"),
        Property("memo_by_hand", {}, "cuts, shares and thinning are what the paper says"),
        Property("believes_inversion", {}, "greedy answers match an inverted fact more than the truth, as fluently"),
        Property("selects_by_memory", {}, "largest, smallest and random choose deterministically, ties included"),
        Property("lends_answers", {}, "a row without inverted answers uses those of its entity, or is reported"),
        Property("reads_answers", {"option": "inverted"}, "a file replaces the rows' own wrong answers"),
        Property("leaves_no_mark", {}, "building changes neither weights nor the global random state"),
        Property("forgets", {}, "the loss of forget answers grows"),
        Property("never_negative", {}, "a negative log-likelihood"),
    )

    def problems(self, task: Task) -> list[ExpungeError]:
        return answer_problems("meow", task, self.spec.inverted)

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        for problem in self.problems(task):
            raise problem
        spec, answers = self.spec, given_answers(task, self.spec.inverted)
        pairs = [row.model_copy(update={"answer": text}) for row in task.forget for text in answers.get(row.id, ())]
        scores = iter([0.0] * len(pairs) if spec.select == "random" else memo(
            subject, pairs, mode=spec.mode, share=spec.share, window=spec.window, cuts=spec.cuts,
            max_new_tokens=spec.max_new_tokens, announce=run.announce))
        chosen, memos = {}, {}
        for row in task.forget:
            texts = answers.get(row.id, [])
            memos[row.id] = [next(scores) for _ in texts]
            picked = choose(memos[row.id], spec.top_k, spec.select, stream(run.seed, "meow", row.id))
            chosen[row.id] = [texts[i] for i in picked]
        return {"chosen": chosen, "memo": memos, "lenders": answer_sources(task.forget, answers)}

    def sides(self, example: Example, task: Task, rng: random.Random) -> dict[str, Example]:
        source = rng.choice(self.made["lenders"][example.id])
        row = example if source == example.id else next(r for r in task.forget if r.id == source)
        texts = self.made["chosen"][source]
        return {"inverted": row.model_copy(update={"answer": texts[rng.randrange(self.spec.copies) % len(texts)]})}

    def terms(self, step: Step) -> dict[str, Term]:
        answers = step.answers("inverted")
        return {"meow": token_mean(-answers.logp_N, answers, "inverted")}
