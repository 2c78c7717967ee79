"""The Merkle tree: the vectors of certificate transparency, and a recursive twin written from the definition."""

from __future__ import annotations

import hashlib

import pytest

from expunge.ledger.merkle import (
    EMPTY,
    consistency_path,
    consistent,
    grown,
    includes,
    inclusion_path,
    joined,
    leaf_hash,
    root,
)

LEAVES = [leaf_hash(bytes.fromhex(text)) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {  # (index, size)
    (0, 1): [],
    (0, 8): ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
             "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"],
    (5, 8): ["bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): ["6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
             "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"],
}
CONSISTENCY = {  # (old, size)
    (1, 1): [],
    (1, 8): PATHS[0, 8],
    (6, 8): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
    (2, 5): ["5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"],
}


def test_published_vectors() -> None:
    """Those of certificate-transparency's own tests."""
    assert root([]) == EMPTY == hashlib.sha256(b"").digest()
    assert [root(LEAVES[:size]).hex() for size in range(1, 9)] == ROOTS
    for (index, size), path in PATHS.items():
        assert [h.hex() for h in inclusion_path(LEAVES[:size], index)] == path
        assert includes(LEAVES[index], index, size, list(map(bytes.fromhex, path)), bytes.fromhex(ROOTS[size - 1]))
    for (old, size), path in CONSISTENCY.items():
        assert [h.hex() for h in consistency_path(LEAVES[:size], old)] == path
        assert consistent(old, size, list(map(bytes.fromhex, path)), bytes.fromhex(ROOTS[old - 1]),
                          bytes.fromhex(ROOTS[size - 1]))


def naive(leaves: list[bytes]) -> bytes:
    """The root as RFC 9162 defines it: split at the largest power of two below the size."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive(leaves[:k]) + naive(leaves[k:])).digest()


LARGEST = 40
MANY = [leaf_hash(str(n).encode()) for n in range(LARGEST)]
TOPS = [naive(MANY[:size]) for size in range(LARGEST + 1)]


def test_every_size_has_the_root_of_the_definition() -> None:
    peaks: list[bytes] = []
    for size in range(LARGEST + 1):
        assert root(MANY[:size]) == TOPS[size] == joined(peaks)
        assert len(peaks) == size.bit_count()
        peaks = grown(peaks, size, MANY[size]) if size < LARGEST else peaks


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13, 31, 40])
def test_an_inclusion_proof_holds_for_its_leaf_alone(size: int) -> None:
    for index in range(size):
        path = inclusion_path(MANY[:size], index)
        assert includes(MANY[index], index, size, path, TOPS[size])
        assert not includes(MANY[index - 1] if size > 1 else LEAVES[0], index, size, path, TOPS[size])
        assert not includes(MANY[index], index, size, path, TOPS[size - 1])
        assert not includes(MANY[index], index, size, [*path, EMPTY], TOPS[size])
        assert not any(includes(MANY[index], other, size, path, TOPS[size]) for other in range(size) if other != index)
        if path:
            assert not includes(MANY[index], index, size, path[:-1], TOPS[size])
            assert not includes(MANY[index], index, size, [path[0][::-1], *path[1:]], TOPS[size])


def test_a_consistency_proof_holds_for_its_two_trees_alone() -> None:
    for size in range(LARGEST + 1):
        for old in range(size + 1):
            path = consistency_path(MANY[:size], old)
            assert consistent(old, size, path, TOPS[old], TOPS[size])
            assert not consistent(old, size, path, LEAVES[0], TOPS[size])
            if old:
                assert not consistent(old, size, path, TOPS[old], LEAVES[0])
                assert not consistent(old, size, [*path, EMPTY], TOPS[old], TOPS[size])
            if path:
                assert not consistent(old, size, path[:-1], TOPS[old], TOPS[size])
                assert not consistent(old, size, [*path[:-1], LEAVES[0]], TOPS[old], TOPS[size])


def test_what_is_outside_the_tree() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"no leaf {index} among 3"):
            inclusion_path(MANY[:3], index)
        assert not includes(MANY[0], index, 3, [], TOPS[3])
    with pytest.raises(IndexError, match="no 4 leaves among 3"):
        consistency_path(MANY[:3], 4)
    assert not consistent(4, 3, [], TOPS[4], TOPS[3]) and not consistent(2, 3, [], TOPS[2], TOPS[3])
