"""`expunge certify` and `expunge verify`: sign what was done and found, and check such a statement."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expunge.cli.app import Json, app, friendly, print_json, reporter_for
from expunge.cli.showing import FIGURES, WIDTH, report_command, shown_path
from expunge.console import Reporter, format_number
from expunge.errors import UsageError
from expunge.records.run import RunFolder
from expunge.records.score import ACCESS

if TYPE_CHECKING:
    from expunge.certify.checks import Verification
    from expunge.certify.claim import Claim

DAYS = 365
LINES = 3
"""Lines of one paragraph."""


@app.command()
@friendly
def certify(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished, audited run of `forget`.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Private key to sign with.")] = None,
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Ledger to enter it into; made where there is "
                                                                 "none.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File of the certificate.")] = None,
    audit: Annotated[Path | None, typer.Option("--audit", help="Folder of the audit; the run's own by "
                                                               "default.")] = None,
    request: Annotated[int | None, typer.Option("--request", min=0, help="Number of the ledger entry that asked for "
                                                                         "the deletion.")] = None,
    new_key: Annotated[Path | None, typer.Option("--new-key", help="Make a key instead: keys/ops-2026 makes "
                                                                   "ops-2026.key and ops-2026.pub in keys, and enters "
                                                                   "it into keys/keys.json.")] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="With --new-key: for how long it counts.")] = DAYS,
    revoke: Annotated[Path | None, typer.Option("--revoke", help="Revoke a key instead, by the same name: it counts "
                                                                 "for nothing from now on.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="With --revoke: why.")] = None,
    as_json: Json = False,
) -> None:
    """Sign what a run did and what its audit found, and enter it into a ledger (extra: certify)."""
    reporter = reporter_for(as_json)
    if sum(given is not None for given in (run, new_key, revoke)) != 1:
        raise UsageError("Name one thing to do.", "A run is certified, a key is made, or a key is revoked.",
                         "expunge certify RUN --key KEY --ledger LEDGER --out CERT; or --new-key NAME; or --revoke "
                         "NAME --reason WHY.")
    if run is None:
        return _change_keys(new_key, days, revoke, reason, reporter, as_json)
    missing = [name for name, given in (("--key", key), ("--ledger", ledger), ("--out", out)) if given is None]
    if key is None or ledger is None or out is None:
        raise UsageError(f"{', '.join(missing)} is missing.", "A certificate is signed by a key, entered into a ledger "
                         "and written to a file.",
                         f"expunge certify {shown_path(run)} --key keys/ops.key --ledger deletions.db --out cert.json; "
                         "a key is made by expunge certify --new-key keys/ops.")
    from expunge.certifying import certify as sign

    made = sign(run, key=key, ledger=ledger, out=out, audit=audit, request=request)
    if as_json:
        return print_json({"certificate": str(out), "claim": made.to_json()})
    _show_certified(made, run, key, ledger, out, reporter)


@app.command()
@friendly
def verify(
    certificate: Annotated[Path, typer.Argument(help="File that `expunge certify` wrote.")],
    model: Annotated[Path | None, typer.Option("--model", help="Run or model folder that it should be of.")] = None,
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Ledger it was entered into; all of it is checked."
                                                )] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Public key of the signer.")] = None,
    keys: Annotated[Path | None, typer.Option("--keys", help="List of trusted keys, or its folder: says also when "
                                                             "they count.")] = None,
    audit: Annotated[Path | None, typer.Option("--audit", help="Folder of the audit it should cite.")] = None,
    rows: Annotated[Path | None, typer.Option("--rows", help="File of rows that should be among those deleted."
                                              )] = None,
    salt: Annotated[Path | None, typer.Option("--salt", help="With --rows: the private file of the certificate's "
                                                             "rows.")] = None,
    mapping: Annotated[str | None, typer.Option("--map", help="With --rows: other field names, "
                                                              "question=q,answer=a.")] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Score the stored observations again; with --model, load it "
                                                        "and ask it some rows again.")] = False,
    as_json: Json = False,
) -> None:
    """Check a certificate: exit code 0 if it holds, 1 if it is refused (extra: certify)."""
    from expunge.certify.checks import RefusedError
    from expunge.certifying import verify as check

    reporter = reporter_for(as_json)
    try:
        found = check(certificate, key=key, keys=keys, ledger=ledger, model=model, audit=audit, rows=rows, salt=salt,
                      mapping=mapping, rerun=rerun)
    except RefusedError as refused:
        if as_json and refused.verification is not None:
            print_json({"valid": False, **refused.verification.to_json()})
        raise
    if as_json:
        return print_json({"valid": True, **found.to_json()})
    trusted = f"--keys {shown_path(keys)}" if keys is not None else f"--key {shown_path(key or '')}"
    again = f"expunge verify {shown_path(certificate)} {trusted}"
    for name, given in (("ledger", ledger), ("model", model)):
        again += f" --{name} {shown_path(given)}" if given is not None else f" --{name} {name.upper()}"
    audited = audit or (model if model is not None and RunFolder(model).audit.is_file() else None)
    again += f" --audit {shown_path(audited)} --rerun" if audited is not None else " --audit DIR --rerun"
    if rerun and audited is not None and rows is not None:  # nothing is left to check
        again = report_command(audited)
    elif rerun:
        again = f"expunge verify {shown_path(certificate)} {trusted} --rows FILE --salt {shown_path(certificate)}.salt"
    _show_verified(found, again, reporter)


def _change_keys(new_key: Path | None, days: int, revoke: Path | None, reason: str | None, reporter: Reporter,
                 as_json: bool) -> None:
    from expunge.certify import keys

    if new_key is not None:
        made = keys.new_key(new_key, days)
        if as_json:
            return print_json(made.to_json())
        _say(f"The key {made.name} counts until {(made.valid_until or '')[:10]}.", reporter, style="bold")
        _say(f"{new_key}.key signs: keep it private, with a copy elsewhere.", reporter)
        _say(f"{new_key.parent / keys.LIST} lists it: give this file to the verifiers.", reporter)
        return _next(f"expunge certify RUN --key {shown_path(f'{new_key}.key')} --ledger deletions.db --out cert.json",
                     reporter)
    if not reason:
        raise UsageError("--revoke needs a --reason.", "Verifiers are shown it.",
                         'Such as --reason "lost with a laptop".')
    gone = keys.revoke(revoke or Path(), reason)
    if as_json:
        return print_json(gone.to_json())
    _say(f"The key {gone.name} is revoked. What it signs from now on is refused; older certificates count where the "
         "ledger shows that they are older.", reporter, style="bold")
    _say(f"Give {(revoke or Path()).parent / keys.LIST} to the verifiers: they do not know it yet.", reporter)


def _show_certified(made: Claim, run: Path, key: Path, ledger: Path, out: Path, reporter: Reporter) -> None:
    """The finding, what it rests on, what was not tested, and how to verify it."""
    from expunge.certify.keys import LIST

    _say(f"Certified: {_finding(made)}", reporter, style="bold")
    _show_claim(made, reporter)
    if made.rows.commitments:
        _say(f"Salt of the rows: {out}.salt. Keep it private; without it nobody can show that a row was among them.",
             reporter)
    beside = key.parent / LIST
    how = f"--keys {shown_path(beside)}" if beside.is_file() else f"--key {shown_path(key.with_suffix('.pub'))}"
    _next(f"expunge verify {shown_path(out)} {how} --ledger {shown_path(ledger)} --model {shown_path(run)}", reporter)


def _show_verified(found: Verification, again: str, reporter: Reporter) -> None:
    """Whether it holds, what it says, what was checked and what was not."""
    claim = found.statement.claim
    _say(f"The certificate holds. {found.signer} signed on {found.signed_at[:10]}: {_finding(claim)}", reporter,
         style="bold")
    _show_claim(claim, reporter)
    for check in found.named("holds"):
        _say(f"{check.what + ':':<12}{check.said}", reporter, indent=12)
    missing = found.named("not checked")
    for head, check in zip(["Not checked:", *[""] * len(missing)], missing, strict=False):
        _say(f"{head:<12} {check.said}", reporter, indent=13)
    _say("It says what was done and found, and who says so. It is no proof that the model forgot.", reporter)
    _next(again, reporter)


def _finding(claim: Claim) -> str:
    outcome = claim.audit.verdict.get("outcome", "without a verdict")
    return f"the audit says {outcome}. {claim.after.name}, unlearned from {claim.before.name} by {claim.recipe}."


def _show_claim(claim: Claim, reporter: Reporter) -> None:
    """Access by access, with the guarantee, the figures, and what was not tested."""
    if claim.audit.threats:
        said = ", ".join(f"{a} {claim.audit.threats[a]}" for a in ACCESS if a in claim.audit.threats)
        _say(f"By access: {said}.", reporter)
    if leak := claim.audit.verdict.get("leak"):
        _say(leak, reporter)
    _say(f"Guarantee: {claim.guarantee}, {claim.guarantee_means}.", reporter)
    plain = {s["name"]: s for s in claim.audit.scores if s.get("value") is not None and not s.get("attack")}
    first = [name for names in FIGURES for name in names if name in plain]
    tried = {s["attack"] for s in claim.audit.scores if s.get("attack")}
    _say(_fitting("Scores", [_figure(plain[name]) for name in (*first, *plain)]), reporter)
    _say(f"Attacks: {len(tried)} settings.", reporter)
    if claim.bounds:
        said = ", ".join(f"{name.replace('_', ' ')} at most {format_number(claim.bounds[name])}" for name in (
            "left_of_forget_set", "lost_of_retain_set") if claim.bounds.get(name) is not None)
        _say(f"Upper bounds at confidence {claim.bounds['confidence']}: {said}.", reporter)
    rows = claim.rows
    _say(f"Rows: {rows.count} by salted hashes." if rows.commitments else "Rows: none, they were purged before.",
         reporter)
    if claim.not_tested:
        _say(_fitting("Not tested", [line.partition(":")[0] for line in claim.not_tested]), reporter)
    for caution in claim.cautions[:LINES]:
        _say(f"Caution: {caution}", reporter)


def _figure(score: Mapping[str, Any]) -> str:
    low, high = score.get("interval") or (None, None)
    between = "" if low is None or high is None else f" ({format_number(float(low))} .. {format_number(float(high))})"
    return f"{score['name']} {format_number(float(score['value']))}{between}"


def _fitting(head: str, names: Sequence[str], most: int = 2 * WIDTH) -> str:
    """As many names as fit, and how many there are beyond them."""
    names = list(dict.fromkeys(names))
    for shown in range(len(names), -1, -1):
        rest = len(names) - shown
        said = f"{head}: {'; '.join(names[:shown])}{f'; and {rest} more' * (rest > 0)}."
        if len(said) <= most:
            break
    return said


def _say(text: str, reporter: Reporter, *, style: str | None = None, indent: int = 2) -> None:
    for line in textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, max_lines=LINES, placeholder=" ...",
                              break_on_hyphens=False, break_long_words=False):
        reporter.out.print(line, style=style, markup=False, soft_wrap=True)


def _next(command: str, reporter: Reporter) -> None:
    reporter.out.print(f"Next: {command}", markup=False, soft_wrap=True)

