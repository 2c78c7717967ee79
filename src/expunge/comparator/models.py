"""The models of the page: the subject of every run, and each original and retrained model once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.records.base import read_jsonl
from expunge.records.observation import Row
from expunge.records.score import Audit, SubjectRef
from expunge.report.gather import RunView

Source = tuple[RunView, str]
"""An audit, and what it calls the model: subject, original, retrained, retrained2 ..."""


@dataclass(frozen=True)
class ComparedModel:
    """One model that may be chosen as A or B."""

    key: str
    """`1`, `2`, ... for runs in the order given; `original`, `retrained`, `retrained2` for references."""
    kind: Literal["run", "original", "retrained"]
    label: str
    path: str
    sources: tuple[Source, ...]
    """The audits that looked at it; a reference may have several."""

    @property
    def view(self) -> RunView:
        return self.sources[0][0]

    def rows(self, probe: str, split: str) -> tuple[Row, ...]:
        """What it did on the rows of a split, from the first audit that asked; empty where none did."""
        for place in self.folders():
            if (path := place / f"{probe}.{split}.jsonl").exists():
                return tuple(read_jsonl(path))
        return ()

    def folders(self) -> Iterator[Path]:
        for view, role in self.sources:
            if view.folder is not None:
                yield view.folder / "observations" / role


def models_of(views: Sequence[RunView]) -> tuple[ComparedModel, ...]:
    """Runs first, then every original and every retrained model, told apart by their fingerprints."""
    runs = [ComparedModel(str(i), "run", f"{i}: {_title(view, views)}", view.model, ((view, "subject"),))
            for i, view in enumerate(views, 1)]
    references: dict[tuple[str, str], list[Source]] = {}
    paths: dict[tuple[str, str], str] = {}
    for view in views:
        for kind, role, ref in _references(view.audit):
            references.setdefault((kind, ref.fingerprint), []).append((view, role))
            paths.setdefault((kind, ref.fingerprint), ref.path)
    made: list[ComparedModel] = []
    for (kind, weights), sources in references.items():
        count = sum(m.kind == kind for m in made) + 1
        key = kind if count == 1 else f"{kind}{count}"
        label = kind if count == 1 else f"{kind} {count}"
        made.append(ComparedModel(key, kind, label, paths[kind, weights], tuple(sources)))  # type: ignore[arg-type]
    return (*runs, *sorted(made, key=lambda m: m.kind))


def _references(audit: Audit | None) -> Iterator[tuple[str, str, SubjectRef]]:
    if audit is None:
        return
    if audit.original is not None:
        yield "original", "original", audit.original
    for i, ref in enumerate(audit.retrained):
        yield "retrained", "retrained" if i == 0 else f"retrained{i + 1}", ref


def _title(view: RunView, views: Sequence[RunView]) -> str:
    """The recipe, with the seed or the folder where several have it."""
    same = [v for v in views if v.recipe == view.recipe]
    if not view.recipe or len(same) == 1:
        return view.recipe or view.name
    if len({v.seed for v in same}) == len(same):
        return f"{view.recipe}, seed {view.seed}"
    return f"{view.recipe} ({view.name})"


def by_role(models: Sequence[ComparedModel], view: RunView) -> dict[str, ComparedModel]:
    """What one audit calls a model -> that model of the page."""
    return {role: model for model in models for found, role in model.sources if found is view}


def short(value: Any) -> float | None:
    """Four significant digits, which is more than a page shows; None for what is no finite number."""
    if not isinstance(value, int | float) or value != value or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.4g}")
