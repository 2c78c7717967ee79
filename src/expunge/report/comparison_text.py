"""A comparison as a table for a screen, as CSV, as LaTeX and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

from expunge.records.comparison import ComparedGroup, ComparedScore, Comparison, GroupValue
from expunge.records.grid import as_csv
from expunge.report.text import number

MARK, LEVEL_MARK = "*", "="
LEGEND = (f"{MARK} best, and beyond noise of every other group. {LEVEL_MARK} best, or not told from the best, where "
          "several are.")


def cell(value: GroupValue | None, mark: str = "") -> str:
    """`0.123±0.004*`: mean, deviation over seeds where there are several, and mark."""
    if value is None:
        return "-"
    spread = "" if value.deviation is None else f"±{number(value.deviation)}"
    return f"{number(value.mean)}{spread}{mark}"


def mark_of(score: ComparedScore, letter: str) -> str:
    """The mark of a group's value; none where nothing can be claimed of any group."""
    if len(score.values) < 2 or letter not in score.values or score.best is None:
        return ""
    if score.marked == letter:
        return MARK
    tested = any(d.p is not None for d in score.differences)
    level = letter in score.level_with_best or (letter == score.best and score.marked is None)
    return LEVEL_MARK if tested and level else ""


def table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the references, then a row for each group."""
    scores = found.scores
    heads = ["", *(s.key.replace(".", ".\n", 1) for s in scores)]
    rows = [[role, *("-" if v is None else number(v) for v in values)] for role, values in (
        ("original", [s.original for s in scores]), ("retrained", [s.retrained for s in scores]))
            if any(v is not None for v in values)]
    rows += [[g.letter, *(cell(s.values.get(g.letter), mark_of(s, g.letter)) for s in scores)] for g in found.groups]
    return heads, rows


def about(one: ComparedGroup) -> str:
    """`A: npo lr=0.0001; 2 seeds; forgets 1, retains 1; 3.2 s of training`."""
    seeds = len(one.seeds)
    verdicts = ", ".join(f"{outcome} {count}" if seeds > 1 else outcome for outcome, count in one.verdicts.items())
    parts = (one.title, f"{seeds} seed{'s' * (seeds > 1)}", verdicts,
             "" if one.train_s is None else f"{one.train_s:.1f} s of training")
    return f"{one.letter}: " + "; ".join(p for p in parts if p)


def finding(score: ComparedScore) -> str:
    """Which group is the best in a score, and what can be said of that."""
    aim = "highest" if score.aim == "higher" else f"nearest to {number(score.target)}" if score.aim else ""
    if score.best is None:
        return f"{score.key}: no best, " + ("since it may go either way." if score.aim is None and score.retrained
                                            is not None else "since there is no retrained model to be near to.")
    if len(score.values) < 2:
        return f"{score.key}: one group has it."
    if score.marked:
        return f"{score.key} ({aim}): {score.best}, beyond noise of every other group."
    untested = {d.why_not for d in score.differences if score.best in (d.first, d.second) and d.p is None}
    others = [letter for letter in score.values if letter != score.best]
    if untested and set(score.level_with_best) == set(others) and all(d.p is None for d in score.differences):
        return f"{score.key} ({aim}): {score.best}, but no claim: {'; '.join(sorted(untested))}."
    told = [letter for letter in others if letter not in score.level_with_best]
    beyond = f" Beyond noise of {', '.join(told)}." if told else ""
    return f"{score.key} ({aim}): {score.best}, not told from {', '.join(score.level_with_best)}.{beyond}"


def as_json(found: Comparison) -> str:
    """Everything, every pair of groups with its test among it."""
    return json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n"


def as_csv_text(found: Comparison) -> str:
    """One line per group and score."""
    return as_csv(found.rows())


_LATEX: Mapping[str, str] = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
                             "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
                             "<": r"\textless{}", ">": r"\textgreater{}"}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def as_latex(found: Comparison) -> str:
    """A table for the package booktabs: mean and deviation over seeds, bold where `*` stands on the screen."""
    lines = [r"% needs \usepackage{booktabs}", f"% {found.test}", rf"\begin{{tabular}}{{l{'r' * len(found.scores)}}}",
             r"\toprule", " & ".join(["", *(_escaped(s.key) for s in found.scores)]) + r" \\", r"\midrule"]
    _, rows = table(found)
    references = [row for row in rows if row[0] in ("original", "retrained")]
    lines += [" & ".join(_value(v) for v in row) + r" \\" for row in references]
    lines += [r"\midrule"] * bool(references)
    for one in found.groups:
        cells = []
        for score in found.scores:
            shown = _value(cell(score.values.get(one.letter)))
            cells.append(rf"\textbf{{{shown}}}" if score.marked == one.letter else shown)
        lines.append(" & ".join([_escaped(one.title), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _value(text: str) -> str:
    """Numbers with their signs in mathematics."""
    if not any(letter.isdigit() for letter in text):
        return "--" if text == "-" else text
    return "$" + text.replace("−", "-").replace("±", r" \pm ") + "$"


FORMATS = {"csv": as_csv_text, "json": as_json, "latex": as_latex}
