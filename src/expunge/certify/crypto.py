"""The one place that imports `cryptography` and `rfc8785`: Ed25519 keys, signatures and canonical JSON."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from expunge.errors import DataError, MissingExtra, install_line

PASSPHRASE = "EXPUNGE_KEY_PASSPHRASE"
"""Environment variable with the passphrase of private keys, new ones included; they are not encrypted without it."""


def new_private() -> bytes:
    """A private key: 32 random bytes."""
    _, ed25519 = _libraries()
    raw: bytes = ed25519.Ed25519PrivateKey.generate().private_bytes_raw()
    return raw


def public_of(private: bytes) -> bytes:
    """The public key, 32 bytes."""
    _, ed25519 = _libraries()
    raw: bytes = ed25519.Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return raw


def signed(private: bytes, message: bytes) -> bytes:
    """The signature, 64 bytes."""
    _, ed25519 = _libraries()
    signature: bytes = ed25519.Ed25519PrivateKey.from_private_bytes(private).sign(message)
    return signature


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature is that of the message by this key."""
    _, ed25519 = _libraries()
    from cryptography.exceptions import InvalidSignature

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def private_pem(private: bytes) -> bytes:
    """The file of a private key: PKCS 8, encrypted where the environment has a passphrase."""
    serialization, ed25519 = _libraries()
    secret = os.environ.get(PASSPHRASE, "").encode()
    how = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    pem: bytes = ed25519.Ed25519PrivateKey.from_private_bytes(private).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    return pem


def public_pem(public: bytes) -> bytes:
    """The file of a public key, as openssl reads it."""
    serialization, ed25519 = _libraries()
    pem: bytes = ed25519.Ed25519PublicKey.from_public_bytes(public).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem


def read_private(pem: bytes, name: str) -> bytes:
    """The private key of a file.

    Raises:
        DataError: it holds none, none of Ed25519, or the passphrase is not its own.
    """
    serialization, ed25519 = _libraries()
    secret = os.environ.get(PASSPHRASE, "").encode() or None
    fix = "Name the file that `expunge certify --new-key` called NAME.key."
    try:
        found = serialization.load_pem_private_key(pem, secret if b"ENCRYPTED" in pem else None)
    except TypeError:
        raise DataError(f"The private key {name} is encrypted.", "No passphrase is given.",
                        f"Set {PASSPHRASE} in the environment.") from None
    except ValueError:
        wrong = f"Or {PASSPHRASE} is not its passphrase." if secret else ""
        raise DataError(f"{name} holds no private key.", wrong, fix) from None
    if not isinstance(found, ed25519.Ed25519PrivateKey):
        raise DataError(f"{name} is a key of another kind.", "Certificates are signed by Ed25519.", fix)
    return found.private_bytes_raw()


def read_public(pem: bytes, name: str) -> bytes:
    """The public key of a file. Raises DataError where it holds none of Ed25519."""
    serialization, ed25519 = _libraries()
    fix = "Name the file that `expunge certify --new-key` called NAME.pub, or its keys.json with --keys."
    try:
        found = serialization.load_pem_public_key(pem)
    except ValueError:
        why = "It is a private key: keep it to yourself." if b"PRIVATE KEY" in pem else ""
        raise DataError(f"{name} holds no public key.", why, fix) from None
    if not isinstance(found, ed25519.Ed25519PublicKey):
        raise DataError(f"{name} is a key of another kind.", "Certificates are signed by Ed25519.", fix)
    return found.public_bytes_raw()


def canonical_bytes(data: Any) -> bytes:
    """Canonical JSON (RFC 8785): one sequence of bytes for each value."""
    try:
        import rfc8785
    except ImportError as error:
        raise missing(error) from None
    try:
        return rfc8785.dumps(data)
    except rfc8785.CanonicalizationError as error:
        raise DataError("This cannot be put into a certificate.", f"It has no canonical JSON: {error}.",
                        "Integers beyond 2^53 and numbers that are not finite must be written as text.") from None


def digest_of(data: Any) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_bytes(data)).hexdigest()


def missing(error: ImportError) -> MissingExtra:
    return MissingExtra("Certificates need the packages cryptography and rfc8785.", f"{error}.",
                        install_line("certify"))


def _libraries() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise missing(error) from None
    return serialization, ed25519
