"""A reader of uncompressed tar streams that trusts nothing and is quick with many small members.

`tarfile` spends 44 microseconds on a header, which is more than writing the file takes.
Source: POSIX.1-2017, `pax`, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import os
from zlib import adler32

from udocker.errors import UnpackError
from udocker.images.archives import pax, sparse
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

FILE, LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = b"0123456"
"""The kinds of members, as their type flag."""
ROOT = (0, 0)
"""The owner of most files: uid and gid."""

_OLD_FILE, _CONTIGUOUS, _SPARSE = b"\0007S"
_EXTENSIONS = b"xgLK"
_WITHOUT_BODY = bytes((LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO))
_ZEROS = bytes(512)
_MAX_ID = 2**32 - 2
_MAX_OWNERS = 1024


@dataclass(frozen=True)
class Limits:
    """How much one layer may ask for; the defaults are beyond every image known."""

    entries: int = 5_000_000
    """Headers, those of extensions included."""
    size_bytes: int = 1 << 40
    """The uncompressed stream, and a single file with its holes."""
    header_bytes: int = 1 << 20
    """The extended headers of one member (names, attributes, the map of a sparse file)."""
    path_bytes: int = 4096
    """One path, as long as Linux takes (PATH_MAX)."""
    depth: int = 256
    """Directories in a path, those that symbolic links lead through included."""
    kept: int = 500_000
    """Directories, whiteouts and hard links to layers below: each takes 200 bytes of memory until
    the layers are merged."""
    kept_bytes: int = 32 << 20
    """The paths of these, which take four times as much memory while they are handed on."""


class Member:
    """What one entry of an archive says; names are as they stand there, checked for nothing.

    Plain slots: the making of a frozen value takes half as long as the writing of the file.
    """

    __slots__ = ("extents", "kind", "link", "mode", "mtime_ns", "owner", "path", "size", "xattrs")

    def __init__(
        self, kind: int, path: bytes, link: bytes, mode: int, mtime_ns: int, size: int
    ) -> None:
        self.kind = kind
        """One of the kinds above, or another type flag of which nothing is known."""
        self.path = path
        self.link = link
        """The target of a symbolic or hard link."""
        self.mode = mode
        """Permission bits, set-id and sticky bits; at most 0o7777."""
        self.mtime_ns = mtime_ns
        """From 1970 to 2262, as nanoseconds."""
        self.size = size
        """Bytes of the file when it is there."""
        self.owner = ROOT
        """Uid and gid; 0 stands for a number that Linux does not have."""
        self.extents: sparse.Extents | None = None
        """The parts that the archive holds, of a sparse file."""
        self.xattrs: tuple[tuple[bytes, bytes], ...] = ()


class SourceFailure(Exception):
    """The source of the stream raised the OSError that is this exception's cause."""


