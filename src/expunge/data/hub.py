"""Rows of a data set of the hub. The only place that imports `datasets` (extra `hub`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from expunge.data.mapping import Located
from expunge.errors import DataError, MissingError, UsageError, first_line, install_line

PREFIX = "hub:"


class HubAddress(NamedTuple):
    """`hub:owner/name:configuration:split@revision`; all but owner and name may be left out."""

    name: str
    config: str = ""
    split: str = ""
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Raises UsageError for anything else; a single part after the name is a configuration."""
        match = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)(?::([\w.-]*))?(?::([\w.-]+))?(?:@([\w./-]+))?", text)
        if match is None:
            raise UsageError(f"{text!r} is no address of a data set.", "",
                             "Write hub:owner/name, or hub:owner/name:configuration:split@revision")
        return cls(*(part or "" for part in match.groups()))

    def __str__(self) -> str:
        parts = f"{PREFIX}{self.name}" + (f":{self.config}" if self.config or self.split else "")
        return parts + (f":{self.split}" if self.split else "") + (f"@{self.revision}" if self.revision else "")


def hub_rows(address: HubAddress, *, title: str = "", otherwise: str = "") -> list[Located]:
    """All rows of a split, each with the place it comes from.

    Args:
        title: what people call the data set; its name by default.
        otherwise: where else the rows could come from, as advice.

    Raises:
        MissingError: `datasets` is not installed, or the data set cannot be fetched.
        DataError: it has several splits and none was named.
    """
    title = title or address.name
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingError(f"The {title} data is not here, and the package `datasets` that could fetch it is not "
                           "installed.", "", f"{otherwise}{' Or: ' * bool(otherwise)}{install_line('hub')}.") from None
    named = {"revision": address.revision} if address.revision else {}
    try:
        found: Mapping[str, Any] = load_dataset(address.name, *filter(None, [address.config]), **named)
        split = address.split or (next(iter(found)) if len(found) == 1 else "")
        if split in found:
            place = f"{address.name} {address.config}".strip()
            return [(f"{place}, row {n}", dict(row)) for n, row in enumerate(found[split], 1)]
    except Exception as error:  # the hub client raises a dozen unrelated types when it is offline
        raise MissingError(f"The {title} data could not be fetched from the hub.", first_line(error),
                           otherwise) from None
    ways = ", ".join(str(address._replace(split=name)) for name in found)
    said = f"no split {address.split!r}" if address.split else f"{len(found)} splits"
    raise DataError(f"{address} has {said}.", "One file of rows is one split.", f"Name one: {ways}")
