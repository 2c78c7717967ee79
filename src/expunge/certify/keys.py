"""Keys: new ones, and the list that says which of them count from when to when, and which were revoked.

The list holds public keys only. A verifier must have it from a trusted source, and not from the place that the
certificate came from.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from expunge.certify import crypto
from expunge.errors import MissingError, UsageError, did_you_mean
from expunge.ledger.files import write_new
from expunge.records.base import Record

KEYS_SCHEMA = "expunge.keys/1"
LIST = "keys.json"
WAIT_S = 30.0
"""How long a change of the list waits for another one."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class KeyEntry(Record):
    """A public key and when it counts."""

    id: str
    """SHA-256 of the public key, in hex."""
    name: str
    public: str
    """32 bytes as base64."""
    valid_from: str | None = None
    """None: not known, as of a key that came without a list."""
    valid_until: str | None = None
    revoked_at: str | None = None
    reason: str = ""
    """Why it was revoked."""

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.id != key_id(self.raw):
            raise ValueError(f"the id of {self.name} is not that of its public key")
        times = [_instant(t) for t in (self.valid_from, self.valid_until, self.revoked_at) if t is not None]
        if self.valid_from and self.valid_until and times[0] >= times[1]:
            raise ValueError(f"{self.name} ends before it begins")
        return self

    @property
    def raw(self) -> bytes:
        return base64.b64decode(self.public, validate=True)

    @property
    def dated(self) -> bool:
        """Whether it is known when it counts."""
        return self.valid_from is not None

    def problem(self, time: str) -> str:
        """Why it does not count at a time; empty where it does, or where nothing is known."""
        at = _instant(time)
        if self.revoked_at and at >= _instant(self.revoked_at):
            return f"The key {self.name} was revoked on {self.revoked_at[:10]}{f': {self.reason}' * bool(self.reason)}."
        if self.valid_from and at < _instant(self.valid_from):
            return f"The key {self.name} counts from {self.valid_from[:10]} on."
        if self.valid_until and at > _instant(self.valid_until):
            return f"The key {self.name} expired on {self.valid_until[:10]}."
        return ""


class KeyList(Record):
    """keys.json."""

    FILE: ClassVar[str] = LIST
    schema_: str = Field(KEYS_SCHEMA, alias="schema", pattern=f"^{KEYS_SCHEMA}$")
    model_config = Record.model_config | {"populate_by_name": True}
    keys: tuple[KeyEntry, ...] = ()

    def find(self, id_: str) -> KeyEntry | None:
        return next((key for key in self.keys if key.id == id_), None)

    def revoked(self, name: str, reason: str) -> KeyList:
        """The list with a key revoked from now on.

        Raises:
            UsageError: there is no such key, or it is revoked already.
        """
        found = next((key for key in self.keys if key.name == name), None)
        if found is None:
            raise UsageError(f"There is no key {name!r} in this list.", did_you_mean(name, [k.name for k in self.keys]))
        if found.revoked_at:
            raise UsageError(found.problem(now()), "Nothing was changed.", "A revocation is final: make a new key.")
        gone = found.model_copy(update={"revoked_at": now(), "reason": reason})
        return self.model_copy(update={"keys": tuple(gone if key is found else key for key in self.keys)})


def key_id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()


def new_key(place: str | Path, days: int) -> KeyEntry:
    """Make NAME.key and NAME.pub, and enter the key into keys.json in the same folder.

    Args:
        place: path of the key without an ending, such as keys/ops-2026.
        days: for how long it counts, from now.

    Raises:
        UsageError: there is a key of this name, or it is no name for a file.
    """
    place, start = Path(place), datetime.now(UTC)
    if not NAME.fullmatch(place.name) or place.name == Path(LIST).stem:
        raise UsageError(f"{place.name!r} is no name for a key.", "It becomes the name of two files.",
                         "Use letters, digits, dots and dashes, such as ops-2026.")
    with _alone(place.parent):
        return _made(place, start, days)


