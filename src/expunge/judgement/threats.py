"""Deciding what the evidence supports against attackers with each kind of access. The words are in `threat_wording.py`.

An attacked score belongs to the access that attack and metric need together. `leaks.py` says when an attack
succeeded, corrected for the number of attacks; an attacker with more access may use what needs less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from expunge.judgement.directions import is_below
from expunge.judgement.entities import known_entity, revealed, suspected
from expunge.judgement.leaks import MIN_ROWS, alarms, compared, leaks, lowering, primary, untold
from expunge.judgement.outcome import Decision, hidden_inside, looks_inside, shown_alone
from expunge.judgement.power import misses_half
from expunge.needs import MODEL_NEEDS, NEED_TEXTS, ModelNeed, unmet
from expunge.records.score import ACCESS, Access, AttackRecord, Family, Score

ThreatOutcome = Literal["forgets", "suppresses", "retains", "over-forgets", "ruined", "undecided", "not tested"]
ThreatReason = Literal["alone", "attack", "inside", "nothing asked", "no attack", "no control", "lowered",
                       "entity", "alarm", "suspect", "untold", "no plain score", "no retrained model", "ruined",
                       "below", "few rows", "disagrees", "not primary", "share", "unsettled", "nothing found"]
"""Which rule decided."""
ROWWISE = ("entity", "leak share", "told apart")
"""Reasons for which the model left alone is not called forgetting although its averages look retrained. Averages of
answers hide the same, so no access may say "forgets"."""
INSIDE = "model internals: whether hidden states still hold it"
NOT_TRIED: dict[str, tuple[Access, tuple[Family, ...]]] = {
    "relearning: whether a little fine-tuning brings the knowledge back": ("weights", ("relearning",)),
    "quantisation: whether rounding the weights brings it back": ("weights", ("quantisation",)),
    "paraphrased prompts": ("text", ("prompt:paraphrase",)),
    "jailbreak prompts": ("text", ("prompt:jailbreak",)),
    "prompts that give related facts or the beginning of the answer": ("text", ("prompt:context",)),
    "many samples, or a search among continuations": ("text", ("decoding",)),
    "prompts searched with gradients": ("gradients", ("prompt:search",)),
    INSIDE: ("weights", ("internals", "steering")),
}
"""What every audit should say it did not try -> the access it needs, and the families of attacks that try it."""


@dataclass(frozen=True)
class ThreatDecision:
    """The outcome at one access, why, and the scores it rests on."""

    access: Access
    outcome: ThreatOutcome
    reason: ThreatReason
    attacked: tuple[Score, ...]
    """Scores under attacks of just this access."""
    found: tuple[Score, ...]
    """Attacks that succeeded, here or with less, strongest first."""
    evidence: tuple[Score, ...] = ()
    """Scores of the model left alone that lie above or below their control, or that raise an alarm under an attack, as
    the reason says."""
    plain_excess_tested: bool = False
    """Whether the model left alone was set against a retrained one at this access or with less."""
    rows: int = 0
    """Rows that the largest of these comparisons rests on."""

    @property
    def tested(self) -> tuple[str, ...]:
        """Labels of the attacks at this access."""
        return tuple(dict.fromkeys(s.attack for s in self.attacked if s.attack))

    @property
    def set_against(self) -> tuple[str, ...]:
        """Those of them that had a control."""
        return tuple(dict.fromkeys(s.attack for s in compared(self.attacked) if s.attack))


def decide_threats(scores: Sequence[Score], decision: Decision) -> tuple[ThreatDecision, ...]:
    """One per access, weakest first; none where no attack was asked for.

    Args:
        decision: the outcome of the same scores for all accesses together.
    """
    if not any(s.attack or looks_inside(s) for s in scores):
        return ()
    return tuple(_decide(access, scores, decision) for access in ACCESS)


def _decide(access: Access, scores: Sequence[Score], whole: Decision) -> ThreatDecision:
    overall, plain, why = whole.outcome, whole.alone.outcome, whole.alone.reason
    within = ACCESS[:ACCESS.index(access) + 1]
    alone = [s for s in scores if s.attack is None and s.value is not None and s.access in within]
    known = [s for s in alone if s.shows_knowledge]
    here = tuple(s for s in scores if s.attack and s.value is not None and s.shows_knowledge and s.access == access)
    found = tuple(s for s in leaks(scores) if s.access in within)
    above = tuple(s for s in shown_alone(scores) if s.access in within)
    inside = tuple(s for s in hidden_inside(scores) if s.access in within)
    raised = tuple(s for s in alarms(scores) if s.access in within)
    below = tuple(s for s in known if is_below(s))
    rows = max((s.n for s in known if s.controls.get("retrained") is not None), default=0)

    def decision(outcome: ThreatOutcome, reason: ThreatReason, evidence: tuple[Score, ...] = ()) -> ThreatDecision:
        return ThreatDecision(access, outcome, reason, here, found, evidence, rows >= MIN_ROWS, rows)

    if above:
        return decision(overall if overall in ("retains", "undecided", "ruined") else "retains", "alone", above)
    if found:
        return decision("suppresses", "attack")
    if inside:
        return decision("suppresses", "inside", inside)
    if shown := tuple(s for s in revealed(scores) if s.access in within):
        return decision("suppresses", "entity", shown)
    if raised:
        return decision("undecided", "alarm", raised)
    if suspects := tuple(s for s in suspected(scores) if s.access in within):
        return decision("undecided", "suspect", suspects)
    if not here:
        silent = all(s.access != access for s in alone)
        return decision("not tested", "nothing asked") if silent else decision("undecided", "no attack")
    if not compared(here):
        return decision("undecided", "lowered" if lowering(here) else "no control")
    if not known:
        return decision("undecided", "no plain score")
    if not primary(here):
        return decision("undecided", "not primary")
    if untold(here):
        return decision("undecided", "untold")
    if all(s.controls.get("retrained") is None for s in known):
        return decision("undecided", "no retrained model")
    if whole.ruined:
        return decision("ruined", "ruined", whole.ruined)
    if plain == "over-forgets" and below:
        return decision("over-forgets", "below", below)
    # Power is measured on the probabilities of all rows of forget quality: it says nothing of fewer, or of text.
    quality = whole.alone.quality
    measured = access != "text" and (quality is None or rows >= quality.n)
    if misses_half(rows, whole.power if measured else None):
        return decision("undecided", "few rows")
    if plain == "undecided" and why == "disagrees":
        return decision("undecided", "disagrees", whole.alone.evidence)
    entity = known_entity(scores)  # whatever decided
    if share := whole.alone.evidence if why in ROWWISE else (entity,) if entity else ():
        return decision("undecided", "share", share)
    if why in ROWWISE or (plain == "undecided" and (access != "text" or why == "few rows")):
        return decision("undecided", "unsettled")
    return decision("forgets", "nothing found")


def untried(scores: Sequence[Score], attacks: Sequence[AttackRecord], access: Access | None = None,
            offered: Iterable[ModelNeed] = MODEL_NEEDS) -> list[str]:
    """The families of attacks, and looks inside, that no score comes from.

    Args:
        offered: what the model offers; attacks that its kind has no use for are not missed.
    """
    run = {s.attack for s in scores if s.attack and s.value is not None}
    families = {family for a in attacks if run & set(a.labels) for family in a.families}
    looked = any(looks_inside(s) for s in scores if s.value is not None)
    return [what for what, (needed, kinds) in NOT_TRIED.items()
            if access in (None, needed) and not families & set(kinds) and not (looked and what == INSIDE)
            and not all(unmet(family_needs(kind), offered) for kind in kinds)]


def family_needs(family: Family) -> tuple[ModelNeed, ...]:
    """What a model must offer for attacks of this family to make sense."""
    return ("prompt",) if family.startswith("prompt:") else ("generate",) if family == "decoding" else ()


def unscored(scores: Sequence[Score], attacks: Sequence[AttackRecord]) -> list[str]:
    """Attacks that were not run, and metrics that could not be taken under those that were, with the reason.

    What a model of this kind has no use for is left out.
    """
    run = {s.attack for s in scores if s.attack and s.value is not None}
    lacking: dict[tuple[str, str], set[str]] = {}
    for s in scores:
        if s.attack in run and s.attack and s.unavailable is not None and applies(s):
            lacking.setdefault((s.name, s.unavailable), set()).add(s.attack)
    return [*folded(refused(scores, attacks)),
            *(f"{name} under {next(iter(of)) if len(of) == 1 else f'{len(of)} attacks'}: {why}"
              for (name, why), of in lacking.items())]


def refused(scores: Sequence[Score], attacks: Sequence[AttackRecord],
             access: Access | None = None) -> list[tuple[str, str]]:
    """(attack, why it gave no score at all), each attack once."""
    run = {s.attack for s in scores if s.attack and s.value is not None}
    needed = {label: a.access for a in attacks for label in a.labels}
    why: dict[str, str] = {}
    for s in scores:
        if s.attack and s.attack not in run and access in (None, needed.get(s.attack, s.access)) and applies(s):
            why.setdefault(term_of(s.attack, attacks), s.unavailable or "no reason was recorded")
    return list(why.items())


def folded(reasons: Sequence[tuple[str, str]]) -> list[str]:
    """`name: why`, and one line for several names with one reason."""
    return [f"{of[0]}: {why}" if len(of) == 1 else f"{len(of)} attacks ({', '.join(of)}): {why}"
            for why, of in by_reason(reasons).items()]


def by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Reason -> the names that have it, of (name, reason)."""
    found: dict[str, list[str]] = {}
    for what, why in reasons:
        found.setdefault(why, []).append(what)
    return found


FOREIGN = tuple(f"it {NEED_TEXTS[need].why}" for need in ("generate", "sequence", "prompt", "hidden", "image"))
"""Reasons that lie in the kind of the model: such a score is not missed."""


def applies(score: Score) -> bool:
    """Whether a model of this kind could have had the score at all."""
    return score.unavailable not in FOREIGN


def term_of(label: str, attacks: Sequence[AttackRecord]) -> str:
    """The attack a label belongs to: points of one curve are one attack."""
    return next((a.term for a in attacks if label in a.labels), label)
