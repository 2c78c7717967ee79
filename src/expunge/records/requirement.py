"""What `--require` takes: conditions on the verdict and the scores of an audit, and whether they hold.

    verdict=forgets                          the outcome
    verdict.weights!=retains                 the outcome against someone with that access
    forget.keyword<=0.05                     a score of the model left alone
    forget.keyword@relearn<=0.2              the same under every attack of that name (@* under every attack)
    forget.keyword@relearn.excess<=0.05      beyond the control under the same attack
    leak_share.worst<=0.2                    the share of the worst entity (leak_share@relearn.worst under attack)
    durability<=0.05                         forget.probability, as it is and under every rounding of the weights

A condition on the verdict fails where the model's answers are no language any more, whatever the verdict is: word salad
says nothing about forgetting. `verdict!=retains even if broken` holds all the same.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, cast

from expunge.errors import UsageError, did_you_mean
from expunge.records import durability
from expunge.records.base import Record

if TYPE_CHECKING:
    from expunge.records.score import Audit, Score

Sign = Literal[">=", "<=", ">", "<", "=", "!="]
FIGURES = ("excess", "gain", "recovered", "before")
"""What of a score under attack may be named after it; its value where nothing is."""
WORST = "worst"
"""The share of the worst entity, of a score left alone or under attack."""
OUTCOMES = ("forgets", "suppresses", "over-forgets", "ruined", "retains", "undecided")
"""Words of a verdict; what was not tested has none."""
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
WAIVED = "even if broken"
"""Ends a condition on the verdict that need not fail because answers are no language."""
TURNED = {"=>": ">=", "=<": "<=", "=!": "!=", "<>": "!=", "≥": ">=", "≤": "<=", "≠": "!="}
"""Signs of other languages -> ours."""
WRITE = ('Write "forget_quality>=0.05", "verdict=forgets", "verdict.weights!=retains" or '
         '"forget.keyword@relearn.excess<=0.05".')


class Requirement(Record):
    """One condition, read."""

    text: str
    name: str
    """The score, or `verdict`."""
    sign: Sign
    bound: float | str
    """A number, or an outcome."""
    attack: str | None = None
    """An attack by name, term or label; * for each of them."""
    figure: str = "value"
    access: str | None = None
    waived: bool = False
    """Of a verdict: it may hold of a model whose answers are no language."""

    @property
    def of_verdict(self) -> bool:
        return self.name == "verdict"

    @property
    def of_durability(self) -> bool:
        """Whether it asks for the certificate of DurableUn, which an audit has no score for."""
        return self.name == durability.NAME and self.attack is None and self.figure == "value"

    def means(self, label: str, term: str = "") -> bool:
        """Whether an attack of this label (and term) is the one that is named."""
        return self.attack == "*" or self.attack in (label, term, _name(label))


class Checked(Record):
    """Whether one condition holds, and what was found."""

    requirement: str
    holds: bool
    found: str
    """A sentence without its full stop, such as `forget.keyword is 0.03`."""

    @property
    def line(self) -> str:
        return f"{self.requirement} {'holds' if self.holds else 'fails'}: {self.found}"


def parse_requirement(text: str) -> Requirement:
    """A condition as typed.

    Raises:
        UsageError: it cannot be read; an access, outcome or figure that there is not.
    """
    for typed, meant in TURNED.items():
        if typed in text:
            raise UsageError(f"{text!r} is not a condition.", fix=f'Write "{text.replace(typed, meant).strip()}".')
    match = re.fullmatch(rf"\s*(.+?)\s*(>=|<=|!=|==|=|>|<)\s*({NUMBER}|[A-Za-z][a-z -]*)\s*", text)
    if not match:
        raise UsageError(f"{text!r} is not a condition.", fix=WRITE)
    left, sign, right = match[1], match[2].replace("==", "="), match[3].strip()
    verdict = re.fullmatch(r"verdict(?:\.(.+))?", left)
    word = right[0].isalpha()
    if (verdict is None) == word or (sign in COMPARE) == word:
        raise UsageError(f"{text!r} is not a condition.",
                         "A verdict is one of some words (=, !=), a score is a number (>=, <=, >, <).", WRITE)
    if verdict is not None:
        return _of_verdict(text, verdict[1], cast(Sign, sign), right)
    name, at, rest = left.partition("@")
    attack, figure = rest, "value"
    if not at and name.endswith(f".{WORST}"):
        name, figure = name.removesuffix(f".{WORST}"), WORST
    for known in (*FIGURES, WORST):
        if rest.endswith("." + known):
            attack, figure = rest.removesuffix("." + known), known
        if not at and name.endswith("." + known):
            raise UsageError(f"{text!r}: there is {known} only under an attack.",
                             fix=f'Name it, such as "{name.removesuffix("." + known)}@relearn.{known}{sign}{right}".')
    wrong = re.search(r"\.([a-z_]+)$", attack)
    if at and (not attack or wrong):
        raise UsageError(f"{text!r} is not a condition.",
                         did_you_mean(wrong[1], (*FIGURES, WORST)) if wrong else "No attack stands after the @.", WRITE)
    return Requirement(text=text, name=name.strip(), sign=cast(Sign, sign), bound=float(right),
                       attack=attack.strip() if at else None, figure=figure)


def _of_verdict(text: str, access: str | None, sign: Sign, word: str) -> Requirement:
    from expunge.records.score import ACCESS

    waived = bool(re.search(rf"\s{WAIVED}$", word))
    word = word.removesuffix(WAIVED).strip() if waived else word
    if word not in OUTCOMES:
        raise UsageError(f"{text!r}: there is no verdict {word!r}.", did_you_mean(word, OUTCOMES))
    if access is not None and access not in ACCESS:
        raise UsageError(f"{text!r}: there is no access {access!r}.", did_you_mean(access, ACCESS))
    return Requirement(text=text, name="verdict", sign=sign, bound=word, access=access, waived=waived)


def check(audit: Audit, conditions: Sequence[str]) -> tuple[Checked, ...]:
    """Whether each condition holds of a finished audit.

    A score or a verdict that the audit could not take fails its condition, with the reason.

    Raises:
        UsageError: a condition that cannot be read, or names a score or an attack that the audit does not have.
    """
    return tuple(_check(audit, parse_requirement(text)) for text in conditions)


def _check(audit: Audit, asked: Requirement) -> Checked:
    if asked.of_verdict:
        return _check_verdict(audit, asked)
    if asked.of_durability:
        found = durability.durability(audit.scores)
        holds = found.value is not None and COMPARE[asked.sign](found.value, float(asked.bound))
        return _made(asked, holds, found.said)
    scores = named(audit, asked)
    missing = next((s for s in scores if s.value is None), None)
    if missing is not None:
        return _made(asked, False, f"{_called(missing)} is not available: {missing.unavailable}")
    values = [(_figure(s, asked.figure), s) for s in scores]
    lacking = next((s for value, s in values if value is None), None)
    if lacking is not None:
        why = lacking.uncontrolled or ("no entity has rows enough" if asked.figure == WORST else
                                       "there is nothing to compare it with")
        return _made(asked, False, f"{_called(lacking)} has no {asked.figure}: {why}")
    pick = max if asked.sign in ("<=", "<") else min
    value, worst = pick(((float(value), s) for value, s in values if value is not None), key=lambda pair: pair[0])
    holds = COMPARE[asked.sign](value, float(asked.bound))
    what = _called(worst) if asked.figure == "value" else f"the {asked.figure} of {_called(worst)}"
    said = f"{what} is {value:.4g}" + ("" if holds else f", which is not {asked.sign} {float(asked.bound):g}")
    return _made(asked, holds, said + (f" (the worst of {len(scores)})" if len(scores) > 1 else ""))


def _figure(score: Score, figure: str) -> float | None:
    if figure == WORST:
        return None if score.worst is None else score.worst.share
    found: float | None = getattr(score, figure)
    return found


def named(audit: Audit, asked: Requirement) -> list[Score]:
    """The scores that a condition speaks of: one, or one for each attack and strength."""
    if asked.attack is None:
        names = {s.name for s in audit.scores if s.attack is None}
        if asked.name not in names:
            raise no_score(asked, names)
        return [s for s in audit.scores if s.attack is None and s.name == asked.name]
    terms = {label: record.term for record in audit.attacks for label in record.labels}
    under = [s for s in audit.scores if s.attack is not None and asked.means(s.attack, terms.get(s.attack, ""))]
    if not under:
        raise no_attack(asked, {s.attack for s in audit.scores if s.attack})
    found = [s for s in under if s.name == asked.name]
    if not found:
        raise no_score(asked, {s.name for s in under})
    return found


def no_score(asked: Requirement, known: Iterable[str]) -> UsageError:
    """A score that is not asked, or not asked under that attack."""
    where = f" under {asked.attack}" if asked.attack and asked.attack != "*" else ""
    return UsageError(f"There is no score called {asked.name!r}{where} to require.", did_you_mean(asked.name, known),
                      "Name it in --suite, or require another." if not where else "Require another.")


def no_attack(asked: Requirement, labels: Iterable[str]) -> UsageError:
    """An attack that the audit does not run."""
    known = list(labels)
    return UsageError(f"The audit runs no attack called {asked.attack!r} to require something of.",
                      did_you_mean(str(asked.attack), {*known, *map(_name, known)}) if known else
                      "It runs no attack at all.", f"Name it in --suite, such as --suite scores,{asked.attack}.")


def _check_verdict(audit: Audit, asked: Requirement) -> Checked:
    found, what = audit.verdict, "the verdict"
    said: str = found.outcome if found else ""
    if asked.access is not None:
        threat = next((t for t in found.threats if t.access == asked.access), None) if found else None
        said = threat.outcome if threat else ""
        what = f"the verdict by {asked.access}"
    if said not in OUTCOMES:  # also for !=: what was not tested holds of nothing
        return _made(asked, False, f"{what} is missing: nothing was tested at that access" if asked.access else
                     "the audit has no verdict")
    holds = (said == asked.bound) == (asked.sign == "=")
    if audit.broken and not asked.waived:
        why = audit.broken[0].partition(". ")[0]
        return _made(asked, False, f'{what} is {said}, but the model is broken. {why}. To let that pass, require '
                                   f'"{asked.text} {WAIVED}"')
    return _made(asked, holds, f"{what} is {said}")


def _made(asked: Requirement, holds: bool, found: str) -> Checked:
    return Checked(requirement=asked.text, holds=holds, found=found)


def _called(score: Score) -> str:
    return score.name + (f" under {score.attack}" if score.attack else "")


def _name(label: str) -> str:
    """`relearn` of `relearn(steps=16)`; the whole label of a sum."""
    return label if "+" in label else label.partition("(")[0].strip()
