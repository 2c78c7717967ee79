"""The verbs `certify` and `verify`: what was done to a run and found about it, signed and entered into a ledger."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.auditing import score_again
from expunge.certify.checks import (
    KIND,
    CertificateCheck,
    RefusedError,
    Verification,
    check_audit,
    check_entry,
    check_key,
    check_ledger,
    check_model,
    check_rows,
    entry_body,
    fails,
    holds,
    read_signed,
    skipped,
)
from expunge.certify.claim import Claim, ModelClaim, Statement, make_claim, model_name, statement
from expunge.certify.crypto import digest_of
from expunge.certify.envelope import sealed
from expunge.certify.keys import check_signer, read_list, read_signer, read_trusted
from expunge.certify.rows import Salt
from expunge.certify.weights import GUARD_FILE, ModelFiles, model_folder, read_model
from expunge.errors import ExpungeError, MissingError, UsageError
from expunge.ledger.entries import InclusionProof
from expunge.ledger.files import place_new, write_beside, write_new
from expunge.ledger.store import DeletionLedger
from expunge.progress import silent
from expunge.records.choice import Choice
from expunge.records.observation import Observations
from expunge.records.run import RunFolder, RunRecord, environment
from expunge.records.score import Audit, Score
from expunge.records.task import Example, Task

SAME = 1e-9
"""Relative difference up to which two scores of the same observations are the same."""
SAME_LOGP = 1e-3
"""Largest difference of a mean log-probability per token between two machines: sums in another order change the fifth
digit, and another model more than the third."""
GUARD = ("The digest of guard.json is left out, since it may tell of the rows; the fingerprint of the model covers "
         "it.")
"""Caution of a guarded model."""
ASKED_AGAIN = 20
"""Rows that `rerun` asks a model again."""


def certify(run: str | Path, *, key: str | Path, ledger: str | Path, out: str | Path, audit: str | Path | None = None,
            request: int | None = None) -> Claim:
    """Sign what a run did and what its audit found, and enter it into a ledger.

    Args:
        run: folder of a finished run of `forget`.
        key: private key (`certify.keys.new_key`). The list beside it says whether it counts.
        ledger: file of the ledger; made where there is none.
        out: file of the certificate; the salt of its rows goes beside it, as OUT.salt. Neither is ever replaced.
        audit: folder of the audit; the run's own by default.
        request: number of the ledger entry that asked for the deletion.

    Returns:
        What the certificate says.

    Raises:
        UsageError: the run did not end, forgot nothing or was not audited; its model is not the one that was audited;
            another run answered the request; the key does not count; the file exists.
    """
    run, out = Path(run), Path(out)
    salted = out.with_name(f"{out.name}.salt")
    for place in (out, salted):
        if place.exists():
            raise _taken(place)
    record, found = _finished(run), _audited(run, Path(audit) if audit else run)
    secret, signer = read_signer(key)
    check_signer(signer)
    folder = RunFolder(run)
    task = Task.read(folder.rows) if folder.rows.is_file() else None
    rows = task.forget if task else ()
    salt = Salt.new() if rows else None
    choice = Choice.read(run / "auto") if (run / "auto" / Choice.FILE).is_file() else None
    history = DeletionLedger.open(ledger) if Path(ledger).exists() else None
    after = _after(run, found)
    asked, unknown = _request(history, request, after.fingerprint)
    before, changed = _before(record)
    guard = GUARD if any(model_folder(run).rglob(GUARD_FILE)) else ""
    claim = make_claim(record, found, rows, salt, before=before, after=after, choice=choice, request=asked,
                       cautions=[*filter(None, (unknown, changed, guard)), *_cautions(record, found, task)])
    history = DeletionLedger.create(ledger) if history is None else history
    made: Path | None = None
    if salt is not None:
        try:
            write_new(salted, salt.written(), 0o600)
        except FileExistsError:  # of another `certify`: it must stay
            raise _taken(salted) from None
    try:
        with history.appending(KIND, entry_body(digest_of(claim.to_json()), signer.id)) as pending:
            check_signer(signer, pending.proof.entry.time)  # which is what verifying compares
            again = asked and pending.inclusion(asked.entry.number)
            made = write_beside(out, sealed(statement(claim, pending.proof, again), secret, signer.id))
        try:
            place_new(made, out)  # after the entry is on disk: a certificate without one would be refused
        except FileExistsError:
            raise _taken(out) from None
    except BaseException:
        if salt is not None:
            salted.unlink(missing_ok=True)
        raise
    finally:
        if made is not None:
            made.unlink(missing_ok=True)
    return claim


def verify(certificate: str | Path, *, key: str | Path | None = None, keys: str | Path | None = None,
           ledger: str | Path | None = None, model: str | Path | None = None, audit: str | Path | None = None,
           rows: str | Path | Sequence[Example] | None = None, salt: str | Path | None = None,
           mapping: Mapping[str, str] | str | None = None, rerun: bool = False) -> Verification:
    """Check a certificate: signature, key, place in the ledger, and whatever else is given.

    Args:
        key: public key of the signer. Nothing tells when it counts.
        keys: list of trusted keys (keys.json), or its folder.
        ledger: file of the ledger; all of it is hashed again.
        model: run folder or model folder that should be the one certified.
        audit: folder of the audit that it should cite.
        rows: file of rows, or rows, that should be among those deleted.
        salt: the private file of the certificate's rows.
        mapping: field names of that file, as `expunge forget --map` has them.
        rerun: score the stored observations of the audit again and, with `model`, load it and ask it some rows again.

    Returns:
        Every check, and what the certificate says. What was not given is "not checked".

    Raises:
        RefusedError: a check failed; `error.verification` has the others, where the signature holds.
        UsageError: no key was given, or not what a check needs.
        DataError: it is no certificate, or of a version that cannot be read.
    """
    place = Path(certificate)
    trusted = _trusted(key, keys)
    if (rows is None) != (salt is None):
        raise UsageError("--rows and --salt go together.", "Rows are found by their salted hashes.",
                         "Give both, or neither.")
    if rerun and audit is None:
        if model is None or not RunFolder(Path(model)).audit.is_file():
            raise UsageError("There is nothing to run again.", "--rerun scores the observations of an audit again.",
                             "Name its folder: --audit DIR, or --model RUN of a run with its audit.")
        audit = model
    asked = rows if rows is None or not isinstance(rows, str | Path) else _read_rows(rows, mapping)
    found, signer = read_signed(place, trusted)
    time = found.ledger.entry.time
    kept = check_ledger(found.ledger, Path(ledger) if ledger else None)
    checks = [holds("signature", f"by the key {signer.name} ({signer.id[:16]})"),
              check_key(signer, time, kept.outcome == "holds"), check_entry(found, signer), kept,
              check_model(found, Path(model) if model else None), check_audit(found, Path(audit) if audit else None),
              check_rows(found, asked, Path(salt) if salt else None)]
    if rerun and audit is not None:
        checks += _run_again(found, Path(audit), Path(model) if model else None)
    else:
        checks.append(skipped("rerun", "whether the stored observations give these scores: --rerun"))
    verification = Verification(certificate=str(place), signer=signer.name, signed_at=time, checks=tuple(checks),
                                statement=found)
    if failed := verification.failures:
        raise RefusedError(f"{place} is refused.", "\n".join(check.said for check in failed), _advice(failed[0]),
                           verification)
    return verification


def _advice(failed: CertificateCheck) -> str:
    """What to do about the first check that failed."""
    return {
        "key": "Ask for a certificate that a current key signed: the run can be certified again.",
        "inclusion": "Ask the signer for the file again.",
        "ledger": "Compare the ledger with another copy. One of the two was changed after this certificate was made.",
        "model": "Name the model that it was made for, or have this one audited and certified.",
        "audit": "Name the folder of the audit that it was made from, or have the run certified again.",
        "rows": "Compare the rows, letter by letter, with those of the request.",
    }.get(failed.what, "Audit the run again, and have it certified again.")


def _trusted(key: str | Path | None, keys: str | Path | None) -> Any:
    if (key is None) == (keys is None):
        raise UsageError("Name one way to know the signer.", "A signature says nothing without a key that you trust; "
                         "it must come from its owner and not with the certificate.",
                         "Give --keys keys.json, which also says when keys count, or --key NAME.pub.")
    return read_trusted(key) if key is not None else read_list(keys or "")


def _taken(place: Path) -> UsageError:
    return UsageError(f"{place} already exists.", "A certificate and its salt are never replaced.",
                      "Choose another --out. A salt without a certificate was left by a `certify` that was killed: "
                      "delete it where none is running.")


def _finished(run: Path) -> RunRecord:
    if not run.is_dir():
        raise MissingError(f"There is no run {run}.", fix="Name the folder that `expunge forget --out` named.")
    if not RunFolder(run).record.is_file():
        raise UsageError(f"{run} is no run.", "It holds no record.json, so nothing says what was done.",
                         "Name the folder that `expunge forget --out` named.")
    record = RunRecord.read(run)
    if record.unfinished:
        raise UsageError(f"The run in {run} is unfinished: {record.unfinished}.", "There is nothing to certify yet.",
                         "Go on with --resume first.")
    if record.kind != "forget":
        raise UsageError(f"{run} was trained; nothing was forgotten there.", "A certificate tells of a deletion.",
                         "Name a run of `expunge forget`.")
    return record


def _audited(run: Path, folder: Path) -> Audit:
    if not (folder / Audit.FILE).is_file():
        raise UsageError(f"{folder} holds no audit.", "Without one a certificate could say what was done, and not what "
                         "was found.", f"Make it first: expunge audit {run}; or name its folder: --audit DIR.")
    return Audit.read(folder)


def _before(record: RunRecord) -> tuple[ModelClaim, str]:
    """The model that the run began from; with the digest of its files where it is still at hand. And a caution where
    another one lies there now."""
    files: ModelFiles | None = None
    caution = ""
    try:
        files = read_model(record.model)  # first, since it never asks the hub
        if _loaded_fingerprint(record.model) != record.model_fingerprint:
            files, caution = None, "Where the run began from lies another model now, so the files are not told."
    except ExpungeError:
        files = None
    return ModelClaim(name=model_name(record.model), fingerprint=record.model_fingerprint, files=files), caution


def _after(run: Path, audit: Audit) -> ModelClaim:
    """The model of the run, which must be the one that was audited."""
    files = read_model(run)
    if (now := _loaded_fingerprint(run)) != audit.subject.fingerprint:
        raise UsageError(f"The model in {run} is not the one that was audited.", f"Its fingerprint is {now}, and the "
                         f"audit is of {audit.subject.fingerprint}.",
                         f"Audit it anew: expunge audit {run} --overwrite")
    return ModelClaim(name=model_name(str(run.resolve())), fingerprint=now, files=files)


def _loaded_fingerprint(place: str | Path) -> str:
    from expunge.models.load import load_subject

    return load_subject(place).fingerprint


def _cautions(record: RunRecord, audit: Audit, task: Task | None) -> list[str]:
    """What a reader of the certificate must know of how it was made."""
    said = []
    if task is None:
        said.append("The rows were purged before: the certificate does not tell which they were.")
    elif audit.task_fingerprint != task.fingerprint:
        said.append("The audit asked other rows than those of the run.")
    if audit.original is not None and audit.original.fingerprint != record.model_fingerprint:
        said.append("The audit compared with another original than the one that the run began from.")
    if audit.original is None:
        said.append("The audit had no original to compare with.")
    if not audit.retrained:
        said.append("The audit had no retrained model to compare with.")
    return [*said, *(f"Alarm of the run: {alarm}" for alarm in record.alarms)]


def _request(history: DeletionLedger | None, number: int | None, model: str) -> tuple[InclusionProof | None, str]:
    """The request, which the run that left a model must have answered; and a caution where nothing tells."""
    if number is None:
        return None, ""
    if history is None:
        raise UsageError(f"There is no request {number}.", "The ledger does not exist yet.",
                         "Name the ledger that the request was entered into.")
    found = history.inclusion(number)
    if found.entry.kind != "request":
        raise UsageError(f"Entry {number} of {history.path} is no request.", f"It is of the kind {found.entry.kind}.",
                         "Name the number that `expunge requests status` shows.")
    entries = history.entries()
    unknown = f"The ledger does not tell which run carried out the request in entry {number}."
    if not any(entry.kind == "stream" for entry in entries):
        return found, unknown
    name = f"r{sum(entry.kind == 'request' for entry in entries[:number + 1])}"
    done = [e.body.get("reading") for e in entries[number:] if e.kind == "done" and name in e.body.get("requests", ())]
    if not done:
        raise UsageError(f"The request in entry {number} ({name}) is not carried out.", "No run of the ledger answers "
                         "it.", f"Carry it out first: expunge requests run {history.path}; or leave --request out.")
    if any(reading and reading.get("model") == model for reading in done):
        return found, ""
    if not all(done):  # earlier runs had deleted all of its rows
        return found, unknown
    raise UsageError(f"This run did not carry out the request in entry {number} ({name}).", "The ledger names another "
                     f"run, which left the model {(done[-1] or {}).get('model')}; this one left {model}.",
                     "Certify the run that `expunge requests status` shows for it, or leave --request out.")


def _read_rows(rows: str | Path, mapping: Mapping[str, str] | str | None) -> tuple[Example, ...]:
    from expunge.data.files import read_examples
    from expunge.data.mapping import parse_map
    from expunge.data.shapes import FIELDS

    return read_examples(rows, mapping=parse_map(mapping, FIELDS) if isinstance(mapping, str) else mapping)


# The cheap part of an audit, once more


def _run_again(found: Statement, audit: Path, model: Path | None) -> list[CertificateCheck]:
    stored = Audit.read(audit)
    checks = [_scored_again(stored, audit)]
    if model is not None:
        checks.append(_asked_again(found, stored, audit, model))
    return checks


def _scored_again(stored: Audit, audit: Path) -> CertificateCheck:
    """Whether the observations give the scores and the verdict that are stored; no model is loaded."""
    if not any((audit / "observations" / "subject").glob("*.jsonl")):
        return skipped("rerun", "the observations of the audit: they were purged")
    again = score_again(audit)
    older = stored.environment.get("commit") != environment()["commit"]
    fresh = {(s.name, s.attack): s for s in again.scores}
    differs = [s.name for s in stored.scores if not _same(s, fresh.get((s.name, s.attack)), intervals=not older)]
    outcomes = [a.verdict.outcome if a.verdict else "none" for a in (stored, again)]
    version = " It was made by another version of expunge." if older else ""
    if extra := [s.name for key, s in fresh.items() if key not in {(s.name, s.attack) for s in stored.scores}]:
        return fails("rerun", f"The observations give scores that the audit leaves out: {', '.join(extra[:3])}."
                              f"{version}")
    if differs:
        return fails("rerun", f"The observations give other scores than the audit: {', '.join(differs[:3])}.{version}")
    if outcomes[0] != outcomes[1]:
        return fails("rerun", f"The audit says {outcomes[0]}, and its observations give {outcomes[1]}.{version}")
    threats: list[dict[str, str]] = [{t.access: t.outcome for t in a.verdict.threats} if a.verdict else {}
                                     for a in (stored, again)]
    if threats[0] != threats[1]:
        return fails("rerun", f"The audit says {_told(threats[0])}, and its observations give {_told(threats[1])}."
                              f"{version}")
    return holds("rerun", f"the stored observations give the same {len(stored.scores)} scores and the same outcome"
                 + ("; intervals were not compared, another version made them" if older else ""))


def _told(threats: Mapping[str, str]) -> str:
    return ", ".join(f"{access} {outcome}" for access, outcome in threats.items()) or "nothing by access"


def _same(one: Score, other: Score | None, intervals: bool) -> bool:
    if other is None or (one.interval is None) != (other.interval is None):
        return False
    pairs = [(one.value, other.value), (one.excess, other.excess)]
    pairs += zip(one.interval or (), other.interval or (), strict=True) if intervals else ()
    return all((a is None) == (b is None) and (a is None or b is None or math.isclose(a, b, rel_tol=SAME)
                                               or (math.isnan(a) and math.isnan(b))) for a, b in pairs)


def _asked_again(found: Statement, stored: Audit, audit: Path, model: Path) -> CertificateCheck:
    """Whether the model has the fingerprint that was audited, and answers some rows as it did then."""
    from expunge.audit.cache import ObservationCache
    from expunge.audit.runner import observe
    from expunge.models.load import load_subject

    what, settings, same = "rerun", stored.settings, "the model was loaded: its weights are those audited"
    rows = RunFolder(model).rows
    task = Task.read(rows) if rows.is_file() else None
    subject = load_subject(model, template=settings.template if settings else None,
                           max_length=settings.max_length if settings else None)
    if subject.fingerprint != found.claim.after.fingerprint:
        return fails(what, f"The weights in {model} have the fingerprint {subject.fingerprint}; those that were "
                           f"audited had {found.claim.after.fingerprint}.")
    before = Observations.read(audit / "observations" / "subject").rows("likelihood", "forget")
    if task is None or not before:
        return holds(what, f"{same}; no row was asked, since none is left here")
    few = task.model_copy(update={"forget": task.probe_rows("forget")[:ASKED_AGAIN], "probes": {}})
    with tempfile.TemporaryDirectory() as folder:
        now = observe(subject, few, [("likelihood", "forget")], Path(folder) / "rows", announce=silent,
                      cache=ObservationCache(Path(folder)), alternatives=())
    known = {(row["id"], row["form"], row["index"]): row for row in before}
    pairs = [(row, known[place]) for row in now.rows("likelihood", "forget")
             if (place := (row["id"], row["form"], row["index"])) in known]
    if not pairs:
        return holds(what, f"{same}; the rows that were asked are not here")
    worst = max((abs(_mean(a) - _mean(b)) for a, b in pairs), key=lambda d: (math.isnan(d), d))
    if not worst <= SAME_LOGP:  # NaN is not the same
        return fails(what, f"The model answers otherwise than it did in the audit: a mean log-probability differs by "
                           f"{worst:.3g}.")
    return holds(what, f"{same}, and the probability of {len(pairs)} answers is as it was")


def _mean(row: Mapping[str, Any]) -> float:
    return sum(row["logp"]) / max(1, len(row["logp"]))
