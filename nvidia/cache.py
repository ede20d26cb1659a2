"""Answers that were expensive, kept as files whose names say what they depend on.

On a cluster with a common home each node leaves some at each boot, so what no start has used for
two months is removed. The time of a file's last change is that of its use, written once a day.
"""

from __future__ import annotations

import os
import stat
import time

from udocker import disk, fastjson

try:
    from _blake2 import blake2b  # what `hashlib` gives, without the 5 ms of loading OpenSSL
except ImportError:  # pragma: no cover - an interpreter built without it
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from udocker.host.root import Root

_LIMIT_BYTES = 4 << 20
_DAY_S = 24 * 60 * 60
_UNUSED_S = 60 * _DAY_S
"""Longer than any job: a container that runs on another node may show what is removed here."""
_KINDS = ("driver-", "gpu-", "mig-", "cdi-", "params-", "profile-")
"""How the names of answers begin."""


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
            _note_use(file.name, os.fstat(file.fileno()).st_mtime)
            return fastjson.loads(file.read(_LIMIT_BYTES))
    except (OSError, ValueError):
        return None


def is_kept(path: str) -> bool:
    """Tell whether a file or directory of answers is there, for somebody who is going to use it."""
    try:
        changed = os.stat(path).st_mtime
    except OSError:
        return False
    _note_use(path, changed)
    return True


def _note_use(path: str, changed: float) -> None:
    if time.time() - changed > _DAY_S:
        try:
            os.utime(path)
        except OSError:
            pass  # nobody can write here, so nobody removes it either


def forget_unused(directory: str) -> None:
    """Remove the answers in `directory` that no start has used for long.

    What has one name before its dot goes or stays together. Raises StoreError.
    """
    from udocker import trees  # only where a driver is found anew

    used: dict[str, float] = {}
    names: dict[str, list[str]] = {}
    for name in os.listdir(directory):
        if name.startswith(_KINDS):
            stem = name.partition(".")[0]
            names.setdefault(stem, []).append(name)
            used[stem] = max(_changed(os.path.join(directory, name)), used.get(stem, 0))
    now = time.time()
    for stem in (stem for stem, changed in used.items() if now - changed > _UNUSED_S):
        for name in names[stem]:
            trees.remove_tree(os.path.join(directory, name))


def _changed(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0  # another one removes it


def save(directory: str, name: str, data: bytes, *, mode: int = 0o644, sync: bool = True) -> str:
    """Keep `data` under `name` and return its host path; it appears whole or not at all.

    Without `sync` a machine that loses power may forget it, or leave it empty. Raises StoreError.
    Others may do the same at the same time: the name says the content.
    """
    path = os.path.join(disk.make_directory(directory), name)
    disk.write_whole(path, data, mode=mode, sync=sync)
    return path


def states(image: Root, places: Iterable[str]) -> dict[str, list[list[int]]]:
    """Return, for files and directories of an image, what changes with them, links followed.

    Times and sizes, not inodes: a container's own copy of an image has those of the original.
    """
    return {place: [_state(path) for path in image.resolve_all(place)] for place in places}


def _state(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return [status.st_mtime_ns, size]
