"""Tampered certificates and ledgers are all refused, and untouched ones never (the seed is fixed)."""

from __future__ import annotations

import base64
import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge.certify import crypto, envelope
from expunge.certify.checks import Verification
from expunge.certify.keys import key_id
from expunge.errors import DataError, ExpungeError
from expunge.ledger import merkle
from expunge.ledger.store import COLUMNS, DeletionLedger

from .conftest import Office
from .test_ledger import edit

Draw = random.Random


def flipped(data: bytes, draw: Draw) -> bytes:
    """One bit, or up to eight."""
    made = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 8])):
        at = draw.randrange(len(made))
        made[at] ^= 1 << draw.randrange(8)
    return bytes(made)


# Certificates: (office, draw) -> other bytes of cert.json


def bit_flip(office: Office, draw: Draw) -> bytes:
    return flipped(office.cert.read_bytes(), draw)


def cut(office: Office, draw: Draw) -> bytes:
    whole = office.cert.read_bytes()
    return whole[: draw.randrange(len(whole))]


def reordered(office: Office, draw: Draw) -> bytes:
    """Two pieces of the file in each other's place."""
    whole = office.cert.read_bytes()
    a, b, c = sorted(draw.sample(range(len(whole)), 3))
    return whole[:a] + whole[b:c] + whole[a:b] + whole[c:]


