"""`--require` and `--junit`: a line for each condition, a file for a build server, and exit code 1 when one fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import typer

from expunge.console import Reporter
from expunge.errors import UsageError
from expunge.records.base import write_text
from expunge.records.requirement import Checked
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


def gate(audit: Audit, conditions: Sequence[str], reporter: Reporter, junit: Path | None = None) -> None:
    """Say of each condition whether it holds; raises typer.Exit(1) when one does not.

    Raises:
        UsageError: a condition that the audit has no figure for, or a file for none.
    """
    if junit is not None and not conditions:
        raise UsageError("--junit has nothing to report.", "It writes one test case for each --require.",
                         'Give --require, such as --require "verdict=forgets".')
    checks = audit.check(*conditions)
    if junit is not None:
        write_text(junit, junit_xml(checks, audit))
    for check in checks:
        (reporter.note if check.holds else reporter.warn)("required: " + check.line)
    if not all(check.holds for check in checks):
        raise typer.Exit(1)


def junit_xml(checks: Sequence[Checked], audit: Audit) -> str:
    """The checks as JUnit XML: one test suite, one test case for each condition."""
    failed = sum(not check.holds for check in checks)
    seconds = f"{sum(audit.timing.values()):.3f}"
    name = f"expunge audit: {audit.task}"
    root = ElementTree.Element("testsuites", tests=str(len(checks)), failures=str(failed), time=seconds)
    suite = ElementTree.SubElement(root, "testsuite", name=name, tests=str(len(checks)), failures=str(failed),
                                   errors="0", skipped="0", time=seconds)
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname="expunge.audit", name=check.requirement, time="0")
        if check.holds:
            ElementTree.SubElement(case, "system-out").text = check.found
        else:
            ElementTree.SubElement(case, "failure", type="requirement", message=check.found).text = check.line
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
