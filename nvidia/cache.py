"""Answers that were expensive, kept as files whose names say what they depend on."""

from __future__ import annotations

import os

from udocker import disk, fastjson

try:
    from _blake2 import blake2b  # what `hashlib` gives, without the 5 ms of loading OpenSSL
except ImportError:  # pragma: no cover - an interpreter built without it
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIMIT_BYTES = 4 << 20


def digest(*parts: object) -> str:
    """Return a name, 32 hex digits, for `parts`: bytes, or lists and the like of texts and numbers.

    Written as Python writes them, in 0.03 ms for a driver's 300; as JSON in 0.27.
    """
    state = blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else ascii(part).encode()
        state.update(b"%d:" % len(data))
        state.update(data)
    return state.hexdigest()


def load(directory: str, name: str) -> Any:
    """Return the JSON value kept under `name`; None when there is none, or a broken one."""
    try:
        with open(os.path.join(directory, name), "rb") as file:
            return fastjson.loads(file.read(_LIMIT_BYTES))
    except (OSError, ValueError):
        return None


def save(directory: str, name: str, data: bytes) -> str:
    """Keep `data` under `name` and return its host path; it appears whole or not at all.

    Raises StoreError. Others may do the same at the same time: the name says the content.
    """
    path = os.path.join(disk.make_directory(directory), name)
    disk.write_whole(path, data)
    return path
