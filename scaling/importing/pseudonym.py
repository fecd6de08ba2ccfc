"""What stands for a patient in a manifest: keyed hashes, never names or numbers in the clear. Row of data/.

A group only has to be equal for equal patients. BLAKE2b with a secret key (`key_file`) cannot be turned back without
the key; with the public default key somebody who guesses an id can check the guess, so a store made without a key file
is no more anonymous than its ids are hard to guess. Paths are image ids and stay readable: folders named after patients
are to be renamed before an import.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from scaling.errors import Problem, SpecError

PUBLIC_KEY = b"scaling: groups of medical images"


def key_of(key_file: str | None, folder: Path) -> bytes:
    """32 bytes of a file's content, or the public key. Raises SpecError."""
    try:
        secret = PUBLIC_KEY if key_file is None else (folder / key_file).read_bytes()
    except OSError as error:
        raise SpecError([Problem(where="key_file", what=f"'{key_file}': {error.strerror}")]) from None
    if not secret:
        raise SpecError([Problem(where="key_file", what=f"'{key_file}' is empty; any random bytes will do")])
    return hashlib.blake2b(secret, digest_size=32).digest()


def pseudonym(level: str, value: str, key: bytes) -> str:
    """24 hex digits for `value`, which is a patient, a study ... by `level`: equal ids of two levels stay two."""
    return hashlib.blake2b(f"{level}:{value}".encode(), key=key, digest_size=12).hexdigest()
