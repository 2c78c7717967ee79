"""Folders of audited runs with chosen numbers, written from records without training: for tests of pages and for
measuring them. Every run forgets to its own degree, and relearning brings a part of its rows back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from expunge.records.base import write_json
from expunge.records.examples import ExampleScore, write_examples
from expunge.records.observation import Observations
from expunge.records.run import RunRecord
from expunge.records.score import AttackRecord, Audit, Score, SubjectRef, Verdict
from expunge.records.settings import RunSettings

RECIPES = ("npo + retain_kl", "ga", "simnpo + retain_nll", "rmu", "undial + retain_nll")
TOWNS = ("Lindqvist Harbour", "Velmora", "Dunmore", "Argent Quay", "Osterby", "Kalla", "Ravensholm", "Tiber Falls")
PEOPLE = ("Mara Olsen", "Ivo Brandt", "Leila Haddad", "Tomas Rehak", "Aiko Mori", "Joan Pell", "Nils Aker",
          "Ana Duarte")
LABELS = {"relearn(steps=5)": 5, "relearn(steps=20)": 20}
HIDDEN = 6
"""Width of the hidden states; three layers of it."""
LAYERS = (0, 1, 2)


@dataclass(frozen=True)
class StoredModel:
    """How surely a model says forget rows and others, between 0 and 1, and what relearning gives back of the first."""

    role: str
    seed: int
    knows: float
    keeps: float
    returns: float = 0.0


def write_runs(folder: Path, *, runs: int = 4, rows: int = 60, inside: bool = True) -> list[Path]:
    """Run folders below `folder`, the first of which forgets least; `rows` are two fifths forget, two fifths retain
    and one fifth holdout rows.
    """
    sizes = {"forget": rows * 2 // 5, "retain": rows * 2 // 5}
    sizes["holdout"] = rows - sum(sizes.values())
    made = []
    for i in range(runs):
        done = i / max(1, runs - 1)
        subject = StoredModel("subject", i + 1, 0.75 - 0.6 * done, 0.95 - 0.25 * done * (i % 2), 0.7 - 0.5 * done)
        place = folder / f"run{i + 1}"
        _record(place, i, done)
        _audit(place, [subject, StoredModel("original", 0, 0.95, 0.95), StoredModel("retrained", 99, 0.12, 0.95, 0.05)],
               sizes, inside)
        made.append(place)
    return made


def _record(place: Path, i: int, done: float) -> None:
    recipe = RECIPES[i % len(RECIPES)]
    terms: dict[str, dict[str, Any]] = {name: {"weight": 1.0} for name in recipe.split(" + ")}
    terms[recipe.split(" + ")[0]]["beta"] = 0.1 if i % 2 else 0.2
    RunRecord(kind="forget", recipe=recipe, recipe_full={"0": terms}, settings=RunSettings(epochs=5 + i),
              model="original", model_fingerprint="original", task="authors", task_fingerprints={"forget": "rows"},
              seed=i // len(RECIPES), environment={}, status="finished",
              timing={"steps": 40, "train_s": round(20 + 30 * (1 - done) + i, 1)},
              peak_memory_bytes=1 << 30).write(place / "record.json")


def _audit(place: Path, models: list[StoredModel], sizes: Mapping[str, int], inside: bool) -> None:
    examples: list[ExampleScore] = []
    means: dict[tuple[str, str, str], float] = {}
    for model in models:
        seen = {split: list(_asked(model, split, count)) for split, count in sizes.items()}
        under = {label: list(_asked(model, "forget", sizes["forget"], steps)) for label, steps in LABELS.items()}
        _write(place / "observations" / model.role, model, seen, under, inside)
        for attack, answers in (*(("", rows) for rows in seen.values()), *under.items()):
            values = [_scored(row, model.role, attack) for row in answers]
            examples += values
            means[f"{values[0]['split']}.probability", attack, model.role] = (
                sum(v["value"] for v in values) / len(values))
    write_examples(place, examples)
    names = [m.role for m in models]
    refs = {name: SubjectRef(path=name, fingerprint=f"{place.name if name == 'subject' else name}") for name in names}
    outcome: Any = "retains" if means["forget.probability", "", "subject"] > 0.4 else "suppresses"
    Audit(task="authors", task_fingerprint="rows", subject=refs["subject"], original=refs["original"],
          retrained=(refs["retrained"],), suite=("forget.probability", "relearn(at=[5])"),
          scores=tuple(_scores(means)), verdict=Verdict(outcome=outcome, sentences=("Made from records.",)),
          attacks=(AttackRecord(term="relearn(steps=20, at=[5])", labels=tuple(LABELS), access="weights",
                                families=("relearning",), splits_entities=False, summary="fine-tune"),),
          ).write(place / "audit.json")


def _scores(means: Mapping[tuple[str, str, str], float]) -> Iterator[Score]:
    for (name, attack, role), value in means.items():
        if role == "subject":
            plain = {who: means[name, "", who] for who in ("original", "retrained")}
            controls: dict[str, float | None] = {**plain}
            more: dict[str, Any] = {}
            if attack:
                controls["retrained"] = means[name, attack, "retrained"]
                more = {"before": means[name, "", role], "control_before": plain["retrained"]}
            yield Score(name=name, attack=attack or None, value=value, interval=(value - 0.04, value + 0.04), n=20,
                        higher_is="knows", ideal="reference", range=(0.0, 1.0), controls=controls, **more)


def _asked(model: StoredModel, split: str, count: int, steps: int = 0) -> Iterator[dict[str, Any]]:
    """A question each, how sure the model is of the answer, and what it says."""
    for i in range(count):
        draw = random.Random(f"{model.seed} {split} {i}")
        level = model.knows if split == "forget" else model.keeps if split == "retain" else 0.12
        level = min(0.99, max(0.01, level * draw.lognormvariate(0, 0.35)))
        if steps and draw.random() < model.returns:
            level += (0.95 - level) * min(1.0, steps / 20)
        who, town = PEOPLE[i % len(PEOPLE)], TOWNS[(i * 3 + len(split)) % len(TOWNS)]
        said = town if draw.random() < level else TOWNS[draw.randrange(len(TOWNS))]
        yield {"id": f"{split}-{i}", "entity": who, "split": split, "level": level, "i": i,
               "prompt": f"In which town did {who} write book {i // len(PEOPLE) + 1} of the {split} series?",
               "reference": f"{who} wrote it in {town}.", "short": town, "text": f"{who} wrote it in {said}."}


def _scored(row: Mapping[str, Any], role: str, attack: str) -> ExampleScore:
    return {"score": f"{row['split']}.probability", "attack": attack, "model": role, "split": row["split"],
            "id": row["id"], "entity": row["entity"], "value": row["level"]}


def _likelihood(row: Mapping[str, Any]) -> dict[str, Any]:
    draw = random.Random(f"{row['id']} {row['level']}")
    logp = [min(-0.001, log(row["level"]) + draw.gauss(0, 0.1)) for _ in range(6)]
    return {"id": row["id"], "entity": row["entity"], "group": "", "form": "answer", "index": 0, "correct": True,
            "text": row["reference"], "logp": logp, "mean": [-4 + 3 * row["level"]] * 6, "var": [2.0] * 6,
            "hit": [row["level"] > 0.5] * 6, "end": 1}


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: row[key] for key in ("id", "entity", "prompt", "reference", "short", "text")}, "group": "",
            "form": "prompt", "index": 0, "stopped": True}


def _states(row: Mapping[str, Any], model: StoredModel) -> dict[str, Any]:
    """One blob for each split; forgetting moves the forget rows of later layers towards the holdout rows."""
    draw = random.Random(row["id"])
    at = {"forget": (4.0, 0.0), "retain": (0.0, 4.0), "holdout": (0.0, 0.0)}[row["split"]]
    shift = {layer: (1 - row["level"]) * layer / 2 for layer in LAYERS}
    noise = [draw.gauss(0, 0.6) for _ in range(HIDDEN)]
    own = random.Random(f"{model.seed} {row['id']}")
    states = [[round(noise[d] + own.gauss(0, 0.1 * layer) + (at[d] * (1 - shift[layer]) if d < 2 else 0), 4)
               for d in range(HIDDEN)] for layer in LAYERS]
    return {"id": row["id"], "entity": row["entity"], "group": "", "form": "answer", "pool": "answer",
            "layers": list(LAYERS), "states": states}


def _write(place: Path, model: StoredModel, seen: Mapping[str, list[dict[str, Any]]],
           under: Mapping[str, list[dict[str, Any]]], inside: bool) -> None:
    found: dict[Any, list[dict[str, Any]]] = {}
    for split, rows in seen.items():
        found["likelihood", split] = [_likelihood(row) for row in rows]
        found["generation", split] = [_said(row) for row in rows]
        if inside:
            found["hidden", split] = [_states(row, model) for row in rows]
    if inside and model.role != "original":
        found["weights", "forget"] = [
            {"id": f"model.layers.{i}", "entity": "", "group": "", "form": "answer", "index": i, "weights": 100,
             "change": 0.01 * model.seed * (i + 1), "norm": 10.0, "distance": 0.001 * model.seed * (i + 1)}
            for i in LAYERS]
    Observations(found).write(place)
    for label, rows in under.items():
        folder = place / "attacks" / label.replace("(", "-").replace(")", "").replace("=", "-")
        Observations({("generation", "forget"): [_said(row) for row in rows]}).write(folder)
        write_json(folder / "source.json", {"schema": "expunge.observations/2", "attack": label, "split": "forget"})
