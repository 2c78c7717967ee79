"""`expunge ls FOLDER`: the runs in a folder, how each stands and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expunge.cli.app import print_json
from expunge.cli.listing import PLURALS
from expunge.cli.showing import report_command, shown_path
from expunge.console import Reporter
from expunge.errors import MissingError
from expunge.records.run import RunFolder, RunRecord
from expunge.records.score import Audit
from expunge.report.commands import resume_command

DEPTH = 3
"""How many folders deep runs are looked for."""


def is_folder(what: str) -> bool:
    """Whether a word of `ls` means a folder: one is there, and no kind of plug-in has that name."""
    return what not in (*PLURALS, *PLURALS.values(), "all", "methods", "suites") and Path(what).is_dir()


def show_runs(root: Path, reporter: Reporter, as_json: bool = False) -> None:
    """A line for each run and audit in a folder, and the next command of each that is not finished.

    Raises:
        MissingError: there is none.
    """
    found = [described(folder) for folder in folders(root)]
    if not found:
        raise MissingError(f"{root} holds no run and no audit.",
                           f"There is no record.json and no audit.json in it, {DEPTH} folders deep.",
                           "Name the folder that --out named.")
    if as_json:
        return print_json(found)
    reporter.table("", ["run", "what", "recipe", "task", "status", "verdict"], [
        [str(run["folder"]), run["kind"], run["recipe"], run["task"], run["status"], run["verdict"]] for run in found])
    for run in found:
        if run["next"]:
            reporter.out.print(f"{run['folder']}: {run['next']}", markup=False, soft_wrap=True)


def folders(root: Path) -> list[Path]:
    """Folders with a run or an audit, the outer ones first; inside a run only audits and merged weights."""
    found = [] if not _holds(root) else [root]
    for depth in range(1, DEPTH + 1):
        found += [p.parent for name in ("record.json", "audit.json") for p in sorted(root.glob("*/" * depth + name))
                  if "stages" not in p.parts]
    return list(dict.fromkeys(found))


def _holds(folder: Path) -> bool:
    return RunFolder(folder).record.is_file() or RunFolder(folder).audit.is_file()


def described(folder: Path) -> dict[str, Any]:
    """What stands in a folder, in words, and the command to go on with."""
    files = RunFolder(folder)
    record = RunRecord.read(files.record) if files.record.is_file() else None
    audit = Audit.read(files.audit) if files.audit.is_file() else None
    verdict = audit.verdict.outcome if audit and audit.verdict else ""
    status, following = "audited", f"expunge report {shown_path(folder)}"
    if record is not None and record.unfinished:
        status = f"unfinished ({record.unfinished}), go on with --resume"
        following = resume_command(folder, record)
    elif record is not None:
        ask = f"expunge audit {shown_path(folder)}" if record.kind == "forget" else ""
        status, following = record.status, report_command(folder) if audit else ask
    source = record or audit
    return {"folder": str(folder), "kind": record.kind if record else "audit",
            "recipe": record.recipe if record else "", "task": source.task if source else "", "status": status,
            "verdict": verdict, "next": following}
