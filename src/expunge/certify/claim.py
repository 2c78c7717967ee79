"""What a certificate says: made from a run's record, its audit and its rows, and read back when it is verified.

Nothing here is a proof that the model forgot. It says what was done and found; the holder of the key signs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from expunge.certify.crypto import canonical_bytes, digest_of
from expunge.certify.rows import Salt, commitments, without_rows
from expunge.certify.weights import ModelFiles
from expunge.errors import DataError
from expunge.ledger.entries import InclusionProof
from expunge.plugin import KINDS
from expunge.records.base import Record
from expunge.records.choice import Choice
from expunge.records.run import RunRecord
from expunge.records.score import Audit, Score
from expunge.records.task import Example
from expunge.registry import entries
from expunge.taxonomy import place_of

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:expunge:deletion-certificate:"
VERSION = "1"
Guaranteed = Literal["exact", "certified", "empirical", "none"]
ORDER: tuple[Guaranteed, ...] = ("none", "empirical", "certified", "exact")
"""Classes of guarantees, the weakest first: a recipe has that of its weakest source."""
MEANS: dict[Guaranteed, str] = {
    "exact": "by construction the model is one that never saw the rows; the base it began from is declared, not shown",
    "certified": "a proven bound on how far the model is from one that never saw the rows",
    "empirical": "tests alone show what is left; other tests may find more",
    "none": "nothing is claimed of the weights: what was known may be hidden and not removed"}
"""Class -> what it says, and no more."""
SCORE_FIELDS = ("name", "attack", "value", "interval", "n", "entities", "higher_is", "access", "controls", "excess",
                "excess_interval", "doubt", "unavailable")
"""What a certificate tells of a score."""
FREE = ("recipe", "recipe_full", "settings", "cautions", "not_tested")
FREE_OF_AUDIT = ("suite", "scores", "verdict", "checklist", "notes")
"""Where an option, a label or a sentence could quote a row."""
EXACT = 2**53 - 1
"""Largest integer of canonical JSON."""


class ModelClaim(Record):
    """A model, as far as a certificate tells which it is."""

    name: str
    fingerprint: str
    """As records have it: 16 hex digits over names and bytes of all weights, a base included."""
    files: ModelFiles | None = None
    """None where the model was not at hand when the certificate was made."""


class RowsClaim(Record):
    """The rows that were to be forgotten."""

    count: int
    entities: int
    commitments: tuple[str, ...] = ()
    """Salted hashes, sorted; empty where the rows were purged before. The fingerprints of records have no salt: a short
    row could be guessed from them, so none of them stands in a certificate."""
    salt_digest: str = ""


class AuditClaim(Record):
    """What was tested and found."""

    digest: str
    """SHA-256 of the audit's canonical JSON, without names and texts of rows; a purge does not change it."""
    created: str
    task: str
    seed: int | str
    resamples: int
    suite: tuple[str, ...]
    scores: tuple[dict[str, Any], ...]
    verdict: dict[str, Any]
    threats: dict[str, str]
    """Access -> outcome."""
    checklist: tuple[dict[str, Any], ...] = ()
    controls: tuple[str, ...] = ()
    """Of every retrained model: its fingerprint, and why it does not count."""
    notes: tuple[str, ...] = ()
    environment: dict[str, Any]


class Claim(Record):
    """All that a certificate says but its place in the ledger."""

    recipe: str
    recipe_full: dict[str, Any]
    settings: dict[str, Any]
    seed: int | str
    task: str
    run_created: str
    environment: dict[str, Any]
    before: ModelClaim
    after: ModelClaim
    rows: RowsClaim
    audit: AuditClaim
    guarantee: Guaranteed
    guarantee_means: str
    bounds: dict[str, Any] = {}
    """Upper bounds that `--method auto` chose by, with their confidence; empty otherwise."""
    not_tested: tuple[str, ...]
    cautions: tuple[str, ...] = ()
    """What a reader must know of how it was made."""
    request: dict[str, Any] | None = None
    """Number, time and leaf of the request's entry in the same ledger."""
    expunge: str
    """Version of this package."""


