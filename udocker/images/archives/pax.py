"""The records of PAX extended headers: `length key=value` lines about the next member, or all.

Source: POSIX.1-2017, `pax`, "pax Extended Header"; GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

import binascii

from udocker.errors import UnpackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAP = b"GNU.sparse.map"
_PIECES = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_MAX_DIGITS = 40
_LATEST_NS = 2**63 - 1
_XATTR, _ENCODED_XATTR = b"SCHILY.xattr.", b"LIBARCHIVE.xattr."
"""How extended attributes begin. libarchive writes both: the second with its name in the
encoding of URLs and its value in base64. Source: libarchive, archive_write_set_format_pax.c."""


def records(data: bytes) -> dict[bytes, bytes]:
    """Return what `data` says, the last of equal keys.

    The repeated offset and numbytes records of sparse format 0.0 come back joined under the key
    of format 0.1. Raises UnpackError for text that is not a list of records.
    """
    values: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    position = 0
    while position < len(data):
        key, value, position = _record(data, position)
        if key in _PIECES:
            pieces.append(value)
        else:
            values[key] = value
    if pieces:
        values[MAP] = b",".join(pieces)
    return values


def _record(data: bytes, position: int) -> tuple[bytes, bytes, int]:
    space = data.find(b" ", position, position + _MAX_DIGITS)
    digits = data[position : max(space, 0)]
    end = position + int(digits) if digits.isdigit() else 0
    if not space + 1 < end <= len(data) or data[end - 1] != 10:
        raise UnpackError(f"broken extended header at its byte {position}")
    key, equals, value = data[space + 1 : end - 1].partition(b"=")
    if not (key and equals):
        raise UnpackError(f"broken extended header at its byte {position}")
    return key, value, end


def xattrs(attributes: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Return names and values of extended attributes; what cannot be decoded is passed over."""
    found = {}
    for key, value in attributes.items():
        if key.startswith(_XATTR):
            found[key[len(_XATTR) :]] = value
        elif key.startswith(_ENCODED_XATTR):
            name = _unquoted(key[len(_ENCODED_XATTR) :])
            try:
                found.setdefault(name, binascii.a2b_base64(value))
            except binascii.Error:
                continue
    return tuple(found.items())


def _unquoted(text: bytes) -> bytes:
    """Return text of a URL with its `%41` as bytes."""
    first, *rest = text.split(b"%")
    parts = [first]
    for part in rest:
        try:
            parts.append(binascii.unhexlify(part[:2]) + part[2:])
        except binascii.Error:
            parts.append(b"%" + part)
    return b"".join(parts)


def identifier(text: bytes) -> int | None:
    """Return a uid or gid; None: `text` is none, and the header's own counts."""
    return int(text) if text.isdigit() and len(text) <= _MAX_DIGITS else None


def number(text: bytes) -> int:
    """Return a decimal number, zero or greater. Raises UnpackError."""
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise UnpackError(f"{text[:_MAX_DIGITS]!r} in an extended header is not a number")
    return int(text)


def time_ns(text: bytes) -> int:
    """Return seconds since 1970 with a fraction, as whole nanoseconds. Raises UnpackError."""
    whole, _, fraction = text.partition(b".")
    negative = whole.startswith(b"-")
    seconds = number(whole[1:] if negative else whole)
    nanoseconds = seconds * 10**9 + number(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if negative else nanoseconds


def bounded_time_ns(nanoseconds: int) -> int:
    """Return a time that every file system takes: 1970 to 2262.

    Source: containerd and moby clamp the times of layers to the same years.
    """
    return min(max(nanoseconds, 0), _LATEST_NS)
