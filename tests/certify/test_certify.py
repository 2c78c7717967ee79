"""`certify` and `verify`: what a certificate says, what it does not, and every way to refuse one."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge import certifying
from expunge.certify import checks, crypto, envelope, keys
from expunge.certify.checks import RefusedError
from expunge.certify.claim import PREDICATE, STATEMENT, guarantee_of, model_name
from expunge.certify.keys import KeyList, new_key
from expunge.certify.rows import without_rows
from expunge.certify.weights import read_model
from expunge.errors import DataError, ExpungeError, MissingError, MissingExtra, UsageError
from expunge.ledger import store
from expunge.ledger.store import DeletionLedger
from expunge.records.run import RunRecord
from expunge.records.score import Audit, Threat
from expunge.records.settings import TrainSettings
from expunge.records.task import Example

from .conftest import NAME, ROWS, Office


def payload_of(certificate: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(certificate.read_text())["payload"]))
    return found


def signed_again(office: Office, payload: dict[str, Any]) -> None:
    """Another payload, honestly signed."""
    secret, signer = keys.read_signer(office.key)
    office.cert.write_bytes(envelope.sealed(crypto.canonical_bytes(payload), secret, signer.id))


FLAGS = ("--rerun",)


def refused(*words: Any, code: int = 2, says: Sequence[str] = ()) -> None:
    """What the command line would refuse, asked of the function behind it: a tenth of the time."""
    options: dict[str, Any] = {}
    rest = list(words[2:])
    while rest:
        name = rest.pop(0).removeprefix("--").replace("map", "mapping")
        options[name] = True if f"--{name}" in FLAGS else rest.pop(0)
    with pytest.raises(ExpungeError) as error:
        getattr(expunge, words[0])(words[1], **options)
    assert error.value.exit_code == code and error.value.what and error.value.why + error.value.fix
    assert not [phrase for phrase in says if phrase not in str(error.value)], str(error.value)


# Vectors of others


def test_published_vectors() -> None:
    """The message of DSSE's protocol, a signature of RFC 8032 (test 2) and an example of RFC 8785."""
    assert envelope.message_of("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                              "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")
    assert crypto.public_of(secret) == public and crypto.signed(secret, b"\x72") == signature
    assert crypto.is_signed(public, signature, b"\x72") and not crypto.is_signed(public, signature, b"\x73")
    assert crypto.canonical_bytes({"literals": [None, True, False], "numbers": [333333333.33333329, 1e30, 4.50, 2e-3,
                                                                                1e-27]}) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}')


# What it says


def test_a_certificate_is_a_statement_in_an_envelope(kept: Office) -> None:
    found = json.loads(kept.cert.read_text())
    payload = payload_of(kept.cert)
    assert found["payloadType"] == "application/vnd.in-toto+json" and payload["_type"] == STATEMENT
    assert payload["predicateType"] == f"{PREDICATE}1"
    files = {one["name"]: one["digest"]["sha256"] for one in payload["subject"]}
    assert files == read_model(kept.run).files and "model.safetensors" in files and "README.md" not in files
    claim, record, audit = payload["predicate"]["claim"], RunRecord.read(kept.run), Audit.read(kept.run)
    assert claim["recipe"] == record.recipe and claim["before"]["fingerprint"] == record.model_fingerprint
    assert claim["after"]["fingerprint"] == audit.subject.fingerprint
    assert claim["before"]["files"]["weights"] == read_model(kept.folder / "before").weights
    assert len(claim["audit"]["scores"]) == len(audit.scores) and claim["guarantee"] == "empirical"
    assert audit.verdict and claim["audit"]["verdict"]["outcome"] == audit.verdict.outcome
    assert claim["request"]["number"] == 3
    assert DeletionLedger.open(kept.ledger).entries("certificate")[0].body["claim"] == crypto.digest_of(claim)


def test_no_row_stands_in_it(kept: Office) -> None:
    said = json.dumps(payload_of(kept.cert), ensure_ascii=False) + str(DeletionLedger.open(kept.ledger).entries())
    assert not [text for row in ROWS for text in (row.prompt, row.answer, NAME) if text in said]
    assert "A row says: [removed]" in said and "files:zoe" not in said and str(kept.folder) not in said
    assert json.loads(kept.salt.read_text())["salt"] not in said
    assert stat.S_IMODE(kept.salt.stat().st_mode) == stat.S_IMODE(kept.key.stat().st_mode) == 0o600


