"""What a ledger is made of, as records: entries, heads and the proofs about them. Pure; no file is read."""

from __future__ import annotations

from typing import Any, ClassVar

from expunge.ledger.merkle import consistent, includes, leaf_hash
from expunge.records.base import Record, canonical


class LedgerEntry(Record):
    """One thing that happened. Its leaf is the hash of all of it, so nothing of it can change unnoticed."""

    ledger: str
    """Id of the ledger: an entry that is copied into another one has another leaf there."""
    number: int
    """Counted from 0."""
    time: str
    """UTC, ISO 8601 with milliseconds; never before that of the entry before."""
    clock_behind_s: float = 0.0
    """By how many seconds the machine's clock was behind the entry before, which `time` then repeats; 0 as a rule."""
    kind: str
    body: dict[str, Any]

    @property
    def leaf(self) -> bytes:
        """Hash of the leaf, 32 bytes."""
        return leaf_hash(canonical(self.to_json()).encode())


class LedgerHead(Record):
    """A ledger at one time, in one hash. Who keeps one can tell later whether an earlier entry was changed."""

    FILE: ClassVar[str] = "head.json"
    ledger: str
    size: int
    """How many entries."""
    root: str
    """Hex."""


class InclusionProof(Record):
    """That an entry stands in the ledger of this size and root."""

    entry: LedgerEntry
    size: int
    root: str
    path: tuple[str, ...]
    """Hex, from the leaf up."""

    @property
    def holds(self) -> bool:
        return includes(self.entry.leaf, self.entry.number, self.size, _bytes(self.path), _hash(self.root))

    @property
    def head(self) -> LedgerHead:
        return LedgerHead(ledger=self.entry.ledger, size=self.size, root=self.root)


class ConsistencyProof(Record):
    """That a ledger only grew: the older one is its beginning."""

    old: LedgerHead
    new: LedgerHead
    path: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return self.old.ledger == self.new.ledger and consistent(
            self.old.size, self.new.size, _bytes(self.path), _hash(self.old.root), _hash(self.new.root))


def _hash(text: str) -> bytes:
    """The bytes of a hex string; of anything else, bytes that equal no hash."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _bytes(path: tuple[str, ...]) -> list[bytes]:
    return [_hash(text) for text in path]
