"""An audit on the terminal: the result on one screen, with --verbose every score and finding. And shadow models."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.console import Reporter, format_number
from expunge.judgement.directions import base, is_below
from expunge.judgement.leaks import MIN_ROWS, compared
from expunge.judgement.outcome import hidden_inside, shown_alone
from expunge.judgement.settling import SETTLING
from expunge.judgement.threat_wording import outcome_of, uncounted
from expunge.judgement.threats import NOT_TRIED, by_reason
from expunge.records.run import RunRecord
from expunge.records.score import Audit, Score, Verdict
from expunge.records.shadows import Shadows
from expunge.records.study import Study
from expunge.report.answers import LESS, asked_about
from expunge.report.text import headline, meaning

WIDTH = 100
"""Columns of the screen at most; a narrower terminal gets what it has."""
SCORES_SHOWN = 5
NOT_TESTED_LINES = 2
FIGURES: tuple[tuple[str, ...], ...] = (
    ("forget.probability", "forget.accuracy"),
    ("forget.keyword", "forget.rouge_l", "forget.extraction_strength", "forget.exact_memorization"),
    ("forget_quality", "forget.truth_ratio"),
    ("privleak", "mia.min_k", "mia.loss"),
    ("model_utility", "retain.probability", "retain.accuracy"),
)
"""The scores of the screen, one of each line: the first that the audit has."""
MEANING = {
    "forget.probability": "of the true answers",
    "forget.accuracy": "right option chosen",
    "forget.keyword": "answers with the bare fact",
    "forget.rouge_l": "overlap with true answers",
    "forget.extraction_strength": "share of answers completed",
    "forget.exact_memorization": "first-choice tokens",
    "forget.recited": "answers said word for word",
    "forget.truth_ratio": "1: wrong answers as likely",
    "forget_quality": "p-value: as the retrained?",
    "leak_share": "surer than every control",
    "privleak": "membership, %; 0 is ideal",
    "mia.min_k": "membership AUC; 0.5 ideal",
    "mia.loss": "membership AUC; 0.5 ideal",
    "model_utility": "what should stay",
    "retain.probability": "of the retain answers",
    "retain.accuracy": "retain rows answered right",
}
"""Score -> what it says, in the room of a column; docs/glossary.md defines each."""
FEW = 12
"""Rows under attack that --verbose shows; of more, those that succeeded and then the strongest."""


def show_audit(found: Audit, reporter: Reporter, folder: str | Path, *, page: str | Path | None = None,
               follow_up: str | None = None, verbose: bool = False, again: bool = False) -> None:
    """The result on one screen; with `verbose` every score and finding before it.

    Args:
        folder: where the audit is kept.
        page: the report page, where one was written.
        follow_up: the next command, as it can be pasted; that which makes the page by default.
        again: the audit was made before, so its alarms are not on the screen yet.
    """
    reporter.close()
    for alarm in found.notes if again else ():
        reporter.warn(alarm)
    if verbose:
        show_scores(found.scores, reporter)
        if found.verdict:
            _show_findings(found.verdict, reporter)
    reporter.out.print()
    if found.verdict:
        turned_down = sum(check.problem is not None for check in found.controls)
        _show_verdict(found.verdict, reporter, len(found.retrained) > turned_down, found.scores)
    _show_figures(found.scores, reporter, column(found, folder))
    reporter.out.print()
    if found.verdict:
        _paragraph(outcome_of(found.scores, found.attacks), reporter)
        for sentence in uncounted(found.scores, found.attacks):
            _paragraph(sentence, reporter)
        _paragraph(_left_out(found, found.verdict, _width(reporter)), reporter, lines=NOT_TESTED_LINES)
    more = "" if verbose else " (every score here: --verbose)"
    reporter.out.print(f"Page: {page}{more}" if page else f"Kept in {folder}{more}", markup=False, soft_wrap=True)
    reporter.out.print(f"Next: {follow_up or report_command(folder)}", markup=False, soft_wrap=True)


def column(found: Audit, folder: str | Path) -> str:
    """The heading of the model's figures: "unlearned" for a run of `forget`, else "subject"."""
    made_by = Path(folder) / (found.run or "")
    return "unlearned" if made_by.is_file() and RunRecord.read(made_by).kind == "forget" else "subject"


