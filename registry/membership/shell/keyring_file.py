"""The keyring on disk: a JSON list of base64 keys, primary first, readable by its owner alone.

Source: gossip sheet, section 10.
"""

from __future__ import annotations

import binascii
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path

from registry.errors import ConfigError

_MODE = 0o600


def load(path: Path) -> tuple[bytes, ...]:
    """The keys in the file, none when there is no file. Raises `ConfigError`."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"the keyring cannot be read: {problem}", file=str(path)) from problem
    try:
        keys = json.loads(text)
    except ValueError as problem:
        raise ConfigError(f"the keyring is no JSON: {problem}", file=str(path)) from problem
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise ConfigError("the keyring must be a list of base64 keys", file=str(path))
    return tuple(decode_key(key, file=str(path)) for key in keys)


def decode_key(text: str, *, file: str | None = None) -> bytes:
    """The bytes of a key as operators write it. Raises `ConfigError`."""
    try:
        key = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise ConfigError(f"a gossip key must be base64: {problem}", file=file) from problem
    if len(key) not in (16, 24, 32):
        raise ConfigError("a gossip key must be 16, 24 or 32 bytes", file=file)
    return key


def write(path: Path, keys: Sequence[bytes]) -> None:
    """Put `keys` in place of what the file holds; it is never there half or readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    with os.fdopen(descriptor, "w") as file:
        json.dump([b64encode(key).decode() for key in keys], file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
