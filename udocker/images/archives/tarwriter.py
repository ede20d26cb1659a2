"""A writer of tar streams, quick with many small members: ustar, PAX headers where those need be.

Equal members give equal bytes. A file's body is as long as was announced, whatever happens to
it meanwhile. Source: POSIX.1-2017, `pax`, "ustar Interchange Format" and "pax Extended Header";
GNU tar manual, "Storing Sparse Files" (format 1.0).
"""

from __future__ import annotations

import errno
import os
from zlib import adler32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Attributes = tuple[tuple[str, bytes], ...]

FILE, LINK, SYMLINK, DIRECTORY, FIFO, _EXTENDED = b"0", b"1", b"2", b"5", b"6", b"x"
BLOCK_BYTES = 512
_RECORD_BYTES = 10240
"""An archive is a multiple of so many bytes long. Source: GNU tar, default blocking factor."""
_FLUSH_BYTES = 1 << 20
_LARGE_BYTES = 128 << 10
_NAME_BYTES = 100
_MOST_OCTAL = 8**11
_ZEROS = bytes(_RECORD_BYTES)
_SPACES = b" " * 8
_USTAR = b"ustar\00000"
_TAIL = bytes(512 - 265)
"""Names of user and group, device numbers, prefix: nothing."""
_SUM_OF_SPACES = 256


class TarWriter:
    """Writes members by `write`, which takes bytes of any length, all of them at once."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._parts: list[bytes] = []
        self._waiting = 0
        self._written = 0

    def entry(
        self,
        kind: bytes,
        path: bytes,
        mode: int,
        mtime_ns: int,
        *,
        link: bytes = b"",
        owner: tuple[int, int] = (0, 0),
        attributes: Attributes = (),
    ) -> None:
        """Add a member without content; directories get their slash here."""
        name = path + b"/" if kind == DIRECTORY and not path.endswith(b"/") else path
        self._header(kind, name, mode, mtime_ns, 0, link, owner, _records(attributes))

    def file(
        self,
        path: bytes,
        mode: int,
        mtime_ns: int,
        descriptor: int,
        size: int,
        *,
        owner: tuple[int, int] = (0, 0),
        attributes: Attributes = (),
    ) -> bool:
        """Add a file with the next `size` bytes of a descriptor.

        Tells whether they were there: what is missing became zeros.
        """
        self._header(FILE, path, mode, mtime_ns, size, b"", owner, _records(attributes))
        whole = self._body(descriptor, size)
        self._pad(size)
        return whole

    def sparse_file(
        self,
        path: bytes,
        mode: int,
        mtime_ns: int,
        descriptor: int,
        size: int,
        extents: Sequence[tuple[int, int]],
        *,
        owner: tuple[int, int] = (0, 0),
        attributes: Attributes = (),
    ) -> bool:
        """Add a file of which only `extents` (offset, length) hold data, as `file` does."""
        ends = (*extents, (size, 0))
        numbers = [len(ends), *(number for extent in ends for number in extent)]
        table = b"".join(b"%d\n" % number for number in numbers)
        table += bytes(-len(table) % BLOCK_BYTES)
        records = [
            *_records(attributes),
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", path),
            (b"GNU.sparse.realsize", b"%d" % size),
        ]
        directory, _, name = path.rpartition(b"/")
        stored = len(table) + sum(length for _, length in extents)
        condensed = b"/".join(filter(None, (directory, b"GNUSparseFile.0", name)))
        self._header(FILE, condensed, mode, mtime_ns, stored, b"", owner, records)
        self._put(table)
        whole = True
        for offset, length in extents:
            os.lseek(descriptor, offset, os.SEEK_SET)
            whole &= self._body(descriptor, length)
        self._pad(stored)
        return whole

    def finish(self) -> None:
        """Write the end of the archive."""
        self._put(_ZEROS[: 2 * BLOCK_BYTES])
        self._flush()
        self._put(_ZEROS[: -self._written % _RECORD_BYTES])
        self._flush()

    def _header(
        self,
        kind: bytes,
        path: bytes,
        mode: int,
        mtime_ns: int,
        size: int,
        link: bytes,
        owner: tuple[int, int],
        records: list[tuple[bytes, bytes]],
    ) -> None:
        mtime = mtime_ns // 1_000_000_000
        if not (path.isascii() and link.isascii()) or max(len(path), len(link)) > _NAME_BYTES:
            records = [*_name_records(path, link), *records]
            path, link = path[:_NAME_BYTES], link[:_NAME_BYTES]
        if size >= _MOST_OCTAL:
            records, size = [*records, (b"size", b"%d" % size)], 0
        if not 0 <= mtime < _MOST_OCTAL:
            records, mtime = [*records, (b"mtime", b"%d" % mtime)], 0
        for key, number in ((b"uid", owner[0]), (b"gid", owner[1])):
            if number >= 8**7:
                records = [*records, (key, b"%d" % number)]
        if records:
            self._extended(path, mtime, records)
        self._put(_block(kind, path, mode, mtime, size, link, owner))

    def _extended(self, path: bytes, mtime: int, records: list[tuple[bytes, bytes]]) -> None:
        data = b"".join(_record(key, value) for key, value in records)
        name = (b"PaxHeaders/" + path.rstrip(b"/").rpartition(b"/")[2])[:_NAME_BYTES]
        self._put(_block(_EXTENDED, name, 0o644, mtime, len(data), b"", (0, 0)))
        self._put(data)
        self._pad(len(data))

    def _body(self, descriptor: int, size: int) -> bool:
        while size:
            data = os.read(descriptor, min(size, _FLUSH_BYTES))
            if not data:
                self._zeros(size)
                return False
            self._put(data)
            size -= len(data)
        return True

    def _zeros(self, size: int) -> None:
        while size:
            part = min(size, len(_ZEROS))
            self._put(_ZEROS[:part])
            size -= part

    def _pad(self, size: int) -> None:
        if size % BLOCK_BYTES:
            self._put(_ZEROS[: -size % BLOCK_BYTES])

    def _put(self, data: bytes) -> None:
        if len(data) >= _LARGE_BYTES:  # joining it to others would copy it once more
            self._flush()
            self._written += len(data)
            self._write(data)
            return
        self._parts.append(data)
        self._waiting += len(data)
        if self._waiting >= _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self._waiting = 0
        self._written += len(data)
        if data:
            self._write(data)


def file_header(name: bytes, size: int, *, link: bytes = b"") -> bytes:
    """Return the header of a file, or of a symbolic link: one block, whatever the size is.

    From 8 GiB on, the size is in GNU's binary form, which every reader of today knows.
    """
    kind = SYMLINK if link else FILE
    if size < _MOST_OCTAL:
        return _block(kind, name, 0o644, 0, size, link, (0, 0))
    block = bytearray(_block(kind, name, 0o644, 0, 0, link, (0, 0)))
    block[124:136] = (size | 1 << 95).to_bytes(12, "big")
    block[148:156] = _SPACES
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def directory_header(name: bytes) -> bytes:
    """Return the header of a directory."""
    return _block(DIRECTORY, name + b"/", 0o755, 0, 0, b"", (0, 0))


def write_all(descriptor: int) -> Callable[[bytes], object]:
    """Return what writes all of some bytes to a descriptor. It raises OSError."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    return write