def report_command(folder: str | Path) -> str:
    return f"expunge report {shown_path(folder)} --out {shown_path(Path(folder) / 'report.html')}"


def shown_path(path: str | Path) -> str:
    """A path as it can be pasted into a shell; the home folder as ~."""
    try:
        return "~/" + shlex.quote(str(Path(path).relative_to(Path.home())))
    except ValueError:
        return shlex.quote(str(path))


def show_page(page: Path, folders: Sequence[Path], redacted: bool, mail: bool) -> None:
    """Where a page is and, of one to be sent, what it holds and what the folders behind it still hold."""
    from expunge.report.held import behind, still_there

    print(page)
    reporter = Reporter()
    if mail and not redacted:
        reporter.warn("the page holds prompts, answers and names as they are.")
    if redacted and (held := still_there(folders, page)):
        reporter.note(f"The page holds no rows. Still there: {', '.join(held)}.")
        reporter.note("`expunge purge` removes rows and answers: " + ", ".join(
            f"expunge purge {shown_path(folder)}" for folder in behind(folders)))


def _show_verdict(verdict: Verdict, reporter: Reporter, retrained: bool, scores: Sequence[Score]) -> None:
    """One sentence, and the outcome for each kind of access."""
    about = asked_about(scores)
    said = meaning(verdict, scores).partition(". ")[0].rstrip(".")
    if verdict.sentences and (verdict.outcome in ("undecided", "ruined") or verdict.sentences[0].startswith(LESS)):
        said = verdict.sentences[0].rstrip(".")
    elif verdict.outcome == "retains" and not retrained and verdict.sentences:  # what proves it, without a comparison
        said += f". {verdict.sentences[0].rstrip('.')}"
    _paragraph(f"{headline(verdict)}. {said}.", reporter, style="bold",
               lines=5 if verdict.scope.text else 3)
    for sentence in verdict.sentences:
        if sentence.startswith((SETTLING, "The control ")):
            _paragraph(sentence, reporter, lines=4)
    if verdict.leak:
        _paragraph(verdict.leak, reporter, lines=4)
    if verdict.threats:
        _paragraph("By access: " + ", ".join(f"{t.access} {t.outcome}" for t in verdict.threats)
                   + f" ({about})" * bool(about) + ".", reporter)


def _show_figures(scores: Sequence[Score], reporter: Reporter, subject: str) -> None:
    """The scores that carry the verdict, beside the original and the retrained model."""
    head = ("score", "", subject, "95 % interval", "original", "retrained")
    rows = [head, *((s.name, MEANING.get(base(s), ""), format_number(s.value), _between(s.interval),
                     format_number(s.controls.get("original")), format_number(s.controls.get("retrained")))
                    for s in carrying(scores))]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for i in (4, 5):  # a control that was not there
        if all(row[i] == "-" for row in rows[1:]):
            wide[i] = 0
    if sum(wide) + 2 * (len(wide) - 1) > _width(reporter):
        wide[1] = 0
    for row in rows if len(rows) > 1 else ():
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w)
                 for i, (cell, w) in enumerate(zip(row, wide, strict=True)) if w]
        reporter.out.print("  ".join(cells).rstrip(), markup=False, soft_wrap=True)
    missing = by_reason((s.name, s.unavailable or "") for s in scores if s.attack is None and s.value is None)
    for why, names in list(missing.items())[:SCORES_SHOWN + 1 - len(rows)]:
        _paragraph(f"Not available, {why}: {', '.join(names)}", reporter, lines=2)