def audit_digest(audit: Audit) -> str:
    """The same before and after a purge."""
    return digest_of(plain(_nameless(audit).to_json()))


def make_claim(record: RunRecord, audit: Audit, rows: Sequence[Example], salt: Salt | None, *, before: ModelClaim,
               after: ModelClaim, cautions: Sequence[str] = (), choice: Choice | None = None,
               request: InclusionProof | None = None) -> Claim:
    """The claim of a run.

    Args:
        rows: those to be forgotten; none where they were purged before.
        salt: for their commitments; None without rows.
    """
    guarantee = guarantee_of(record)
    made = Claim(
        recipe=record.recipe, recipe_full=record.recipe_full, settings=record.settings.to_json(),
        seed=plain(record.seed), task=_task(record.task), run_created=record.created, environment=record.environment,
        before=before, after=after, guarantee=guarantee, guarantee_means=MEANS[guarantee],
        rows=RowsClaim(count=len(rows), entities=len({row.entity for row in rows if row.entity}),
                       commitments=commitments(rows, salt) if salt else (), salt_digest=salt.digest if salt else ""),
        audit=_audit_claim(audit), bounds=_bounds(choice), not_tested=_not_tested(audit), cautions=tuple(cautions),
        request=request and _of_request(request), expunge=metadata.version("expunge"))
    data = plain(made.to_json())
    for part, names in ((data, FREE), (data["audit"], FREE_OF_AUDIT)):
        part |= {name: without_rows(part[name], rows) for name in names}
    for model in ("before", "after"):  # a folder may be called after a person
        data[model]["name"] = without_rows(data[model]["name"], rows)
    return Claim.model_validate(data)


def guarantee_of(record: RunRecord) -> Guaranteed:
    """The class of the weakest source of forgetting in the recipe; of one whose plug-in is not known here, none."""
    found: list[Guaranteed] = []
    for stage in record.recipe_full.values():
        for name in stage:
            entry = entries().get(name)
            if entry is None:
                found.append("none")
            elif KINDS[entry.kind].source:
                said, = place_of(name)["guarantee"]
                found.append(ORDER[ORDER.index(said)])
    if any(part.get("saw_them_after") for part in (record.best, *(s.get("best") or {} for s in record.stages))):
        found.append("none")  # a checkpoint that is left saw the rows
    return min(found, key=ORDER.index, default="none")


def plain(data: Any) -> Any:
    """JSON that has a canonical form: what RFC 8785 has no number for is written as text."""
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, int) and not isinstance(data, bool) and abs(data) > EXACT:
        return str(data)
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    return [plain(value) for value in data] if isinstance(data, list | tuple) else data


def statement(claim: Claim, entry: InclusionProof, request: InclusionProof | None = None) -> bytes:
    """The payload of a certificate: an in-toto Statement about the files of the model, as canonical JSON."""
    files = claim.after.files.files if claim.after.files else {}
    return canonical_bytes({
        "_type": STATEMENT, "predicateType": PREDICATE + VERSION,
        "subject": [{"name": name, "digest": {"sha256": said}} for name, said in sorted(files.items())],
        "predicate": {"claim": claim.to_json(), "ledger": entry.to_json(),
                      "request": request and request.to_json()}})


class Statement(Record):
    """A payload that was read."""

    claim: Claim
    claim_digest: str
    ledger: InclusionProof
    request: InclusionProof | None = None


