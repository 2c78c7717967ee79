"""score = metric(probe(subject)), with the same probes on the original and the retrained models.

Every finished part is on disk before the next begins, so an interrupted audit resumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from expunge.benchmarks.cache import ObservationCache
from expunge.errors import UsageError
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import parse_metric, required, score_all
from expunge.metrics.verdict import verdict
from expunge.models.subject import Subject
from expunge.probes.base import Probe
from expunge.records.base import read_json, read_jsonl, write_json, write_jsonl
from expunge.records.observation import Observations, Row
from expunge.records.run import environment
from expunge.records.score import Audit, Score, SubjectRef
from expunge.records.task import Split, Task
from expunge.registry import load

Announce = Callable[[str, int], Callable[[int], None]]
"""(title, units of work) -> a function to call with the units just done."""


@dataclass(frozen=True)
class Roles:
    """Who is looked at; references are functions that load when called, so that one stands in memory at a time."""

    subject: Subject
    original: Callable[[], Subject] | None = None
    retrained: tuple[Callable[[], Subject], ...] = ()

    def named(self) -> Iterable[tuple[str, Callable[[], Subject]]]:
        yield "subject", lambda: self.subject
        if self.original:
            yield "original", self.original
        for i, make in enumerate(self.retrained):
            yield "retrained" if i == 0 else f"retrained{i + 1}", make


def run_audit(roles: Roles, task: Task, terms: Sequence[str], out: Path, *, announce: Announce,
              cache: ObservationCache, resamples: int = 1000, seed: int = 0, run: str | None = None) -> Audit:
    """Observe every model, score, judge; writes out/observations/ and out/audit.json.

    Raises:
        UsageError: an unknown metric, or one that names a split the task never has.
    """
    began = time.perf_counter()
    metrics = [parse_metric(term) for term in terms]
    wanted = ordered(required(metrics), task)
    seen: dict[str, Observations] = {}
    refs: dict[str, SubjectRef] = {}
    for role, make in roles.named():
        subject = make()
        refs[role] = SubjectRef(path=subject.path, fingerprint=subject.fingerprint)
        seen[role] = observe(subject, task, wanted, out / "observations" / role, announce=announce,
                             cache=cache, label=role)
        del subject  # before the next one is loaded
    observed = time.perf_counter()
    evidence = Evidence(seen["subject"], seen.get("original"),
                        tuple(v for k, v in seen.items() if k.startswith("retrained")))
    tick = announce("scores", len(metrics))
    scores = score_all(terms, evidence, resamples=resamples, seed=seed)
    tick(len(metrics))
    audit = Audit(
        task=task.name, task_fingerprint=task.fingerprint, subject=refs["subject"], original=refs.get("original"),
        retrained=tuple(v for k, v in refs.items() if k.startswith("retrained")), suite=tuple(terms),
        scores=scores, verdict=verdict(scores), seed=seed, environment=environment(), run=run,
        timing={"observe_s": observed - began, "score_s": time.perf_counter() - observed},
    )
    audit.write(out / "audit.json")
    return audit


def rescore(folder: Path, terms: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> tuple[Score, ...]:
    """Scores from stored observations alone: no model is loaded."""
    seen = {p.name: Observations.read(p) for p in sorted(folder.glob("observations/*")) if p.is_dir()}
    if "subject" not in seen:
        raise UsageError(f"{folder} holds no observations of a subject.", fix="Run `expunge audit` first.")
    evidence = Evidence(seen["subject"], seen.get("original"),
                        tuple(v for k, v in seen.items() if k.startswith("retrained")))
    return score_all(terms, evidence, resamples=resamples, seed=seed)


def observe(subject: Subject, task: Task, wanted: Sequence[tuple[str, Split]], folder: Path, *,
            announce: Announce, cache: ObservationCache, label: str = "") -> Observations:
    """Rows of every wanted (probe, split), taken from disk where they are already known."""
    source: dict[str, Any] = {"subject": subject.fingerprint, "task": task.fingerprint}
    before = read_json(folder / "source.json") if (folder / "source.json").exists() else {}
    known: dict[str, str] = before.get("rows", {}) if before | {"rows": None} == source | {"rows": None} else {}
    for stale in folder.glob("*.jsonl"):
        if stale.name not in known:
            stale.unlink()
    found: dict[tuple[str, Split], Sequence[Row]] = {}
    for name, split in wanted:
        path = folder / f"{name}.{split}.jsonl"
        probe = cast(Probe, load(name, "probe")())
        examples = task.probe_rows(split)
        key = cache.key(subject, probe, examples, task)
        if not path.exists() or known.get(path.name) != key:
            path.unlink(missing_ok=True)
            known[path.name] = key
            write_json(folder / "source.json", source | {"rows": known})
            rows = cache.get(key)
            if rows is None:
                tick = announce(f"{label} {name} {split}", probe.count(examples))
                rows = probe.observe(subject, examples, task, tick)
                cache.put(key, rows)
            write_jsonl(path, rows)
        found[name, split] = tuple(read_jsonl(path))
    return Observations(found)


def ordered(wanted: Iterable[tuple[str, Split]], task: Task) -> list[tuple[str, Split]]:
    """Only what the task has rows for, in a fixed order."""
    return sorted({(p, s) for p, s in wanted if task.probe_rows(s)})
