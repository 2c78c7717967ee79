"""KID-Bench: beliefs that a document contradicts, graded by how firmly they are held, beside what is merely new."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import Published, TaskCard, TaskPlugin
from expunge.data.files import read_rows
from expunge.data.mapping import Located
from expunge.data.published import DATA_VARIABLE, PublishedData
from expunge.errors import DataError, MissingError
from expunge.plugin import Property
from expunge.records.task import Example, Task

FILE = "kid_bench.json"
DATA = PublishedData("KID-Bench", hub="KID-Bench (arXiv 2604.23750)", known_by=FILE, subfolder="kid")
CATEGORIES = ("novel", "combination", "conflict")
DEPTHS = ("light", "medium", "deep")
FIELDS = ("category", "document", "question", "answer")
SOURCE = "abstract of arXiv 2604.23750"


def published(model: str, deep: tuple[float, float]) -> tuple[Published, ...]:
    """Accuracy on deep conflicts of the plain adapter and of the strengthened one."""
    return (Published("kid", model, "Doc-to-LoRA", "accuracy on deep conflicts", deep[0], SOURCE),
            Published("kid", model, "Doc-to-LoRA, strengthened", "accuracy on deep conflicts", deep[1], SOURCE))


class Kid(TaskPlugin):
    """Conflicts are to be forgotten in favour of the document, novel and combined facts are to stay."""

    class Spec(plugin.Spec):
        given: bool = Field(False, description="Put the document before the question.")

    card = TaskCard(
        name="kid", kind="task", model_needs=frozenset({"prompt"}),
        summary="KID-Bench, beliefs to be overwritten by what a document says, graded by how firmly they are held",
        paper="The Override Gap, 2026 (arXiv 2604.23750)",
        formula="overridden iff log p(document's answer) > log p(belief), by quartile of the original's log p(belief)",
        defaults="questions alone: what is asked is what the weights say",
        licence="CC BY-NC-SA 4.0 as the paper; that of the file was not seen",
        source=f"{FILE} in the layout below, by --data-dir or {DATA_VARIABLE}",
        suite="forget.prior_gap, forget.probability, forget.reliability, retain.probability, neighbour.probability, "
              "paraphrase(count=1)",
        deviations=("the published file was not found, so its layout is not known: this reads rows with category "
                    "(novel, combination, conflict), document, question, answer (the document's), and of conflicts "
                    "prior (the belief) and depth (light, medium, deep)",
                    "the benchmark measures a model that was given documents; here the belief is what is to be "
                    "forgotten, and the document's answer its wrong answer",
                    "answers are compared by likelihood, since a substring rewards listing both"),
        published=(*published("Gemma-2B", (0.464, 0.710)), *published("Mistral-7B", (0.536, 0.725)),
                   Published("kid", "not named", "Doc-to-LoRA", "accuracy on conflicts, weakest priors", 0.68, SOURCE),
                   Published("kid", "not named", "Doc-to-LoRA", "accuracy on conflicts, strongest priors", 0.16,
                             SOURCE)),
    )
    must_show = (
        Property("name_leads_back", {}, "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        folder = DATA.folder(data_dir)
        if folder is None:
            raise MissingError("The KID-Bench data is not here.", f"No folder with {FILE} was given.",
                               f"Give one by --data-dir or the variable {DATA_VARIABLE}.")
        return kid_task(read_rows(folder / FILE), given=self.spec.given)


def kid_task(located: Sequence[Located], given: bool = False) -> Task:
    """Rows in the layout of the card as a task.

    Raises:
        DataError: a field is missing, a category or depth is unknown, or there is no conflict.
    """
    found: dict[str, list[Example]] = {category: [] for category in CATEGORIES}
    for i, (where, row) in enumerate(located):
        conflict = row.get("category") == "conflict"
        if missing := [name for name in (*FIELDS, *(("prior", "depth") if conflict else ())) if name not in row]:
            raise DataError(f"{where}: the row has no {missing[0]}.", f"It has {', '.join(row)}.",
                            "`expunge explain kid` says which fields there are.")
        if row["category"] not in CATEGORIES or (conflict and row["depth"] not in DEPTHS):
            name, known = ("depth", DEPTHS) if conflict else ("category", CATEGORIES)
            raise DataError(f"{where}: there is no {name} {row[name]!r}.", f"There are {', '.join(known)}.")
        prompt = f"{row['document']}\n\n{row['question']}" if given else str(row["question"])
        said = str(row["answer"])
        answer, other = (str(row["prior"]), (said,)) if conflict else (said, ())
        found[row["category"]].append(Example(
            id=f"kid/{i}", prompt=prompt, answer=answer, short_answer=answer, wrong_answers=other,
            group=row["depth"] if conflict else row["category"], entity=str(row.get("entity", "")),
            options=(answer, *other) if other else ()))
    if not found["conflict"]:
        raise DataError("KID-Bench without a conflict has nothing to forget.", f"It has {len(located)} rows.",
                        "Use the whole file.")
    return Task(name="kid(given=True)" if given else "kid", forget=tuple(found["conflict"]),
                retain=tuple(found["novel"]), neighbour=tuple(found["combination"]), generation_tokens=16)