def _made(place: Path, start: datetime, days: int) -> KeyEntry:
    known = read_list(place.parent) if (place.parent / LIST).exists() else KeyList()
    private, public = (place.with_name(f"{place.name}.{end}") for end in ("key", "pub"))
    if private.exists() or public.exists() or any(key.name == place.name for key in known.keys):
        raise UsageError(f"There is a key {place.name} in {place.parent} already.", "A key is never replaced.",
                         "Choose another name, such as one with the year.")
    secret = crypto.new_private()
    raw = crypto.public_of(secret)
    made = KeyEntry(id=key_id(raw), name=place.name, public=base64.b64encode(raw).decode(),
                    valid_from=start.isoformat(timespec="seconds"),
                    valid_until=(start + timedelta(days=days)).isoformat(timespec="seconds"))
    write_new(private, crypto.private_pem(secret), 0o600)
    write_new(public, crypto.public_pem(raw))
    known.model_copy(update={"keys": (*known.keys, made)}).write(place.parent / LIST)
    return made


def revoke(place: str | Path, reason: str) -> KeyEntry:
    """Revoke a key in the keys.json of its folder, from now on."""
    place = Path(place)
    read_list(place.parent)  # must be there
    with _alone(place.parent):
        after = read_list(place.parent).revoked(place.name, reason)
        after.write(place.parent / LIST)
    return next(key for key in after.keys if key.name == place.name)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer of keys.json at a time, or one of two changes is lost. The system frees it when a process dies.

    Raises:
        UsageError: another process kept it for `WAIT_S` seconds, or the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".{LIST}.lock"
    try:
        db = sqlite3.connect(lock, timeout=WAIT_S, isolation_level=None)
        try:
            db.execute("BEGIN EXCLUSIVE")
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as error:
        raise UsageError(f"{folder / LIST} cannot be changed now.", f"Its lock {lock} is not free: {error}.",
                         "Wait until the other process is done, and check the right to write there.") from None
    try:
        yield
    finally:
        db.close()


def read_list(place: str | Path) -> KeyList:
    """The list in a file, or in a folder.

    Raises:
        MissingError, DataError: there is none, or it cannot be read.
    """
    file = Path(place) / LIST if Path(place).is_dir() else Path(place)
    if not file.is_file():
        raise MissingError(f"There is no list of keys {file}.", fix="Name the keys.json that `expunge certify "
                           "--new-key` wrote, or its folder.")
    return KeyList.read(file)


def read_signer(file: str | Path) -> tuple[bytes, KeyEntry]:
    """A private key, and what the list beside it says of it.

    Raises:
        MissingError, DataError: there is none, or it cannot be read.
    """
    file = Path(file)
    if not file.is_file():
        raise MissingError(f"There is no private key {file}.", fix="Make one: expunge certify --new-key NAME.")
    secret = crypto.read_private(file.read_bytes(), str(file))
    return secret, _entry(file, crypto.public_of(secret))


def read_trusted(file: str | Path) -> KeyList:
    """A public key by itself: nothing says when it counts.

    Raises:
        MissingError, DataError: there is none, or it cannot be read.
    """
    file = Path(file)
    if not file.is_file():
        raise MissingError(f"There is no public key {file}.", fix="Name the file NAME.pub of the signer.")
    raw = crypto.read_public(file.read_bytes(), str(file))
    return KeyList(keys=(KeyEntry(id=key_id(raw), name=file.stem, public=base64.b64encode(raw).decode()),))


def _entry(file: Path, public: bytes) -> KeyEntry:
    known = read_list(file.parent).find(key_id(public)) if (file.parent / LIST).is_file() else None
    return known or KeyEntry(id=key_id(public), name=file.stem, public=base64.b64encode(public).decode())


def now() -> str:
    """As exact as the ledger's entries, so that a revocation and an entry of one second are told apart."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _instant(time: str) -> datetime:
    found = datetime.fromisoformat(time)
    if found.tzinfo is None:
        raise ValueError(f"{time} has no time zone")
    return found


def check_signer(key: KeyEntry, time: str | None = None) -> None:
    """Raises UsageError where a key does not count at a time (now): nobody would accept what it signs."""
    if why := key.problem(time or now()):
        raise UsageError(f"Nothing was signed. {why}", f"{LIST} beside the key says so.",
                         "Sign with a current key, or make one: expunge certify --new-key NAME.")

