"""The page of two runs that were really made and audited: what records cannot promise by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.records.score import Audit
from expunge.testing.support import once
from tests.conftest import TASK, Cli, make_world

SUITE = ("forget.probability,retain.probability,forget.rouge_l,mia.loss,forget.cka,weight_distance,"
         "relearn(steps=2,at=[1])")


def make_pair(folder: Path) -> None:
    """Two steps each of two methods, audited on a few rows."""
    cli, world = Cli(), once("world", make_world)
    for name, method in (("ga", "ga"), ("npo", "npo + retain_kl")):
        cli("forget", world / "original", "--task", TASK, "--method", method, "--steps", 2, "--lr", "1e-3", "--out",
            folder / name)
        cli("audit", folder / name, "--task", TASK, "--retrained", world / "retrained", "--suite", SUITE, "--limit", 14)
    cli("compare", folder / "ga", folder / "npo", "--page", folder / "page.html")


@pytest.mark.slow
def test_every_view_has_something_to_show(visit: Callable[..., Any]) -> None:
    folder = once("real-pair", make_pair)
    page = visit(folder / "page.html")
    assert page.locator(".missing:visible").count() == 0
    assert [o.split(": ")[1] for o in page.locator("#a option").all_inner_texts()[:2]] == ["ga", "npo + retain_kl"]
    assert page.locator("#top article").count() == 3 and page.locator("#rows tbody tr").count() == 14
    assert page.locator("#planes figure").count() == 2
    assert page.locator("#relearning path.line[data-key]").count() == 3
    assert "rows come back" in page.inner_text("#back-summary")
    assert page.locator("#inside figure .plot .dots").count() > 0
    audit = Audit.read(folder / "ga")
    score, beside = audit.score("forget.probability"), page.locator("#runs tr[data-run='1'] td").nth(3)
    assert score is not None and score.value is not None and score.controls["retrained"] is not None
    assert float(beside.inner_text()) == pytest.approx(abs(score.value - score.controls["retrained"]), abs=1e-3)
