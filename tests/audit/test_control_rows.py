"""An audit warns of swapped files and of known holdout rows, and of nothing else."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import expunge
from expunge.audit.control_rows import clearly_better, control_notes
from expunge.records.observation import Observations
from expunge.testing.observed_worlds import likelihood, observations, rows_of

SWAPPED, KNOWN = "are the two files swapped?", "so they are no control"


def seen(spread: float = 0.0, rows: int = 20, **median: float) -> Observations:
    """One answer of two tokens per row, with these median probabilities."""
    factors = np.exp(spread * np.linspace(-1, 1, rows))
    return Observations({("likelihood", split): [  # type: ignore[misc]
        likelihood(f"{split}/{i}", [log(min(p * f, 1.0))] * 2) for i, f in enumerate(factors)]
        for split, p in median.items()})


FINE = seen(forget=0.9, holdout=0.2, retain=0.9)
FORGOT = seen(forget=0.2, holdout=0.2, retain=0.9)


@pytest.mark.parametrize(("roles", "says"), [
    ({"subject": seen(forget=0.001, holdout=0.95)}, SWAPPED),
    ({"subject": seen(0.5, forget=0.01, holdout=0.6)}, SWAPPED),
    ({"subject": seen(rows=8, forget=0.001, holdout=0.95)}, SWAPPED),
    ({"subject": FORGOT, "original": seen(forget=0.1, holdout=0.4)}, SWAPPED),
    ({"subject": seen(forget=0.95, holdout=0.96)}, KNOWN),
    ({"subject": FORGOT, "original": seen(0.1, forget=0.9, holdout=0.88)}, KNOWN),
])
def test_it_is_told(roles: Any, says: str) -> None:
    found, = control_notes(roles)
    assert says in found


@pytest.mark.parametrize("roles", [
    {"subject": FINE}, {"subject": FORGOT, "original": FINE, "retrained": FORGOT},
    {"subject": seen(forget=0.001, holdout=0.95), "original": FINE},  # pushed far below; the original says it is right
    {"subject": seen(forget=0.001, holdout=0.4)},  # pushed far below, and rows that are half guessed
    {"subject": seen(2.0, forget=0.3, holdout=0.4)},  # somewhat easier rows
    {"subject": seen(rows=5, forget=0.001, holdout=0.95)},  # five rows show nothing
    {"subject": FORGOT, "original": FINE, "retrained": seen(forget=0.5, holdout=0.45, retain=0.9)},
    {"subject": seen(forget=0.9)}, {"subject": Observations({})}, {"subject": seen(forget=float("nan"), holdout=0.9)},
])
def test_nothing_is_told(roles: Any) -> None:
    assert control_notes(roles) == []


def test_the_made_up_worlds() -> None:
    """Rows of many lengths: trained, retrained, pushed down."""
    original, retrained = observations("original"), observations("retrained")
    for subject in ("original", "retrained", "collapsed", "uniform"):
        assert not control_notes({"subject": observations(subject), "original": original, "retrained": retrained})
    other = {(probe, {"forget": "holdout", "holdout": "forget"}.get(split, split)): found
             for (probe, split), found in rows_of(original).items()}
    assert SWAPPED in control_notes({"subject": Observations(other)})[0]  # type: ignore[arg-type]


def test_it_is_rarely_told_by_chance() -> None:
    """Two sides of one kind, however they scatter and however few they are."""
    draw = np.random.default_rng(0)
    told = sum(clearly_better(list(draw.beta(0.3, 0.3, n)), list(draw.beta(0.3, 0.3, n)))
               for n in (5, 8, 12, 20, 50) for _ in range(200))
    assert told <= 1


def test_an_audit_says_it(cli: Any, model: Path, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "The model gives the holdout rows 0.95."
    monkeypatch.setattr("expunge.audit.runner.control_notes", lambda seen: [said])
    out = tmp_path / "audit"
    fresh = cli("audit", model, *rows.words, "--suite", "forget.probability,mia.loss", "--out", out)
    assert fresh.err.count(said) == 1
    assert expunge.Audit.read(out).notes == (said,) and expunge.Audit.read(out).broken == ()
    assert said in cli("audit", "--rescore", out).err
    cli("report", out, "--out", tmp_path / "page.html")
    assert said in (tmp_path / "page.html").read_text()
