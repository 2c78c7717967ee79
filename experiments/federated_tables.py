"""The tables of the study of server rules and unlearners."""

from __future__ import annotations

import statistics
from typing import Any

from cells import results

from expunge.report.leaderboard import table

Row = dict[str, Any]


def both(reading: Row) -> str:
    """Probability of forget rows / of retain rows."""
    return f"{reading['forget']:.2f} / {reading['retain']:.2f}"


def _median(rows: list[Row], at: int) -> str:
    """After unlearning (0) or at the end (-1): medians over seeds."""
    done = [r["readings"][at] for r in rows if "failed" not in r]
    if not done:
        return "failed" if rows else "-"
    return both({side: statistics.median(r[side] for r in done) for side in ("forget", "retain")})


def federated() -> str:
    """The grid, the ends of the scale, and the cells beside the grid."""
    found = results("federated")
    rows, ends = found["rows"], found["ends"]
    grid = [r for r in rows if r["what"] == "grid"]
    servers = list(dict.fromkeys(r["server"] for r in sorted(grid, key=lambda r: r["server"])))
    lines = []
    for unlearner in dict.fromkeys(r["unlearner"] for r in grid):
        mine = [r for r in grid if r["unlearner"] == unlearner]
        line = {"unlearner": f"`{unlearner}`", "after unlearning": _median(mine, 0)}
        lines.append(line | {f"`{s}`": _median([r for r in mine if r["server"] == s], -1) for s in servers})
    beside = [{"what": r["what"], "unlearner": f"`{r['unlearner']}`", "server": f"`{r['server']}`",
               "after unlearning": _median([r], 0), "at the end": _median([r], -1),
               "server moved, round by round": ", ".join(f"{m:.2f}" for m in r.get("moved", [])[1:]) or "-"}
              for r in rows if r["what"] != "grid"]
    scale = "; ".join(f"seed {e['seed']}: original {both(e['original'])}, retrained {both(e['retrained'])}"
                      for e in ends)
    return (f"Probability of forget rows / of retain rows. {scale}. Commit `{found['environment']['commit'][:7]}`, "
            f"{len(grid)} runs in the grid.\n\n{table(lines, list(lines[0]))}\n\n"
            f"Beside the grid:\n\n{table(beside, list(beside[0]))}")
