"""Whether what `--require` asks for can be had at all, before an audit spends its hours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from expunge.attacks.base import AttackContext
from expunge.audit.attacks import NO_CONTROL, cannot_run, refusals
from expunge.audit.suite import Suite
from expunge.errors import UsageError
from expunge.judgement.entities import LEAK
from expunge.judgement.power import HALF, least_share, rows_for
from expunge.metrics.base import Metric
from expunge.metrics.evaluate import parse_metric
from expunge.needs import NEED_TEXTS, AuditNeed, ModelNeed, RowNeed, unmet
from expunge.records import durability
from expunge.records.requirement import Requirement, no_attack, no_score, parse_requirement
from expunge.records.score import ACCESS, Access
from expunge.records.task import Split, Task


@dataclass(frozen=True)
class Offer:
    """What an audit has to work with."""

    task: Task
    original: bool
    retrained: bool
    model: frozenset[ModelNeed]
    """What the subject offers of what plug-ins may need."""

    @property
    def controlled(self) -> bool:
        """Whether attacks have something to be compared with."""
        return self.retrained or bool(self.task.probe_rows("holdout"))


def with_named(suite: Suite, conditions: Sequence[str]) -> Suite:
    """The suite, in which attacks that a condition speaks of are asked for by name."""
    spoken = [asked for asked in map(parse_requirement, conditions) if asked.attack is not None]
    named = {a.text() for a in suite.attacks for asked in spoken if any(asked.means(la, a.text()) for la in a.labels)}
    return replace(suite, named=suite.named | named)


def check_conditions(conditions: Sequence[str], suite: Suite, offer: Offer) -> None:
    """Every condition can be read, and the audit will have what it names.

    Raises:
        UsageError: the first condition of which that is not so, and why.
    """
    for asked in map(parse_requirement, conditions):
        if asked.of_verdict:
            _check_access(asked, suite, offer)
            if (asked.sign, asked.bound) == ("=", "forgets"):
                _check_forgets(asked, suite, offer)
        elif asked.of_durability:
            _check_durable(asked, suite, offer)
        elif asked.attack is None:
            plain = {metric.label(split): (metric, split) for metric, split in map(parse_metric, suite.metrics)}
            if asked.name not in plain:
                raise no_score(asked, plain)
            _refuse(asked, _lacking(*plain[asked.name], offer))
        else:
            _check_attacked(asked, asked.attack, suite, offer)


def _check_access(asked: Requirement, suite: Suite, offer: Offer) -> None:
    """A verdict by access rests on attacks and on looks inside."""
    if asked.access is None:
        return
    refused = refusals(suite, AttackContext.of(offer.task), original=offer.original, retrained=offer.retrained,
                       offered=offer.model)
    read = {metric.card.access for metric, _ in map(parse_metric, suite.metrics)}
    # What is read off the inside of a model decides nothing without a retrained one beside it.
    here = {access for access in read if offer.retrained or access not in ACCESS[2:]} | {
        attack.access for attack in suite.attacks if attack.text() not in refused}
    if asked.access not in here and NO_CONTROL in refused.values():
        _refuse(asked, f"the attacks that {asked.access} allows are left out, since there is no control, neither a "
                       "retrained model nor holdout rows")
    within = ACCESS[:ACCESS.index(_access(asked.access)) + 1]
    looks: Iterable[Access] = [*(attack.access for attack in suite.attacks),
                               *(metric.card.access for metric, _ in map(parse_metric, suite.metrics)
                                 if metric.card.access in ACCESS[2:])]
    if not any(access in within for access in looks):
        _refuse(asked, f"the audit runs no attack that {asked.access} allows")


def _check_forgets(asked: Requirement, suite: Suite, offer: Offer) -> None:
    """What a verdict "forgets" cannot do without, by the rules of `judgement`."""
    if not offer.retrained:
        return _refuse(asked, "only a comparison with a retrained model can show that nothing is left")
    taken = {metric.card.name for metric, split in map(parse_metric, suite.metrics)
             if not _lacking(metric, split, offer)}
    shared = LEAK in taken and offer.original  # of rows without wrong answers, where power can be measured
    if asked.access != "text" and "forget_quality" not in taken and not shared:
        _refuse(asked, "the audit does not take forget_quality, which it rests on (of rows without wrong answers, "
                       "leak_share and an original)")
    rows = len(offer.task.probe_rows("forget"))
    measured = offer.original and asked.access != "text"
    if not measured and least_share(rows) > HALF:
        _refuse(asked, f"{rows} forget rows are too few, since a model that still knows half of them would not be "
                       f"noticed; it takes {rows_for(HALF)}")
    context, where = AttackContext.of(offer.task), f" by {asked.access}" if asked.access else ""
    able = [a for a in suite.attacks if not a.uses_original
            and cannot_run(a, context, offer.original, offer.model) is None]
    levels = [max(attack.access, metric.card.access, key=ACCESS.index) for attack in able
              for metric, split in map(parse_metric, attack.asks)
              if split == "forget" and metric.card.higher_is == "knows" and not _lacking(metric, split, offer)]
    if not any(asked.access in (None, level) for level in levels):
        _refuse(asked, f"the audit runs no attack{where} that could show otherwise")


def _check_durable(asked: Requirement, suite: Suite, offer: Offer) -> None:
    """The certificate needs both probabilities, and a rounding of the weights that asks for them."""
    plain = {metric.label(split) for metric, split in map(parse_metric, suite.metrics)}
    lacking = [name for name in (durability.FORGET, durability.RETAIN) if name not in plain]
    _refuse(asked, f"the audit does not take {' and '.join(lacking)}" if lacking else "")
    context = AttackContext.of(offer.task)
    able = [a for a in suite.attacks if any(map(durability.rounds, a.labels))
            and cannot_run(a, context, offer.original, offer.model) is None]
    _refuse(asked, "" if able else f"the audit runs no {durability.ROUNDING}, which rounds the weights")


def _access(word: str) -> Access:
    return next(access for access in ACCESS if access == word)


def _check_attacked(asked: Requirement, name: str, suite: Suite, offer: Offer) -> None:
    attacks = suite.attacks
    meant = [a for a in attacks if any(asked.means(label, a.text()) for label in a.labels)]
    if not meant:
        raise no_attack(asked, [label for a in attacks for label in a.labels])
    known = {metric.label(split) for a in meant for metric, split in map(parse_metric, a.asks)}
    known |= {LEAK} & {*suite.metrics} if any("forget.probability" in a.asks for a in meant) else set()
    if asked.name not in known:
        raise no_score(asked, known)
    context = AttackContext.of(offer.task)
    for attack in meant:
        why = cannot_run(attack, context, offer.original, offer.model)
        _refuse(asked, f"{attack.text()} cannot run: {why}" if why else "")
    if asked.figure in ("excess", "gain") and not offer.controlled:
        _refuse(asked, f"{name} has no control: there is neither a retrained model nor holdout rows")
    if asked.figure == "recovered" and not offer.original:
        _refuse(asked, "there is no original model to compare with")


def _lacking(metric: Metric, split: Split | None, offer: Offer) -> str:
    """Why a score of the model left alone cannot be taken; empty when it can, as far as that is known."""
    if lacking := unmet(metric.model_needs, offer.model):
        return f"it {NEED_TEXTS[lacking[0]].why}"
    task, card = offer.task, metric.card
    there: dict[RowNeed | AuditNeed, bool] = {
        "retrained": offer.retrained, "original": offer.original, "holdout": bool(task.probe_rows("holdout")),
        "retain": bool(task.probe_rows("retain"))}
    for need, found in there.items():
        if not found and (need in metric.needs or (need == "holdout" and card.name.startswith("mia."))):
            return f"it {NEED_TEXTS[need].why}"
    return "" if split is None or offer.task.probe_rows(split) else f"the task has no {split} rows"


def _refuse(asked: Requirement, why: str) -> None:
    if why:
        raise UsageError(f"--require {asked.text!r} cannot be had: {why}.", "Nothing was run.",
                         "Give what it lacks, or require something else.")
