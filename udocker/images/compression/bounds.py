"""Layers that become far more than they were: stopped before they fill the disk.

Ten megabytes of gzip hold ten gigabytes of zeros, a few kilobytes of zstd hold more.
"""

from __future__ import annotations

import os

from udocker.errors import DiskFull, UnpackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EXPANSION = 250
"""How many times as large as its compressed form data may be. Trees of programs are 2 to 5 times
as large, text 20 times; gzip can have 1032 times, of zeros."""
_FREE_BYTES = 1 << 30
"""Any data may become so much."""
_RESERVE_BYTES = 256 << 20
_RESERVE_PART = 50
_LEAST_STEP_BYTES, _MOST_STEP_BYTES = 1 << 20, 32 << 20


class Expansion:
    """Compares what goes into a decoder with what comes out."""

    def __init__(self, most: int) -> None:
        """`most` is how many times more may come out; 0: whatever there is."""
        self._most = most
        self._compressed_bytes = 0

    def counted(self, source: Iterable[bytes]) -> Iterator[bytes]:
        """Yield what goes in."""
        for piece in source:
            self._compressed_bytes += len(piece)
            yield piece

    def checked(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield what comes out. Raises UnpackError when it is too much."""
        size_bytes = 0
        for chunk in chunks:
            size_bytes += len(chunk)
            if size_bytes > _FREE_BYTES and 0 < self._most * self._compressed_bytes < size_bytes:
                raise UnpackError(
                    f"{self._compressed_bytes >> 20} MiB of compressed data become more than "
                    f"{size_bytes >> 20} MiB, over {self._most} times as much",
                    hint="if you trust it, set UDOCKER_MAX_EXPANSION to more, or to 0",
                )
            yield chunk


def while_room(chunks: Iterable[bytes], directory: str) -> Iterator[bytes]:
    """Yield what is written to `directory`, as long as some of its file system stays free.

    That is 256 MiB, or 2 % of a small one, for what else runs there. Raises DiskFull.
    """
    step = _MOST_STEP_BYTES
    for chunk in chunks:
        step -= len(chunk)
        if step < 0:
            room = _room(directory)
            # At most half of the room is used before the next look.
            step = min(_MOST_STEP_BYTES, max(room // 2, _LEAST_STEP_BYTES))
        yield chunk


def _room(directory: str) -> int:
    """Return how many bytes may be written. Raises DiskFull when there are none."""
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    room = free - min(_RESERVE_BYTES, found.f_blocks * found.f_frsize // _RESERVE_PART)
    if room < 0:
        from udocker import filesystems

        raise DiskFull(
            f"{directory}: unpacking stopped before the disk is full "
            f"({filesystems.room(directory)})",
            hint=filesystems.way_out(directory, quota=False),
        )
    return room
