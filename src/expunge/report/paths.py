"""A page names models and folders, and never where they lie on a machine."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath

from expunge.records.score import SubjectRef
from expunge.report.gather import RunView

ABSOLUTE = re.compile(r"(?<![\w:/.<])(?:~/|/)(?:[\w.@ -]+/)*[\w.@-]*[\w@-]|\b[A-Za-z]:\\(?:[^\\\s'\"]+\\)*[^\\\s'\"]+")
"""An absolute path within a text; a folder in it may have blanks in its name."""


def short(place: str) -> str:
    """The last part of a local path (two where the last is `model`); a hub name as it is."""
    local = place.startswith(("/", "~", ".")) or re.match(r"[A-Za-z]:\\", place)
    if not local:
        return place
    parts = (PureWindowsPath(place) if "\\" in place else PurePosixPath(place)).parts
    kept = parts[-2:] if parts and parts[-1] == "model" and len(parts) > 2 else parts[-1:]
    return "/".join(kept) or place


def without_paths(text: str) -> str:
    """The text with every absolute path cut to its last part."""
    return ABSOLUTE.sub(lambda found: short(found[0]), text)


def shortened(view: RunView) -> RunView:
    """The view with short names of all models."""
    record, audit = view.record, view.audit
    if record is not None:
        record = record.model_copy(update={
            "model": short(record.model), "recipe": without_paths(record.recipe),
            "reason": without_paths(record.reason), "alarms": tuple(map(without_paths, record.alarms))})
    if audit is not None:
        def named(ref: SubjectRef) -> SubjectRef:
            return ref.model_copy(update={"path": short(ref.path)})

        audit = audit.model_copy(update={
            "subject": named(audit.subject), "original": named(audit.original) if audit.original else None,
            "retrained": tuple(map(named, audit.retrained)), "notes": tuple(map(without_paths, audit.notes))})
    return replace(view, record=record, audit=audit)
