"""The four questions of a reader who does not know the project, answered at the top of a page."""

from __future__ import annotations

from expunge.records.score import Audit, Score, Verdict
from expunge.report.text import HEADLINES, HOLDERS

SHORT = {"forgets": "Yes, as far as it was tested.", "over-forgets": "Yes, but it went too far.",
         "suppresses": "No.", "retains": "No.", "ruined": "That cannot be said.", "undecided": "That is not settled."}
"""Outcome -> the answer to the first question."""
POWER = "The audit would "
"""How the finding on power begins (`judgement.power.worded_power`; a test compares)."""


def four_answers(audit: Audit) -> list[tuple[str, str]]:
    """(question, answer), in the order in which they are asked; none without a verdict."""
    verdict = audit.verdict
    if verdict is None:
        return []
    return [("Did it forget?", _found(verdict)), ("For whom?", _whom(audit, verdict)),
            ("How sure?", _sure(audit, verdict)), ("What was not tested?", _untested(verdict))]


def _found(verdict: Verdict) -> str:
    """Yes or no, and what the outcome means."""
    return f"{SHORT[verdict.outcome]} {HEADLINES[verdict.outcome][2]}"


def _whom(audit: Audit, verdict: Verdict) -> str:
    """Whom the rows are about, and what an attacker with each access gets."""
    by = "; ".join(f"{HOLDERS[t.access]}: {t.outcome}" for t in verdict.threats)
    said = [asked_about(audit.scores), f"Against an attacker {by}" if by else ""]
    return " ".join(f"{part}." for part in said if part) or "Not known."


def asked_about(scores: tuple[Score, ...]) -> str:
    """`100 forget rows about 10 entities`; empty where no score of the forget set was taken."""
    plain = [s for s in scores if s.attack is None and s.value is not None and s.name.startswith("forget.")]
    most = max(plain, key=lambda s: s.n, default=None)
    if most is None:
        return ""
    about = f" about {most.entities} entit{'y' if most.entities == 1 else 'ies'}" * (0 < most.entities < most.n)
    return f"{most.n} forget rows{about}"


def _sure(audit: Audit, verdict: Verdict) -> str:
    """What would be missed, beside how many controls, and what else weakens it."""
    counted = len(audit.retrained) - sum(check.problem is not None for check in audit.controls)
    said = [s for s in verdict.sentences if s.startswith(POWER)]
    said.append("It is compared with no retrained model." if counted == 0 else
                "One retrained model is the only control, so how much two of them differ is not known." if counted == 1
                else f"{counted} retrained models are the controls.")
    primary = [term for term in audit.primary if any(s.attack and s.excess is not None and s.attack in a.labels
                                                     for a in audit.attacks if a.term == term for s in audit.scores)]
    if primary:
        said.append(f"Were nothing left, one of the {len(primary)} attacks would succeed with a chance of 5 % at most."
                    if len(primary) > 1 else
                    "Were nothing left, the attack would succeed with a chance of 5 % at most.")
    if audit.notes:
        said.append("Read the alarms below first.")
    return " ".join(filter(None, said))


def _untested(verdict: Verdict) -> str:
    """Ways that nobody tried; what could not be run or taken stands in the list below."""
    ways = ", ".join(verdict.scope.untested)
    if not ways:
        return "What the list says." if verdict.not_tested else "Nothing is listed."
    return f"{ways[:1].upper()}{ways[1:]}."
