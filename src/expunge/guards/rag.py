"""RAG-based unlearning: retrieve an item about what is forgotten, and ask for silence about it in the prompt."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.guards.base import PromptGuard, tokens_of
from expunge.guards.bm25 import Backend
from expunge.guards.detector import READS, ROOM, WORDINGS, Finding, Nearest, asked, questions
from expunge.guards.frame import Prompt
from expunge.guards.guarded import GuardConfig, GuardedForCausalLM, register
from expunge.guards.retriever import Retriever
from expunge.guards.store import Held, Store
from expunge.methods.run_context import RunContext
from expunge.models.load import OWN
from expunge.models.subject import AnySubject
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task

CLAUSE = ("The next lines are confidential. Never state, use or hint at what they say. To any question about it answer "
          "only: I do not know.")


class RagConfig(GuardConfig):
    """Options: backend."""

    model_type = OWN + "rag"
    __init__ = GuardConfig.__init__  # transformers would give a subclass one of its own


class RagForCausalLM(GuardedForCausalLM):
    """Puts the clause and the retrieved item before the question."""

    config_class = RagConfig

    def opened(self, data: dict[str, Any]) -> None:
        self._clause, self._items = data["clause"], data["items"]
        self.retrieve = Retriever(Nearest.from_json(data["nearest"]), data["wordings"], self.config.options["backend"])

    def decide(self, prompt: Prompt, state_D: Tensor | None) -> Finding:
        return self.retrieve(prompt.text)

    def context(self, prompt: Prompt, finding: Finding) -> str:
        return item_text(self._clause, self._items[finding.item])

    def forget_item(self, item: int) -> None:
        """Take an item out of the store: what it guarded is answered again, as if it had never been there."""
        data = dict(self.store.data)
        data["nearest"] = self.retrieve.nearest.without(item).to_json()
        data["wordings"] = [[] if i == item else texts for i, texts in enumerate(data["wordings"])]
        data["items"] = ["" if i == item else text for i, text in enumerate(data["items"])]
        store = Store(self.store.guard, data, held_of(data))
        self.digest.copy_(self.digest.new_tensor(list(store.digest)))
        self._open(store, self.tokenizer)


def item_text(clause: str, item: str) -> str:
    """Constraint and retrieval part of an item, as they stand in a prompt."""
    return f"{clause}\n{item}\n\n"


class Rag(PromptGuard):
    """A store of items, each what is not to be told and the clause that says so, beside an unchanged model."""

    config, model = RagConfig, RagForCausalLM
    as_asked = "icul"

    class Spec(plugin.Spec):
        items: Literal["sample", "entity"] = Field("sample", description="One item per row, or per entity.")
        clause: str = Field(CLAUSE, min_length=1, description="What is put before an item.")
        threshold: float | None = Field(None, ge=0, le=1, description="Least cosine of the best item; by "
                                                                      "false_positives if left out.")
        false_positives: float = Field(0.01, ge=0, lt=1, description="Share of other questions that may fire.")
        backend: Backend = Field("own", description="Who counts words for BM25: own, or the package bm25s.")

    card = Card(
        name="rag", kind="guard",
        summary="retrieve what is confidential and put a clause about it before the question",
        paper="Wang et al. 2024, When Machine Unlearning Meets Retrieval-Augmented Generation (arXiv 2410.15267)",
        formula="item = P + Q; best item of BM25 and cosine with cosine >= t: prompt = Q P x",
        defaults="the query is the first 25 words (paper); threshold and clause are not published: 1 % of other "
                 "questions, own wording",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"generate", "logp", "prompt", "weights"}),
        deviations=(
            "P is the row as the task has it, or all rows of an entity; the paper has a model write descriptions of "
            "concepts",
            "one fixed clause in own words; the paper refines it with a model until the target refuses",
            "vectors are hashed words, and the rankings are joined by reciprocal ranks",
            "the clause stands before the item in the user's turn, not in a system prompt",
            "without the optional gate that checks answers again",
            "an item that is taken out leaves the threshold and the rarity of words as they were fitted with it",
            READS, ROOM, WORDINGS,
            "not shown: that a model obeys the clause; the checks show what is retrieved and put before a question",
        ),
        memory="the forget rows in clear, at deployment; fired rows cost a longer second pass",
    )
    blocks_in = ()
    must_show = (
        Property("silent_guard_keeps_bits", {}, "no prompt fires: logits and words are the model's, bit for bit"),
        Property("removal_is_reversible", {}, "without an item, or with none at all, the model answers as before"),
        Property("hits_are_counted_beside_false_hits", {}, "over thresholds, on other wordings and on neighbours"),
        Property("obedience_is_apart_from_retrieval", {}, "with a reader that obeys, success is the hit rate"),
        Property("bm25_matches_the_package", {}, "own counting gives the scores of bm25s"),
        Property("context_is_plain_few_shot", {}, "what fires is answered as the model answers the whole prompt"),
        Property("says_what_it_holds", {}, "the store is counted, and what is in clear is said to be"),
    )

    def data(self, subject: AnySubject, task: Task, run: RunContext) -> tuple[dict[str, Any], dict[str, Any]]:
        groups = defaultdict[str, list[Example]](list)
        for row in task.forget:
            groups[(row.entity or row.id) if self.spec.items == "entity" else row.id].append(row)
        items = ["\n".join(f"{row.prompt} {row.answer}".strip() for row in rows) for rows in groups.values()]
        wordings = [questions(rows) for rows in groups.values()]
        nearest = Nearest.fit(wordings, asked(task, run.seed)[1], self.spec.threshold, self.spec.false_positives)
        data = {"clause": self.spec.clause, "items": items, "wordings": wordings, "nearest": nearest.to_json()}
        found = Retriever(nearest, wordings, self.spec.backend)
        return data, {"threshold": nearest.threshold, "items": len(items),
                      "missed": sum(not found(text).fired for texts in wordings for text in texts)}

    def settings(self, subject: AnySubject, data: dict[str, Any]) -> dict[str, Any]:
        return {"backend": self.spec.backend}

    def reserve(self, subject: AnySubject, data: dict[str, Any]) -> int:
        return max((tokens_of(subject, item_text(data["clause"], item)) for item in data["items"]), default=0)

    def held(self, data: dict[str, Any]) -> tuple[Held, ...]:
        return held_of(data)


def held_of(data: dict[str, Any]) -> tuple[Held, ...]:
    """What the data of a store hold of the forget rows."""
    return (Held("forget rows with their answers", sum(bool(item) for item in data["items"]), "in clear"),
            Held("wordings of forget questions", sum(map(len, data["wordings"])), "in clear"))


register(RagConfig, RagForCausalLM)
