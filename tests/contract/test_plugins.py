"""A plug-in is tested by existing: every check of `expunge.testing` runs on every plug-in of the registry."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import pytest

from expunge import registry
from expunge.plugin import Kind
from expunge.registry import Entry
from expunge.testing import Case, contract_cases
from expunge.testing.checks import CHECKS

KINDS: tuple[Kind, ...] = get_args(Kind)
ENTRIES = registry.of_kind(*KINDS)
LONGEST = 150


@pytest.mark.parametrize("case", contract_cases(kinds=KINDS, fast=True))
def test_without_training(case: Case) -> None:
    case()


@pytest.mark.trains
@pytest.mark.parametrize("case", contract_cases(kinds=KINDS, fast=False))
def test_with_training(case: Case) -> None:
    case()


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind != "metric"], ids=lambda e: e.name)
def test_file_is_short(entry: Entry) -> None:
    source = Path(inspect.getfile(entry.load())).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST


def test_no_idle_check() -> None:
    """A check runs on a whole kind, or some card promises it."""
    promised = {p.check for e in ENTRIES for p in e.load().must_show}
    idle = {check.name for check in CHECKS.values() if not check.kinds} - promised
    assert not idle, f"checks that no card asks for: {idle}"
