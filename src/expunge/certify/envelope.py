"""DSSE: the envelope that holds a payload and its signature. What is signed names the type of the payload too.

Files are read strictly: another spelling of the same envelope is refused, so no byte of a file can change unnoticed.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import NamedTuple

from expunge.certify.crypto import canonical_bytes, signed
from expunge.errors import DataError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
FIX = "Ask for the file again, as `expunge certify` wrote it."


class Envelope(NamedTuple):
    """What a file holds; the signature is not checked yet."""

    payload: bytes
    key: str
    """Id of the key, as the file says."""
    signature: bytes

    @property
    def message(self) -> bytes:
        """What is signed."""
        return message_of(PAYLOAD_TYPE, self.payload)


def message_of(payload_type: str, payload: bytes) -> bytes:
    """PAE, the pre-authentication encoding of DSSE v1: lengths in front, so that nothing can be read in two ways."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sealed(payload: bytes, private: bytes, key: str) -> bytes:
    """The file of an envelope."""
    return _spelled(Envelope(payload, key, signed(private, message_of(PAYLOAD_TYPE, payload))))


def opened(data: bytes, name: str) -> Envelope:
    """The envelope in a file.

    Raises:
        DataError: it is none, or not spelled as `sealed` spells it.
    """
    try:
        found = json.loads(data)
    except RecursionError:
        raise DataError(f"{name} is no certificate.", "Its JSON is nested too deeply.", FIX) from None
    except ValueError:  # of UTF-8 too
        cut = data.startswith(b"{") and not data.rstrip().endswith(b"}")
        raise DataError(f"{name} is no certificate: it is not valid JSON.", "Its end is missing." if cut else "",
                        FIX) from None
    try:
        signature, = found["signatures"]
        read = Envelope(base64.b64decode(found["payload"], validate=True), signature["keyid"],
                        base64.b64decode(signature["sig"], validate=True))
        kind = found["payloadType"]
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise DataError(f"{name} is no certificate.", "It is no DSSE envelope with one signature.", FIX) from None
    if kind != PAYLOAD_TYPE:
        raise DataError(f"{name} is no certificate of expunge's.", f"It holds {kind!r}, not {PAYLOAD_TYPE!r}.", FIX)
    if not isinstance(read.key, str) or _spelled(read) != data:
        raise DataError(f"{name} is not spelled as it was written.",
                        "An editor or a mail program may have changed it.", FIX)
    return read


def _spelled(envelope: Envelope) -> bytes:
    return canonical_bytes({
        "payload": base64.b64encode(envelope.payload).decode(), "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": envelope.key, "sig": base64.b64encode(envelope.signature).decode()}]}) + b"\n"