def carrying(scores: Sequence[Score]) -> list[Score]:
    """At most five scores of the model left alone: those that decided, then one of each line of `FIGURES`."""
    plain = [s for s in scores if s.attack is None and s.value is not None]
    chosen = [next((s for name in names for s in plain if base(s) == name), None) for names in FIGURES]
    found = [s for s in chosen if s is not None]
    below = [s for s in plain if base(s) == "forget.probability" and is_below(s)]
    shown = sorted(shown_alone(plain), key=lambda s: base(s) != "forget.recited")
    for score in [*(shown or hidden_inside(plain) or below)][:1]:
        rest = found if any(s.name == score.name for s in found) else [s for s in found if s is not chosen[1]]
        found = [score, *(s for s in rest if s.name != score.name)]
    others = (s for s in plain if s.higher_is == "knows" and all(s.name != f.name for f in found))
    return [*found, *others][:SCORES_SHOWN]


def _left_out(audit: Audit, verdict: Verdict, width: int) -> str:
    """What was asked for and could not be run or taken, attacks before scores; the reasons stand on the page. What
    nobody asked for stands in the verdict's scope."""
    known = {what.partition(":")[0] for what in NOT_TRIED} if verdict.scope.text else set()
    heads = dict.fromkeys(line.partition(":")[0] for line in verdict.not_tested)
    scores = {s.name for s in audit.scores}
    names = sorted((head for head in heads if head not in known), key=lambda head: head in scores)
    if not known and not names:
        return "Not tested: see the page."
    return _fitting("Could not be tested: " if known else "Not tested: ", names, width) if names else ""


def _fitting(head: str, names: Sequence[str], width: int) -> str:
    """As many names as fit into two lines of `width` columns, at least one, and how many there are beyond them."""
    for shown in range(len(names), 0, -1):
        rest = len(names) - shown
        said = f"{head}{'; '.join(names[:shown])}{f'; and {rest} more' * (rest > 0)}."
        if len(_wrapped(said, width)) <= NOT_TESTED_LINES:
            break
    return said


def _paragraph(text: str, reporter: Reporter, *, style: str | None = None, lines: int = 3) -> None:
    """Wrapped to the screen, cut after `lines`."""
    for line in _wrapped(text, _width(reporter), lines):
        reporter.out.print(line, style=style, markup=False, soft_wrap=True)


def _wrapped(text: str, width: int, lines: int | None = None) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", max_lines=lines, placeholder=" ...",
                         break_on_hyphens=False)


def _width(reporter: Reporter) -> int:
    return min(reporter.out.width, WIDTH) if reporter.out.is_terminal else WIDTH


def _show_findings(found: Verdict, reporter: Reporter) -> None:
    """What the scores support, in sentences with their figures."""
    reporter.out.print("\nFindings", markup=False)
    for threat in found.threats:
        reporter.out.print(f"  {threat.access + ':':<10} {threat.outcome}. {threat.sentence}", markup=False,
                           soft_wrap=True)
    for sentence in found.sentences:
        reporter.out.print(f"  {sentence}", markup=False, soft_wrap=True)
    for line in found.not_tested:
        reporter.out.print(f"  Not tested: {line}.", markup=False, soft_wrap=True)


def show_scores(scores: Sequence[Score], reporter: Reporter) -> None:
    """Value, interval and controls of every score; what is missing says why."""
    reporter.close()
    plain = [s for s in scores if s.attack is None]
    reporter.table("", ["score", "value", "95 % interval", "original", "retrained", "n"],
                   [[s.name, s.value, _between(s.interval), s.controls.get("original"), s.controls.get("retrained"),
                     s.n] for s in plain if s.value is not None])
    for score in plain:
        if score.value is not None and score.remark:
            _dim(f"{score.name}: {score.remark}", reporter)
    _show_missing(((s.name, s.unavailable or "") for s in plain if s.value is None), reporter)
    attacked = [s for s in scores if s.attack is not None]
    if attacked:
        _show_attacked(attacked, reporter)


