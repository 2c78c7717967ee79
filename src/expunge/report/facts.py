"""What a page says about a run besides its figures: what it was, what came of it, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from expunge.records.run import RunRecord
from expunge.report.commands import run_command
from expunge.report.gather import RunView


def facts(view: RunView) -> list[tuple[str, str]]:
    """(label, value) of what a reader may look up; the recipe is the heading above them."""
    record, audit = view.record, view.audit
    facts = [("Model", view.model), ("Task", view.task)]
    if record:
        facts += [("Seed", str(record.seed)), ("Status", _status(record)), ("Date", record.created[:10])]
    environment = (record or audit).environment if record or audit else {}  # type: ignore[union-attr]
    facts.append(("Commit", str(environment.get("commit") or "")))
    if record:
        facts += [("Work", _work(record)), ("Parameters that could move", _free(record))]
    if audit:
        facts.append(("Compared with", _references(view)))
    if record and record.best:
        several = " of the last stage" * (len(record.stages) > 1)
        facts.append(("Kept checkpoint", _kept(record.best, several)))
    return [(label, value) for label, value in facts if value]


def _kept(best: Mapping[str, Any], of: str) -> str:
    """The kept step (`of` which stage), what the monitor read there and at the start, and the rule that chose it."""
    kept, start = best.get("kept", best), best.get("start", {})
    shown = [f"step {kept['step']}{of}"] if "step" in kept else []
    for name in ("forget", "utility"):
        if name in kept:
            before = f"{start[name]:.3g} to " if name in start else ""
            shown.append(f"{name} {before}{kept[name]:.3g}")
    return ", ".join(shown) + (f" (rule: {best['rule']})" if "rule" in best else "")


def _status(record: RunRecord) -> str:
    what = "training run" if record.kind == "train" else "unlearning run"
    return f"{what}, {record.status}" + (f": {record.reason}" if record.reason else "")


def _work(record: RunRecord) -> str:
    timing = record.timing
    parts = [
        f"{timing['steps']:g} steps" if "steps" in timing else "",
        f"{timing['train_s']:,.0f} s" if "train_s" in timing else "",
        f"{timing['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in timing else "",
        f"{timing['of_retraining']:.0%} of the gradients of retraining" if "of_retraining" in timing else "",
        f"{record.peak_memory_bytes / 2**30:.2f} GiB peak memory" if record.peak_memory_bytes else "",
    ]
    return ", ".join(part for part in parts if part)


def _free(record: RunRecord) -> str:
    """How many the scope let move, and of how many; it holds the others to the bit."""
    free, total = record.parameters.get("trainable"), record.parameters.get("total")
    if not total or free is None:
        return ""
    return f"{free:,} of {total:,} ({100 * free / total:.3g} %)"


def _references(view: RunView) -> str:
    assert view.audit is not None
    count = len(view.audit.retrained)
    parts = ["the original model" if view.audit.original else "",
             f"{count} retrained model{'s' if count > 1 else ''}" if count else ""]
    return " and ".join(part for part in parts if part) or "nothing: the audit had no reference model"


def reproduce(view: RunView, *, named: bool = False) -> list[tuple[str, str]]:
    """(heading, text) pairs for the folded block."""
    prefix = f"{view.name}: " if named else ""
    parts: list[tuple[str, str]] = []
    r, a = view.record, view.audit
    if r:
        parts.append(("command", run_command(r)))
        parts += _json(("recipe in full", r.recipe_full), ("settings", r.settings.to_json()), ("fingerprints", {
            "model": r.model_fingerprint, "task": r.task_fingerprints, "reference": r.reference}),
            ("environment of the run", r.environment))
    if a:
        parts += _json(("audit", {
            "suite": list(a.suite), "seed": a.seed, "task_fingerprint": a.task_fingerprint,
            "subject": a.subject.to_json(), "original": a.original.to_json() if a.original else None,
            "retrained": [s.to_json() for s in a.retrained], "timing": a.timing}),
            ("environment of the audit", a.environment))
    return [(prefix + heading, body) for heading, body in parts]


def _json(*parts: tuple[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(heading, json.dumps(value, indent=1, ensure_ascii=False)) for heading, value in parts if value]
