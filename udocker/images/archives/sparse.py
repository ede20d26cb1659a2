"""Where the data of a sparse file goes: the maps that GNU tar writes in four formats.

An extent is an offset in the file and a length, both in bytes; what no extent covers reads as
zeros. Source: GNU tar manual, "Storing Sparse Files" and "Old GNU Format".
"""

from __future__ import annotations

from udocker.errors import UnpackError
from udocker.images.archives import pax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Extents = tuple[tuple[int, int], ...]

_SIZES = (b"GNU.sparse.size", b"GNU.sparse.realsize")
_PAIR_BYTES = 24
_MAX_FILE_BYTES = 2**63 - 1


def checked(numbers: Sequence[int], size: int, stored: int) -> Extents:
    """Return the extents that `numbers` (offset, length, offset, length, ...) name.

    Raises UnpackError unless they ascend, end within the file's `size` and hold exactly the
    `stored` bytes of the archive.
    """
    extents = tuple(zip(numbers[::2], numbers[1::2]))
    end = 0
    for offset, length in extents:
        if offset < end or length < 0:
            raise UnpackError("the parts of a sparse file overlap")
        end = offset + length
    if len(numbers) % 2 or end > size or size > _MAX_FILE_BYTES:
        raise UnpackError("the map of a sparse file does not fit its size")
    if sum(length for _, length in extents) != stored:
        raise UnpackError("the map of a sparse file does not fit its data")
    return extents


def old_numbers(
    block: bytes, take_block: Callable[[], bytes], parse: Callable[[bytes], int], limit_bytes: int
) -> list[int]:
    """Return the numbers of the map in an old GNU header and in the blocks that continue it."""
    fields, more = block[386:482], block[482]
    numbers = _pairs(fields, parse)
    while more:
        if len(numbers) * 12 > limit_bytes:
            raise UnpackError("the map of a sparse file is too long")
        block = take_block()
        fields, more = block[:504], block[504]
        numbers += _pairs(fields, parse)
    return numbers


def _pairs(fields: bytes, parse: Callable[[bytes], int]) -> list[int]:
    numbers: list[int] = []
    for start in range(0, len(fields), _PAIR_BYTES):
        pair = fields[start : start + _PAIR_BYTES]
        if not pair.strip(b" \0"):
            break
        numbers += (parse(pair[:12]), parse(pair[12:]))
    return numbers


def file_size(attributes: Mapping[bytes, bytes]) -> int | None:
    """Return the size in bytes of the file that PAX records call sparse; None: not sparse."""
    for key in _SIZES:
        if key in attributes:
            return pax.number(attributes[key])
    return None


def pax_numbers(attributes: Mapping[bytes, bytes]) -> list[int] | None:
    """Return the numbers of a map in PAX records (0.0, 0.1); None: it leads the data (1.0)."""
    if attributes.get(b"GNU.sparse.major", b"0") != b"0":
        return None
    text = attributes.get(pax.MAP, b"")
    return [pax.number(part) for part in text.split(b",")] if text else []


def leading_numbers(take_block: Callable[[], bytes], limit_bytes: int) -> list[int]:
    """Return the numbers of a map of format 1.0, which stands in whole blocks before the data."""
    lines = _lines(take_block, limit_bytes)
    return [next(lines) for _ in range(2 * next(lines))]


def _lines(take_block: Callable[[], bytes], limit_bytes: int) -> Iterator[int]:
    rest = b""
    while True:
        if limit_bytes <= 0:
            raise UnpackError("the map of a sparse file is too long")
        limit_bytes -= 512
        *lines, rest = (rest + take_block()).split(b"\n")
        yield from map(pax.number, lines)
