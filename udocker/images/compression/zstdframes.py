"""Whether zstd data is whole: the reader of the zstandard package is silent when it is cut off.

Source: RFC 8878, section 3.1.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_RLE = 1


class Frames:
    """Follows the frames in data that is fed to it piece by piece, without decoding them."""

    def __init__(self) -> None:
        self._walk = self._frames()
        self._wanted = next(self._walk)
        self._held = b""
        self._skipping = 0
        self._inside = False

    @property
    def whole(self) -> bool:
        """Whether the data so far ends where a frame ends."""
        return not (self._inside or self._held or self._skipping)

    def feed(self, data: bytes) -> None:
        """Follow `data`, which continues what was fed before."""
        position = 0
        while position < len(data):
            if self._skipping:
                step = min(self._skipping, len(data) - position)
                self._skipping -= step
            else:
                step = self._wanted - len(self._held)
                self._held += data[position : position + step]
                self._answer()
            position += step

    def _answer(self) -> None:
        """Give the walk the bytes that it asked for; a negative answer is a length to skip."""
        if len(self._held) < self._wanted:
            return
        answer = self._walk.send(self._held)
        self._held = b""
        while answer < 0:
            self._skipping -= answer
            answer = next(self._walk)
        self._wanted = answer

    def _frames(self) -> Generator[int, bytes, None]:
        while True:
            self._inside = False
            magic = int.from_bytes((yield 4), "little")
            self._inside = True
            if magic in _SKIPPABLE:
                size = int.from_bytes((yield 4), "little")
                if size:
                    yield -size
            else:
                yield from self._frame()

    def _frame(self) -> Generator[int, bytes, None]:
        descriptor = (yield 1)[0]
        single_segment, checksum = descriptor & 0x20, descriptor & 4
        size = _CONTENT_SIZE_BYTES[descriptor >> 6] or (1 if single_segment else 0)
        size += _DICTIONARY_ID_BYTES[descriptor & 3] + (0 if single_segment else 1)
        if size:
            yield -size
        last = 0
        while not last:
            block = int.from_bytes((yield 3), "little")
            last, kind, size = block & 1, block >> 1 & 3, block >> 3
            if kind == _RLE:
                size = 1
            if size:
                yield -size
        if checksum:
            yield -4
