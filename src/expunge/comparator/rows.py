"""The rows of the page: one table for all models, with what each of them scored and said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.comparator.membership import statistics
from expunge.comparator.models import ComparedModel, by_role, short
from expunge.records.examples import ExampleScore, has_examples, read_examples
from expunge.records.observation import Row
from expunge.records.task import SPLITS
from expunge.report.gather import RunView

Key = tuple[str, str]
"""Split and id of a row."""
FIRST = ("probability", "rouge_l")
"""Measures that are offered before others."""
UNDER_ATTACK = ("probability", "rouge_l")
"""Measures of which the values under attack are kept as well; more would make the page large."""


@dataclass(frozen=True)
class RowTable:
    """Every row that some model was asked, in the order of splits and of the task."""

    keys: tuple[Key, ...]
    about: tuple[Mapping[str, str], ...]
    """entity, prompt and reference of each, as far as they are known."""
    changed: int
    """How many ids stand for different prompts in different audits."""
    number: Mapping[Key, int] = field(default_factory=dict)

    def column(self, values: Mapping[Key, Any], empty: Any = None) -> list[Any]:
        return [values.get(key, empty) for key in self.keys]


@dataclass(frozen=True)
class AskedRows:
    """What one model scored and said."""

    scored: dict[str, dict[Key, float]]
    """Measure, such as probability -> row -> value."""
    said: dict[Key, Row]
    """Row -> what it was asked and answered."""
    member: dict[str, dict[Key, float]]
    """Statistic of a membership attack -> row -> value, forget and holdout rows."""
    attacked: dict[str, dict[str, dict[Key, float]]]
    """Measure -> label of an attack -> row -> value."""


def asked(models: Sequence[ComparedModel]) -> dict[str, AskedRows]:
    """Model -> its rows. Audits that lie in several folders are read once each."""
    found = {m.key: AskedRows({}, {}, {}, {}) for m in models}
    for model in models:
        mine = found[model.key]
        for split in SPLITS:
            answers = [r for r in model.rows("likelihood", split) if r["form"] == "answer" and r["logp"]]
            for name, values in statistics(answers).items():
                pairs: dict[Key, float] = {(split, i): v for i, v in values.items()}
                if split in ("forget", "holdout"):
                    mine.member.setdefault(name, {}).update(pairs)
                if name == "loss":
                    mine.scored.setdefault(name, {}).update(pairs)
            for row in model.rows("generation", split):
                if row["form"] == "prompt" and row["index"] == 0:
                    mine.said[split, str(row["id"])] = row
    for view in {id(m.view): m.view for m in models}.values():
        names = by_role(models, view)
        for score in _scores(view):
            if score["model"] in names:
                _keep(found[names[score["model"]].key], score)
    return found


def _scores(view: RunView) -> Iterable[ExampleScore]:
    return read_examples(view.folder) if view.folder is not None and has_examples(view.folder) else ()


def _keep(mine: AskedRows, score: ExampleScore) -> None:
    split, key = score["split"], (score["split"], score["id"])
    measure = score["score"].removeprefix(f"{split}.")
    if not score["attack"]:
        mine.scored.setdefault(measure, {}).setdefault(key, score["value"])
    elif split == "forget" and measure in UNDER_ATTACK:
        mine.attacked.setdefault(measure, {}).setdefault(score["attack"], {}).setdefault(key, score["value"])


def row_table(models: Sequence[ComparedModel], found: Mapping[str, AskedRows]) -> RowTable:
    """The union of all rows, with the texts of the first audit that has them."""
    about: dict[Key, dict[str, str]] = {}
    for view in {id(m.view): m.view for m in models}.values():
        for split in SPLITS if view.rows is not None else ():
            for row in view.rows.probe_rows(split):  # type: ignore[union-attr]
                about.setdefault((split, row.id), {"entity": row.entity, "prompt": row.prompt, "reference": row.answer})
    differ = set[Key]()
    for mine in found.values():
        for key, row in mine.said.items():
            known = about.setdefault(key, {"entity": str(row["entity"]), "prompt": str(row["prompt"]),
                                           "reference": str(row["reference"])})
            if known["prompt"] and row["prompt"] != known["prompt"]:
                differ.add(key)
    seen = {key for mine in found.values() for key in (*mine.said, *(k for v in mine.scored.values() for k in v))}
    order = {split: i for i, split in enumerate(SPLITS)}
    listed = [*(k for k in about if k in seen), *(k for k in sorted(seen) if k not in about)]
    keys = tuple(sorted(listed, key=lambda key: order[key[0]]))  # type: ignore[index]
    nothing = {"entity": "", "prompt": "", "reference": ""}
    return RowTable(keys, tuple(about.get(k, nothing) for k in keys), len(differ), {k: i for i, k in enumerate(keys)})


def measures(found: Mapping[str, AskedRows]) -> list[str]:
    """Names of what rows are measured by: those of the metrics first, the loss last."""
    names = dict.fromkeys(name for mine in found.values() for name in mine.scored)
    return sorted(names, key=lambda n: (n == "loss", FIRST.index(n) if n in FIRST else len(FIRST)))


def values(table: RowTable, found: Mapping[str, AskedRows]) -> dict[str, dict[str, list[float | None]]]:
    """Measure -> model -> one value per row, None where it has none."""
    return {name: {key: [short(v) for v in table.column(mine.scored[name])]
                   for key, mine in found.items() if name in mine.scored} for name in measures(found)}


class TextPool:
    """Texts by number, since many models say the same."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._known: dict[str, int] = {}

    def number(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.texts)
            self.texts.append(text)
        return self._known[text]


def answers(table: RowTable, found: Mapping[str, AskedRows], pool: TextPool) -> dict[str, list[int | None]]:
    """Model -> the number of its answer to each row, None where it was not asked."""
    return {key: [None if row is None else pool.number(str(row["text"]).strip()) for row in table.column(mine.said)]
            for key, mine in found.items() if mine.said}


def attacked(table: RowTable, found: Mapping[str, AskedRows]) -> dict[str, dict[str, dict[str, list[list[float]]]]]:
    """Measure -> label of an attack -> model -> (row number, value) of the rows that it was asked."""
    made: dict[str, dict[str, dict[str, list[list[float]]]]] = {}
    for key, mine in found.items():
        for name, label, pairs in _under(mine):
            numbered = [[table.number[k], short(v) or 0.0] for k, v in pairs.items() if k in table.number]
            made.setdefault(name, {}).setdefault(label, {})[key] = sorted(numbered)
    return made


def _under(mine: AskedRows) -> Iterator[tuple[str, str, Mapping[Key, float]]]:
    for name, labels in mine.attacked.items():
        for label, pairs in labels.items():
            yield name, label, pairs