def _show_attacked(scores: Sequence[Score], reporter: Reporter) -> None:
    found = [s for s in scores if s.value is not None]
    against = compared(scores)
    strongest = sorted(against, key=lambda s: (s.succeeded, s.strength), reverse=True)[:FEW]
    shown = found if len(found) <= FEW else strongest
    if shown:
        reporter.out.print()
        reporter.table("under attack" + (", strongest first" if shown is strongest else ""),
                       ["attack", "score", "before", "value", "control", "excess", "95 % interval", "success"],
                       [[s.attack or "", s.name, s.before, s.value, (s.control or ("", None))[1], s.excess,
                         _between(s.excess_interval), "*" if s.succeeded else s.doubt or ""] for s in shown])
    if against:
        won = sum(s.succeeded for s in against)
        _dim(f"{won} of {len(against)} comparisons succeeded{' (*)' * bool(won)}: more came out than of the control "
             "and than plain asking gives, beyond chance and by enough to matter.", reporter)
    elif found:
        _dim(f"Nothing was set against a control on {MIN_ROWS} rows or more.", reporter)
    if len(shown) < len(found):
        _dim(f"More on the page (expunge report) and in audit.json: {len(found) - len(shown)} rows.", reporter)
    _show_missing(dict.fromkeys((s.attack or "", s.unavailable or "") for s in scores if s.value is None), reporter)


def _show_missing(reasons: Iterable[tuple[str, str]], reporter: Reporter) -> None:
    """One line for each reason."""
    for why, names in by_reason(reasons).items():
        _dim(f"{', '.join(names)}: not available, {why}", reporter)


def _between(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else " .. ".join(format_number(x) for x in interval)


def _dim(text: str, reporter: Reporter) -> None:
    reporter.out.print(text, style="dim", markup=False, soft_wrap=True)


def show_shadows(found: Shadows, reporter: Reporter) -> None:
    """One line per kind of model, the floor among them; then which entities and rows are told apart."""

    def of(name: str, measure: str, key: str) -> Any:
        return found.results[name].get(measure, {}).get(key)

    said = {"original": "nothing done", "retrained": "retrained (floor)"}
    attacks = {"U-LiRA": "ulira", "RULI": "ruli", "efficacy": "ruli_efficacy", "IAM": "iam", "population": "population",
               "kept rows": "ulira_kept"}
    columns = {title: (name, "accuracy") for title, name in attacks.items()} | {
        "KLoM": ("klom", "mean"), "F": ("epsilon", "F")}
    rows = [[said.get(name, name), *(of(name, *where) for where in columns.values()),
             (of(name, "ulira", "tpr") or {}).get("0.01")] for name in found.results]
    reporter.table("", ["models", *columns, "TPR at 1 %"], rows)
    for measure, result in found.results["original"].items():
        if "unavailable" in result:
            _dim(f"{measure}: not available, {result['unavailable']}", reporter)
    for kind in ("entities", "rows"):
        reporter.table(f"Which {kind} are told apart", ["models", "told apart", "surest", "AUC", "p", "evidence"], [
            [said.get(name, name), f"{each['told_apart']} of {each['of']}",
             *_surest(each, "entity" if kind == "entities" else "id")]
            for name, measures in found.results.items() if (each := measures.get(kind)) and each["first"]])
    reporter.out.print(
        f"\n{len(found.states)} shadows, {found.points} rows each. Compare each number with the floor: models that "
        "never met an entity give it. The population attack is a lower bound: one threshold for all rows misses rows "
        "that differ from one another. p is corrected for all rows, or entities; shadows.json names the first ten.",
        soft_wrap=True)


def _surest(found: Mapping[str, Any], name: str) -> list[Any]:
    row = found["first"][0]
    takes = f", takes {found['shadows_needed']} shadows" if row["evidence"] == "cannot tell" else ""
    return [row[name], row["auc"], f"{row['p_corrected']:.2g}", row["evidence"] + takes]


def show_study(found: Study, place: Path, reporter: Reporter) -> None:
    """The findings, the first of them first, and where the page is."""
    reporter.close()
    for text in found.found.findings if found.found else ():
        reporter.out.print(text, soft_wrap=True, markup=False)
    reporter.out.print(f"\n{len(found.parts)} parts in {found.seconds:.0f} s on {found.task}. The page: "
                       f"{shown_path(place / 'study.html')}", soft_wrap=True, markup=False)