def test_no_hash_without_salt_stands_in_it(kept: Office) -> None:
    """A short row could be guessed from one."""
    said, record, audit = json.dumps(payload_of(kept.cert)), RunRecord.read(kept.run), Audit.read(kept.run)
    assert audit.task_fingerprint not in said and not [f for f in record.task_fingerprints.values() if f in said]


def test_the_same_rows_have_other_hashes_in_each_certificate(kept: Office) -> None:
    one, other = (payload_of(path)["predicate"]["claim"]["rows"] for path in (kept.cert, kept.later))
    assert one["count"] == len(one["commitments"]) == 4 and not set(one["commitments"]) & set(other["commitments"])


def test_the_guarantee_is_that_of_the_weakest_source(kept: Office) -> None:
    record = RunRecord.read(kept.run)
    for full, expected in (({"0": {"sisa": {}}}, "exact"), ({"0": {"sisa": {}}, "1": {"npo": {}}}, "empirical"),
                           ({"0": {"npo": {}, "retain_kl": {}}}, "empirical"), ({"0": {"uld": {}}}, "none"),
                           ({"0": {"of_somebody": {}}}, "none"), ({}, "none")):
        assert guarantee_of(record.model_copy(update={"recipe_full": full})) == expected
    left = record.model_copy(update={"recipe_full": {"0": {"sisa": {}}}, "best": {"saw_them_after": ["0.1"]}})
    assert guarantee_of(left) == "none"


# Verifying


def test_everything_holds(kept: Office, cli: Any) -> None:
    found = expunge.verify(kept.cert, keys=kept.keys, ledger=kept.ledger, model=kept.run, audit=kept.run, rows=ROWS,
                           salt=kept.salt)
    assert found.valid and [check.what for check in found.named("not checked")] == ["rerun"]
    said = cli("verify", kept.cert, "--keys", kept.keys.parent, "--ledger", kept.ledger, "--model", kept.run)
    assert said.out.startswith("The certificate holds. ops signed on ")
    assert "it answers the request in entry 3" in said.out
    assert "Not checked:" in said.out and "It is no proof that the model forgot." in said.out
    assert len(said.out.splitlines()) <= 30 and "Next: expunge verify" in said.out
    assert cli("verify", kept.cert, "--keys", kept.keys, "--json").json["valid"] is True


def test_a_refusal_on_the_command_line(kept: Office, cli: Any) -> None:
    words = ("verify", kept.cert, "--keys", kept.keys, "--model", kept.other)
    cli.refused(*words, code=1, says=["cert.json is refused.", "is another model", "have this one audited"])
    found = cli(*words, "--json", code=1).json
    assert found["valid"] is False and [c["outcome"] for c in found["checks"] if c["what"] == "model"] == ["fails"]


def test_a_public_key_alone_says_nothing_of_dates(kept: Office) -> None:
    found = expunge.verify(kept.cert, key=kept.keys.with_name("ops.pub"))
    assert "key" in [check.what for check in found.named("not checked")]


def test_rows_are_found_by_file(kept: Office, cli: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": ROWS[2].prompt, "answer": ROWS[2].answer}) + "\n", encoding="utf-8")
    words = ("verify", kept.cert, "--keys", kept.keys, "--salt", kept.salt, "--rows", rows)
    assert "all 1 rows are among the 4" in cli(*words).out
    rows.write_text(rows.read_text() + json.dumps({"q": ROWS[2].prompt, "a": "In town number 2"}) + "\n")
    refused(*words, says=["--map"])
    rows.write_text(json.dumps({"q": ROWS[2].prompt, "a": "In town number 2"}) + "\n", encoding="utf-8")
    refused(*words, "--map", "question=q,answer=a", code=1, says=["1 of 1 rows are not among the 4", "rows/0"])
    refused(*words[:-2], says=["--rows and --salt go together"])
    other = kept.later.with_name("later.json.salt")
    refused(*words[:4], "--salt", other, "--rows", rows, "--map", "question=q,answer=a",
                says=["salt of another certificate"])


def test_a_model_that_was_saved_again_is_the_same(with_runs: Office, cli: Any) -> None:
    """Tensors in another file, another card: the model says the same."""
    from expunge.models.load import load_subject

    load_subject(with_runs.run).model.save_pretrained(with_runs.folder / "again", max_shard_size="20KB")
    again = with_runs.folder / "again"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json",
                 "chat_template.jinja"):
        if (there := with_runs.run / "model" / name).exists():
            (again / name).write_bytes(there.read_bytes())
    (again / "README.md").write_text("another card", encoding="utf-8")
    assert len(list(again.glob("*.safetensors"))) > 1
    assert expunge.verify(with_runs.cert, keys=with_runs.keys, model=again).valid


