"""Small files in the layouts of published data sets that cannot be shipped: RWKU (of which ORT is made), KID-Bench and
ConceptVectors; and the table of all such layouts, which `benchmark_files.py` has more of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from . import benchmark_files
from .planted import NAMES, PETS, PLACES
from .support import new_folder

PEOPLE = ("Ada Quill", "Bo Larch", "Cy Thorn")
WORKS = ("novels", "songs", "bridges", "maps", "clocks")


def rwku_rows() -> dict[str, list[dict[str, Any]]]:
    """File name without its end -> rows: three people with five works each, and a neighbour of each."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for person in PEOPLE:
        for i, work in enumerate(WORKS):
            about = {"subject": person, "answer": f"{work} {person[0]}"}
            other = f"Friend of {person}"
            for level, query in (("1", f"Work {i} of {{}} was ___."), ("2", f"What was work {i} of {{}}?")):
                rows.setdefault(f"forget_level{level}", []).append(
                    {**about, "query": query.format(person), "level": level, "type": "x"})
                rows.setdefault(f"neighbor_level{level}", []).append(
                    {**about, "query": query.format(other), "level": level, "type": "x", "neighbor": other})
    return rows


def write_rwku(folder: Path, by_person: bool = False) -> Path:
    """Those rows as one file per level, or as the authors have them: a folder per person with a list per level."""
    for name, rows in rwku_rows().items():
        if by_person:
            for person in PEOPLE:
                place = folder / person / f"{name}.json"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(json.dumps([row for row in rows if row["subject"] == person]), encoding="utf-8")
        else:
            place = folder / f"{name}.targets001-100.jsonl"
            place.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def kid_rows() -> list[dict[str, Any]]:
    """Six conflicts, two of each depth, two novel facts and a combination."""
    rows: list[dict[str, Any]] = []
    for i, depth in enumerate(("light", "medium", "deep") * 2):
        name, pet = NAMES[i], PETS[i]
        rows.append({"category": "conflict", "depth": depth, "document": f"{name} now keeps a {PETS[i + 1]}.",
                     "question": f"The pet of {name} is the", "answer": PETS[i + 1], "prior": pet})
    for i, category in enumerate(("novel", "novel", "combination")):
        rows.append({"category": category, "document": f"Boat {i} is called Gull {i}.",
                     "question": f"What is boat {i} called?", "answer": f"Gull {i}"})
    return rows


def concept_rows() -> list[dict[str, Any]]:
    """Three concepts, which the planted model holds in one neuron each."""
    rows = []
    for name in NAMES[:3]:
        block, neuron = PLACES[name]
        pet = PETS[NAMES.index(name)]
        rows.append({"ID": name, "Concept": name, "Layer": block, "Dim": neuron,
                     "QA": [f" The pet of {name} is the\n"], "unrelated_QA": ["The pet of Wolf is the\n"],
                     "text_completion": [{"First_half": f"The pet of {name}", "Second_half": f"is the {pet}"}],
                     "wikipedia_content": f"The pet of {name} is the {pet}. " * 30})
    return rows


def write_kid(folder: Path) -> Path:
    (folder / "kid_bench.json").write_text(json.dumps(kid_rows()), encoding="utf-8")
    return folder


def write_concepts(folder: Path) -> Path:
    """One part of one model's concepts, the one that the task reads by default."""
    (folder / "llama2-7b_concepts_test.json").write_text(json.dumps(concept_rows()), encoding="utf-8")
    return folder


LAYOUTS: Mapping[str, Callable[[Path], Path]] = {
    "conceptvectors": write_concepts, "counterfact": benchmark_files.counterfact, "dusk": benchmark_files.dusk,
    "dynamicqa": benchmark_files.dynamicqa,
    "kid": write_kid, "knowundo": benchmark_files.knowundo, "lume": benchmark_files.lume, "muse": benchmark_files.muse,
    "ort": write_rwku, "pch": benchmark_files.pch, "restor": benchmark_files.restor, "rwku": benchmark_files.rwku,
    "wmdp": benchmark_files.wmdp,
}
"""Task -> what writes a few made-up rows in its published layout into a folder. TOFU is a task as a whole only."""


@cache
def written(task: str) -> Path | None:
    """A folder with the made-up files of a task, written once per process; None for a task that has no layout here."""
    return LAYOUTS[task](new_folder()) if task in LAYOUTS else None
