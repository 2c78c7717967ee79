"""Whether a certificate is what it says: signature, key, place in the ledger, model, audit and rows. No torch.

Each function makes one check. What was not given is not checked, and said to be so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from expunge.certify import crypto
from expunge.certify.claim import Statement, audit_digest, read_statement
from expunge.certify.envelope import Envelope, opened
from expunge.certify.keys import KeyEntry, KeyList, now
from expunge.certify.rows import Salt, commitment
from expunge.certify.weights import GUARD_FILE, model_folder, read_model
from expunge.errors import DataError, MissingError
from expunge.ledger.entries import InclusionProof
from expunge.ledger.store import DeletionLedger, TamperedError
from expunge.records.base import Record
from expunge.records.score import Audit
from expunge.records.task import Example

KIND = "certificate"
"""Kind of the ledger entry of a certificate."""
SHOWN = 3


class CertificateCheck(Record):
    """One question about a certificate."""

    what: str
    outcome: Literal["holds", "fails", "not checked"]
    said: str
    """What was compared, or how to have it checked."""


class Verification(Record):
    """What was found about a certificate."""

    certificate: str
    signer: str
    """Name of the key."""
    signed_at: str
    checks: tuple[CertificateCheck, ...]
    statement: Statement

    @property
    def valid(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[CertificateCheck, ...]:
        return tuple(check for check in self.checks if check.outcome == "fails")

    def named(self, outcome: str) -> tuple[CertificateCheck, ...]:
        return tuple(check for check in self.checks if check.outcome == outcome)


class RefusedError(TamperedError):
    """A certificate that must not be relied on. `verification` says more where its signature holds."""

    def __init__(self, what: str, why: str = "", fix: str = "", verification: Verification | None = None) -> None:
        super().__init__(what, why, fix)
        self.verification = verification


def holds(what: str, said: str) -> CertificateCheck:
    return CertificateCheck(what=what, outcome="holds", said=said)


def fails(what: str, said: str) -> CertificateCheck:
    return CertificateCheck(what=what, outcome="fails", said=said)


def skipped(what: str, said: str) -> CertificateCheck:
    return CertificateCheck(what=what, outcome="not checked", said=said)


def read_signed(certificate: Path, keys: KeyList) -> tuple[Statement, KeyEntry]:
    """The statement of a certificate, and the key that signed it.

    Raises:
        MissingError: there is no such file.
        DataError: it is no certificate, or one that this version cannot read.
        RefusedError: no key that is trusted signed it, or what it signed has no single meaning.
    """
    if not certificate.is_file():
        raise MissingError(f"There is no certificate {certificate}.", fix="Name the file that `expunge certify` wrote.")
    found = opened(certificate.read_bytes(), str(certificate))
    key = _signer(found, keys, str(certificate))
    try:
        payload = json.loads(found.payload)
        canonical = crypto.canonical_bytes(payload) == found.payload
    except (ValueError, RecursionError):
        payload, canonical = None, False
    if not canonical:
        raise RefusedError(f"{certificate} is refused: what it says is not in canonical JSON.",
                           "It is signed, and could be read in more than one way.",
                           "Ask for one that `expunge certify` wrote.")
    return read_statement(payload if isinstance(payload, dict) else {}, str(certificate)), key


def _signer(envelope: Envelope, keys: KeyList, name: str) -> KeyEntry:
    key = keys.find(envelope.key)
    if key is None:
        known = ", ".join(k.name for k in keys.keys) or "none"
        raise RefusedError(f"{name} is refused: it is not signed by a key that you trust.",
                           f"It names the key {envelope.key[:16]}. Trusted: {known}.",
                           "If another key should count, get it from its owner and name it: --key PUB or --keys FILE.")
    if not crypto.is_signed(key.raw, envelope.signature, envelope.message):
        raise RefusedError(f"{name} is refused: its signature is not that of {key.name}.",
                           "It was changed after it was signed, or somebody else signed it.",
                           "Ask the signer for the file again.")
    return key


def check_key(key: KeyEntry, time: str, in_ledger: bool) -> CertificateCheck:
    """Whether the key counted when the certificate was entered into the ledger.

    A key that was revoked later may be in other hands, which could write an earlier time. Only a ledger that the
    verifier holds shows that the certificate is older.
    """
    what = "key"
    if why := key.problem(time):
        return fails(what, f"{why} The certificate is of {time[:10]}.")
    if key.revoked_at and not in_ledger:
        return fails(what, f"{key.problem(key.revoked_at)} The certificate says that it is of {time[:10]}, before "
                           "that, which only the ledger can show: give --ledger.")
    if not key.dated:
        return skipped(what, "when the key counts, and whether it was revoked: --keys FILE")
    if not in_ledger:
        if why := key.problem(now()):
            return skipped(what, f"{why} It counted on {time[:10]}, by the certificate's own date: --ledger FILE")
        return holds(what, f"{key.name} counted on {time[:10]}, by the certificate's own date")
    older = f", and revoked later, on {key.revoked_at[:10]}" if key.revoked_at else ""
    return holds(what, f"{key.name} counted on {time[:10]}{older}")


def check_entry(found: Statement, key: KeyEntry) -> CertificateCheck:
    """Whether the claim is the one of the ledger's entry, and the entry in the tree whose root was signed."""
    proof, body = found.ledger, entry_body(found.claim_digest, key.id)
    said = f"entry {proof.entry.number} of {proof.size}, root {proof.root[:16]}"
    if proof.entry.kind != KIND or proof.entry.body != body:
        return fails("inclusion", "Its entry in the ledger is that of another certificate.")
    if not proof.holds:
        return fails("inclusion", f"Its proof does not lead to the root of the ledger ({said}).")
    asked, proven = found.claim.request, found.request
    if asked is None and proven is None:
        return holds("inclusion", said)
    if asked is None or proven is None or proven.entry.leaf.hex() != asked["leaf"] or not proven.holds or (
            proven.head != proof.head):
        return fails("inclusion", "The request that it answers is not in that ledger.")
    return holds("inclusion", f"{said}; it answers the request in entry {proven.entry.number}")


