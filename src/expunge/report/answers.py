"""The four questions of a reader who does not know the project, answered at the top of a page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from expunge.records.score import Audit, Score, Verdict
from expunge.report.text import HOLDERS, meaning

SHORT = {"forgets": "Yes, as far as it was tested.", "over-forgets": "Yes, but it went too far.",
         "suppresses": "No.", "retains": "No.", "ruined": "That cannot be said.", "undecided": "That is not settled."}
"""Outcome -> the answer to the first question."""
FOUND = ("retains", "suppresses")
"""Outcomes that rest on something found, which is told with them. What would have been missed matters to the others."""
POWER = "The audit would "
"""How the finding on power begins (`judgement.power.worded_power`; a test compares)."""
QUALITY = "Forget quality is "
"""That on the published number."""
LESS = "It says less than a model that never saw the forget set; "
"""That on a model that over-forgets and was not attacked."""
ROWS = "Tested by rows, "
"""That on attacks that speak of rows alone."""
SETTLES = "What would settle it: "


def four_answers(audit: Audit) -> list[tuple[str, str]]:
    """(question, answer), in the order in which they are asked; none without a verdict."""
    verdict = audit.verdict
    if verdict is None:
        return []
    return [("Did it forget?", _found(audit, verdict)), ("For whom?", _whom(audit, verdict)),
            ("How sure?", _sure(audit, verdict)), ("What was not tested?", _untested(verdict))]


def _found(audit: Audit, verdict: Verdict) -> str:
    """Yes or no, and what the outcome means; of an undecided one the reason, and what would settle it."""
    if verdict.sentences and verdict.sentences[0].startswith(LESS):
        return verdict.sentences[0]
    before = takewhile(lambda said: not said.startswith(SETTLES), verdict.sentences)
    reason = next((said for said in before if not said.startswith((POWER, QUALITY))), "")
    if verdict.outcome != "undecided":
        shown = reason if verdict.outcome in FOUND else ""
        return " ".join(filter(None, (SHORT[verdict.outcome], meaning(verdict, audit.scores), shown)))
    settled = next((said for said in verdict.sentences if said.startswith(SETTLES)), "")
    return " ".join(filter(None, (SHORT["undecided"], reason, settled)))


def _whom(audit: Audit, verdict: Verdict) -> str:
    """Whom the rows are about, and what an attacker with each access gets."""
    by = "; ".join(f"{HOLDERS[t.access]}: {t.outcome}" for t in verdict.threats)
    said = [asked_about(audit.scores), f"Against an attacker {by}" if by else ""]
    return " ".join(f"{part}." for part in said if part) or "Not known."


def asked_about(scores: Sequence[Score]) -> str:
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
    said = [s for s in verdict.sentences if s.startswith(POWER) and verdict.outcome not in FOUND]
    primary = [term for term in audit.primary if any(s.attack and s.excess is not None and s.attack in a.labels
                                                     for a in audit.attacks if a.term == term for s in audit.scores)]
    if counted == 0:
        said.append("It is compared with no retrained model.")
    elif counted == 1:
        said.append("One retrained model is the only control, so how much two of them differ is not known.")
        said += ["So it does not hold that a model in which nothing is left is accused with a chance of 5 % at most."
                 ] * bool(primary)
    else:
        said.append(f"{counted} retrained models are the controls.")
        said += ["If nothing were left, an attack would succeed all the same with a chance of 5 % at most, all attacks "
                 "together."] * bool(primary)
    if any(s.startswith(ROWS) for s in verdict.sentences):
        said.append("Some attacks asked about too few entities: of them, the result holds for these rows only.")
    if audit.notes:
        said.append("Read the alarms below first.")
    return " ".join(filter(None, said))


def _untested(verdict: Verdict) -> str:
    """Ways that nobody tried; what could not be run or taken stands in the list below."""
    ways = ", ".join(verdict.scope.untested)
    if not ways:
        count = len(verdict.not_tested)
        lacking = f" {count} of the scores and attacks could not be taken." * bool(count)
        return f"No way that the audit knows was left out.{lacking}"
    return f"{ways[:1].upper()}{ways[1:]}."