def extents_of(descriptor: int, size: int) -> tuple[tuple[int, int], ...]:
    """Return where the first `size` bytes of a file hold data: offsets and lengths."""
    extents = []
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                break
            raise
        if start < end:
            extents.append((start, end - start))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return tuple(extents)


def _block(
    kind: bytes,
    name: bytes,
    mode: int,
    mtime: int,
    size: int,
    link: bytes,
    owner: tuple[int, int],
) -> bytes:
    uid, gid = (number if number < 8**7 else 0 for number in owner)
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.ljust(_NAME_BYTES, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime,
    )
    rest = b"%s%s%s" % (kind, link.ljust(_NAME_BYTES, b"\0"), _USTAR)
    # Adler-32's lower half is 1 + the sum of the bytes modulo 65521, which 256 bytes cannot reach.
    total = (adler32(head) & 0xFFFF) + (adler32(rest) & 0xFFFF) - 2 + _SUM_OF_SPACES
    return b"%s%06o\0 %s%s" % (head, total, rest, _TAIL)


def _name_records(path: bytes, link: bytes) -> list[tuple[bytes, bytes]]:
    """Return what says names that are long, or in another alphabet than ASCII.

    Names in no alphabet (not UTF-8) are marked as such. Source: pax, "hdrcharset".
    """
    long = max(len(path), len(link)) > _NAME_BYTES
    if not _is_text(path + link):
        return [(b"hdrcharset", b"BINARY"), *_given(path, link)] if long else []
    return _given(path, link)


def _given(path: bytes, link: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"path", path), *([(b"linkpath", link)] if link else [])]


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _records(attributes: Attributes) -> list[tuple[bytes, bytes]]:
    return [(b"SCHILY.xattr." + os.fsencode(name), value) for name, value in attributes]


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d%s" % (length, rest)
