"""Commitments to rows: salted hashes, from which nobody without the salt can tell or guess a row.

With the salt anybody can check whether a row that they have is among them. So the salt is kept private, and destroyed
when nobody may be able to check any more.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from expunge.errors import DataError, MissingError
from expunge.records.base import Record, canonical, read_json
from expunge.records.task import Example

SALT_SCHEMA = "expunge.salt/1"
SALT_BYTES = 32
SHORTEST = 4
"""Letters of a name or text that is looked for in a certificate; shorter ones stand in other words."""
REMOVED = "[removed]"


class Salt(Record):
    """The private file beside a certificate."""

    schema_: str = Field(SALT_SCHEMA, alias="schema", pattern=f"^{SALT_SCHEMA}$")
    model_config = Record.model_config | {"populate_by_name": True}
    salt: str = Field(pattern=f"^[0-9a-f]{{{2 * SALT_BYTES}}}$")

    @classmethod
    def new(cls) -> Salt:
        return cls(salt=secrets.token_hex(SALT_BYTES))

    @classmethod
    def of(cls, path: Path) -> Salt:
        """The salt in a file. Raises MissingError or DataError where there is none."""
        if not path.is_file():
            raise MissingError(f"There is no salt {path}.", "Without it no row can be checked.",
                               "Name the file that `expunge certify` wrote beside the certificate.")
        try:
            return cls.model_validate(read_json(path))
        except ValidationError:
            raise DataError(f"{path} is no salt of a certificate.", fix="Name the file that ends in .salt.") from None

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self.salt)

    @property
    def digest(self) -> str:
        """What the certificate says of it, so that a wrong salt is told."""
        return hashlib.sha256(self.raw).hexdigest()

    def written(self) -> bytes:
        return (json.dumps(self.to_json(), indent=1) + "\n").encode()


def commitment(row: Example, salt: Salt) -> str:
    """HMAC-SHA-256 of what the row says, in hex. Its id and entity are no part of it: files number rows as they like.
    """
    said = [row.kind, row.prompt, row.messages, row.answer, *([row.image.to_json()] if row.image else [])]
    return hmac.new(salt.raw, canonical(said).encode(), hashlib.sha256).hexdigest()


def commitments(rows: Iterable[Example], salt: Salt) -> tuple[str, ...]:
    """Of all rows, sorted, so that their order says nothing."""
    return tuple(sorted({commitment(row, salt) for row in rows}))


def _texts(row: Example) -> Iterator[str]:
    yield from (row.id, row.entity, row.prompt, row.answer, row.short_answer)
    for several in (row.secrets, row.aliases, row.paraphrased_prompts, row.paraphrased_answers,
                    [said for _, said in row.messages]):
        yield from several


def _field_names(kind: type[Record]) -> set[str]:
    return set(kind.model_fields).union(*map(_field_names, kind.__subclasses__()))


def without_rows(data: Any, rows: Sequence[Example]) -> Any:
    """JSON without the texts, names and ids of rows, wherever an option, a label or a sentence brought them in.

    Case does not count, nor what stands between words: "ada-berg" is Ada Berg. Keys that every record has are kept.
    """
    texts = {" ".join(said.split()) for row in rows for said in _texts(row)}
    found = [(text.split()[0].lower(), re.compile(
        r"(?<![^\W_])" + r"[\W_]+".join(map(re.escape, text.split())) + r"(?![^\W_])", re.IGNORECASE))
        for text in sorted(texts, key=len, reverse=True) if len(text) >= SHORTEST]
    kept = _field_names(Record)

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            low = value.lower()
            for word, text in found:
                if word in low:  # far faster than the pattern
                    value = text.sub(REMOVED, value)
            return value
        if isinstance(value, Mapping):
            return {key if key in kept else clean(key): clean(inner) for key, inner in value.items()}
        return [clean(inner) for inner in value] if isinstance(value, list | tuple) else value

    return clean(data)