def entry_body(claim_digest: str, key: str) -> dict[str, Any]:
    """What the ledger keeps of a certificate: nothing about the rows or the model can be read from it."""
    return {"claim": claim_digest, "key": key}


def check_ledger(proof: InclusionProof, ledger: Path | None) -> CertificateCheck:
    """Whether a ledger is sound and still holds the certificate where it was entered."""
    if ledger is None:
        return skipped("ledger", "whether the ledger is unchanged: --ledger FILE")
    found = DeletionLedger.open(ledger)
    try:
        head = found.check(proof.head)
    except TamperedError as error:
        return fails("ledger", " ".join(part for part in (error.what, error.why) if part))
    return holds("ledger", f"all {head.size} entries of {ledger} were hashed again; the certificate's are among them")


def check_model(found: Statement, model: Path | None) -> CertificateCheck:
    """Whether a folder holds the model of the certificate."""
    if model is None:
        return skipped("model", "whether a model is the one it tells of: --model RUN")
    there, said = read_model(model), found.claim.after
    differs = said.files.differences(there) if said.files else ["The certificate has no digest of its files."]
    if not differs:
        adapter = "; it is an adapter, whose base was not looked at" if there.adapter else ""
        guard = "; its guard was not compared: --rerun" if any(model_folder(model).rglob(GUARD_FILE)) else ""
        return holds("model", f"the weights in {model} are those of the certificate{adapter}{guard}")
    before = found.claim.before.files
    if before is not None and not before.differences(there):
        return fails("model", f"{model} is the model before unlearning.")
    return fails("model", f"{model} is another model. {' '.join(differs[:SHOWN])}")


def check_audit(found: Statement, audit: Path | None) -> CertificateCheck:
    """Whether a folder holds the audit of the certificate."""
    if audit is None:
        return skipped("audit", "whether an audit is the one it cites: --audit DIR")
    if audit_digest(Audit.read(audit)) != found.claim.audit.digest:
        return fails("audit", f"The audit in {audit} is not the one that it cites.")
    return holds("audit", f"the scores and the verdict are those of the audit in {audit}")


def check_rows(found: Statement, rows: Sequence[Example] | None, salt: Path | None) -> CertificateCheck:
    """Whether every given row is among those that were to be forgotten.

    Raises:
        DataError: the salt is that of another certificate.
    """
    if rows is None or salt is None:
        return skipped("rows", "whether a row was among those deleted: --rows FILE --salt FILE")
    said = found.claim.rows
    if not said.commitments:
        return fails("rows", "The certificate tells of no rows: they were purged before it was made.")
    opened_ = Salt.of(salt)
    if opened_.digest != said.salt_digest:
        raise DataError(f"{salt} is the salt of another certificate.", "With it no row can be found.",
                        "Name the salt that was written beside this certificate.")
    there = set(said.commitments)
    others = [row.id for row in rows if commitment(row, opened_) not in there]
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        return fails("rows", f"{len(others)} of {len(rows)} rows are not among the {said.count} of the certificate: "
                             f"{', '.join(others[:SHOWN])}{more}.")
    return holds("rows", f"all {len(rows)} rows are among the {said.count} that were to be forgotten")
