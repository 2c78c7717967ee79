"""How long the comparator's page takes to make, to open and to filter, in a real browser: 20 runs of 1,000 rows.

The runs are written from records (`expunge.testing.stored_runs`). Opening is from the navigation to the first frame
after the page has loaded; an action is from its event to the frame after the next, so that its drawing is in. Beside
the clock stands what the page's main thread spent on a processor, since the machine is shared. Needs playwright and a
chromium (extra `test`). Stores results/comparator.json with --keep, from a clean tree.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import log, store
from playwright.sync_api import sync_playwright

from expunge.comparator.page import comparator
from expunge.records.run import environment
from expunge.testing.stored_runs import write_runs

FRAME = "new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"


def change(place: str, value: str, event: str = "change") -> str:
    """A script that gives a control a value, which may use the number `i` of the repeat, as a person would."""
    return f"""(i) => {{ const n = document.querySelector('{place}'); n.value = {value};
        n.dispatchEvent(new Event('{event}')); }}"""


ACTIONS = {
    "filter runs by a limit": change("[data-limit=forget-1]", "0.2 + i / 20", "input"),
    "filter runs by the Pareto front": "(i) => document.getElementById('only-front').click()",
    "choose another model": change("#a", "String(i % 7 + 3)"),
    "filter rows by a word": change("#query", "['', 'mara', 'book 7'][i % 3]", "input"),
    "filter rows by their set": change("#split", "['', 'retain', 'forget'][i % 3]"),
    "compare answers": change("#measure", "['answers', 'probability'][i % 2]"),
    "move the threshold": change("#threshold", "20 + 9 * i", "input"),
}


class Clock:
    """Milliseconds on the clock, and of the page's main thread on a processor: others work on this machine too."""

    def __init__(self, page: Any) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy_ms(self) -> float:
        found = self._session.send("Performance.getMetrics")["metrics"]
        return float(next(m["value"] for m in found if m["name"] == "TaskDuration")) * 1000


def measured(page_file: Path, repeats: int) -> dict[str, Any]:
    """Milliseconds of opening and of every action: median and largest."""
    opened: list[tuple[float, float]] = []
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ACTIONS}
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            clock = Clock(page)
            page.goto(page_file.as_uri())
            wall = page.evaluate(FRAME)
            opened.append((wall, clock.busy_ms()))
            page.close()
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        clock = Clock(page)
        page.goto(page_file.as_uri())
        for name, action in ACTIONS.items():
            for i in range(repeats):
                before = clock.busy_ms()
                wall = page.evaluate(
                    f"async () => {{ const t = performance.now(); ({action})({i}); return await {FRAME} - t; }}")
                times[name].append((wall, clock.busy_ms() - before))
        version = browser.version
        browser.close()
    return {"browser": f"chromium {version}", "open_ms": spread(opened),
            "actions_ms": {name: spread(found) for name, found in times.items()}}


def spread(found: list[tuple[float, float]]) -> dict[str, float]:
    walls, busy = ([pair[i] for pair in found] for i in (0, 1))
    return {"median": round(statistics.median(walls), 1), "largest": round(max(walls), 1),
            "processor_median": round(statistics.median(busy), 1)}


def main(runs: int, rows: int, repeats: int, keep: bool) -> None:
    place = Path(tempfile.mkdtemp(prefix="expunge-"))
    try:
        folders = write_runs(place, runs=runs, rows=rows)
        began = time.perf_counter()
        page = comparator(folders, out=place / "page.html")
        made = time.perf_counter() - began
        load = os.getloadavg()[0]
        found = {"runs": runs, "rows": rows, "repeats": repeats, "cores": os.cpu_count(), "load": round(load, 1),
                 "make_s": round(made, 2), "page_mb": round(page.stat().st_size / 1e6, 2), **measured(page, repeats)}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    log(found.items())
    if keep and "dirty" not in (environment()["commit"] or "dirty"):
        log(("stored", store("comparator", found)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--keep", action="store_true", help="store results/comparator.json")
    given = parser.parse_args()
    main(given.runs, given.rows, given.repeats, given.keep)
