"""A page that a server keeps up to date says when the folders have changed, and keeps what was chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from expunge.comparator.serve import HOST, LivePage, server
from expunge.testing.stored_runs import write_runs


def test_a_change_is_told_and_read_again(visit: Callable[..., Any], tmp_path: Path) -> None:
    runs = write_runs(tmp_path, runs=3, rows=10, inside=False)
    made = server(LivePage(runs), 0)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        page = visit(f"http://{HOST}:{made.server_port}/")
        page.select_option("#a", "3")
        page.select_option("#measure", "answers")
        assert page.is_hidden("#stale")
        record = runs[2] / "record.json"
        record.write_text(record.read_text().replace('"recipe": "simnpo + retain_nll"', '"recipe": "undial"'))
        page.wait_for_selector("#stale:not([hidden])")
        page.click("#reload")
        page.wait_for_selector("#contrast h2:has-text('3: undial')")
        assert page.input_value("#a") == "3" and page.input_value("#measure") == "answers"
        assert page.is_hidden("#stale")
    finally:
        made.shutdown()
        made.server_close()
        thread.join()
