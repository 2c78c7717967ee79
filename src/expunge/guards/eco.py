"""ECO: corrupt the embedding vectors of a prompt that asks for what is to be forgotten."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.errors import ExpungeError, UsageError
from expunge.guards.base import PromptGuard
from expunge.guards.corruption import COUNTED, ORDERS, Corruption, corrupt
from expunge.guards.detector import READS, Detector, Finding, asked
from expunge.guards.frame import Prompt
from expunge.guards.guarded import GuardConfig, GuardedForCausalLM, register
from expunge.guards.store import Held
from expunge.guards.strength import searched
from expunge.methods.run_context import RunContext
from expunge.models.load import OWN
from expunge.models.subject import AnySubject
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.seeding import derive


class EcoConfig(GuardConfig):
    """Options: corruption, dims, strength."""

    model_type = OWN + "eco"
    __init__ = GuardConfig.__init__  # transformers would give a subclass one of its own


class EcoForCausalLM(GuardedForCausalLM):
    """Corrupts all prompt tokens but the last."""

    config_class = EcoConfig
    corrupts = True

    def opened(self, data: dict[str, Any]) -> None:
        self._detector, self._seed = Detector.from_json(data["detector"]), int(data["seed"])

    def decide(self, prompt: Prompt, state_D: Tensor | None) -> Finding:
        return self._detector(prompt.text)

    def corrupt(self, vectors_KD: Tensor, prompt: Prompt) -> Tensor:
        options = self.config.options
        generator = torch.Generator().manual_seed(derive(self._seed, "eco", "noise"))
        other = corrupt(vectors_KD[:-1], options["corruption"], options["dims"], options["strength"], generator)
        return torch.cat([other, vectors_KD[-1:]])


class Eco(PromptGuard):
    """A classifier of prompts, and a corruption of those that it finds; its strength is searched for."""

    config, model = EcoConfig, EcoForCausalLM

    class Spec(plugin.Spec):
        corruption: Corruption = Field("zero_top", description="What is done to the vectors of prompt tokens.")
        dims: int | None = Field(None, ge=0, description="Dims of each token that change; one for noise and values, "
                                                         "and by the search for zero and flip, if left out.")
        strength: float | None = Field(None, ge=0, description="Size of the noise or value, or share of the dims for "
                                                               "zero and flip; searched for if left out. 0 is none.")
        threshold: float = Field(0.5, ge=0, le=1, description="Least probability at which the classifier fires.")
        false_positives: float = Field(0.01, ge=0, lt=1, description="Share of other prompts that may fire; raises "
                                                                     "the threshold where needed.")
        steps: int = Field(10, ge=0, description="Steps of the search.")
        rate: float | None = Field(None, gt=0, description="Step size of the search; 100 for noise and values, 1 for "
                                                           "shares, if left out.")

    card = Card(
        name="eco", kind="guard",
        summary="corrupt the embeddings of prompts that a classifier finds (embedding-corrupted prompts)",
        paper="Liu et al. 2024, Large Language Model Unlearning via Embedding-Corrupted Prompts (arXiv 2406.07933)",
        formula="p(forget | x) >= t: e'_i = C(e_i; beta) for all prompt tokens but the last; "
                "beta <- beta - r (f(beta + e) - f(beta - e)) / 2e, f = |score - score of a model that never knew|",
        defaults="the largest dims set to zero (best on TOFU in the paper), rate 100, e 0.0999, beta at least 0.1, "
                 "10 steps (its code)",
        needs=frozenset({"retain"}),
        model_needs=frozenset({"generate", "logp", "prompt", "weights"}),
        deviations=(
            "the classifier is logistic on hashed words, word pairs and letter triples, not RoBERTa, and its threshold "
            "is set on questions it was not trained on instead of 0.99 to 0.9999",
            "answer tokens are never corrupted; the public code computes positions on prompt and answer when it "
            "scores, which lowers the likelihood of forgotten answers by itself",
            "tokens are corrupted when the prompt is read, with a one-token prompt and in batches padded on either "
            "side; the public hook goes by the length of what it is given",
            "the search keeps the best strength it saw; for zero and flip the strength is a share of the dims, at most "
            "1, with rate 1",
            "f compares mean probabilities of the forget answers with those of rows never trained on, or of wrong "
            "answers without any; the paper's surrogate is a score chosen per task",
            "all prompt tokens but the last; the variant for named entities needs a tagger and is left out",
            READS,
        ),
        memory="a vector of 4096 weights; rows that fire cost a second pass",
    )
    blocks_in = ()
    space = {"corruption": ("choice", "zero_top", "flip_top", "noise_first")}
    must_show = (
        Property("silent_guard_keeps_bits", {}, "no prompt fires: logits and words are the model's, bit for bit"),
        Property("strength_zero_is_the_target", {}, "no dims, or no noise, change nothing though the detector fires"),
        Property("corrupts_prompts_only", {}, "the prompt but its last token, in a copy, however it is padded"),
        Property("corruptions_match_slow_twins", {}, "each corruption is its definition, token by token"),
        Property("search_descends", {}, "the loss of the search falls, on a curve and in a model"),
        Property("guard_lowers_answers", {"drop": 0.3}, "forget answers lose probability, retain answers keep it"),
        Property("says_what_it_holds", {}, "the store is counted, and nothing of it can be read"),
    )

    def problems(self, task: Task, config: Any) -> list[ExpungeError]:
        found, size = super().problems(task, config), getattr(config, "hidden_size", None)
        if self.spec.dims is not None and size is not None and self.spec.dims > size:
            found.append(UsageError(f"eco(dims={self.spec.dims}) is more than the model's {size}.",
                                    "An embedding vector has no more.", "Name fewer, or leave it out."))
        return found

    def data(self, subject: AnySubject, task: Task, run: RunContext) -> tuple[dict[str, Any], dict[str, Any]]:
        positive, negative = asked(task, run.seed)
        detector = Detector.fit(positive, negative, self.spec.false_positives, self.spec.threshold)
        data = {"detector": detector.to_json(), "seed": run.seed, "strength": self.spec.strength}
        figures: dict[str, Any] = {"threshold": detector.threshold, "asked": len(positive), "other": len(negative),
                                   "missed": sum(s < detector.threshold for s in detector.scores(positive))}
        if self.spec.strength is None and self.spec.corruption not in ORDERS and not (
                self.spec.corruption in COUNTED and self.spec.dims is not None):
            counted = self.spec.corruption in COUNTED
            found = searched(lambda strength: self.around(subject, data | {"strength": strength}), subject, task, run,
                             rate=self.spec.rate or (1.0 if counted else 100.0), most=1.0 if counted else math.inf,
                             steps=self.spec.steps)
            data["strength"] = found.strengths[found.best]
            figures["search"] = {"strengths": found.strengths, "losses": found.losses}
        return data, figures | {"strength": data["strength"]}

    def settings(self, subject: AnySubject, data: dict[str, Any]) -> dict[str, Any]:
        strength, counted = data["strength"], self.spec.corruption in COUNTED
        share = math.ceil((strength or 0.0) * subject.width - 1e-9)
        dims = self.spec.dims if self.spec.dims is not None else share if counted else 1
        return {"corruption": self.spec.corruption, "dims": min(dims, subject.width),
                "strength": 1.0 if strength is None else strength}

    def held(self, data: dict[str, Any]) -> tuple[Held, ...]:
        return (Held("classifier of the forget questions", 1, "weights"),)


register(EcoConfig, EcoForCausalLM)
