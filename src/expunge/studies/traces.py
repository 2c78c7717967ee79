"""Traces: can a classifier tell that a model was unlearned, by what it says to prompts that have nothing to do with it?

Source: Unlearning Isn't Invisible: Detecting Unlearning Traces in LLMs from Model Outputs (arXiv 2506.14003).
Legend: n responses, F features, N supervised tokens (flat), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch

from expunge import api
from expunge.errors import UsageError
from expunge.metrics.layers import Array, logits_of, out_of_fold_logits
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.records.settings import TrainSplit
from expunge.records.study import Found, StudyChart
from expunge.records.task import Example, Task
from expunge.seeding import derive, stream
from expunge.studies.design import Design, Measured

ORIGINAL, AGAIN, RETRAINED = "original", "original again", "retrained"
"""The model, what it says with another seed, and its twin that never met the forget rows."""
KINDS = ("forget", "unrelated")
VIEWS = ("text", "logits", "states")
PROMPTS, TOKENS, FOLDS = 40, 12, 5
"""Prompts of a kind at most, tokens of a response, groups of prompts held out in turn."""
RANKS = 10
"""Log-probs of the tokens at ranks 1, 2, 4 ... are features."""
FEWEST = 3
"""Models at least, so that two are left to learn from."""


def shape_of(logits_NV: torch.Tensor) -> torch.Tensor:
    """What does not depend on the words: sorted log-probs at ranks 1, 2, 4 ... and the entropy; shape N F, float32."""
    logp_NV = logits_NV.float().log_softmax(-1).sort(-1, descending=True).values
    ranks = [min(2**i, logp_NV.shape[1]) - 1 for i in range(RANKS)]
    entropy_N1 = -(logp_NV.exp() * logp_NV).sum(-1, keepdim=True)
    return torch.cat([logp_NV[:, ranks], entropy_N1], 1)


def responses(subject: CausalLM, rows: Sequence[Example], seed: int) -> dict[str, Any]:
    """What a model says to some prompts, with the shape of its distributions and its last states on the way.

    Tokens are drawn at temperature 1. Shapes and states are means over the positions that predict the response.
    """
    prompts = [subject.encoder.prompt(row) for row in rows]
    texts = [text for text, _ in subject.generate(prompts, TOKENS, temperature=1.0, seed=seed)]
    asked = [subject.encoder.encode(row, answer=text or ".") for row, text in zip(rows, texts, strict=True)]
    shapes, states = np.zeros((len(rows), RANKS + 1)), np.zeros((len(rows), subject.width))
    with subject.evaluating():
        for chosen in subject.encoder.batches(asked, list(range(len(rows)))):
            batch = subject.collate([asked[i] for i in chosen])
            answers = subject.answers(batch)
            means = [answers.row_means(column_N) for column_N in shape_of(answers.logits_NV).T]
            shapes[chosen] = torch.stack(means, 1).cpu().double().numpy()
            last_BTD = subject.hidden(batch, -1).float().flatten(0, 1)[batch.to(subject.device).flat_N]
            states[chosen] = torch.stack([answers.row_means(column_N) for column_N in last_BTD.T], 1).cpu().numpy()
    return {"text": texts, "logits": [[float(f"{x:.5g}") for x in row] for row in shapes], "states": states}


def words_in(texts: Sequence[str], known: Sequence[str] = ()) -> tuple[Array, list[str]]:
    """Shares of words and pairs of words, shape n F, and their names; of `known` ones where they are given.

    Shares and not counts, so that length tells nothing.
    """
    parts = [text.split() or ["(nothing)"] for text in texts]
    grams = [[*words, *map(" ".join, pairwise(words))] for words in parts]
    names = list(known) or sorted({gram for row in grams for gram in row})
    index = {name: i for i, name in enumerate(names)}
    found_nF = np.zeros((len(texts), len(names)))
    for i, row in enumerate(grams):
        for gram in row:
            if gram in index:
                found_nF[i, index[gram]] += 1 / len(row)
    return found_nF, names


def features(said: Sequence[Mapping[str, Any]], view: str, known: Sequence[str] = ()) -> tuple[Array, list[str]]:
    """Features of the responses of several models, one below the other, with the names of words."""
    if view == "text":
        return words_in([text for one in said for text in one["text"]], known)
    return np.concatenate([np.asarray(one[view], dtype=float) for one in said]), []


def accuracy_within(first: Mapping[str, Any], second: Mapping[str, Any], view: str) -> float:
    """Share of responses ascribed to the right one of two models, prompts held out in turn."""
    count = len(first["text"])
    features_nF, _ = features([first, second], view)
    label_n, fold_n = np.repeat([0, 1], count), np.tile(np.arange(count) % FOLDS, 2)
    return float(((out_of_fold_logits(features_nF, label_n, fold_n) > 0) == label_n).mean())


def log_odds(train: Sequence[Mapping[str, Any]], label: Sequence[int], test: Mapping[str, Any], view: str) -> Array:
    """Log-odds of label 1 of every response of `test`, by what models with these labels say."""
    features_nF, known = features(train, view)
    label_n = np.repeat(label, [len(one["text"]) for one in train])
    return logits_of(features_nF, label_n, features([test], view, known)[0])


class Traces(Design):
    """Each part trains a model with weights of its own, unlearns it by each recipe and asks all of them."""

    name: ClassVar[str] = "traces"
    world: ClassVar[str] = "authors(forget=3, retain=7, holdout=0, neighbours=0)"
    defaults: ClassVar[dict[str, Any]] = {
        "count": 4, "epochs": 10.0, "batch_size": 8,
        "method": "ga + adamw(lr=3e-4); npo + retain_nll(weight=3) + adamw(lr=3e-4, weight_decay=0); "
                  "rmu(coefficient=97, alpha=10) + adamw(lr=1e-3, weight_decay=0)"}

    def planned(self) -> list[str]:
        names = {row.entity or row.id for row in self.task.forget + self.task.retain}
        if not self.task.utility or len(names) < 2 * len({r.entity or r.id for r in self.task.forget}):
            raise UsageError("The task has too few rows for traces.", "It takes utility rows, which stand for prompts "
                             "that have nothing to do with what is forgotten, and as many entities to keep as to "
                             "forget.", "Give more rows, or leave --task out for the built-in world.")
        if (self.settings.count or 0) < FEWEST:
            raise UsageError(f"traces takes --count {FEWEST} or more.", "One model is held out, and the classifier "
                             "learns from the others.", f"Give --count {FEWEST} or more.")
        for recipe in self.recipes:
            api.plan_untrained(self.size, task=self._task(0), **self.unlearning(recipe))
        return [f"model {i}" for i in range(self.settings.count or 0)]

    def _task(self, number: int) -> Task:
        """Each model forgets other entities, as many as the task; the prompts that are asked stay."""
        rows = self.task.forget + self.task.retain
        names = sorted({row.entity or row.id for row in rows})
        stream(self.settings.seed, "traces", number).shuffle(names)
        out = set(names[:len({row.entity or row.id for row in self.task.forget})])
        return self.task.model_copy(update={
            "name": f"{self.task.name}, model {number}", "probes": {}, "holdout": (),
            "forget": tuple(r for r in rows if (r.entity or r.id) in out),
            "retain": tuple(r for r in rows if (r.entity or r.id) not in out)})

    def measure(self, part: str) -> dict[str, Any]:
        number = int(part.split()[1])
        task, place = self._task(number), self.work / part.replace(" ", "-")
        prompts = dict(zip(KINDS, (task.forget[:PROMPTS], task.utility[:PROMPTS]), strict=True))

        def twin(split: TrainSplit) -> Path:
            """Each has first weights of its own; the tokenizer is one for all."""
            return self.trained(task, split, place / split, seed=derive(self.settings.seed, split, number))

        original, retrained = twin("full"), twin("retain")
        places = {ORIGINAL: original, AGAIN: original, RETRAINED: retrained}
        for i, recipe in enumerate(self.recipes):
            places[recipe] = self.unlearned(original, task, recipe, place / f"recipe-{i}")
        said = {}
        for name, model in places.items():
            subject: CausalLM = load_subject(model, template=task.template)  # type: ignore[assignment]
            seed = derive(self.settings.seed, "responses", number, name)
            said[name] = {kind: responses(subject, rows, seed) for kind, rows in prompts.items()}
        within = {name: {view: self._within(said[ORIGINAL], one, view) for view in VIEWS}
                  for name, one in said.items() if name != ORIGINAL}
        kept = {name: {view: one["unrelated"][view] for view in ("text", "logits")} for name, one in said.items()}
        return {"within": within, "unrelated": kept}

    def _within(self, original: Mapping[str, Any], other: Mapping[str, Any], view: str) -> dict[str, float]:
        """Accuracy on prompts held out of the same model: of each kind, and learned from forget prompts alone."""
        found = {kind: accuracy_within(original[kind], other[kind], view) for kind in KINDS}
        sides = [log_odds([original["forget"], other["forget"]], (0, 1), one["unrelated"], view)
                 for one in (original, other)]
        found["forget to unrelated"] = float(np.concatenate([sides[0] <= 0, sides[1] > 0]).mean())
        return found

    def found(self, parts: Measured) -> Found:
        models = [part["unrelated"] for part in parts.values()]
        within = {name: {view: {kind: fmean(p["within"][name][view][kind] for p in parts.values())
                                for kind in (*KINDS, "forget to unrelated")} for view in VIEWS}
                  for name in (AGAIN, RETRAINED, *self.recipes)}
        # The original beside itself shows what chance alone tells of so few models.
        held = {name: {view: held_out(models, (name,), view) for view in VIEWS[:2]} for name in (AGAIN, *self.recipes)}
        any_of = {view: held_out(models, self.recipes, view) for view in VIEWS[:2]}
        other = {recipe: {view: held_out(models, [r for r in self.recipes if r != recipe], view, asked=(recipe,))
                          for view in VIEWS[:2]} for recipe in self.recipes} if len(self.recipes) > 1 else {}
        figures = {"within": within, "held_out": held, "held_out_any": any_of, "held_out_model_and_method": other}
        said = ["Told from its original by answers to unrelated prompts, where the classifier never saw the model: "
                + "; ".join(f"{recipe} {one['text']['accuracy']:.2f} by text and {one['logits']['accuracy']:.2f} by "
                            "logits" for recipe, one in held.items())
                + f". A retrained model, which was never unlearned, is called unlearned for "
                  f"{any_of['text']['retrained']:.2f} and {any_of['logits']['retrained']:.2f} of its answers."]
        said.append("By all answers together, the classifier of all recipes is right about "
                    + " and ".join(f"{one['right'] - one['right_originals']} of {one['models'] - one['originals']} "
                                   f"unlearned models and {one['right_originals']} of {one['originals']} originals by "
                                   f"{view}" for view, one in any_of.items()) + ".")
        said.append("On the same model, other prompts held out, answers to unrelated prompts: "
                    + "; ".join(f"{name} " + ", ".join(f"{within[name][view]['unrelated']:.2f} by {view}"
                                                       for view in VIEWS) for name in within) + ".")
        said.append("Learned from forget prompts alone, then asked about unrelated ones, by text: "
                    + "; ".join(f"{r} {within[r]['text']['forget to unrelated']:.2f} (on forget prompts "
                                f"{within[r]['text']['forget']:.2f})" for r in self.recipes) + ".")
        series = {f"{view}, {kind}": [(i, within[name][view][kind]) for i, name in enumerate(within)]
                  for view in VIEWS for kind in KINDS}
        return Found(findings=tuple(said), figures=figures, charts=(StudyChart(
            title="Told from the original", x="model", y="accuracy on prompts held out", series=series, dots=True,
            caption="Models in this order: " + "; ".join(f"{i} {name}" for i, name in enumerate(within)) + ". 0.5 is "
                    "chance."),))


def held_out(models: Sequence[Mapping[str, Any]], recipes: Sequence[str], view: str,
             asked: Sequence[str] | None = None) -> dict[str, Any]:
    """Each model in turn is left out; a classifier learns from the others, originals against unlearned ones.

    Returns:
        accuracy: share of answers of models left out that are ascribed to the right side, both sides alike.
        right, models: how many models are on the right side by all their answers together.
        right_originals, originals: of these, the originals. There are fewer of them, so they are told apart.
        retrained: share of answers of retrained models that are called unlearned.
    """
    sides: dict[int, list[float]] = {0: [], 1: []}
    votes, floor = list[tuple[int, bool]](), list[float]()
    for i, left in enumerate(models):
        others = [one for j, one in enumerate(models) if j != i]
        train = [(one[ORIGINAL], 0) for one in others] + [(one[r], 1) for one in others for r in recipes]
        label = [side for _, side in train]

        def odds(name: str, left: Mapping[str, Any] = left, label: list[int] = label,
                 train: list[tuple[Any, int]] = train) -> Array:
            return log_odds([one for one, _ in train], label, left[name], view)

        for name, side in [(ORIGINAL, 0), *((r, 1) for r in asked or recipes)]:
            found_n = odds(name)
            sides[side].append(float(((found_n > 0) == side).mean()))
            votes.append((side, bool((found_n.mean() > 0) == side)))
        floor.append(float((odds(RETRAINED) > 0).mean()))
    originals = [right for side, right in votes if side == 0]
    return {"accuracy": fmean(fmean(each) for each in sides.values()), "right": sum(right for _, right in votes),
            "models": len(votes), "right_originals": sum(originals), "originals": len(originals),
            "retrained": fmean(floor)}
