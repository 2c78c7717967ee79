"""ConceptVectors: concepts of which it is known which neuron of a published model holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from expunge import plugin
from expunge.benchmarks.base import TaskCard, TaskPlugin
from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import DATA_VARIABLE, PublishedData
from expunge.errors import DataError, MissingError, UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

FIELDS = ("Concept", "Layer", "Dim", "QA", "text_completion", "unrelated_QA", "wikipedia_content")
HALVES = ("First_half", "Second_half")
"""Of a text that is to be completed."""
MODELS = {"llama2": ("llama2-7b_concepts", "LLaMA-2-7B-chat"), "olmo": ("olmo-7b_concepts", "OLMo-7B")}
"""Option -> the beginning of its files' names, and the model whose neurons they name."""


class ConceptVectorsTask(TaskPlugin):
    """One concept is to be forgotten: its article and texts; its questions and unrelated ones are asked."""

    class Spec(plugin.Spec):
        model: Literal["llama2", "olmo"] = Field("llama2", description="Whose neurons: LLaMA-2-7B-chat or OLMo-7B.")
        part: Literal["dev", "test"] = Field("test", description="The published part.")
        concept: str = Field("", description="The concept to forget; the first `concepts` ones if left out.")
        concepts: int = Field(1, ge=1, description="Concepts to forget, the first ones of the file.")
        words: int = Field(350, ge=20, description="Words of the article that are to be forgotten.")

        @model_validator(mode="after")
        def check_concepts(self) -> ConceptVectorsTask.Spec:
            if self.concept and self.concepts > 1:
                raise ValueError("concept names one and concepts counts the first of the file: give one of them")
            return self

    card = TaskCard(
        name="conceptvectors", kind="task", target="concept", model_needs=frozenset({"prompt"}),
        summary="ConceptVectors, concepts with the neuron that holds them in LLaMA-2-7B-chat or OLMo-7B",
        paper="Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces, 2024 (arXiv 2406.11614)",
        formula="concept_trace: overlap of the 200 tokens to which column Dim of W_down in block Layer points, before "
                "and after; locality: the original's words that are still said",
        defaults="one concept a run and about 500 tokens of its article, as published",
        licence="CC BY 4.0", source=f"the authors' files such as llama2-7b_concepts_test.json, by --data-dir or "
                                    f"{DATA_VARIABLE}",
        suite="concept_trace, concept_trace(of=cosine), concept_trace(of=distance), forget.probability, "
              "neighbour.locality, utility.locality, weight_distance",
        deviations=("the files hold questions without answers: what the original says is the reference, as in the "
                    "paper, so that locality should be low on neighbour rows (the concept's questions) and high on "
                    "utility rows (unrelated ones)",
                    "locality compares words in place; the paper takes BLEU and ROUGE-L",
                    "the published places are neurons of two large models: on another one concept_trace says nothing",
                    "the paper's tables were not found in a form we could check, so no number is given"),
    )
    must_show = (
        Property("name_leads_back", {}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        file = f"{MODELS[self.spec.model][0]}_{self.spec.part}.json"
        data = PublishedData("ConceptVectors", hub="YihuaiHong/ConceptVectors", known_by=file,
                             subfolder="ConceptVectors_data")
        folder = data.folder(data_dir)
        if folder is None:
            raise MissingError("The ConceptVectors data is not here.", f"No folder with {file} was given.",
                               f"Give one by --data-dir or the variable {DATA_VARIABLE}.")
        return conceptvectors_task(read_rows(folder / file), **self.spec.model_dump())


def conceptvectors_task(located: Sequence[Located], *, model: str = "llama2", part: str = "test", concept: str = "",
                        concepts: int = 1, words: int = 350) -> Task:
    """Rows in the published layout as a task; see the options of `ConceptVectorsTask`.

    Raises:
        DataError: a field is missing, or is not what was published.
        UsageError: there is no such concept, or nothing is left to keep.
    """
    for where, row in located:
        check_row(where, row)
    rows = {str(row["Concept"]): row for _, row in located}
    if concept and concept not in rows:
        raise UsageError(f"conceptvectors(concept={concept}): the file has no such concept.",
                         f"It has {len(rows)}, such as {', '.join(list(rows)[:3])}.", "Name one as the file writes it.")
    chosen = [concept] if concept else list(rows)[:concepts]
    if len(chosen) >= len(rows):
        raise UsageError(f"conceptvectors(concepts={concepts}) leaves nothing to keep.",
                         f"The file has {len(rows)} concepts.", "Forget fewer.")
    given = {"model": model, "part": part, "concept": concept, "concepts": concepts, "words": words}
    gone, kept = ([row for name, row in rows.items() if (name in chosen) == forgotten] for forgotten in (True, False))
    asked = {row.prompt: row for one in gone for row in _questions(one, "QA")}
    beside = {row.prompt: row for one in gone for row in _questions(one, "unrelated_QA") if row.prompt not in asked}
    return Task(
        name=with_options("conceptvectors", given, ConceptVectorsTask.Spec().model_dump()), generation_tokens=100,
        forget=tuple(row for one in gone for row in _texts(one, words)),
        retain=tuple(row for one in kept for row in _texts(one, words)),
        neighbour=tuple(asked.values()), utility=tuple(beside.values()))


def check_row(where: str, row: Mapping[str, Any]) -> None:
    """Raises DataError where a field is missing, a list is none, or a text to be completed lacks one of its halves."""
    if missing := [name for name in FIELDS if name not in row]:
        raise DataError(f"{where}: the row has no {missing[0]}.", f"It has {', '.join(row)}.",
                        "Use the published files unchanged.")
    for name in ("QA", "unrelated_QA", "text_completion"):
        if not isinstance(row[name], list):
            raise DataError(f"{where}: {name} is no list.", f"It is {str(row[name])[:60]!r}.",
                            "Use the published files unchanged.")
    for i, text in enumerate(row["text_completion"]):
        if not isinstance(text, Mapping) or not set(HALVES) <= set(text):
            raise DataError(f"{where}: text_completion {i} has not the fields {' and '.join(HALVES)}.",
                            f"It is {str(text)[:60]!r}.", "Use the published files unchanged.")


def _texts(row: Mapping[str, Any], words: int) -> list[Example]:
    """The article's beginning, and the texts that are to be completed."""
    name, place = str(row["Concept"]), f"block {row['Layer']}, neuron {row['Dim']}"
    found = [Example(id=f"conceptvectors/{name}/article", kind="text", prompt="", entity=name, group=place,
                     answer=" ".join(str(row["wikipedia_content"]).split()[:words]))]
    return found + [
        Example(id=f"conceptvectors/{name}/text{i}", kind="completion", prompt=str(text[HALVES[0]]).strip(),
                answer=f" {str(text[HALVES[1]]).strip()}", entity=name, group=place)
        for i, text in enumerate(row["text_completion"])]


def _questions(row: Mapping[str, Any], field: str) -> list[Example]:
    """Questions without an answer."""
    name = str(row["Concept"])
    return [Example(id=f"conceptvectors/{name}/{field}{i}", prompt=str(text).strip(), answer="", entity=name,
                    group=field) for i, text in enumerate(row[field])]