def _parts(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def _sealed_as(office: Office, parts: dict[str, Any]) -> bytes:
    return crypto.canonical_bytes(parts) + b"\n"


def swapped_signature(office: Office, draw: Draw) -> bytes:
    """An honest signature of the same key, of another certificate; or a random one."""
    parts = _parts(office.cert)
    other = _parts(office.later)["signatures"]
    if draw.random() < 0.5:
        other = [{"keyid": other[0]["keyid"], "sig": base64.b64encode(draw.randbytes(64)).decode()}]
    return _sealed_as(office, parts | {"signatures": other})


def other_payload(office: Office, draw: Draw) -> bytes:
    """The payload of another certificate, or one with another value, under the old signature."""
    parts = _parts(office.cert)
    if draw.random() < 0.5:
        return _sealed_as(office, parts | {"payload": _parts(office.later)["payload"]})
    payload = json.loads(base64.b64decode(parts["payload"]))
    claim = payload["predicate"]["claim"]
    claim[draw.choice(["recipe", "task", "guarantee", "seed"])] = draw.choice(["npo", "exact", "x", 1])
    return _sealed_as(office, parts | {"payload": base64.b64encode(crypto.canonical_bytes(payload)).decode()})


def forged(office: Office, draw: Draw) -> bytes:
    """The same payload signed by a stranger, under the trusted key's name or under the stranger's own."""
    secret = draw.randbytes(32)
    found = envelope.opened(office.cert.read_bytes(), "cert")
    return envelope.sealed(found.payload, secret, draw.choice([found.key, key_id(crypto.public_of(secret))]))


# Ledgers: changed in place


def row_flip(office: Office, draw: Draw) -> None:
    """A bit of one cell of one entry."""
    ledger = DeletionLedger.open(office.ledger)
    column = draw.choice(COLUMNS.split(", ")[1:])
    number = draw.randrange(len(ledger))
    with closing(sqlite3.connect(office.ledger)) as db:
        value, = db.execute(f"SELECT {column} FROM entries WHERE number = ?", (number,)).fetchone()
    if isinstance(value, float):
        new = repr(value + draw.choice([1.0, 0.5, -0.25]))
    else:
        raw = flipped(value if isinstance(value, bytes) else value.encode(), draw)
        new = f"X'{raw.hex()}'" if isinstance(value, bytes) else f"CAST(X'{raw.hex()}' AS TEXT)"
    edit(ledger, f"UPDATE entries SET {column} = {new} WHERE number = {number}")


def file_flip(office: Office, draw: Draw) -> None:
    """A bit of the file, until one is met that an entry or a table stands in."""
    whole, ledger = office.ledger.read_bytes(), DeletionLedger.open(office.ledger)
    before = ledger.entries()
    while True:
        office.ledger.write_bytes(flipped(whole, draw))
        try:
            again = DeletionLedger.open(office.ledger)
            again.check()
        except ExpungeError:
            return
        assert again.entries() == before, "a change of what the ledger says went unnoticed"


def file_cut(office: Office, draw: Draw) -> None:
    whole = office.ledger.read_bytes()
    office.ledger.write_bytes(whole[: draw.randrange(len(whole))])


def entries_swapped(office: Office, draw: Draw) -> None:
    """Two entries in each other's place, with all their cells."""
    ledger = DeletionLedger.open(office.ledger)
    a, b = draw.sample(range(len(ledger)), 2)
    edit(ledger, f"UPDATE entries SET number = -1 WHERE number = {a}",
         f"UPDATE entries SET number = {a} WHERE number = {b}", f"UPDATE entries SET number = {b} WHERE number = -1")


def entry_replayed(office: Office, draw: Draw) -> None:
    """An entry once more, in place of another or at the end."""
    ledger = DeletionLedger.open(office.ledger)
    size = len(ledger)
    a, b = draw.randrange(size), draw.randrange(size + 1)
    b = size if a == b else b
    edit(ledger, f"DELETE FROM entries WHERE number = {b}",
         f"INSERT INTO entries SELECT {b}, time, clock_behind_s, kind, body, leaf, root, peaks FROM entries "
         f"WHERE number = {a}")


def end_removed(office: Office, draw: Draw) -> None:
    """The certificate's entry and all after it: what is left is a sound ledger."""
    ledger = DeletionLedger.open(office.ledger)
    edit(ledger, f"DELETE FROM entries WHERE number >= {draw.randint(1, 5)}")
    assert ledger.check()


def written_anew(office: Office, draw: Draw) -> None:
    """Every hash computed again after one entry was changed: what is left is a sound ledger with the old id."""
    ledger = DeletionLedger.open(office.ledger)
    changed, peaks, orders = draw.randrange(6), list[bytes](), list[str]()
    for entry in ledger.entries():
        if entry.number == changed:
            entry = entry.model_copy(update={"body": {"number": draw.randrange(100, 200)}})
        peaks = merkle.grown(peaks, entry.number, entry.leaf)
        cells = {"body": f"'{json.dumps(entry.body, sort_keys=True, separators=(',', ':'))}'",
                 "leaf": f"X'{entry.leaf.hex()}'", "root": f"X'{merkle.joined(peaks).hex()}'",
                 "peaks": f"X'{b''.join(peaks).hex()}'"}
        orders.append(f"UPDATE entries SET {', '.join(f'{k} = {v}' for k, v in cells.items())} "
                      f"WHERE number = {entry.number}")
    edit(ledger, *orders)
    assert ledger.check()


# Other models


def another_model(office: Office, draw: Draw) -> None:
    """A bit of the weights."""
    weights = office.run / "model" / "model.safetensors"
    weights.write_bytes(flipped(weights.read_bytes(), draw))


def replayed_certificate(office: Office, draw: Draw) -> None:
    """An honest certificate shown for a model that it is not of."""
    shutil.rmtree(office.run / "model")
    shutil.copytree(office.other / "model", office.run / "model")


CERTIFICATES: list[Callable[[Office, Draw], bytes]] = [bit_flip, cut, reordered, swapped_signature, other_payload,
                                                       forged]
LEDGERS: list[Callable[[Office, Draw], None]] = [row_flip, file_flip, file_cut, entries_swapped, entry_replayed,
                                                 end_removed, written_anew]
MODELS: list[Callable[[Office, Draw], None]] = [another_model, replayed_certificate]


def look(office: Office, path: Path, way: object) -> Verification:
    """The model is read where it was changed: that takes longer than all the rest."""
    return expunge.verify(path, keys=office.keys, ledger=office.ledger, model=office.run if way in MODELS else None)


def tamper(office: Office, count: int) -> Counter[str]:
    """How many of each way were refused; an untouched certificate is verified after each of them.

    Raises:
        AssertionError: one was not refused.
        ExpungeError: an untouched one was.
    """
    ways = [*CERTIFICATES, *LEDGERS, *MODELS]
    cert, ledger = office.cert.read_bytes(), office.ledger.read_bytes()
    model = office.folder / "model"
    shutil.copytree(office.run / "model", model)
    refused: Counter[str] = Counter()
    for number in range(count):
        way, draw = ways[number % len(ways)], random.Random(number)
        made = way(office, draw)
        if isinstance(made, bytes):
            assert made != cert
            office.cert.write_bytes(made)
        with suppress(DataError):  # a missing file or a full disk is no refusal
            look(office, office.cert, way)
            raise AssertionError(f"{way.__name__} with seed {number} was not refused")
        refused[way.__name__] += 1
        office.cert.write_bytes(cert)
        office.ledger.write_bytes(ledger)
        if way in MODELS:
            shutil.rmtree(office.run / "model")
            shutil.copytree(model, office.run / "model")
        assert look(office, draw.choice([office.cert, office.later]), way).valid
    return refused


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_all_tampered_ones_are_refused_and_no_untouched_one(with_runs: Office, count: int) -> None:
    refused = tamper(with_runs, count)
    assert sum(refused.values()) == count and len(refused) == 15
