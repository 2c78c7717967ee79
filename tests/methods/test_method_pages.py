"""The measured part of a method's page on the site: the push on a token is computed, the rest read from results/."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expunge.registry import find, load, of_kind

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def imported(name: str) -> Iterator[Any]:
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def pages() -> Iterator[Any]:
    yield from imported("method_pages")


@pytest.fixture(scope="module")
def pushes() -> Iterator[Any]:
    yield from imported("pushes")


def test_the_push_is_the_derivative_of_the_loss(pushes: Any) -> None:
    """Against the derivative by hand, at probabilities above and below the original's 0.9."""
    for p in (0.01, 0.4, 0.97):
        ratio = 2 * p ** 0.1 / (p ** 0.1 + 0.9 ** 0.1)
        odds = math.log(p / (1 - p)) - math.log(pushes.FORETOLD / (1 - pushes.FORETOLD))
        by_hand = {"ga": 1 - p, "wga": p * (1 - p), "npo": ratio * (1 - p), "unlikelihood": p, "idk": p - 1,
                   "meow": p - 1, "stepping_stones": p - 1, "in_context": p - 1, "adaptive": p, "whp": p,
                   "distil": p - 0.9, "u2a": ratio * (1 - p), "knowpo": ratio * (1 - p), "dmm": 2 * odds}
        for name, wanted in by_hand.items():
            assert pushes.push(load(name)(), p) == pytest.approx(wanted, rel=1e-5), (name, p)


def test_every_objective_has_a_picture_or_says_why_not(pushes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushes, "GRID", [0.1, 0.8])
    without = {e.name for e in of_kind("objective") if not pushes.curve_of(e)}
    assert without == pushes.NO_PUSH.keys()
    for name in sorted(without):
        assert pushes.picture(find(name)).endswith(".") and "<svg" not in pushes.picture(find(name)), name
    assert "A refusal of one token" in pushes.picture(find("idk")) and "<svg" in pushes.picture(find("idk"))
    assert pushes.picture(find("retain_nll")) == pushes.picture(find("sam")) == ""
    monkeypatch.delitem(pushes.POSED, "dmm")
    assert pushes.picture(find("dmm")) == pushes.NOT_KNOWN


def test_sections_come_from_stored_results(pages: Any) -> None:
    text = pages.sections(find("sam"))
    assert "`sam/wmdp-bio`" in text and "## What it costs" in text and "## What it survives" in text
    assert "The push on a token" not in text and "Published settings" not in pages.sections(find("adamw"))
    assert pages.sections(find("relearn")) == pages.sections(find("rouge_l")) == ""
