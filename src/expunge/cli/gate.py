"""`--require` and `--junit`: a line for each condition, a file for a build server, and exit code 1 when one fails."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import typer

from expunge.cli.app import print_json
from expunge.cli.showing import shown_path
from expunge.console import Reporter
from expunge.errors import ExpungeError, UsageError
from expunge.records.base import write_text
from expunge.records.requirement import Checked, parse_requirement
from expunge.records.run import RunFolder
from expunge.records.score import Audit
from expunge.records.settings import AuditSettings, TaskOptions


def stored_audit(subject: str | None, rows: TaskOptions, settings: AuditSettings, *others: object) -> Audit | None:
    """The finished audit in a folder that is only to be gated: nothing asks for another one.

    Args:
        others: further options that ask for work, such as --resume or --retrained.
    """
    place = Path(subject or "") / "audit.json"
    asked = [*others, *(value for record in (rows, settings) for name, value in record
                        if value != type(record).model_fields[name].default)]
    return Audit.read(place) if subject and not any(asked) and place.is_file() else None


def check_junit(junit: Path | None, conditions: Sequence[str]) -> None:
    """What can be known of the file before the work.

    Raises:
        UsageError: it would hold nothing, or cannot be written.
    """
    if junit is None:
        return
    if not conditions:
        raise UsageError("--junit has nothing to report.", "It writes one test case for each --require.",
                         'Give --require, such as --require "verdict=forgets".')
    above = next(place for place in junit.absolute().parents if place.exists())
    if junit.is_dir() or not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "It is a folder." if junit.is_dir() else f"{above} is not a folder that can be written to."
        raise UsageError(f"--junit {junit} cannot be written.", f"{why} Nothing was run.", "Name another file.")


def gate_stored(audit: Audit, folder: str, conditions: Sequence[str], junit: Path | None, as_json: bool) -> None:
    """`gate` of the finished audit in a folder; says which it is, and whether the weights there are still those."""
    changed, date = changed_weights(audit, folder), audit.created[:10]
    warnings = [*([changed] if changed else []), *audit.notes]
    checks = audit.check(*conditions)
    if as_json:
        print_json({"audit": folder, "created": audit.created, "warnings": warnings,
                    "checks": [check.to_json() for check in checks]})
    told = Reporter()
    told.note(f"from the finished audit in {folder}{f' of {date}' if date else ''}")
    for alarm in warnings:
        told.warn(alarm)
    gate(audit, conditions, junit)


def changed_weights(audit: Audit, folder: str) -> str:
    """What to say where the model of a run is no longer the one that was audited; empty where it is.

    Weights are only read where a file of theirs was written, moved or copied after the audit.
    """
    place, written = RunFolder(Path(folder)).model, _last_change(Path(folder) / "audit.json")
    if not place.is_dir() or max(map(_last_change, (place, *place.rglob("*")))) <= written:
        return ""
    from expunge.models.load import load_subject

    try:
        same = load_subject(folder).fingerprint == audit.subject.fingerprint
    except ExpungeError as problem:
        return (f"The model in {folder} changed after its audit and cannot be read: {problem.what} Restore "
                "it, or make the run again.")
    return "" if same else (f"The weights in {folder} are no longer those of this audit, which says nothing about "
                            f"them. Audit them anew: expunge audit {shown_path(folder)} --overwrite")


def _last_change(place: Path) -> float:
    """A copy may keep the time of the original; when it came to this place cannot be set."""
    found = place.stat()
    return max(found.st_mtime, found.st_ctime)


def gate(audit: Audit, conditions: Sequence[str], junit: Path | None = None, *, alarms: bool = False) -> None:
    """Say of each condition on stderr whether it holds; raises typer.Exit(1) when one does not.

    Args:
        alarms: whether to print the alarms of the audit too; leave it out where they are on the screen already.

    Raises:
        UsageError: a condition that the audit has no figure for.
    """
    reporter = Reporter()  # also with --json: the reasons of an exit code must be somewhere
    checks = audit.check(*conditions)
    if junit is not None:
        write_text(junit, junit_xml(checks, audit))
    for alarm in audit.notes if alarms and conditions else ():
        reporter.warn(alarm)
    for check in checks:
        (reporter.note if check.holds else reporter.warn)("required: " + check.line)
    if not all(check.holds for check in checks):
        raise typer.Exit(1)


def junit_xml(checks: Sequence[Checked], audit: Audit) -> str:
    """The checks as JUnit XML: one test suite, one test case for each condition, and one named `answers` where the
    model's answers are no language: it fails together with conditions on the verdict, and is skipped without any that
    it fails. All alarms of the audit stand in the system-out of the suite.
    """
    asked, broken = [parse_requirement(check.requirement) for check in checks], bool(audit.broken)
    fails = broken and any(one.of_verdict and not one.waived for one in asked)
    count, failed = len(checks) + broken, sum(not check.holds for check in checks) + fails
    skipped = str(int(broken and not fails))
    seconds = f"{sum(audit.timing.values()):.3f}"
    name = f"expunge audit: {audit.task}"
    root = ElementTree.Element("testsuites", tests=str(count), failures=str(failed), skipped=skipped, time=seconds)
    suite = ElementTree.SubElement(root, "testsuite", name=name, tests=str(count), failures=str(failed),
                                   errors="0", skipped=skipped, time=seconds)
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname="expunge.audit", name=check.requirement, time="0")
        if check.holds:
            ElementTree.SubElement(case, "system-out").text = check.found
        else:
            ElementTree.SubElement(case, "failure", type="requirement", message=check.found).text = check.line
    if broken:
        case = ElementTree.SubElement(suite, "testcase", classname="expunge.audit", name="answers", time="0")
        said = ElementTree.SubElement(case, "failure" if fails else "skipped", message=audit.broken[0])
        if fails:
            said.set("type", "alarm")
    if audit.notes:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(audit.notes)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
