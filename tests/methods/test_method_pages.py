"""The measured part of a method's page on the site: the push on a token is computed, the rest read from results/."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from expunge.registry import find, load

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(scope="module")
def pages() -> Iterator[Any]:
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        yield importlib.import_module("method_pages")
    finally:
        sys.path.remove(str(EXPERIMENTS))


def test_the_push_is_the_derivative_of_the_loss(pages: Any) -> None:
    """Against the derivative by hand, at probabilities above and below the original's 0.9."""
    for p in (0.01, 0.4, 0.97):
        ratio = 2 * p ** 0.1 / (p ** 0.1 + 0.9 ** 0.1)
        by_hand = {"ga": 1 - p, "wga": p * (1 - p), "npo": ratio * (1 - p), "unlikelihood": p}
        for name, wanted in by_hand.items():
            assert pages.push(load(name)(), p) == pytest.approx(wanted, rel=1e-5), (name, p)


def test_no_picture_without_a_push(pages: Any) -> None:
    for name in ("rmu", "idk", "l1_sparse", "u2a", "retain_nll", "sam"):
        assert pages.curve_of(find(name)) == [], name


def test_sections_come_from_stored_results(pages: Any) -> None:
    text = pages.sections(find("sam"))
    assert "`sam/wmdp-bio`" in text and "## What it costs" in text and "## What it survives" in text
    assert "The push on a token" not in text and "Published settings" not in pages.sections(find("adamw"))
    assert pages.sections(find("relearn")) == pages.sections(find("rouge_l")) == ""
