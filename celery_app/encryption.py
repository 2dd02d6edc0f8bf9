"""A ready payload codec: AES-256-GCM, with several keys so that they can be changed.

    CELERIAC_CODEC=celeriac.celery_app.encryption:aes_gcm
    CELERIAC_ENCRYPTION_KEYS=2026b:BASE64,2026a:BASE64     (or CELERIAC_ENCRYPTION_KEYS_FILE=/path)

The first key seals, all of them open. What is sealed begins with a 1, the length of the key's name, the name
and a random nonce of 12 bytes; all of that is authenticated too. Needs the extra `celeriac[encryption]`.
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from celeriac.orchestrations.errors import InvalidArgumentError

__all__ = ["KEYS", "KEYS_FILE", "AesGcm", "aes_gcm", "read_keys"]

KEYS: Final = "CELERIAC_ENCRYPTION_KEYS"
KEYS_FILE: Final = f"{KEYS}_FILE"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
VERSION: Final = 1


class AesGcm:
    """Seals with the first key and opens with any. `key_names`, first to last, may be shown to everyone."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise InvalidArgumentError(
                "it needs the package cryptography: install celeriac[encryption]"
            ) from error
        if not keys:
            raise InvalidArgumentError(f"there is no key; set {KEYS} or {KEYS_FILE}")
        for name, key in keys.items():
            if not 1 <= len(name.encode()) <= 64 or len(key) != KEY_BYTES:
                raise InvalidArgumentError(
                    f"a key has a name of 1 to 64 letters and {KEY_BYTES} bytes; {name[:64]!r} has {len(key)}"
                )
        self.key_names = tuple(keys)
        self._keys = {name.encode(): AESGCM(key) for name, key in keys.items()}
        self._invalid = InvalidTag
        first = self.key_names[0].encode()
        self._head, self._first = bytes((VERSION, len(first))) + first, self._keys[first]

    def seal(self, data: bytes) -> bytes:
        """Encrypt and authenticate."""
        nonce = os.urandom(NONCE_BYTES)
        return self._head + nonce + self._first.encrypt(nonce, data, self._head)

    def open(self, data: bytes) -> bytes:
        """Check and decrypt; ValueError says what is wrong."""
        if len(data) < 2 or data[0] != VERSION:
            raise ValueError("this was not sealed with AES-GCM by this release")
        end = 2 + data[1]
        head, name = data[:end], data[2:end]
        key = self._keys.get(name)
        if key is None:
            raise ValueError(
                f"it was sealed with the key {name.decode(errors='replace')!r}, and this process has only "
                f"{', '.join(map(repr, self.key_names))}"
            )
        try:
            return key.decrypt(data[end : end + NONCE_BYTES], data[end + NONCE_BYTES :], head)
        except self._invalid:
            raise ValueError(
                f"it was changed, or the key {name.decode()!r} of this process is another one of that name"
            ) from None


def aes_gcm() -> AesGcm:
    """The codec with the keys that the environment, or the file that it names, gives."""
    file = os.environ.get(KEYS_FILE)
    if not file:
        return AesGcm(read_keys(os.environ.get(KEYS, ""), KEYS))
    try:
        return AesGcm(read_keys(Path(file).read_text(encoding="utf-8"), file))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{KEYS_FILE}={file} cannot be read: {error}") from error


def read_keys(text: str, where: str) -> dict[str, bytes]:
    """Keys by name from `name:BASE64`, one a line or with commas between. A line may be a `#` comment."""
    lines = [line.strip() for line in text.replace(",", "\n").splitlines()]
    keys: dict[str, bytes] = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        name, _, coded = line.partition(":")
        try:
            key = b64decode(coded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not name or not key or name in keys:
            # The line is not shown: it is a secret.
            raise InvalidArgumentError(
                f"{where}: key number {len(keys) + 1} is not NAME:BASE64 with a name of its own; "
                "make one with: openssl rand -base64 32"
            )
        keys[name] = key
    return keys
