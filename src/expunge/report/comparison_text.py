"""A comparison as a table for a screen, as CSV, as LaTeX and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from expunge.errors import DataError
from expunge.records.comparison import MARK, ComparedGroup, ComparedScore, Comparison, Difference
from expunge.records.grid import as_csv
from expunge.report.comparison import comparison
from expunge.report.gather import Group
from expunge.report.text import number

LEGEND = (f"± is the standard deviation over seeds. {MARK} marks the best where it is beyond noise of every other "
          "group. Scores are as stored; `expunge bench` computes them again.")
UNEQUAL_SEEDS = ("Not all groups have the same seeds. Means in the table are over all seeds of a group; which is the "
                 "best, and what is beyond noise, is judged by seeds in common.")


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table without rules: the first column left, the others right; a heading may have two lines."""
    heads = [column.split("\n") for column in columns]
    deep = max(map(len, heads))
    lines = [[head[i - deep + len(head)] if i >= deep - len(head) else "" for head in heads] for i in range(deep)]
    cells = [*lines, *rows]
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                      for i, (c, w) in enumerate(zip(row, wide, strict=True))).rstrip() for row in cells]


def table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the references, then a row for each group."""
    scores = found.scores
    heads = ["", *(s.key.replace(".", ".\n", 1) for s in scores)]
    rows = [[role, *("-" if v is None else number(v) for v in values)] for role, values in (
        ("original", [s.original for s in scores]), ("retrained", [s.retrained for s in scores]))
            if any(v is not None for v in values)]
    rows += [[g.letter, *(s.cell(g.letter) for s in scores)] for g in found.groups]
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
    if len(score.values) < 2:
        return f"{score.key}: one group has it."
    if len({value.values for value in score.values.values()}) == 1:
        return f"{score.key}: the same in all groups."
    if score.aim is not None and score.best is None:
        return f"{score.key}: no best, since the groups have no seed in common."
    if score.best is None:
        either = score.aim is None and score.retrained is not None
        return f"{score.key}: no best, since " + ("it may go either way." if either else
                                                  "there is no retrained model to be near to.")
    of = " of the retrained model" if score.target == score.retrained else ""
    aim = "highest" if score.aim == "higher" else f"nearest to {number(score.target)}{of}"
    head = f"{score.key} ({aim}): {score.best}"
    if score.marked:
        return f"{head}, beyond noise of every other group."
    others = [letter for letter in score.values if letter != score.best]
    told = [letter for letter in others if letter not in score.level_with_best]
    if all(d.p is None for d in score.differences):
        return f"{head}, but no claim: {'; '.join(sorted({_why_not(d, score) for d in score.differences}))}."
    if not told:
        return f"{head} comes first, but no difference from another group is beyond noise."
    return f"{head}, not told from {', '.join(score.level_with_best)}. Beyond noise of {', '.join(told)}."


def _why_not(pair: Difference, score: ComparedScore) -> str:
    """Why two groups cannot be tested; names those with one seed, unless all groups have one."""
    few = [letter for letter, value in score.values.items() if len(value.values) < 2]
    if not {pair.first, pair.second} & {*few} or len(few) == len(score.values):
        return pair.why_not
    return f"{' and '.join(few)} {'have' if len(few) > 1 else 'has'} one seed"


def notes(found: Comparison) -> list[str]:
    """How the table is to be read."""
    seeds = [len(v.values) for s in found.scores for v in s.values.values()]
    unequal = len({frozenset(g.seeds) for g in found.groups}) > 1
    return [LEGEND, found.test, *[UNEQUAL_SEEDS] * unequal,
            *([few_seeds(len(found.groups))] if seeds and max(seeds) == 2 else [])]


def few_seeds(groups: int) -> str:
    """What two seeds can tell, and why it is less the more groups there are."""
    pairs = groups * (groups - 1) // 2
    of_pairs = f" Here {groups} groups make {pairs} pairs, and every p-value is adjusted for them." if pairs > 1 else ""
    return f"Two seeds tell only large and steady differences from noise; three to five tell much more.{of_pairs}"


NAMED = 8
"""Scores that are named of those left out."""


def left_out(found: Comparison) -> list[str]:
    """Which scores of the audits are not in the table, and the option that shows them, or why no audit has them."""
    more = len(found.left_out) - NAMED
    lines = [f"Not shown: {', '.join(found.left_out[:NAMED])}" + f" and {more} more" * (more > 0)
             + " (--scores all, or their names)."] if found.left_out else []
    lines += [f"{name}: not available, {why}" for name, why in found.unavailable.items()]
    count = found.left_out_under_attack
    return lines + ([f"Not shown: {count} score{'s' * (count > 1)} under attack (--scores attacks)."] if count else [])


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
            shown = _value(score.cell(one.letter, mark=""))
            cells.append(rf"\textbf{{{shown}}}" if score.marked == one.letter else shown)
        lines.append(" & ".join([_escaped(one.title), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _value(text: str) -> str:
    """Numbers with their signs in mathematics."""
    if not any(letter.isdigit() for letter in text):
        return "--" if text == "-" else text
    return "$" + text.replace("−", "-").replace("±", r" \pm ") + "$"


FORMATS = {"csv": as_csv_text, "json": as_json, "latex": as_latex}


def noise_findings(groups: Sequence[Group]) -> list[str]:
    """A sentence for each headline score, and how it was tested; nothing where no group has two seeds."""
    audited = [replace(g, views=tuple(v for v in g.views if v.audit)) for g in groups]
    audited = [g for g in audited if g.views]
    if len(audited) < 2 or all(len(g.views) < 2 for g in audited):
        return []
    try:
        found = comparison(audited)
    except DataError as problem:  # two audits of one run, for instance
        return [f"{problem.what} So nothing is said of noise."]
    return [*map(finding, found.scores), *notes(found)[1:]]
