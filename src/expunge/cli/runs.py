"""`expunge ls FOLDER`: runs, audits and grids in a folder, how each stands and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expunge.cli.app import print_json
from expunge.cli.listing import PLURALS
from expunge.cli.showing import report_command, shown_path
from expunge.console import Reporter
from expunge.errors import MissingError
from expunge.records.grid import Grid
from expunge.records.purged import Purged
from expunge.records.run import RunFolder, RunRecord
from expunge.records.score import Audit
from expunge.report.commands import resume_command, resume_grid

DEPTH = 3
"""How many folders deep they are looked for."""
HOLDING = ("record.json", "audit.json", Grid.FILE, "observations/*/source.json")
"""Files of which a folder of ours has one: of a run, an audit, a grid, and an audit that did not end."""
KILLED = "unfinished (killed, or still at work), go on with --resume"


def is_folder(what: str) -> bool:
    """Whether a word of `ls` means a folder: one is there, and no kind of plug-in has that name."""
    return what not in (*PLURALS, *PLURALS.values(), "all", "methods", "suites") and Path(what).is_dir()


def show_runs(root: Path, reporter: Reporter, as_json: bool = False) -> None:
    """A line for each run, audit and grid in a folder, and the next command of each.

    Raises:
        MissingError: there is none.
    """
    found = [described(folder) for folder in folders(root)]
    if not found:
        raise MissingError(f"{root} holds no run, no audit and no grid.",
                           f"There is no record.json, no audit.json and no {Grid.FILE} in it, {DEPTH} folders deep.",
                           "Name the folder that --out named.")
    if as_json:
        return print_json(found)
    reporter.table("", ["run", "what", "recipe", "task", "status", "verdict"], [
        [str(run["folder"]), run["kind"], run["recipe"], run["task"], run["status"], run["verdict"]] for run in found])
    for run in found:
        if run["next"]:
            reporter.out.print(f"{run['folder']}: {run['next']}", markup=False, soft_wrap=True)


def folders(root: Path) -> list[Path]:
    """Folders with a run, an audit or a grid, the outer ones first; inside a run only audits and merged weights."""
    found: list[Path] = []
    for depth in range(DEPTH + 1):
        for name in HOLDING:
            up = name.count("/")
            found += [p.parents[up] for p in sorted(root.glob("*/" * depth + name))
                      if not {"stages", "observations"} & set(p.parents[up].relative_to(root).parts)]
    return list(dict.fromkeys(found))


def described(folder: Path) -> dict[str, Any]:
    """What stands in a folder, in words, and the command to go on with."""
    files = RunFolder(folder)
    if (folder / Grid.FILE).is_file():
        return _grid(folder)
    record = RunRecord.read(files.record) if files.record.is_file() else None
    audit = Audit.read(files.audit) if files.audit.is_file() else None
    verdict = audit.verdict.outcome if audit and audit.verdict else ""
    halfway = audit is None and any(files.observations.glob("*/source.json"))
    ask = f"expunge audit {shown_path(folder)}"
    if record is not None and record.unfinished:
        status = f"unfinished ({record.unfinished}), go on with --resume"
        following = resume_command(folder, record)
    elif record is None:
        status, following = ("audited", report_command(folder)) if audit else (
            KILLED, f"repeat its command, expunge audit ... --out {shown_path(folder)}, with --resume")
    elif halfway:
        status, following = f"{record.status}; its audit is {KILLED}", f"{ask} --resume"
    else:
        status, following = record.status, report_command(folder) if audit else ask * (record.kind == "forget")
    if files.purged.is_file():
        status += f"; its rows were purged on {Purged.read(files.purged).when[:10]}"
        following = f"{ask} --forget FILE" if following.startswith(ask) else following
    source = record or audit
    return {"folder": str(folder), "kind": record.kind if record else "audit",
            "recipe": record.recipe if record else "", "task": source.task if source else "", "status": status,
            "verdict": verdict, "next": following}


def _grid(folder: Path) -> dict[str, Any]:
    """The same of a grid; its cells are runs of their own."""
    made = Grid.read(folder)
    done = all(cell.status == "finished" for cell in made.cells)
    status = made.counted() + ("" if done else "; go on with --resume")
    if RunFolder(folder).purged.is_file():
        status += f"; its rows were purged on {Purged.read(RunFolder(folder).purged).when[:10]}"
    recipes = dict.fromkeys(cell.method for cell in made.cells)
    return {"folder": str(folder), "kind": "grid", "recipe": ", ".join(recipes), "task": made.task, "status": status,
            "verdict": "", "next": f"expunge compare {shown_path(folder)}" if done else resume_grid(folder)}
