"""Names, roles and order for keyboards and screen readers; narrow screens; hostile and incomplete runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from expunge.comparator.page import comparator
from expunge.testing.stored_runs import write_runs

NAMED = "button, select, input, a[href], summary, [role=region], [role=img], [role=group]"
NAMELESS = """(named) => [...document.querySelectorAll(named)].filter(n => n.getClientRects().length)
  .filter(n => !n.getAttribute('aria-label') && !(n.labels && n.labels.length) && !n.textContent.trim())
  .map(n => n.outerHTML.slice(0, 120))"""


def test_every_control_and_drawing_has_a_name(page: Any) -> None:
    assert page.evaluate(NAMELESS, NAMED) == []


def test_every_drawing_is_named_and_is_a_table_as_well(page: Any, unfold: Callable[[Any], None]) -> None:
    for figure in page.locator("figure:not([hidden])").all():
        drawing = figure.locator(".plot svg")
        assert drawing.get_attribute("role") in ("img", "group") and len(drawing.get_attribute("aria-label")) > 20
        unfold(figure.locator(":scope > details"))
        table = figure.locator(":scope > details table")
        assert table.locator("th[scope=col]").count() >= 2 and table.locator("tbody tr").count() >= 2
        assert table.locator("caption").text_content()


def test_headings_and_landmarks_are_in_order(page: Any) -> None:
    levels = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert page.locator("main").count() == 1 and page.locator("nav[aria-label]").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"


def test_every_table_says_what_its_cells_are(page: Any) -> None:
    for table in page.locator("table").all():
        assert table.locator("caption").count() == 1
        assert table.locator("thead th:not([scope=col])").count() == 0
        rows = table.locator("tbody tr:not(.open)")
        assert rows.count() == rows.locator(":scope > th[scope=row]").count()


def test_tab_goes_from_the_top_to_the_rows_that_differ(page: Any) -> None:
    passed = []
    for _ in range(9):
        page.keyboard.press("Tab")
        passed.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('href')"))
    assert passed == ["#contrast", "#contrast", "#build", "#screen", "#contrast", "#attack", "a", "swap", "b"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.input_value("#a") == "2"


def test_the_first_link_leads_to_the_rows_that_differ_most(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getBoundingClientRect().x") >= 0
    page.keyboard.press("Enter")
    assert 0 < page.locator("#top article").first.bounding_box()["y"] < 600


def test_what_changes_is_spoken(page: Any) -> None:
    for place in ("#kept", "#summary", "#back-summary", "#stale"):
        assert page.get_attribute(place, "role") == "status"
    assert page.get_attribute("#top", "aria-live") == "polite"


def test_colours_can_be_read(visit: Callable[..., Any], stored: Path) -> None:
    """Text on its background: 4.5 to 1 at least, in light and in dark."""
    luminance = """(name) => { const probe = document.body.appendChild(document.createElement('i'));
      probe.style.color = `var(${name})`;
      const rgb = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number);
      probe.remove();
      const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b; }"""
    for scheme in ("light", "dark"):
        shown = visit(stored / "page.html", color_scheme=scheme)
        light = {name: shown.evaluate(luminance, name)
                 for name in ("--ink", "--quiet", "--card", "--page", "--focus", "--retains", "--b")}
        for text in ("--ink", "--quiet", "--focus", "--retains", "--b"):
            for ground in ("--card", "--page"):
                low, high = sorted((light[text], light[ground]))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, text, ground)


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_screen_scrolls_in_one_direction(visit: Callable[..., Any], stored: Path, width: int) -> None:
    shown = visit(stored / "page.html", width=width, height=800)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.locator(".bar").bounding_box()["height"] < 160


def test_texts_of_rows_are_texts(visit: Callable[..., Any], tmp_path: Path) -> None:
    runs = write_runs(tmp_path, runs=2, rows=10, inside=False)
    path = runs[0] / "observations/subject/generation.forget.jsonl"
    hostile = "</script><script>window.taken = 1</script><img src=x onerror='window.taken = 1'>"
    lines = [json.dumps(json.loads(line) | {"text": hostile, "prompt": hostile}) for line in
             path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(lines), encoding="utf-8")
    shown = visit(comparator(runs, out=tmp_path / "page.html"))
    assert hostile in shown.inner_text("#top") and shown.evaluate("window.taken") is None


def test_pages_of_runs_that_lack_everything(visit: Callable[..., Any], tmp_path: Path) -> None:
    runs = write_runs(tmp_path, runs=2, rows=10, inside=False)
    for run in runs:
        shutil.rmtree(run / "observations")
        for name in ("audit.json", "examples.parquet", "examples.csv"):
            (run / name).unlink(missing_ok=True)
    shown = visit(comparator(runs, out=tmp_path / "page.html"))
    assert "No audit has kept rows" in shown.inner_text("#top") and "npo" in shown.inner_text("#settings")
    for place in ("#membership", "#relearning", "#back", "#inside"):
        assert "expunge audit RUN" in shown.inner_text(place)


def test_one_run_is_contrasted_with_its_retrained_model(visit: Callable[..., Any], tmp_path: Path) -> None:
    shown = visit(comparator(write_runs(tmp_path, runs=1, rows=10), out=tmp_path / "page.html"))
    assert (shown.input_value("#a"), shown.input_value("#b")) == ("1", "retrained")
    assert shown.locator("#top article").count() == 3