def test_another_model_is_refused(with_runs: Office, cli: Any) -> None:
    words = ("verify", with_runs.cert, "--keys", with_runs.keys, "--model")
    refused(*words, with_runs.other, code=1, says=["run2 is another model", "The weights are others."])
    refused(*words, with_runs.folder / "before", code=1, says=["is the model before unlearning"])
    (with_runs.run / "model" / "config.json").write_text("{}", encoding="utf-8")
    refused(*words, with_runs.run, code=1, says=["The file config.json differs."])
    weights = with_runs.run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    refused(*words, with_runs.run, says=["is no readable file of weights"])
    refused(*words, with_runs.folder / "keys", says=["There is no model in"])


def test_another_audit_is_refused(with_runs: Office, cli: Any) -> None:
    words = ("verify", with_runs.cert, "--keys", with_runs.keys, "--audit")
    refused(*words, with_runs.other, code=1, says=["is not the one that it cites"])
    audit = Audit.read(with_runs.run)
    scores = (audit.scores[0].model_copy(update={"value": 0.0}), *audit.scores[1:])
    audit.model_copy(update={"scores": scores}).write(with_runs.run / "audit.json")
    refused(*words, with_runs.run, code=1, says=["is not the one that it cites"])


def test_a_purge_changes_nothing(with_runs: Office) -> None:
    expunge.purge(with_runs.run)
    assert expunge.verify(with_runs.cert, keys=with_runs.keys, model=with_runs.run, audit=with_runs.run).valid
    claim = expunge.certify(with_runs.run, key=with_runs.key, ledger=with_runs.ledger,
                            out=with_runs.folder / "purged.json")
    assert not claim.rows.commitments and "were purged before" in claim.cautions[0]
    with pytest.raises(RefusedError, match="tells of no rows"):
        expunge.verify(with_runs.folder / "purged.json", keys=with_runs.keys, rows=ROWS, salt=with_runs.salt)


def test_an_edited_ledger_is_refused(office: Office, cli: Any) -> None:
    from .test_ledger import edit

    words = ("verify", office.cert, "--keys", office.keys, "--ledger", office.ledger)
    edit(DeletionLedger.open(office.ledger), "UPDATE entries SET body = '{\"number\":7}' WHERE number = 1")
    refused(*words, code=1, says=["is not what was written", "Entry 1 was changed", "Compare the ledger"])
    office.ledger.unlink()
    other = DeletionLedger.create(office.ledger)
    other.append("request", {})
    refused(*words, code=1, says=["another ledger than the one of the kept head"])


# Keys


def test_an_expired_key(office: Office, kept: Office, cli: Any) -> None:
    office.change_key(valid_from="2020-01-01T00:00:00+00:00", valid_until="2021-01-01T00:00:00+00:00")
    refused("verify", office.cert, "--keys", office.keys, code=1,
                says=["The key ops expired on 2021-01-01", "a current key"])
    refused("certify", kept.run, "--key", office.key, "--ledger", office.ledger, "--out", office.folder / "new",
                says=["Nothing was signed. The key ops expired on 2021-01-01.", "--new-key"])
    assert not (office.folder / "new").exists()


def test_a_revoked_key(office: Office, cli: Any) -> None:
    words = ("verify", office.cert, "--keys", office.keys)
    office.change_key(revoked_at="2026-01-01T00:00:00+00:00", reason="lost")
    refused(*words, code=1, says=["The key ops was revoked on 2026-01-01: lost."])
    refused(*words, "--ledger", office.ledger, code=1, says=["was revoked on 2026-01-01"])
    office.change_key(revoked_at="2999-01-01T00:00:00+00:00", valid_until="3000-01-01T00:00:00+00:00")
    refused(*words, code=1, says=["which only the ledger can show: give --ledger"])
    assert "and revoked later, on 2999-01-01" in cli(*words, "--ledger", office.ledger).out


