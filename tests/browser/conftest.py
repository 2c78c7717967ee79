"""A real browser on pages of the comparator. Its tests skip where playwright or a chromium is absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from expunge.comparator.page import comparator, payload
from expunge.testing.stored_runs import write_runs
from expunge.testing.support import once

RUNS, ROWS = 4, 60
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                None)


def make_page(folder: Path) -> None:
    comparator(write_runs(folder, runs=RUNS, rows=ROWS), out=folder / "page.html")


@pytest.fixture(scope="session")
def stored() -> Path:
    """Four runs and the page about them; nobody writes to it."""
    return once("stored-runs", make_page)


@pytest.fixture(scope="session")
def data(stored: Path) -> dict[str, Any]:
    """What the page holds."""
    return payload([stored / f"run{i + 1}" for i in range(RUNS)])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of one module, since the loop behind it must not outlive these tests."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: test)")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with api.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page; at the end nothing may have failed in it, and nothing been asked of a network."""
    contexts, problems = [], []

    def opened(address: str | Path, *, width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda asked: problems.append(asked.url) if asked.url.startswith("http") and
                "127.0.0.1" not in asked.url else None)
        page.goto(address if isinstance(address, str) else address.as_uri())
        # What is not laid out while it is off the screen has no text for a test to read.
        page.add_style_tag(content="* { content-visibility: visible !important; }")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def page(visit: Callable[..., Any], stored: Path) -> Any:
    return visit(stored / "page.html")


@pytest.fixture
def unfold() -> Callable[[Any], None]:
    """Open what is folded and wait for its rows: a browser tells the page of it some time after the click."""

    def opened(fold: Any) -> None:
        fold.locator(":scope > summary").click()
        fold.locator("tbody tr").first.wait_for()

    return opened
