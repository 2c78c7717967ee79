"""The bytes of a file, unpacked, and the text that they spell."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import shlex
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from expunge.errors import DataError

PACKED: Mapping[str, tuple[bytes, Callable[[bytes], bytes], str]] = {
    ".gz": (b"\x1f\x8b", gzip.decompress, "gzip -dc"),
    ".bz2": (b"BZh", bz2.decompress, "bzip2 -dc"),
    ".xz": (b"\xfd7zXZ\x00", lzma.decompress, "xz -dc"),
}
"""Ending of a packed file -> the bytes that it begins with, how it is unpacked, and the command that does so."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; those of UTF-32 first, since one of UTF-16 is a part of one."""


def read_bytes(path: Path) -> bytes:
    """The content of a file; of a packed one what is inside, whatever its ending.

    Raises:
        DataError: the file cannot be read, or its packing is damaged.
    """
    try:
        data = path.read_bytes()
        unpack = _packing(data)
        return unpack[1](data) if unpack else data
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path} cannot be read.", str(error), "A packed file may be cut off; copy it again.") from None


def read_text(path: Path) -> str:
    """A file as text: UTF-8, or UTF-16 and UTF-32, which show themselves by their first bytes.

    Raises:
        DataError: the file cannot be read, or is in an older encoding. Those look alike, so none is guessed: the
            message shows how the first such word reads in the likeliest one, and has the command that converts it.
    """
    data = read_bytes(path)
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None) or _wide(data) or "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, data, error) from None


def without_packing(name: str) -> str:
    """A file name without the ending of its packing: `rows.jsonl.gz` as `rows.jsonl`."""
    return next((name[: -len(ending)] for ending in PACKED if name.lower().endswith(ending)), name)


def _packing(data: bytes) -> tuple[bytes, Callable[[bytes], bytes], str] | None:
    return next((packing for packing in PACKED.values() if data.startswith(packing[0])), None)


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark: text that begins with ASCII has a zero in every other byte."""
    if data[:8:2].count(0) == 0 and data[1:8:2].count(0) == 4:
        return "utf-16-le"
    return "utf-16-be" if data[1:8:2].count(0) == 0 and data[:8:2].count(0) == 4 else None


def _not_utf8(path: Path, data: bytes, error: UnicodeDecodeError) -> DataError:
    """What to type. Windows-1252 has letters where Latin-1 has control codes."""
    if error.encoding != "utf-8":
        return DataError(f"{path} is not readable text.", str(error), "Save it as UTF-8.")
    name = "LATIN1" if not set(data) & set(range(0x80, 0xA0)) else "CP1252"
    start = data.rfind(b"\n", 0, error.start) + 1
    line = data[start: error.start + 30].decode(name, errors="replace").splitlines()[0][-60:]
    number = data.count(b"\n", 0, start) + 1
    plain = Path(without_packing(path.name))
    target = path.with_name(f"{plain.stem}-utf8{plain.suffix}")
    packing = _packing(path.read_bytes())
    read = f"{packing[2]} {shlex.quote(str(path))} | iconv" if packing else "iconv"
    of = "" if packing else f" {shlex.quote(str(path))}"
    return DataError(
        f"{path} is not UTF-8 text.",
        f"Byte {error.start} on line {number} is not. Read as {name} it says: {line!r}",
        f"If that reads right, convert it: {read} -f {name} -t UTF-8{of} > {shlex.quote(str(target))}",
    )