def test_a_key_is_revoked_and_another_takes_its_place(office: Office, kept: Office, cli: Any) -> None:
    place = office.folder / "keys" / "ops"
    cli.refused("certify", "--revoke", place, says=["needs a --reason"])
    said = cli("certify", "--revoke", place, "--reason", "left the team")
    assert "The key ops is revoked" in said.out and "keys.json" in said.out
    cli.refused("certify", "--revoke", place, "--reason", "again", says=["was revoked on", "Nothing was changed"])
    cli.refused("certify", "--revoke", place.with_name("opps"), "--reason", "x", says=["Did you mean ops?"])
    refused("certify", kept.run, "--key", f"{place}.key", "--ledger", office.ledger, "--out",
                office.folder / "new.json", says=["Nothing was signed. The key ops was revoked"])
    assert cli("certify", "--new-key", f"{place}-2", "--days", 30, "--json").json["name"] == "ops-2"
    expunge.certify(kept.run, key=f"{place}-2.key", ledger=office.ledger, out=office.folder / "new.json")
    assert expunge.verify(office.folder / "new.json", keys=office.keys, ledger=office.ledger).signer == "ops-2"
    assert expunge.verify(office.cert, keys=office.keys, ledger=office.ledger).signer == "ops"  # older than the end


def test_a_wrong_key(office: Office, cli: Any, tmp_path: Path) -> None:
    new_key(tmp_path / "theirs", 1)
    refused("verify", office.cert, "--key", tmp_path / "theirs.pub", code=1,
                says=["not signed by a key that you trust", "Trusted: theirs."])
    refused("verify", office.cert, "--key", office.key, says=["It is a private key: keep it to yourself"])
    cli.refused("verify", office.cert, says=["Name one way to know the signer"])
    refused("verify", office.cert, "--keys", tmp_path / "none.json", says=["There is no list of keys"])
    refused("verify", office.cert, "--key", tmp_path / "none.pub", says=["There is no public key"])
    with pytest.raises(DataError, match="holds no private key"):
        keys.read_signer(tmp_path / "theirs.pub")


def test_keys_are_never_replaced(office: Office, cli: Any) -> None:
    before = office.key.read_bytes()
    cli.refused("certify", "--new-key", office.folder / "keys" / "ops", says=["There is a key ops", "never replaced"])
    cli.refused("certify", "--new-key", office.folder / "keys" / "two words", says=["is no name for a key"])
    assert office.key.read_bytes() == before


def test_an_edited_list_of_keys(office: Office) -> None:
    for change in ({"id": "0" * 64}, {"valid_from": "2026-01-01"}, {"public": "no base64!"},
                   {"valid_until": "2000-01-01T00:00:00+00:00"}):
        data = json.loads(office.keys.read_text())
        data["keys"][0] |= change
        (office.folder / "edited.json").write_text(json.dumps(data), encoding="utf-8")
        with pytest.raises(DataError, match="is not a readable KeyList"):
            keys.read_list(office.folder / "edited.json")


def test_a_private_key_with_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(crypto.PASSPHRASE, "open sesame")
    new_key(tmp_path / "ops", 1)
    assert b"ENCRYPTED" in (tmp_path / "ops.key").read_bytes()
    assert keys.read_signer(tmp_path / "ops.key")[1].name == "ops"
    monkeypatch.setenv(crypto.PASSPHRASE, "wrong")
    with pytest.raises(DataError, match="is not its passphrase"):
        keys.read_signer(tmp_path / "ops.key")
    monkeypatch.delenv(crypto.PASSPHRASE)
    with pytest.raises(DataError, match="No passphrase is given"):
        keys.read_signer(tmp_path / "ops.key")


