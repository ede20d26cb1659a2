"""Owner and mode that a file has in its image, where this user cannot give it them.

They stand in a user attribute of the file, as `uid:gid:0mode`, the mode in octal; files that root
owns and that have their mode have none. Source: containers/storage, `user.containers.override_stat`
(what fuse-overlayfs reads, too).
"""

from __future__ import annotations

import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ATTRIBUTE = "user.containers.override_stat"
_MAX_BYTES = 64
_MAX_ID = 2**32 - 2
_UNSAFE_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH
_OWNER_ALL = 0o600
"""What copies for engines whose programs have only this user's rights have at least."""


def file_mode(mode: int) -> int:
    """Return the mode of a file on the disk: the owner reads it, and it has no set-id bits."""
    return mode & 0o777 | 0o400


def directory_mode(mode: int) -> int:
    """Return the mode of a directory on the disk: the owner can do everything in it."""
    return mode & 0o3777 | 0o700


def readable_mode(mode: int) -> int:
    """Return the mode of a file or directory in a store for all to read.

    Others may do what the owner may, except writing; and no program gives them its owner's rights.
    """
    able = 0o444 | (0o111 if mode & 0o100 else 0)
    return (mode & ~_UNSAFE_BITS) | able


def encode(owner: tuple[int, int], mode: int) -> bytes:
    """Return the attribute's value for uid and gid, and the permission bits in the image."""
    return b"%d:%d:0%o" % (*owner, mode)


def decode(value: bytes) -> tuple[tuple[int, int], int] | None:
    """Return owner and permission bits; None for what is no such value."""
    fields = value[: _MAX_BYTES + 1].split(b":")
    if len(value) > _MAX_BYTES or len(fields) < 3 or not all(map(bytes.isdigit, fields[:3])):
        return None
    uid, gid = int(fields[0]), int(fields[1])
    if max(uid, gid) > _MAX_ID or fields[2].strip(b"01234567"):
        return None
    return (uid, gid), int(fields[2], 8) & 0o7777


def image_mode(mode: int, remembered: int) -> int:
    """Return the permission bits that a file with `mode` (type included) has in the container.

    They are the remembered ones, unless somebody changed the mode on the disk since.
    """
    found = stat.S_IMODE(mode)
    if stat.S_ISDIR(mode):
        unchanged = directory_mode(remembered)
        return remembered if found in (unchanged, readable_mode(unchanged)) else found
    unchanged = file_mode(remembered)
    readable = readable_mode(unchanged)
    known = (unchanged, unchanged | _OWNER_ALL, readable, readable | _OWNER_ALL)
    return remembered if found in known else found


def value_in(attributes: Iterable[tuple[str, bytes]]) -> bytes | None:
    """Return the value among the user attributes of a file; None: it has none."""
    return next((value for name, value in attributes if name == ATTRIBUTE), None)
