"""A page names models and folders, and never where they lie on a machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from expunge.records.base import Record
from expunge.records.score import SubjectRef
from expunge.report.gather import RunView

ABSOLUTE = re.compile(r"(?:\bfile:/*|(?<![\w/.<])(?!(?<=:)//))(?:~/|/)(?:[\w.@ -]+/)*[\w.@-]*[\w@-]|"
                      r"\b[A-Za-z]:\\(?:[^\\\s'\"]+\\)*[^\\\s'\"]+")
"""An absolute path within a text, or an address `file:///...`; a folder in it may have blanks in its name."""
LOCAL_URL = re.compile(r"^file:/*(?=/)")


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
    return ABSOLUTE.sub(lambda found: short(LOCAL_URL.sub("", found[0])), text)


def shortened(view: RunView) -> RunView:
    """The view with no path of this machine in any text of its records: models, options, reasons, sentences."""
    record, audit = view.record, view.audit
    if record is not None:
        record = _clean(record.model_copy(update={"model": short(record.model)}))
    if audit is not None:
        def named(ref: SubjectRef) -> SubjectRef:
            return ref.model_copy(update={"path": short(ref.path)})

        audit = _clean(audit.model_copy(update={
            "subject": named(audit.subject), "original": named(audit.original) if audit.original else None,
            "retrained": tuple(map(named, audit.retrained))}))
    # Scores are looked up by these labels.
    attacked = tuple(replace(found, label=without_paths(found.label)) for found in view.attacked)
    return replace(view, record=record, audit=audit, attacked=attacked)


R = TypeVar("R", bound=Record)


def _clean(record: R) -> R:
    return record.model_copy(update={name: _without(getattr(record, name)) for name in type(record).model_fields
                                     if name != "first_row"})  # a row is no message


def _without(value: Any) -> Any:
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, Record):
        return _clean(value)
    if isinstance(value, Mapping):
        return {_without(key): _without(kept) for key, kept in value.items()}
    if isinstance(value, list | tuple):
        return [*map(_without, value)] if isinstance(value, list) else tuple(map(_without, value))
    return without_paths(str(value)) if isinstance(value, PurePath) else value