def test_an_expired_key_without_a_ledger_is_not_checked(office: Office) -> None:
    """Whoever kept the key could write an earlier date."""
    time = payload_of(office.cert)["predicate"]["ledger"]["entry"]["time"]
    entry = KeyList.read(office.keys).keys[0].model_copy(update={
        "valid_from": "2020-01-01T00:00:00+00:00", "valid_until": "2021-01-01T00:00:00+00:00"})
    found = checks.check_key(entry, "2020-06-01T00:00:00+00:00", in_ledger=False)
    assert found.outcome == "not checked" and "by the certificate's own date: --ledger" in found.said
    assert checks.check_key(entry, "2020-06-01T00:00:00+00:00", in_ledger=True).outcome == "holds"
    current = checks.check_key(KeyList.read(office.keys).keys[0], time, in_ledger=False)
    assert current.outcome == "holds" and current.said.endswith("by the certificate's own date")


def test_a_key_must_count_at_the_time_of_the_entry(office: Office, kept: Office,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_now", lambda: "2999-01-01T00:00:00.000+00:00")
    refused("certify", kept.run, "--key", office.key, "--ledger", office.ledger, "--out", office.folder / "new.json",
            says=["Nothing was signed. The key ops expired on"])
    assert DeletionLedger.open(office.ledger).check().size == 8 and not list(office.folder.glob("new*"))


def test_two_changes_of_the_list_of_keys_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_key(tmp_path / "ops", 1)
    with keys._alone(tmp_path):
        monkeypatch.setattr(keys, "WAIT_S", 0.01)
        for change in (lambda: new_key(tmp_path / "more", 1), lambda: keys.revoke(tmp_path / "ops", "lost")):
            with pytest.raises(UsageError, match="cannot be changed now"):
                change()
    assert keys.revoke(tmp_path / "ops", "lost").revoked_at and "." in keys.now()
    with pytest.raises(MissingError, match="There is no list of keys"):
        keys.revoke(tmp_path / "none" / "ops", "lost")


# Files that are no certificate


def test_files_that_are_no_certificate(office: Office, cli: Any) -> None:
    words, whole = ("verify", office.cert, "--keys", office.keys), office.cert.read_bytes()
    for content, says in ((whole[:500], "Its end is missing."), (b"no json", "is not valid JSON"), (b"", "valid JSON"),
                          (b"[]", "no DSSE envelope"), (b'{"payload": "x"}', "no DSSE envelope"),
                          (whole.replace(b"{", b"{ ", 1), "not spelled as it was written"),
                          (whole.replace(b"in-toto", b"in-tata", 1), "no certificate of expunge's"),
                          (b"\xff\xfe", "valid JSON"), (b"[" * 100_000, "nested too deeply")):
        office.cert.write_bytes(content)
        refused(*words, says=[says, "Ask for the file again"])
    office.cert.unlink()
    refused(*words, says=["There is no certificate"])


def test_other_statements_that_are_honestly_signed(office: Office, cli: Any) -> None:
    words, payload = ("verify", office.cert, "--keys", office.keys), payload_of(office.cert)
    for change, says in (({"predicateType": f"{PREDICATE}2"}, "It has version '2'; this expunge reads version 1"),
                         ({"predicateType": "https://slsa.dev/provenance/v1"}, "no certificate of a deletion"),
                         ({"_type": "x"}, "no in-toto statement of version 1"), ({"predicate": {}}, "no readable"),
                         ({"subject": []}, "its subject is not the model")):
        signed_again(office, payload | change)
        refused(*words, says=[says])
    signed_again(office, payload_of(office.later) | {"predicate": payload["predicate"] | {
        "claim": payload_of(office.later)["predicate"]["claim"]}})
    refused(*words, code=1, says=["entry in the ledger is that of another certificate"])
    proof = payload["predicate"]["ledger"]
    signed_again(office, payload | {"predicate": payload["predicate"] | {"ledger": proof | {"root": "0" * 64}}})
    refused(*words, code=1, says=["does not lead to the root"])
    signed_again(office, payload | {"predicate": payload["predicate"] | {"request": None}})
    refused(*words, code=1, says=["The request that it answers is not in that ledger"])


def test_a_signed_payload_that_could_be_read_in_two_ways(office: Office) -> None:
    secret, signer = keys.read_signer(office.key)
    canonical = envelope.opened(office.cert.read_bytes(), "cert").payload
    for payload in (b" " + canonical, canonical.replace(b'{"_type"', b'{"_type":1,"_type"', 1), b"[" * 100_000, b"x"):
        office.cert.write_bytes(envelope.sealed(payload, secret, signer.id))
        refused("verify", office.cert, "--keys", office.keys, code=1, says=["not in canonical JSON"])


# Requests


def test_the_run_must_be_the_one_that_answered_the_request(office: Office, kept: Office) -> None:
    ledger = DeletionLedger.create(office.folder / "stream.db")
    mine = Audit.read(kept.run).subject.fingerprint
    ledger.append("stream", {})
    for _ in range(4):
        ledger.append("request", {})
    for name, reading in (("r1", {"model": mine}), ("r2", {"model": "another"}), ("r3", None)):
        ledger.append("done", {"requests": [name], "run": "1", "reading": reading})
    words = ("certify", kept.run, "--key", office.key, "--ledger", ledger.path, "--out", office.folder / "new.json")
    refused(*words, "--request", 0, says=["Entry 0 of", "is no request", "of the kind stream"])
    refused(*words, "--request", 5, says=["is no request", "of the kind done"])
    refused(*words, "--request", 2, says=["did not carry out the request in entry 2 (r2)", "the model another"])
    refused(*words, "--request", 4, says=["entry 4 (r4) is not carried out", "expunge requests run"])
    assert len(ledger) == 8

    def cautions(number: int, path: Path) -> str:
        made = expunge.certify(kept.run, key=office.key, ledger=path, out=office.folder / f"{path.name}{number}.json",
                               request=number)
        return " ".join(made.cautions)

    assert "does not tell" not in cautions(1, ledger.path)
    assert "does not tell which run carried out the request in entry 3" in cautions(3, ledger.path)
    assert "does not tell which run" in cautions(3, office.ledger)  # a ledger without a stream


# Models


def test_another_model_where_the_run_began_from(with_runs: Office) -> None:
    record = RunRecord.read(with_runs.run)
    assert certifying._before(record)[0].files is not None and not certifying._before(record)[1]
    moved = record.model_copy(update={"model": str(with_runs.other)})
    claim, caution = certifying._before(moved)
    assert claim.files is None and claim.fingerprint == record.model_fingerprint and "another model now" in caution
    assert certifying._before(record.model_copy(update={"model": "of/the-hub"}))[0].files is None


def test_the_store_of_a_guard_is_not_hashed_in_clear(with_runs: Office) -> None:
    (with_runs.run / "model" / "guard.json").write_text('{"data": "Ada"}', encoding="utf-8")
    out = with_runs.folder / "guarded.json"
    claim = expunge.certify(with_runs.run, key=with_runs.key, ledger=with_runs.ledger, out=out)
    assert claim.after.files is not None and "guard.json" not in claim.after.files.files
    assert any("guard.json is left out" in said for said in claim.cautions)
    found = expunge.verify(out, keys=with_runs.keys, model=with_runs.run)
    assert any("its guard was not compared" in check.said for check in found.checks)


def test_an_index_names_the_tensors_that_are_there(with_runs: Office) -> None:
    from expunge.models.load import load_subject

    again = with_runs.folder / "again"
    load_subject(with_runs.run).model.save_pretrained(again, max_shard_size="20KB")
    index = again / "model.safetensors.index.json"
    whole = json.loads(index.read_text(encoding="utf-8"))
    read_model(again)
    name, *rest = whole["weight_map"]
    for named in ({key: whole["weight_map"][key] for key in rest}, whole["weight_map"] | {name: "other.safetensors"},
                  whole["weight_map"] | {"more": "x"}, [], "x"):
        index.write_text(json.dumps(whole | {"weight_map": named}), encoding="utf-8")
        with pytest.raises(DataError, match="is not the index of the tensors"):
            read_model(again)


def test_rows_are_cleaned_wherever_they_stand() -> None:
    row = Example(id="forget/17", prompt="", answer="Lives in Rome.", entity="Ada Berg", kind="messages",
                  messages=(("user", "Where is she?"),), short_answer="Rome")
    said = {"ada berg": 1, "name": "runs/ada-berg of ADA_BERG",
            "note": ["where IS she?", "forget/17", "in rome", "Romeo"]}
    assert without_rows(said, [row]) == {
        "[removed]": 1, "name": "runs/[removed] of [removed]",
        "note": ["[removed]"] * 2 + ["in [removed]", "Romeo"]}
    for name in ("name", "Rome"):  # a key that every record has is kept
        assert without_rows({"name": 1}, [row.model_copy(update={"entity": name})]) == {"name": 1}
    assert model_name("runs/ada-berg/model") == "ada-berg" == model_name("/x/ada-berg/model")
    assert model_name("runs/ada-berg") == "ada-berg" and model_name("model") == "model"


# Runs that cannot be certified, and faults


def test_runs_that_cannot_be_certified(with_runs: Office, cli: Any) -> None:
    out = with_runs.folder / "new.json"
    words = ("--key", with_runs.key, "--ledger", with_runs.ledger, "--out", out)
    record = RunRecord.read(with_runs.run)
    refused("certify", with_runs.folder / "none", *words, says=["There is no run"])
    refused("certify", with_runs.folder / "keys", *words, says=["is no run"])
    refused("certify", with_runs.run, *words, "--audit", with_runs.folder, says=["holds no audit", "expunge audit"])
    refused("certify", with_runs.run, *words, "--audit", with_runs.other,
                says=["is not the one that was audited", "Audit it anew"])
    refused("certify", with_runs.run, *words, "--request", 99, says=["no entry 99"])
    refused("certify", with_runs.run, *words, "--request", 5, says=["Entry 5 of", "is no request"])
    refused("certify", with_runs.run, "--key", out, *words[2:], says=["There is no private key"])
    refused("certify", with_runs.run, *words[:4], "--out", with_runs.cert, says=["already exists", "never replaced"])
    cli.refused("certify", with_runs.run, says=["--key, --ledger, --out is missing"])
    cli.refused("certify", says=["Name one thing to do"])
    for change, says in (({"status": "interrupted"}, "is unfinished"),
                         ({"kind": "train", "settings": TrainSettings().to_json()}, "was trained")):
        data = {**record.to_json(), **change}
        (with_runs.run / "record.json").write_text(json.dumps(data), encoding="utf-8")
        refused("certify", with_runs.run, *words, says=[says])
    (with_runs.run / "record.json").write_text(json.dumps(record.to_json()), encoding="utf-8")
    (with_runs.run / "audit.json").unlink()
    refused("certify", with_runs.run, *words, says=["holds no audit"])
    assert DeletionLedger.open(with_runs.ledger).check().size == 8 and not list(with_runs.folder.glob("new*"))


def test_certify_on_one_screen(office: Office, kept: Office, cli: Any) -> None:
    said = cli("certify", kept.run, "--key", office.key, "--ledger", office.folder / "fresh.db", "--out",
               office.folder / "new.json").out
    assert said.startswith("Certified: the audit says retains. run1, unlearned from before by npo + retain_kl.")
    assert "Guarantee: empirical" in said and "Rows: 4 by salted hashes." in said and len(said.splitlines()) <= 20
    command = said.splitlines()[-1].removeprefix("Next: expunge ").split()
    assert cli(*command).out.startswith("The certificate holds.")


def test_two_at_once_to_one_file(office: Office, kept: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one writes its salt, or its certificate, after this one looked."""
    out, looked = office.folder / "new.json", certifying._audited
    for name, size in (("new.json.salt", 8), ("new.json", 9)):
        def other(run: Path, folder: Path, place: Path = office.folder / name) -> Audit:
            place.write_text("theirs", encoding="utf-8")
            return looked(run, folder)

        monkeypatch.setattr(certifying, "_audited", other)
        with pytest.raises(UsageError, match="already exists"):
            expunge.certify(kept.run, key=office.key, ledger=office.ledger, out=out)
        assert [path.name for path in office.folder.glob("new*")] == [name]
        assert (office.folder / name).read_text() == "theirs" and len(DeletionLedger.open(office.ledger)) == size
        (office.folder / name).unlink()


@pytest.mark.parametrize("where", ["write_beside", "place_new", "full"])
def test_a_full_disk_leaves_nothing_half_written(office: Office, kept: Office, monkeypatch: pytest.MonkeyPatch,
                                                 where: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if where == "full":
        monkeypatch.setattr(store.DeletionLedger, "_insert", fail)
    else:
        monkeypatch.setattr(certifying, where, fail)
    with pytest.raises(OSError, match="No space left"):
        expunge.certify(kept.run, key=office.key, ledger=office.ledger, out=office.folder / "new.json")
    monkeypatch.undo()
    assert not [path for path in office.folder.iterdir() if "new.json" in path.name]
    assert DeletionLedger.open(office.ledger).check().size == 8 + (where == "place_new")


def test_a_clock_set_back_does_not_make_a_certificate_older(office: Office, kept: Office,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    last = DeletionLedger.open(office.ledger).entries()[-1].time
    monkeypatch.setattr(store, "_now", lambda: "2020-01-01T00:00:00.000+00:00")
    expunge.certify(kept.run, key=office.key, ledger=office.ledger, out=office.folder / "new.json")
    assert expunge.verify(office.folder / "new.json", keys=office.keys, ledger=office.ledger).signed_at == last


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rfc8785", None)
    with pytest.raises(MissingExtra, match=r"\[certify\]"):
        crypto.canonical_bytes({})
    with pytest.raises(DataError, match="no canonical JSON"):
        monkeypatch.undo()
        crypto.canonical_bytes({"x": 2**60})


# Running the cheap part again


def test_rerun_scores_the_stored_observations_again(with_runs: Office, cli: Any) -> None:
    from expunge.auditing import score_again

    fresh = score_again(with_runs.run)
    fresh.write(with_runs.run / "audit.json")
    out = with_runs.folder / "new.json"
    expunge.certify(with_runs.run, key=with_runs.key, ledger=with_runs.ledger, out=out)
    words = ("verify", out, "--keys", with_runs.keys, "--audit", with_runs.run, "--rerun")
    assert "the stored observations give the same" in cli(*words).out
    rows = next((with_runs.run / "observations" / "subject").glob("likelihood.forget.jsonl"))
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:3]), encoding="utf-8")
    refused(*words, code=1, says=["The observations give other scores than the audit: forget.probability"])
    refused(*words[:4], "--rerun", says=["There is nothing to run again"])
    expunge.purge(with_runs.run)
    assert "they were purged" in cli(*words).out


def test_rerun_tells_what_the_audit_leaves_out(with_runs: Office) -> None:
    from expunge.auditing import score_again

    fresh = score_again(with_runs.run)
    for change in ({"scores": fresh.scores[1:]}, {"threats": True}):
        audit = fresh.model_copy(update=change)
        if "threats" in change:
            assert fresh.verdict is not None
            threat = Threat(access="weights", outcome="forgets", sentence="Nothing came out.")
            audit = fresh.model_copy(update={"verdict": fresh.verdict.model_copy(update={"threats": (threat,)})})
        audit.write(with_runs.run / "audit.json")
        found = certifying._scored_again(Audit.read(with_runs.run), with_runs.run)
        assert found.outcome == "fails" and ("leaves out" in found.said or "weights forgets" in found.said)


@pytest.mark.slow
def test_rerun_asks_the_model_again(with_runs: Office) -> None:
    from expunge.audit.cache import ObservationCache
    from expunge.audit.runner import observe
    from expunge.auditing import score_again
    from expunge.models.load import load_subject
    from expunge.progress import silent
    from expunge.records.task import Task

    run = with_runs.run
    observe(load_subject(run), Task.read(run / "task.json"), [("likelihood", "forget")],
            run / "observations" / "subject", announce=silent, cache=ObservationCache())
    score_again(run).write(run / "audit.json")
    out = with_runs.folder / "new.json"
    expunge.certify(run, key=with_runs.key, ledger=with_runs.ledger, out=out)
    found = expunge.verify(out, keys=with_runs.keys, model=run, rerun=True)
    assert "the probability of 4 answers is as it was" in found.checks[-1].said
    with pytest.raises(RefusedError, match="have the fingerprint"):
        expunge.verify(out, keys=with_runs.keys, model=with_runs.other, audit=run, rerun=True)
    rows = run / "observations" / "subject" / "likelihood.forget.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    lines[0]["logp"][0] -= 1
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RefusedError, match="The model answers otherwise than it did in the audit"):
        expunge.verify(out, keys=with_runs.keys, model=run, rerun=True)


def test_errors_are_of_the_family() -> None:
    assert issubclass(RefusedError, ExpungeError) and RefusedError("x").exit_code == 1
    assert {UsageError("x").exit_code, MissingError("x").exit_code, DataError("x").exit_code} == {2}
    assert KeyList().find("x") is None and checks.KIND == "certificate"
