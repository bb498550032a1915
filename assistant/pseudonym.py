"""Names for customers, from which nobody without the home's secret finds them."""

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from retrieval.errors import InputError
from retrieval.files import alone, storage_errors

_SECRET_BYTES = 32


def pseudonym(tenant: str, customer: str, secret: bytes) -> str:
    """A name for a customer of a tenant, 32 hex digits, from which nobody without the secret finds the customer.

    It is an HMAC-SHA256. Tenants may number their customers alike.
    """
    return hmac.new(secret, f"{tenant}\0{customer}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]


def secret(home: Path) -> bytes:
    """The 32 random bytes in `home`/secret, which only its owner may read; made by whoever needs them first.

    Raises:
        InputError: The file holds something else.
        StorageError: The disk refused.
    """
    path = home / "secret"
    with alone(home), storage_errors(path):
        if not path.exists():
            _write_secret(path)
        value = path.read_bytes()
    if len(value) != _SECRET_BYTES:
        raise InputError(
            f"{path} holds {len(value)} bytes instead of {_SECRET_BYTES}; restore it from a backup. Without it, "
            "customers who are in the database already cannot be found there any more"
        )
    return value


def _write_secret(path: Path) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".secret.")  # with mode 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(_SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
