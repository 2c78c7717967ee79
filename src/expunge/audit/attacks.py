"""Running attacks: on the subject and on its controls alike, each finished part filed before the next begins."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from expunge.attacks.base import Attack, AttackContext, View, parse_attack
from expunge.audit.cache import ObservationCache
from expunge.audit.store import ObservationStore, read_store
from expunge.audit.suite import Suite
from expunge.errors import ExpungeError, InterruptedRun, first_line
from expunge.judgement.leaks import MIN_ROWS
from expunge.metrics.attacked import AttackComparison, AttackEvidence, compare_attacked, with_tests
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import available, parse_metric, required, with_alternatives
from expunge.models.subject import Subject
from expunge.needs import NEED_TEXTS, ModelNeed, unmet
from expunge.probes.base import Probe
from expunge.progress import Announce
from expunge.records.base import fingerprint, read_json, write_json
from expunge.records.observation import Observations, Row
from expunge.records.score import AttackRecord, Score
from expunge.records.task import Example, Split, Task
from expunge.registry import load

ProbeSplit = tuple[str, Split]


@dataclass(frozen=True)
class AttackResult:
    """What came of an attack on one subject: observations by label, or why there are none."""

    found: dict[str, Observations]
    why: str | None = None
    failed: bool = False
    """Whether it was begun and raised an error."""


def folder_of(role: Path, label: str, split: Split) -> Path:
    """Where the observations of one label lie; readable, and unique by the hash of the label."""
    short = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60]
    side = "" if split == "forget" else f"-{split}"
    return role / "attacks" / f"{short}{side}-{fingerprint(label)[:6]}"


def cannot_run(attack: Attack, context: AttackContext, has_original: bool, offered: Iterable[ModelNeed]) -> str | None:
    """Why an attack cannot be run in this audit, before anything is loaded.

    Args:
        offered: what the subject offers of what plug-ins may need.
    """
    for need in unmet(attack.model_needs, offered)[:1]:
        return f"it {NEED_TEXTS[need].why}"
    if "original" in attack.needs and not has_original:
        return "it needs the original model (--original)"
    entities = {row.entity or row.id for row in context.task.probe_rows(context.split)}
    if attack.splits_entities and len(entities) == 1:
        return (f"it learns from half of the entities and is tested on the others, and all {context.split} rows are "
                "about one entity")
    return attack.problem(context)


NO_CONTROL = ("there is no control, without which an attack shows nothing; give rows that the model never saw "
              "(--holdout) or a retrained model (--retrained)")


def refusals(suite: Suite, context: AttackContext, *, original: bool, retrained: bool,
             offered: Iterable[ModelNeed]) -> dict[str, str]:
    """Text of each attack of the suite that is not run -> why.

    An attack without a control proves nothing, so those that only a named suite asks for are left out where there is
    neither a retrained model, nor holdout rows, nor the original, beside which their figures would at least say
    something.
    """
    idle = not (original or retrained or context.task.probe_rows("holdout"))
    found = {a.text(): cannot_run(a, context, original, offered) or (
        NO_CONTROL if idle and a.text() not in suite.named else None) for a in suite.attacks}
    return {text: why for text, why in found.items() if why is not None}


def too_few(attack: Attack, context: AttackContext) -> str | None:
    """What to say of an attack that is left with too few rows to count."""
    rows = context.task.probe_rows(context.split)
    tested = len(context.tested(context.split) if attack.splits_entities else rows)
    if not 0 < tested < MIN_ROWS:
        return None
    return (f"it is tested on {tested} of {len(rows)} {context.split} rows{', ' * (tested < len(rows))}"
            f"{'as it learns from the others' * (tested < len(rows))}, and fewer than {MIN_ROWS} do not count; "
            f"{-(-MIN_ROWS * len(rows) // tested)} rows would do")


def observe_attack(attack: Attack, subject: Subject, context: AttackContext, folder: Path, *, announce: Announce,
                   cache: ObservationCache, original: str, title: str) -> AttackResult:
    """Rows at every strength, asked for unless they are known.

    Args:
        folder: the role's own; each label has a folder below it.
        original: `model_key` of the original, for the key of attacks that use it.
    """
    task, split = context.task, context.split
    if (why := attack.problem(context)) is not None:
        return AttackResult({}, why)
    metrics = available(attack.asks, subject.offered)
    pairs = _here(required(metrics), task, split)
    alternatives = with_alternatives(metrics)
    probes = {(name, of): probe_for(name, of in alternatives or (of != "forget" and "forget" in alternatives))
              for name, of in pairs}
    stores = {label: ObservationStore(folder_of(folder, label, split), cache, {"attack": label, "split": split})
               for label in attack.labels}

    def key(label: str, pair: ProbeSplit) -> str:
        asked = cache.key(subject, probes[pair], task.probe_rows(pair[1]), task)
        origin = original if "original" in attack.needs else ""
        return fingerprint([asked, task.fingerprint, label, parse_attack(label).identity, split, context.seed, origin])

    known = {(label, pair): stores[label].get(*pair, key(label, pair)) for label in attack.labels for pair in pairs}
    if all(rows is not None for rows in known.values()):
        return _gathered(known)
    fresh: dict[tuple[str, ProbeSplit], list[Row]] = {(label, pair): [] for label in attack.labels for pair in pairs}
    before: dict[tuple[ProbeSplit, Example], list[Row]] = {}

    def ask(view: View) -> None:
        # A row that an attempt leaves as it was, such as running text, was answered in the attempt before.
        same = attack.asks_only and view.subject is subject
        found: dict[ProbeSplit, list[Row]] = {}
        for pair in pairs:
            probe, rows = probes[pair], list(view.rows(pair[1]))
            new = [row for row in rows if not same or (pair, row) not in before]
            view.subject.check_room(new, 0)
            tick = announce(f"{title} {pair[0]} {pair[1]}", probe.count(new))
            more: dict[str, Any] = {"reused": found.get((probe.reuses, pair[1]), ())} if probe.reuses else {}
            answers: dict[str, list[Row]] = {}
            for answer in probe.observe(view.subject, new, task, tick, **more) if new else ():
                answers.setdefault(answer["id"], []).append(answer)
            asked = {row.id for row in new}
            found[pair] = [answer for row in rows
                           for answer in (answers.get(row.id, []) if row.id in asked else before[pair, row])]
            if same:
                before.update({(pair, row): answers.get(row.id, []) for row in new})
            fresh[view.label, pair] += [{**answer, "attempt": view.attempt} for answer in found[pair]]

    try:
        attack.run(subject, context, ask)
    except InterruptedRun as stopped:  # the training inside an attack keeps nothing, the audit does
        raise InterruptedRun(stopped.what, "The finished parts of the audit are kept.",
                             "Go on with --resume.") from None
    except Exception as problem:  # of torch or a plug-in too: one attack is no reason to lose the others
        why = problem.what.rstrip(".") if isinstance(problem, ExpungeError) else f"it failed: {first_line(problem)}"
        for label in attack.labels:
            stores[label].clear(())
            write_json(folder_of(folder, label, split) / FAILED, {"attack": label, "why": why})
        return AttackResult({}, why, failed=True)
    for label in attack.labels:
        (folder_of(folder, label, split) / FAILED).unlink(missing_ok=True)
    for (label, pair), rows in fresh.items():
        if known[label, pair] is None:
            known[label, pair] = stores[label].put(*pair, key(label, pair), rows)
    return _gathered(known)


FAILED = "failed.json"


def read_attempted(attack: Attack, folder: Path, split: Split) -> AttackResult:
    """The same from disk alone."""
    found = {label: read_store(folder_of(folder, label, split)) for label in attack.labels}
    failed = [folder_of(folder, label, split) / FAILED for label in attack.labels]
    why = next((str(read_json(p)["why"]) for p in failed if p.exists()), None)
    return AttackResult({k: v for k, v in found.items() if v is not None and v.keys()}, why, why is not None)


def score_attacks(attacks: Iterable[Attack], attempted: Callable[[Attack, str, Split], AttackResult],
                  plain: Evidence, roles: Sequence[str], unavailable: Callable[[Attack], str | None], *,
                  resamples: int, seed: int, primary: Collection[str] | None = None) -> tuple[Score, ...]:
    """Scores of every attack at every strength, from observations only.

    Args:
        attempted: (attack, role, split) -> what came of it.
        roles: subject, original and retrained models, as in the audit.
        unavailable: why an attack was not run at all.
        primary: terms of the attacks that are corrected together; None = all.
    """
    found: list[AttackComparison] = []
    for attack in attacks:
        why = unavailable(attack)
        mine = attempted(attack, "subject", "forget") if why is None else AttackResult({}, why)
        controls = [attempted(attack, r, "forget") for r in roles if r.startswith("retrained")] if why is None else []
        on_holdout = attempted(attack, "subject", "holdout") if why is None and not controls else AttackResult({})
        known = attempted(attack, "original", "forget") if why is None and attack.asks_only else AttackResult({})
        for label in attack.labels:
            if label not in mine.found:
                found += [AttackComparison(_missing(term, label, mine.why or "it was not observed"))
                          for term in attack.asks]
                continue
            answered = [i for i, t in enumerate(controls) if label in t.found]
            under = replace(plain, subject=mine.found[label], original=None,
                            retrained=tuple(controls[i].found[label] for i in answered))
            alone = replace(plain, retrained=tuple(plain.retrained[i] for i in answered))
            case = AttackEvidence(label, attack.access, under, alone, not attack.uses_original,
                                  on_holdout.found.get(label),
                                  known.found.get(label),
                                  next((t.why for t in (*controls, on_holdout) if t.why), None))
            found += [compare_attacked(term, case, resamples=resamples, seed=seed) for term in attack.asks]
    # One point may lie on two curves; it is one comparison.
    once = tuple({(c.score.name, c.score.attack): c for c in found}.values())
    first = None if primary is None else {label for a in attacks if a.text() in primary for label in a.labels}
    return with_tests(once, first, seed=seed)


def describe(attack: Attack, result: AttackResult, context: AttackContext | None = None,
             asked_as: Mapping[str, int] | None = None) -> AttackRecord:
    """What a reader of the audit should know of an attack, and of what came of it on the subject.

    Args:
        context: of the attack, from which it is counted how rows were asked.
        asked_as: the same as counted before, where the task is not at hand.
    """
    if context is not None:
        asked = set[str]().union(*(seen.ids() for seen in result.found.values()))
        asked_as = attack.asked_as(context, asked) if asked else {}
    return AttackRecord(term=attack.text(), labels=attack.labels, access=attack.access, families=attack.families,
                        splits_entities=attack.splits_entities, summary="; ".join(c.summary for c in attack.cards),
                        caution=" ".join(c.caution for c in attack.cards if c.caution), asked_as=dict(asked_as or {}),
                        failed=result.why if result.failed else None)


def probe_for(name: str, alternatives: bool = True) -> Probe:
    """A probe with its defaults; without `alternatives` only the plain answers are scored."""
    options: dict[str, Any] = {} if alternatives or name != "likelihood" else {"alternatives": False}
    return cast(Probe, load(name, "probe")(**options))


def _here(pairs: Iterable[ProbeSplit], task: Task, split: Split) -> list[ProbeSplit]:
    """What to ask: as named, or on the control's side the attacked split in place of forget and nothing else."""
    if split != "forget":
        pairs = {(probe, split) for probe, of in pairs if of == "forget"}
    # What another probe saves work comes after it.
    return sorted((pair for pair in pairs if task.probe_rows(pair[1])), key=lambda pair: (bool(
        probe_for(pair[0]).reuses), pair))


def _gathered(rows: dict[tuple[str, ProbeSplit], tuple[Row, ...] | None]) -> AttackResult:
    found: dict[str, dict[ProbeSplit, tuple[Row, ...]]] = {}
    for (label, pair), known in rows.items():
        found.setdefault(label, {})[pair] = known or ()
    return AttackResult({label: Observations(parts) for label, parts in found.items()})


def _missing(term: str, label: str, why: str) -> Score:
    metric, split = parse_metric(term)
    return Score(name=metric.label(split), attack=label, value=None, unavailable=why, access=metric.card.access,
                 higher_is=metric.orientation(split), ideal=metric.card.ideal, range=metric.card.range)
