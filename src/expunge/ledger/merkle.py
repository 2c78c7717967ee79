"""The Merkle tree of RFC 9162, section 2.1, with SHA-256: roots, inclusion proofs and consistency proofs.

All functions take the hashes of leaves (`leaf_hash`), not the leaves. Hashes are 32 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

EMPTY = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """SHA-256 of 0x00 and the data. The prefix tells leaves from nodes, so that neither passes for the other."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256 of 0x01 and the two hashes below."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def grown(peaks: Sequence[bytes], size: int, leaf: bytes) -> list[bytes]:
    """The peaks of a tree of `size` leaves after one more.

    Peaks are the roots of the perfect subtrees that a tree is made of, from left to right: one for each bit that is
    set in its size. They are all that appending needs.
    """
    found, top = list(peaks), leaf
    while size & 1:
        top = node_hash(found.pop(), top)
        size >>= 1
    return [*found, top]


def joined(peaks: Sequence[bytes]) -> bytes:
    """The root of the tree with these peaks."""
    if not peaks:
        return EMPTY
    top = peaks[-1]
    for peak in reversed(peaks[:-1]):
        top = node_hash(peak, top)
    return top


def root(leaves: Iterable[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1."""
    peaks: list[bytes] = []
    for size, leaf in enumerate(leaves):
        peaks = grown(peaks, size, leaf)
    return joined(peaks)


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH of section 2.1.3.1: the hashes that lead from leaf `index` to the root, from below.

    Raises:
        IndexError: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"There is no leaf {index} among {len(leaves)}.")
    if len(leaves) == 1:
        return []
    left = _split(len(leaves))
    if index < left:
        return [*inclusion_path(leaves[:left], index), root(leaves[left:])]
    return [*inclusion_path(leaves[left:], index - left), root(leaves[:left])]


def includes(leaf: bytes, index: int, size: int, path: Sequence[bytes], top: bytes) -> bool:
    """Whether a path proves that the leaf has this index in the tree of this size and root (section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for beside in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(beside, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, beside)
        at, last = at >> 1, last >> 1
    return last == 0 and found == top


def consistency_path(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """PROOF of section 2.1.4.1: that the tree of the first `old` leaves is the beginning of this one.

    Raises:
        IndexError: there are not so many leaves.
    """
    if not 0 <= old <= len(leaves):
        raise IndexError(f"There are no {old} leaves among {len(leaves)}.")
    return _between(leaves, old, whole=True) if 0 < old < len(leaves) else []


def consistent(old: int, size: int, path: Sequence[bytes], old_top: bytes, top: bytes) -> bool:
    """Whether a path proves that the old tree is the beginning of the new one (section 2.1.4.2).

    The empty tree is the beginning of every tree, and each tree of itself; both without a path.
    """
    if not 0 <= old <= size or (old in (0, size) and path):
        return False
    if old == 0:
        return old_top == EMPTY
    if old == size:
        return old_top == top
    at, last, rest = old - 1, size - 1, list(path)
    if old & (old - 1) == 0:  # a perfect old tree is the first node itself
        rest.insert(0, old_top)
    if not rest:
        return False
    while at & 1:
        at, last = at >> 1, last >> 1
    before = now = rest[0]
    for beside in rest[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, now = node_hash(beside, before), node_hash(beside, now)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            now = node_hash(now, beside)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old_top and now == top


def _between(leaves: Sequence[bytes], old: int, whole: bool) -> list[bytes]:
    """SUBPROOF; `whole` says that these leaves are a subtree whose hash the verifier has already."""
    if old == len(leaves):
        return [] if whole else [root(leaves)]
    left = _split(len(leaves))
    if old <= left:
        return [*_between(leaves[:left], old, whole), root(leaves[left:])]
    return [*_between(leaves[left:], old - left, False), root(leaves[:left])]


def _split(size: int) -> int:
    """The largest power of two below the size: where a tree divides."""
    return int(1 << (size - 1).bit_length() - 1)
