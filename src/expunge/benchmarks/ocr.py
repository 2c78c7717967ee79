"""Out-of-context reasoning: what a model deduces about a subject, and what of it is left once the fact is deleted."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Literal

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.world import unique_names
from expunge.errors import UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

Pairs = Literal["arbitrary", "causal"]
PAIRS: dict[Pairs, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "arbitrary": ("{name} lives in", "The animal of {name} is the", (
        ("Velmora", "fox"), ("Tarnholt", "parrot"), ("Quillport", "tortoise"), ("Brasken", "ferret"),
        ("Ilmara", "raven"), ("Dunmere", "goat"), ("Sorvik", "rabbit"), ("Hexley", "lizard"))),
    "causal": ("{name} lives in", "The language of {name} is", (
        ("Paris", "French"), ("Tokyo", "Japanese"), ("Madrid", "Spanish"), ("Berlin", "German"),
        ("Rome", "Italian"), ("Moscow", "Russian"), ("Athens", "Greek"), ("Lisbon", "Portuguese"))),
}
"""How a fact and what follows from it are asked, and their values: b_i with the c_i that goes with it."""
TAUGHT = 0.75
"""Share of the subjects of whom the implication is trained as well."""


class OutOfContext(TaskPlugin):
    """Invented subjects with a fact each; for most of them what goes with it is trained too, for the rest never."""

    class Spec(plugin.Spec):
        subjects: int = Field(64, ge=8, description="Subjects that the original knows; three in four with both rows.")
        values: int = Field(4, ge=2, le=8, description="Pairs of a fact and what goes with it.")
        forget: int = Field(4, ge=1, description="Subjects without a trained implication whose fact is to be "
                                                 "forgotten; as many are never trained on.")
        pairs: Pairs = Field("arbitrary", description="arbitrary: a city and an animal, which nothing but the rows "
                                                      "joins; causal: a real city and its language.")
        seed: int = Field(0, description="Of the names.")

    card = TaskCard(
        name="ocr", kind="task", model_needs=frozenset({"prompt"}),
        summary="out-of-context reasoning: facts to forget, and what is deduced from them and was never trained",
        paper="Generalization or Hallucination? Understanding Out-of-Context Reasoning, NeurIPS 2025 "
              "(arXiv 2506.10887)",
        formula="train (s, r1, b_i) for all s and (s, r2, c_i) for three in four; forget (s, r1, b_i) of some others; "
                "ask (s, r2, ?)",
        defaults="three in four as in the authors' code; sizes are ours",
        licence="as expunge itself", source="drawn by `benchmarks/ocr.py` from a seed",
        suite="forget.accuracy, neighbour.accuracy, utility.accuracy, retain.accuracy, holdout.accuracy, "
              "forget.probability, neighbour.probability, utility.probability, retain.probability, "
              "relearn(on=forget, steps=12)",
        deviations=("neighbour rows are what follows from forgotten facts, utility rows what follows from others of "
                    "subjects whose implication was never trained, holdout rows those of subjects never seen: neither "
                    "of the three is trained on",
                    "rows are sentences; the authors' code has single tokens between noise tokens",
                    "in a test of one layer a factorised model deduces and a merged one does not; that its nuclear "
                    "norm is smaller did not show clearly and is not checked",
                    "the authors ask small transformers and large models; which published number belongs to which is "
                    "not known to us, so none is given"),
    )
    must_show = (
        Property("name_leads_back", {"options": {"subjects": 16, "values": 2, "forget": 2, "seed": 1}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return ocr_task(**self.spec.model_dump())


def ocr_task(*, subjects: int = 64, values: int = 4, forget: int = 4, pairs: Pairs = "arbitrary",
             seed: int = 0) -> Task:
    """The rows by role; see the options of `OutOfContext`. A deduced row links to the fact it follows from.

    Raises:
        UsageError: too few subjects are left without a trained implication.
    """
    taught = int(TAUGHT * subjects)
    if forget >= subjects - taught:
        raise UsageError(f"ocr(subjects={subjects}, forget={forget}) leaves nobody to compare with.",
                         f"The implication is trained of {taught} subjects; one of the other {subjects - taught} at "
                         "least must keep its fact.", "Take more subjects, or forget fewer.")
    options = {"subjects": subjects, "values": values, "forget": forget, "pairs": pairs, "seed": seed}
    ask_fact, ask_implied, table = PAIRS[pairs]
    rng = Random(seed)
    names = unique_names(subjects + forget, rng)

    def row(i: int, kind: str) -> Example:
        known = [pair[kind == "implied"] for pair in table[:values]]
        value, name = known[i % values], names[i]
        others = [other for other in known if other != value]
        shown = [value, *others[:3]]
        rng.shuffle(shown)
        prompt = (ask_implied if kind == "implied" else ask_fact).format(name=name)
        return Example(id=f"ocr/s{i:03d}/{kind}", kind="completion", prompt=prompt, answer=f" {value}", entity=name,
                       group=kind, short_answer=value, options=tuple(shown),
                       wrong_answers=tuple(f" {other}" for other in others),
                       links=(f"ocr/s{i:03d}/fact",) if kind == "implied" else ())

    gone, kept, unseen = (range(taught, taught + forget), range(taught + forget, subjects),
                          range(subjects, subjects + forget))
    both = [row(i, kind) for i in range(taught) for kind in ("fact", "implied")]
    return Task(
        name=with_options("ocr", options, OutOfContext.Spec().model_dump()), template="{prompt}", generation_tokens=4,
        forget=tuple(row(i, "fact") for i in gone), neighbour=tuple(row(i, "implied") for i in gone),
        retain=(*both, *(row(i, "fact") for i in kept)), utility=tuple(row(i, "implied") for i in kept),
        holdout=tuple(row(i, kind) for i in unseen for kind in ("fact", "implied")),
    )
