"""score = metric(probe(attack(subject))), with the same probes on the original and the retrained models.

Every finished part is on disk before the next begins, so an interrupted audit resumes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.attacks.base import Attack, AttackContext
from expunge.audit.attacks import (
    AttackResult,
    describe,
    folder_of,
    observe_attack,
    probe_for,
    read_attempted,
    refusals,
    score_attacks,
)
from expunge.audit.cache import ObservationCache, model_key
from expunge.audit.control_rows import control_notes
from expunge.audit.controls import examine, sound, uncounted, words
from expunge.audit.examples import keep_examples
from expunge.audit.fluency import judged_by, salad_notes
from expunge.audit.leak_shares import attacked_shares
from expunge.audit.store import ObservationStore, read_store
from expunge.audit.suite import Suite
from expunge.errors import ExpungeError, UsageError, first_line
from expunge.judgement.checklist import checklist
from expunge.judgement.leaks import decided
from expunge.judgement.splices import measured_power
from expunge.judgement.verdict import verdict
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import MetricTerm, parse_metric, required, score_all, with_alternatives
from expunge.models.subject import Subject
from expunge.needs import MODEL_NEEDS, OFFERS, unmet
from expunge.progress import Announce
from expunge.records.base import fingerprint
from expunge.records.examples import has_examples
from expunge.records.observation import Observations, Row
from expunge.records.prompt import PromptFormat
from expunge.records.run import environment, now
from expunge.records.score import Audit, ControlCheck, SubjectRef
from expunge.records.settings import AuditSettings
from expunge.records.task import SPLITS, Split, Task


@dataclass(frozen=True)
class Roles:
    """The models of an audit. References are functions that load a model when called: one is in memory at a time."""

    subject: Subject
    original: Callable[[], Subject] | None = None
    retrained: tuple[Callable[[], Subject], ...] = ()
    again: Callable[[], Subject] | None = None
    """Loads the subject once more, where an attack that failed has left its mark on it."""

    def named(self) -> Iterable[tuple[str, Callable[[], Subject]]]:
        yield "subject", lambda: self.subject
        if self.original:
            yield "original", self.original
        for i, make in enumerate(self.retrained):
            yield _retrained(i), make


def _retrained(index: int) -> str:
    """What the folder of a retrained model is called."""
    return "retrained" if index == 0 else f"retrained{index + 1}"


def remove_stale(place: Path, roles: Sequence[str], attacks: Sequence[Attack]) -> None:
    """Remove rows of models and attacks that this audit does not ask, which a later reader would take for its own."""
    wanted = {folder_of(place, label, side).name for a in attacks for label in a.labels for side in SPLITS}
    for role in place.glob("*"):
        kept = role.name in roles
        for folder in (role / "attacks").glob("*") if kept else [role]:
            if not kept or folder.name not in wanted:
                shutil.rmtree(folder)


def run_audit(roles: Roles, task: Task, suite: Suite, out: Path, *, announce: Announce, cache: ObservationCache,
              settings: AuditSettings, note: Callable[[str], None] = lambda text: None,
              run: str | None = None, notes: Sequence[str] = (), prompt: PromptFormat | None = None) -> Audit:
    """Observe every model, attack the subject and its controls, score, judge; writes observations/ and audit.json.

    Raises:
        UsageError: an unknown metric or attack, or a metric that names a split the task never has.
    """
    began, seed, resamples = time.perf_counter(), settings.seed, settings.resamples
    asked = [parse_metric(term) for term in suite.metrics]
    attacks = suite.attacks
    context = AttackContext.of(task)
    refused = refusals(suite, context, original=roles.original is not None, retrained=bool(roles.retrained),
                       offered=roles.subject.offered)
    fit = [a for a in attacks if a.text() not in refused]
    # What is left of a subject is asked plainly before it is attacked: an attacked score says what was there before.
    asked += [parse_metric(term) for attack in fit for term in attack.asks]
    asked = [(metric, split) for metric, split in asked if not unmet(metric.model_needs, roles.subject.offered)]
    wanted, alternatives = ordered(required(asked), task), with_alternatives(asked)
    seen: dict[str, Observations] = {}
    refs: dict[str, SubjectRef] = {}
    done: dict[tuple[str, str, Split], AttackResult] = {}
    unlikely: dict[tuple[str, Split], Sequence[float]] = {}
    controls = [name for name, _ in roles.named() if name.startswith("retrained")]
    aside = asked_aside(asked) if fit and not controls else set()
    if fit:
        note(_sides(len(fit), len(controls), bool(task.holdout)))
    needed = any("original" in a.needs for a in fit)
    origin = model_key(roles.original()) if roles.original and needed else ""
    remove_stale(out / "observations", [name for name, _ in roles.named()], fit)

    def attacked(role: str, subject: Subject, make: Callable[[], Subject], attacks: Iterable[Attack],
                 sides: Iterable[Split]) -> Subject:
        """The subject after these attacks on rows of each side; loaded again where a failed one marked it."""
        for attack, split in ((a, s) for a in attacks for s in sides if task.probe_rows(s)):
            context = AttackContext.of(task, split=split, original=roles.original, seed=seed, announce=announce)
            found = done[attack.text(), role, split] = observe_attack(
                attack, subject, context, out / "observations" / role, announce=announce, cache=cache,
                original=origin, title=f"{role} {attack.text()}")
            if found.failed:
                note(f"{attack.text()} on the {role} gave no rows: {found.why}")
                subject = _unmarked(subject, roles.again if role == "subject" else make)
        return subject

    for role, make in roles.named():
        subject = make()
        refs[role] = SubjectRef(path=subject.path, fingerprint=subject.fingerprint, reads=subject.modality,
                                offered=tuple(sorted(subject.offered)),
                                tokens=_tokens(subject, task) if subject.has_weights else "")
        folder = out / "observations" / role
        partner = roles.original if role != "original" else None
        mine = ordered({*wanted, *aside}, task) if role == "subject" else wanted
        seen[role] = observe(subject, task, mine, folder, announce=announce, cache=cache, label=role,
                             partner=partner, alternatives=alternatives)
        if role == "original":
            unlikely = judged_by(subject, seen, task, cache)
        sides: tuple[Split, ...] = ("forget", "holdout") if role == "subject" and not controls else ("forget",)
        here = [a for a in fit if role != "original" or a.asks_only]
        if role.startswith("retrained") and (turned_down := examine(refs, seen)[-1]).problem:
            note(f"warning: {words(turned_down)}")
            here = []
        subject = attacked(role, subject, make, here, sides)
        if fit and not subject.intact:
            raise ExpungeError(f"An attack left its mark on the {role}.", "Its weights are not what they were.",
                               "Report this; the observations before the attacks are sound.")
        del subject  # before the next one is loaded
    if fit and controls and not {*controls} & {*sound(refs, examine(refs, seen))} and task.holdout:
        # No control is left: the subject's own holdout rows take their place.
        pairs = ordered({*wanted, *asked_aside(asked)}, task)
        seen["subject"] = observe(roles.subject, task, pairs, out / "observations" / "subject", announce=announce,
                                  cache=cache, label="subject", partner=roles.original, alternatives=alternatives)
        attacked("subject", roles.subject, lambda: roles.subject, fit, ("holdout",))
    observed = time.perf_counter()
    salad = salad_notes(seen, unlikely, roles.subject.outcomes)
    examined = examine(refs, seen)
    counting = sound(refs, examined)
    # A classifier knows rows it never saw.
    mixed_up = control_notes({role: seen[role] for role in counting}) if refs["subject"].reads == "text" else []
    evidence = _evidence({role: seen[role] for role in counting}, refs["subject"], examined)
    tick = announce("scores", len(suite.metrics))
    scores = score_all(suite.metrics, evidence, resamples=resamples, seed=seed)

    def attempted(attack: Attack, role: str, split: Split) -> AttackResult:
        return done.get((attack.text(), role, split), AttackResult({}))

    scores += score_attacks(attacks, attempted, evidence,
                            counting, lambda a: refused.get(a.text()), resamples=resamples, seed=seed,
                            primary=suite.primary)
    scores += attacked_shares(attacks, attempted, evidence, counting, suite.metrics)
    scores = decided(scores)
    keep_examples(out, suite, seen, evidence, attempted)
    tick(len(suite.metrics))
    tried = tuple(describe(a, attempted(a, "subject", "forget"), context) for a in attacks)
    audit = Audit(
        task=task.name, task_fingerprint=task.fingerprint, subject=refs["subject"], original=refs.get("original"),
        retrained=tuple(v for k, v in refs.items() if k.startswith("retrained")), controls=examined,
        suite=suite.terms, scores=scores,
        verdict=verdict(scores, tried, offered=evidence.offered, turned_down=_turned_down(examined),
                        power=measured_power(evidence, seed=seed)),
        attacks=tried, primary=suite.primary, settings=settings, seed=seed, resamples=resamples,
        environment=environment(), run=run, notes=(*notes, *mixed_up, *salad), broken=tuple(salad),
        created=now(),
        prompt=prompt and prompt.without_row,  # no row stands in audit.json
        timing={"observe_s": observed - began, "score_s": time.perf_counter() - observed},
    )
    audit = audit.model_copy(update={"checklist": checklist(audit)})
    audit.write(out / "audit.json")
    return audit


def rescore(folder: Path, suite: Suite, *, resamples: int | None = None) -> Audit:
    """A finished audit scored and judged again from its stored observations alone: no model is loaded.

    Audits of earlier versions get the table of single examples that they lack.

    Args:
        resamples: bootstrap draws; as many as then when left out.
    """
    place, stored = folder / "observations", Audit.read(folder / "audit.json")
    seed, resamples = stored.seed, stored.resamples if resamples is None else resamples
    refs = {"subject": stored.subject, **({"original": stored.original} if stored.original else {}),
            **{_retrained(i): ref for i, ref in enumerate(stored.retrained)}}
    seen = {role: read_store(place / role) or Observations({}) for role in refs}
    examined = examine(refs, seen)
    counting = sound(refs, examined)
    evidence = _evidence({role: seen[role] for role in counting}, stored.subject, examined)
    never = {s.attack: s.unavailable for s in stored.scores if s.attack and s.unavailable}

    def read(attack: Attack, role: str, split: Split) -> AttackResult:
        return read_attempted(attack, place / role, split)

    def why(attack: Attack) -> str | None:
        """Why it was never run, as the audit said then."""
        mine = read(attack, "subject", "forget")
        return None if mine.found or mine.why else never.get(attack.labels[0])

    # What was declared before looking stays declared.
    primary = stored.primary or suite.primary
    scores = decided((*score_all(suite.metrics, evidence, resamples=resamples, seed=seed),
                      *score_attacks(suite.attacks, read, evidence, counting, why, resamples=resamples, seed=seed,
                                     primary=primary),
                      *attacked_shares(suite.attacks, read, evidence, counting, suite.metrics)))
    counted = {record.term: record.asked_as for record in stored.attacks}
    attacks = tuple(describe(a, read(a, "subject", "forget"), asked_as=counted.get(a.text())) for a in suite.attacks)
    if not has_examples(folder):
        keep_examples(folder, suite, seen, evidence, read)
    judged = verdict(scores, attacks, offered=evidence.offered, turned_down=_turned_down(examined),
                     power=measured_power(evidence, seed=seed))
    again = stored.model_copy(update={
        "suite": suite.terms, "scores": scores, "attacks": attacks, "resamples": resamples, "controls": examined,
        "primary": primary, "verdict": judged})
    return again.model_copy(update={"checklist": checklist(again)})


def asked_aside(asked: Iterable[MetricTerm]) -> set[tuple[str, Split]]:
    """Without a retrained model the holdout rows are the control of every attack, so they are asked plainly too."""
    return {(probe, "holdout") for probe, of in required(asked) if of == "forget"}


def _tokens(subject: Subject, task: Task) -> str:
    """Fingerprint of the forget and retain rows as the model reads them."""
    return fingerprint([subject.as_read(row) for split in ("forget", "retain") for row in task.probe_rows(split)])


def _turned_down(examined: Iterable[ControlCheck]) -> list[str]:
    return [words(check) for check in examined if check.problem]


def _unmarked(subject: Subject, load: Callable[[], Subject] | None) -> Subject:
    """The same subject, or loaded again where its weights are not what they were or a hook is left."""
    return subject if (subject.bare and subject.intact) or load is None else load()


def _evidence(seen: Mapping[str, Observations], subject: SubjectRef, examined: Iterable[ControlCheck]) -> Evidence:
    offered = OFFERS[subject.reads] if subject.offered is None else {n for n in MODEL_NEEDS if n in subject.offered}
    found = Evidence(seen["subject"], seen.get("original"),
                     tuple(v for k, v in seen.items() if k.startswith("retrained")), frozenset(offered))
    problems = [check.problem for check in examined if check.problem]
    return replace(found, unmatched=uncounted(problems)) if problems else found


def _sides(attacks: int, controls: int, holdout: bool) -> str:
    """What is about to be done, in one line; --dry-run says what each attack costs."""
    beside = (f"the subject and {controls} retrained model{'s' * (controls > 1)}" if controls else
              "the subject, on its forget rows and for control on its holdout rows" if holdout else
              "the subject alone: there is no control, neither a retrained model nor holdout rows")
    return f"{attacks} attack{'s' * (attacks != 1)} on {beside}"


def observe(subject: Subject, task: Task, wanted: Sequence[tuple[str, Split]], folder: Path, *,
            announce: Announce, cache: ObservationCache, label: str = "",
            partner: Callable[[], Subject] | None = None, alternatives: Container[Split] = SPLITS) -> Observations:
    """Rows of every wanted (probe, split), taken from disk where they are already known.

    Args:
        partner: loads the original, for probes that look at two models at once; those are left out without one.
        alternatives: splits of which paraphrases, wrong answers and options are asked as well.
    """
    store = ObservationStore(folder, cache, {"subject": subject.fingerprint, "task": task.fingerprint})
    store.clear(wanted)
    found: dict[tuple[str, Split], Sequence[Row]] = {}
    missing: dict[tuple[str, Split], str] = {}
    failures: list[Exception] = []
    beside: Subject | None = None
    for name, split in wanted:
        probe = probe_for(name, split in alternatives)
        if probe.uses_original and partner is None and not probe.original_optional:
            missing[name, split] = "it looks at a model beside the original (--original)"
            continue
        if probe.uses_original and beside is None and partner is not None:
            beside = partner()
        examples = task.probe_rows(split)
        key = cache.key(subject, probe, examples, task)
        if probe.uses_original and beside is not None:
            key = fingerprint([key, model_key(beside)])
        rows = store.get(name, split, key)
        if rows is None:
            tick = announce(f"{label} {name} {split}", probe.count(examples))
            more: dict[str, Any] = {"partner": beside} if probe.uses_original else {}
            more |= {"reused": found.get((probe.reuses, split), ())} if probe.reuses else {}
            try:
                rows = store.put(name, split, key, probe.observe(subject, examples, task, tick, **more))
            except UsageError as problem:  # one probe that does not fit is no reason to lose the others
                missing[name, split] = problem.what.rstrip(".")
                continue
            except ExpungeError:
                raise
            except Exception as problem:
                failures.append(problem)
                missing[name, split] = f"its probe {name} failed: {first_line(problem)}"
                continue
        found[name, split] = rows
    if failures and not found:  # nothing can be said of this model
        raise failures[0]
    store.lacks(missing)
    return Observations(found, missing)


def ordered(wanted: Iterable[tuple[str, Split]], task: Task) -> list[tuple[str, Split]]:
    """Only what the task has rows for, in a fixed order; what others save work comes after them."""
    return sorted({(p, s) for p, s in wanted if task.probe_rows(s)}, key=lambda asked: (bool(
        probe_for(asked[0]).reuses), asked))