def read_statement(payload: dict[str, Any], name: str) -> Statement:
    """The statement of a payload whose signature holds.

    Raises:
        DataError: it is another kind of statement, or of another version.
    """
    newer = "Use the version of expunge that it was made with, or a later one."
    if payload.get("_type") != STATEMENT:
        raise DataError(f"{name} holds no in-toto statement of version 1.", f"Its type is {payload.get('_type')!r}.",
                        newer)
    kind = payload.get("predicateType")
    if kind != PREDICATE + VERSION:
        ours = isinstance(kind, str) and kind.startswith(PREDICATE)
        said = f"It has version {kind.removeprefix(PREDICATE)!r}" if ours and isinstance(kind, str) else (
            f"It says {kind!r}")
        raise DataError(f"{name} is a certificate that this expunge cannot read." if ours else
                        f"{name} is no certificate of a deletion.", f"{said}; this expunge reads version {VERSION}.",
                        newer)
    try:
        predicate = payload["predicate"]
        found = Statement(claim=Claim.model_validate(predicate["claim"]), claim_digest=digest_of(predicate["claim"]),
                          ledger=predicate["ledger"], request=predicate["request"])
        files = {one["name"]: one["digest"]["sha256"] for one in payload["subject"]}
        if files != (found.claim.after.files.files if found.claim.after.files else {}):
            raise ValueError("its subject is not the model that it tells of")
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{name} is signed, and yet no readable certificate.", f"{why}.", newer) from None
    return found


def _nameless(audit: Audit) -> Audit:
    """As a purge leaves it."""
    found = audit.nameless
    return found if found.prompt is None else found.model_copy(update={"prompt": found.prompt.purged})


def _audit_claim(audit: Audit) -> AuditClaim:
    said = _nameless(audit)
    verdict = said.verdict.to_json() if said.verdict else {}
    return AuditClaim(
        digest=audit_digest(audit), created=said.created, task=_task(said.task), seed=plain(said.seed),
        resamples=said.resamples, suite=said.suite,
        scores=tuple(map(_score, said.scores)),
        verdict={key: verdict[key] for key in ("outcome", "alone", "sentences", "scope", "leak", "power", "threats",
                                               "not_tested") if key in verdict},
        threats={t.access: t.outcome for t in said.verdict.threats} if said.verdict else {},
        checklist=tuple(item.to_json() for item in said.checklist),
        controls=tuple(f"{ref.fingerprint}: {problem or 'counts'}" for ref, problem in zip(
            said.retrained, [c.problem for c in said.controls] or [None] * len(said.retrained), strict=True)),
        notes=said.notes, environment=said.environment)


def _score(score: Score) -> dict[str, Any]:
    data = score.to_json()
    return {key: data[key] for key in SCORE_FIELDS if data[key] is not None}


def _not_tested(audit: Audit) -> tuple[str, ...]:
    verdict = audit.verdict
    said = list(verdict.not_tested) if verdict else ["no verdict was made"]
    said += [item.question.replace("Whether ", "whether ", 1).rstrip(".?") for item in audit.checklist
             if item.answer == "not tested"]
    said += [f"{t.access} access: nothing was tested" for t in (verdict.threats if verdict else ())
             if t.outcome == "not tested"]
    return tuple(dict.fromkeys(said))


def _bounds(choice: Choice | None) -> dict[str, Any]:
    pick = choice.pick if choice else None
    if choice is None or pick is None:
        return {}
    return {"confidence": choice.settings.confidence, "against": choice.settings.against,
            "left_of_forget_set": pick.risk_bound, "lost_of_retain_set": pick.loss_bound,
            "limits": {"left_of_forget_set": choice.settings.risk, "kept_of_retain_set": choice.settings.utility},
            "within_limits": choice.within_limits}


def _of_request(proof: InclusionProof) -> dict[str, Any]:
    return {"number": proof.entry.number, "time": proof.entry.time, "leaf": proof.entry.leaf.hex()}


def _task(name: str) -> str:
    """Without the name of a file, which may be that of a person."""
    return "files" if name.startswith("files:") else name


def model_name(place: str) -> str:
    """What a model is called, without the folders of a machine."""
    path = Path(place)
    return path.parent.name or path.name if path.name == "model" else path.name
