"""The table of streams of requests, and their picture docs/requests.svg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cells import results

from expunge.records.study import StudyChart
from expunge.report.charts import to_file_svg
from expunge.report.leaderboard import table
from expunge.report.study import picture

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "requests.svg"


def page() -> str:
    """A sentence on what was measured, the picture and a line for each recipe."""
    found = results("requests")
    lines = [{
        "recipe of each run": f"{row['name']}: `{row['recipe']}`",
        "requests": f"{row['requests']} of {row['asked_for']}",
        "known before": f"{row['known_before']:.2f}", "left right after": f"{row['after']:.3f}",
        "most above never seen": f"{row['above_never_seen']:+.3f}", "largest rebound": f"{row['worst_rebound']:+.3f}",
        "beyond the noise": str(row["beyond_noise"]), "utility at the end": f"{row['utility']:.1%}",
        "at worst": f"{row['worst_utility']:.1%}", "s per request": f"{row['seconds']:.1f}"} for row in found["rows"]]
    first = found["rows"][0]
    return (f"`{found['task']}`, a model of {found['model']['num_hidden_layers']} blocks of width "
            f"{found['model']['hidden_size']}; each request deletes one person. Mean probability of the true answers, "
            f"as asked. Models that never saw the rows say them with {first['level']:.3f}; the noise floor of "
            f"{found['retrained']} retrained models is {first['noise']:.3f}. Commit "
            f"`{found['environment']['commit']}`, `experiments/deletion_requests.py`.\n\n"
            f"![utility and the best known deleted person, over the requests](requests.svg)\n\n"
            + table(lines, list(lines[0])))


def draw(rows: list[dict[str, Any]]) -> None:
    """Utility, and the deleted person that is known best, after each request."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        kept = [(float(p["deleted"]), p["utility"]) for p in row["points"]]
        most = [(float(p["deleted"]), p["most"]) for p in row["points"] if p["most"] is not None]
        series |= {f"{row['name']}: kept": kept, f"{row['name']}: best known deleted": most}
    chart = StudyChart(title="Twenty requests", x="requests carried out", y="share of the first model; probability",
                       series=series)
    PICTURE.write_text(to_file_svg(picture(chart)))
