"""Translated questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from pydantic import Field

from expunge import plugin
from expunge.attacks._lib.wording import content, reforming
from expunge.attacks.base import Ask, Attack, AttackCard, AttackContext, View
from expunge.data.files import read_rows
from expunge.errors import DataError, ExpungeError
from expunge.models.prompt_words import reworded
from expunge.models.subject import Subject
from expunge.plugin import Property
from expunge.records.task import Example

BUILT_IN = Path(__file__).parent / "_lib" / "german.jsonl"
"""German questions of the built-in world."""


@dataclass(frozen=True)
class Translation:
    """A translated question, and its translated answer if the table has one."""

    prompt: str
    answer: str = ""


Table = Mapping[str, Mapping[str, Translation]]
"""Language -> id or question of a row -> slot."""


def read_table(path: Path) -> Table:
    """Rows {language, translation} with id or prompt, and optionally answer; {subject} is the row's entity.

    Raises MissingError if the file does not exist, and DataError for an incomplete row.
    """
    table: dict[str, dict[str, Translation]] = {}
    for where, row in read_rows(path):
        key = row.get("id") or row.get("prompt")
        if not (key and row.get("language") and row.get("translation")):
            raise DataError(f"{where}: a translation needs language, translation, and id or prompt.")
        slot = Translation(str(row["translation"]), str(row.get("answer") or ""))
        table.setdefault(str(row["language"]), {})[str(key)] = slot
    return table


def translated(slots: Mapping[str, Translation], row: Example, rows: Sequence[Example], draw: Random) -> Example | None:
    """The row with its translated question, looked up by id, by question, or by question with {subject}."""
    entity = row.entity if row.entity and row.entity in row.prompt else ""
    pattern = row.prompt.replace(entity, "{subject}") if entity else row.prompt
    slot = slots.get(row.id) or slots.get(row.prompt) or slots.get(pattern)
    if slot is None:
        return None
    prompt, answer = (text.replace("{subject}", entity) if entity else text for text in (slot.prompt, slot.answer))
    if not answer:
        return reworded(row, prompt)
    short = row.short_answer if row.short_answer in answer else ""
    return reworded(row, prompt, answer=answer, short_answer=short, paraphrased_answers=(), wrong_answers=())


class Translate(Attack):
    """Ask in other languages, from a table of translations; each language is an attempt."""

    class Spec(plugin.Spec):
        file: str = Field("", description=(
            "Table of {id or prompt, language, translation, answer if it changes}, JSON Lines or CSV; empty: the "
            "German questions of the built-in world."))
        languages: list[str] | None = Field(None, description="Languages to use, all if left out; [] leaves questions "
                                                              "unchanged.")

    card = AttackCard(
        name="translate", kind="attack", access="text",
        family="prompt:paraphrase", model_needs=frozenset({"prompt"}),
        summary="ask in another language, from a table of translated questions",
        paper="Cross-lingual type of RWKU (arXiv 2406.10890); translation jailbreak of Lynch et al. (arXiv 2402.16835)",
        formula="max over languages of m(answer | translated question)",
        defaults="every language of the table",
        deviations=("there is no built-in translator: questions and answers come from the table",
                    "without a translated answer the original answer is scored",
                    "rows without a translation are left out of that language"),
        caution="A low value may only show that the model reads the language badly: compare with the original's value.",
    )
    must_show = (
        Property("keeps_the_contract", {}, "only prompts change"),
        Property("leaves_no_trace", {"options": {"languages": []}}, "no language, the plain question"),
        Property("fills_slots", {}, "by id, by question and by pattern, one attempt for each language"),
        Property("gives_no_answer_away", {}, "no prompt contains the answer"),
        Property("still_shows", {"from_": "original", "excess": 0.2},
                 "the original still answers; 0.1 of that is running text, which has no prompt"),
        Property("finds_nothing", {}, "a retrained model does not know the answers"),
    )

    @property
    def inputs(self) -> str:
        return content(self.spec.file)

    def _table(self) -> Table:
        if self.spec.languages == []:
            return {}
        table = read_table(Path(self.spec.file) if self.spec.file else BUILT_IN)
        return {k: v for k, v in table.items() if self.spec.languages is None or k in self.spec.languages}

    def problem(self, context: AttackContext) -> str | None:
        try:
            table, rows = self._table(), [r for r in context.task.probe_rows(context.split) if r.kind != "text"]
        except ExpungeError as problem:
            return problem.what
        has_translation = any(translated(t, r, rows, Random(0)) for t in table.values() for r in rows)
        if self.spec.languages != [] and not has_translation:
            return f"no {context.split} question has a translation; give translate(file=TABLE) with id or prompt, " \
                   "language, translation"
        return None

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        views = (reforming(context, partial(translated, slots)) for slots in self._table().values())
        for attempt, rows in enumerate([v for v in views if v(context.split)] or [context.rows]):
            ask(View(self.text(), subject, rows, attempt))
