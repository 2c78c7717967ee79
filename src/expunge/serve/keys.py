"""Who may ask, and how often: API keys, which are kept as hashes only, and one bucket of tokens for each."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from expunge.errors import DataError, MissingError, UsageError
from expunge.serve.errors import ApiError

SHORTEST = 16
"""Characters of a key; shorter ones are guessed."""
HOW = "Make one with: (umask 077; openssl rand -hex 24 > keys.txt)"


class Keys:
    """The keys of a file, by the SHA-256 of each.

    Args:
        hashes: name -> hash.
    """

    def __init__(self, hashes: Mapping[str, bytes]) -> None:
        self._hashes = dict(hashes)

    def __len__(self) -> int:
        return len(self._hashes)

    def owner(self, header: str | None) -> str:
        """The name of the key in an Authorization header. Every key is compared, in constant time.

        Raises:
            ApiError: there is none, or it is not known.
        """
        scheme, _, given = (header or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise ApiError(401, "No API key was given. Send the header Authorization: Bearer KEY.", "missing_api_key")
        asked = _hash(given.strip())
        found = [name for name, known in self._hashes.items() if hmac.compare_digest(asked, known)]
        if not found:
            raise ApiError(401, "This API key is not known here. Ask the operator of the server for one.",
                           "invalid_api_key")
        return found[0]


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def read_keys(path: Path) -> Keys:
    """The keys of a file: one a line, `KEY` or `NAME KEY`; empty lines and those that begin with # are left out.

    Raises:
        MissingError: there is no such file.
        UsageError: others may read it.
        DataError: it cannot be read, holds no key, or one that is short or there twice.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingError(f"There is no key file {path}.", "", HOW) from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise DataError(f"The key file {path} cannot be read.", f"The system says: {why}.",
                        "Check that it is a file, and that you may read it.") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"The key file {path} is open to others (mode {stat.S_IMODE(mode):o}).",
                         "A reader of the file can ask the model.", f"Close it: chmod 600 {path}")
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, key = (words[0], words[1]) if len(words) == 2 else (f"key-{number}", words[0])
        if len(words) > 2 or len(key) < SHORTEST:
            raise DataError(f"Line {number} of {path} is no key.",
                            f"A line is KEY or NAME KEY, and a key has {SHORTEST} characters or more.", HOW)
        if name in found or _hash(key) in found.values():
            raise DataError(f"Line {number} of {path} repeats a name or a key.", "Each key has one name.",
                            "Leave one of the lines out.")
        found[name] = _hash(key)
    if not found:
        raise DataError(f"The key file {path} holds no key.", "", HOW)
    return Keys(found)


class RateLimit:
    """A bucket of tokens for each key: one request takes one, and a minute fills it again.

    Args:
        per_minute: requests; 0 allows any number.
        most: buckets that are kept; the one used longest ago goes first.
    """

    def __init__(self, per_minute: int, most: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._most, self._clock = per_minute, most, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, owner: str) -> None:
        """Raises ApiError when the bucket of this key is empty, with the seconds until it is not."""
        if not self._size:
            return
        now, rate = self._clock(), self._size / 60
        left, then = self._buckets.pop(owner, (float(self._size), now))
        left = min(float(self._size), left + (now - then) * rate)
        self._buckets[owner] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        if left < 1:
            raise ApiError(429, f"More than {self._size} requests a minute. Ask again later.", "rate_limit_exceeded",
                           retry=(1 - left) / rate)