class Reader:
    """The members of one stream in order; the body of each can be copied before the next.

    Every method raises UnpackError for a stream that is broken, cut off or beyond `limits`, and
    SourceFailure in place of an OSError of `chunks`, which would pass for one of the disk.
    """

    def __init__(self, chunks: Iterable[bytes], limits: Limits) -> None:
        self.entries = 0
        """Headers read so far."""
        self._limits = limits
        self._chunks = iter(chunks)
        self._chunk = b""
        self._position = 0
        self._bytes_left = limits.size_bytes
        self._extended_bytes = 0
        self._body = 0
        self._padding = 0
        self._path = b""
        # The fields of uid and gid: few pairs of them are all that a layer has.
        self._owners = {b"0000000\0" * 2: ROOT}

    def __iter__(self) -> Iterator[Member]:
        lasting: dict[bytes, bytes] = {}
        attributes: dict[bytes, bytes] = {}
        while True:
            block = self._header()
            if block is None:
                return
            kind = block[156]
            if kind in _EXTENSIONS:
                found = self._extension(kind, _size(block))
                (lasting if kind == 103 else attributes).update(found)
                continue
            yield self._member(kind, block, {**lasting, **attributes})
            attributes.clear()
            self._extended_bytes = 0
            self._finish_body()

    def copy(self, descriptor: int, size: int) -> None:
        """Write the next `size` bytes of the body at the descriptor's position."""
        self._body -= size
        while size:
            piece = self._piece(size)
            size -= len(piece)
            written = os.write(descriptor, piece)
            while written < len(piece):
                written += os.write(descriptor, piece[written:])

    def drain(self) -> None:
        """Read the stream to its end, so that whoever hashes it has seen every byte."""
        while self._next_chunk():
            pass

    def _header(self) -> bytes | None:
        block = self._take(512)
        if block == _ZEROS[: len(block)]:
            return None
        if len(block) < 512:
            raise UnpackError("the layer is cut off within a header")
        self.entries += 1
        if self.entries > self._limits.entries:
            raise UnpackError(f"the layer has more than {self._limits.entries} entries")
        _verify_checksum(block)
        return block

    def _extension(self, kind: int, size: int) -> dict[bytes, bytes]:
        self._extended_bytes += size
        if self._extended_bytes > self._limits.header_bytes:
            raise UnpackError(f"an extended header has {self._extended_bytes} bytes")
        data = self._whole(size)
        self._skip(-size % 512)
        if kind == 76:
            return {b"path": data.partition(b"\0")[0]}
        if kind == 75:
            return {b"linkpath": data.partition(b"\0")[0]}
        found = pax.records(data)
        if kind == 103:
            return {key: value for key, value in found.items() if key in _LASTING}
        return found

    def _member(self, kind: int, block: bytes, attributes: Mapping[bytes, bytes]) -> Member:
        path, link = _name(block), block[157:257].partition(b"\0")[0]
        size, mtime_ns = _size(block), _number(block[136:148]) * 10**9
        if kind in (_OLD_FILE, _CONTIGUOUS):
            kind = DIRECTORY if kind == _OLD_FILE and path.endswith(b"/") else FILE
        if attributes:
            path = attributes.get(b"path") or path
            link = attributes.get(b"linkpath") or link
            if attributes.get(b"size"):
                size = pax.number(attributes[b"size"])
            if attributes.get(b"mtime"):
                mtime_ns = pax.time_ns(attributes[b"mtime"])
        stored = 0 if kind in _WITHOUT_BODY else size
        self._body, self._padding = stored, -stored % 512
        mode = _number(block[100:108]) & 0o7777
        member = Member(kind, path, link, mode, pax.bounded_time_ns(mtime_ns), stored)
        member.owner = self._owners.get(block[108:124]) or self._owner(block)
        if kind == _SPARSE:
            self._old_sparse(member, block)
        if attributes:
            self._extend(member, attributes)
        self._path = member.path
        return member

    def _extend(self, member: Member, attributes: Mapping[bytes, bytes]) -> None:
        member.xattrs = pax.xattrs(attributes)
        uid, gid = (pax.identifier(attributes.get(key, b"")) for key in (b"uid", b"gid"))
        if uid is not None or gid is not None:
            owner = member.owner
            member.owner = (
                owner[0] if uid is None else _known_id(uid),
                owner[1] if gid is None else _known_id(gid),
            )
        size = sparse.file_size(attributes)
        if size is not None and member.kind == FILE:
            member.path = attributes.get(b"GNU.sparse.name") or member.path
            numbers = sparse.pax_numbers(attributes)
            if numbers is None:
                numbers = sparse.leading_numbers(self._body_block, self._limits.header_bytes)
            self._set_extents(member, numbers, size)
        if b"\0" in b"".join((member.path, member.link, *(name for name, _ in member.xattrs))):
            raise UnpackError(f"a name of {member.path[:200]!r} holds a NUL byte")

    def _owner(self, block: bytes) -> tuple[int, int]:
        owner = (_id(block[108:116]), _id(block[116:124]))
        if len(self._owners) >= _MAX_OWNERS:
            self._owners.clear()
        self._owners[block[108:124]] = owner
        return owner

    def _old_sparse(self, member: Member, block: bytes) -> None:
        numbers = sparse.old_numbers(
            block, lambda: self._whole(512), _number, self._limits.header_bytes
        )
        member.kind = FILE
        self._set_extents(member, numbers, _number(block[483:495]))

    def _set_extents(self, member: Member, numbers: Sequence[int], size: int) -> None:
        if size > self._limits.size_bytes:
            raise UnpackError(f"the sparse file {member.path[:200]!r} has {size} bytes")
        member.extents = sparse.checked(numbers, size, self._body)
        member.size = size

    def _body_block(self) -> bytes:
        self._body -= 512
        if self._body < 0:
            raise UnpackError("the map of a sparse file is cut off")
        return self._whole(512)

    def _finish_body(self) -> None:
        body, padding = self._body, self._padding
        if body:
            self._body = 0
            if self._skip(body):
                raise self._cut_off()
        if padding:
            self._skip(padding)

    def _next_chunk(self) -> bool:
        try:
            chunk = next(self._chunks, None)
        except OSError as error:
            raise SourceFailure from error
        self._chunk, self._position = chunk or b"", 0
        self._bytes_left -= len(self._chunk)
        if self._bytes_left < 0:
            raise UnpackError(f"the layer has more than {self._limits.size_bytes} bytes")
        return chunk is not None

    def _piece(self, size: int) -> memoryview:
        """Return the next bytes of the stream: at least one, `size` at most."""
        while self._position >= len(self._chunk):
            if not self._next_chunk():
                raise self._cut_off()
        start = self._position
        self._position = min(start + size, len(self._chunk))
        return memoryview(self._chunk)[start : self._position]

    def _cut_off(self) -> UnpackError:
        return UnpackError(f"the layer is cut off within the file {self._path[:200]!r}")

    def _take(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end of the stream."""
        end = self._position + size
        data = self._chunk[self._position : end]
        self._position = end
        if len(data) == size:
            return data
        parts, missing = [data], size - len(data)
        while missing and self._next_chunk():
            parts.append(self._chunk[:missing])
            self._position = len(parts[-1])
            missing -= len(parts[-1])
        return b"".join(parts)

    def _whole(self, size: int) -> bytes:
        data = self._take(size)
        if len(data) < size:
            raise UnpackError("the layer is cut off within a header")
        return data

    def _skip(self, size: int) -> int:
        """Pass over `size` bytes; return how many of them the stream does not have."""
        size -= len(self._chunk) - self._position
        while size > 0:
            if not self._next_chunk():
                return size
            size -= len(self._chunk)
        self._position = len(self._chunk) + size
        return 0


_LASTING = frozenset((b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid"))
"""What a global header may say about all members; the rest of it concerns nobody here."""


def _verify_checksum(block: bytes) -> None:
    # Adler-32's lower half is 1 + the sum of the bytes modulo 65521, which 256 bytes cannot
    # reach: the sum of a header at a tenth of the price of sum().
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    field = block[148:156]
    total += 256 - sum(field)
    try:
        stated = _number(field)
    except UnpackError:
        stated = -1
    # Some old tars add the bytes up as signed numbers.
    if stated != total and stated != total - 256 * _high_bytes(block):
        raise UnpackError("not a tar archive, or a broken one: a header has a wrong checksum")


def _high_bytes(block: bytes) -> int:
    return sum(byte > 127 for byte in block[:148] + block[156:])


def _name(block: bytes) -> bytes:
    name: bytes = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        # star keeps times where the prefix of POSIX ends.
        end = 476 if block[508:] == b"tar\0" else 500
        return block[345:end].partition(b"\0")[0] + b"/" + name
    return name


def _size(block: bytes) -> int:
    size = _number(block[124:136])
    if size < 0:
        raise UnpackError("a header holds a negative size")
    return size


def _id(field: bytes) -> int:
    """Return a uid or gid; those that are no number are nobody's, so root gets the file."""
    try:
        return _known_id(_number(field))
    except UnpackError:
        return 0


def _known_id(number: int) -> int:
    return number if 0 <= number <= _MAX_ID else 0


def _number(field: bytes) -> int:
    """Return an octal number, or GNU's binary one if the first bit is set."""
    try:
        return int(field.rstrip(b" \0"), 8)
    except ValueError:
        return _uncommon_number(field)


def _uncommon_number(field: bytes) -> int:
    if field[0] & 0x80:
        # The first bit is the mark, the second one the sign.
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit():
        raise UnpackError(f"a header holds {field!r} where a number should be")
    try:
        return int(digits, 8)
    except ValueError:
        raise UnpackError(f"a header holds {field!r} where a number should be") from None
