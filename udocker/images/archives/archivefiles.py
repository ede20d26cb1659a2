"""The files of an image archive by name: of a directory, or of a tar that is never unpacked.

A tar that can be read at any place is indexed: its headers are read, its bodies passed over.
Of a stream every file is kept, on disk, until the archive is closed. Names from outside lead to
members of the archive and to nothing else.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager

from udocker import disk
from udocker.errors import InvalidDocument, UdockerError, UnpackError
from udocker.images.archives import tar
from udocker.images.compression import decompress
from udocker.oci import MAX_DOCUMENT_BYTES, Digest
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    class Files(Protocol):
        """The files of an archive."""

        @property
        def name(self) -> str:
            """What the archive is called in messages."""

        def find(self, path: str) -> Part | None:
            """Return the regular file of that name, links followed; None when there is none.

            Raises InvalidDocument for links that lead round in circles.
            """


_LIMITS = tar.Limits(entries=200_000, header_bytes=64 << 10)
_NAMES_BYTES = 32 << 20
"""All names of an archive together, which are kept in memory."""
_MAX_HOPS = 40
"""Symbolic links on the way to one file. Source: Linux, MAXSYMLINKS."""
_PIECE_BYTES = 256 << 10
_HEADERS_BYTES = 32 << 10
_REST_BYTES = 16 << 20


@dataclass(frozen=True)
class Part:
    """Where the bytes of one file are: a range of a file of the host."""

    path: str
    offset: int
    size_bytes: int
    digest: Digest | None = None
    """Of the bytes, where it is known."""

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes from `offset` on, fewer where the file has become shorter."""
        position, end = self.offset + offset, self.offset + self.size_bytes
        try:
            with open(self.path, "rb", buffering=0) as file:
                while position < end:
                    chunk = os.pread(file.fileno(), min(_PIECE_BYTES, end - position), position)
                    if not chunk:
                        return
                    position += len(chunk)
                    yield chunk
        except OSError as error:
            raise UdockerError(f"{self.path}: {error.strerror}") from error


def read(files: Files, path: str) -> bytes | None:
    """Return a document of the archive; None when there is none. Raises InvalidDocument."""
    part = files.find(path)
    if part is None:
        return None
    if part.size_bytes > MAX_DOCUMENT_BYTES:
        raise InvalidDocument(f"{files.name}: {path} has {part.size_bytes} bytes")
    return b"".join(part.chunks())


class Directory:
    """The files below a directory."""

    def __init__(self, path: str) -> None:
        self.name = path

    def find(self, path: str) -> Part | None:
        """Return the regular file of that name."""
        words = path.split("/")
        if ".." in words:
            return None
        full = os.path.join(self.name, *filter(None, words))
        try:
            found = os.stat(full)
        except (OSError, ValueError):  # not there, or no name that a file can have
            return None
        return Part(full, 0, found.st_size) if stat.S_ISREG(found.st_mode) else None


class Indexed:
    """The files of an uncompressed tar that can be read at any place."""

    def __init__(self, name: str, path: str) -> None:
        """`path` is where it can be opened, again and again. Raises InvalidDocument."""
        self.name = name
        self._path = path
        self._table = _Table(name)
        try:
            with open(path, "rb", buffering=0) as file:
                source = _Place(file.fileno())
                reader = _SeekingReader(source)
                with _reading(name):
                    for member in reader:
                        place = source.position - reader.buffered
                        self._table.add(member, (place, member.size))
        except OSError as error:
            raise disk.store_error(error, name) from error

    def find(self, path: str) -> Part | None:
        """Return the regular file of that name, links followed."""
        found = self._table.find(path)
        return Part(self._path, *found) if found else None


class Spooled:
    """The files of a tar stream, each kept in `directory`, which is the caller's to remove."""

    def __init__(self, name: str, chunks: Iterable[bytes], directory: str) -> None:
        """Read the stream to its end. Raises InvalidDocument, StoreError."""
        self.name = name
        self._directory = directory
        self._table = _Table(name)
        self._digests: list[Digest] = []
        reader = _StreamReader(chunks, _LIMITS)
        with _reading(name):
            for member in reader:
                replaced = self._table.add(member, (len(self._digests), member.size))
                if replaced:
                    os.unlink(self._file(replaced[0]))
                if self._table.has(member):
                    self._keep(reader, member)
            reader.pass_over_rest()

    def _keep(self, reader: _StreamReader, member: tar.Member) -> None:
        path, hasher = self._file(len(self._digests)), hashlib.sha256()
        try:
            with open(path, "xb", buffering=0) as file:
                for piece in reader.pieces(member.size):
                    hasher.update(piece)
                    while piece:
                        piece = piece[file.write(piece) :]
        except OSError as error:
            raise disk.store_error(error, path) from error
        self._digests.append(Digest("sha256", hasher.hexdigest()))

    def find(self, path: str) -> Part | None:
        """Return the regular file of that name, links followed; its digest is known."""
        found = self._table.find(path)
        if found is None:
            return None
        number, size = found
        return Part(self._file(number), 0, size, self._digests[number])

    def _file(self, number: int) -> str:
        return f"{self._directory}/{number}"


class _Table:
    """The names of an archive: files, with two numbers for each, and links. The last one counts."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._files: dict[bytes, tuple[int, int]] = {}
        self._links: dict[bytes, bytes] = {}
        self._sparse: set[bytes] = set()
        self._bytes_left = _NAMES_BYTES

    def add(self, member: tar.Member, numbers: tuple[int, int]) -> tuple[int, int] | None:
        """Take a member; return the numbers of the file whose place it has taken, if any."""
        if len(member.path) > _LIMITS.path_bytes:
            raise InvalidDocument(f"{self._archive}: a name has {len(member.path)} bytes")
        name = _clean(member.path)
        if not name or member.kind == tar.DIRECTORY:
            return None
        self._bytes_left -= len(name) + len(member.link)
        if self._bytes_left < 0:
            raise InvalidDocument(f"{self._archive}: its names take more than {_NAMES_BYTES} bytes")
        replaced = self._files.pop(name, None)
        self._links.pop(name, None)
        self._sparse.discard(name)
        if member.kind == tar.SYMLINK:
            self._links[name] = member.link
        elif member.kind == tar.LINK:
            self._links[name] = b"/" + member.link
        elif member.kind == tar.FILE and member.extents is None:
            self._files[name] = numbers
        elif member.kind == tar.FILE:
            self._sparse.add(name)
        return replaced

    def has(self, member: tar.Member) -> bool:
        """Tell whether the member that was just added is a file."""
        return member.kind == tar.FILE and _clean(member.path) in self._files

    def find(self, path: str) -> tuple[int, int] | None:
        try:
            name = self._resolve(os.fsencode(path))
        except UnicodeEncodeError:  # half a character, which JSON can hold
            return None
        if name is None:
            return None
        if name in self._sparse:
            raise InvalidDocument(
                f"{self._archive}: {path} is kept as a sparse file",
                hint="make the archive without tar's option --sparse",
            )
        return self._files.get(name)

    def _resolve(self, path: bytes) -> bytes | None:
        """Return the name that a path leads to; None when it leads out of the archive."""
        waiting, hops = path.split(b"/")[::-1], 0
        here: list[bytes] = []
        while waiting:
            word = waiting.pop()
            if word == b"..":
                if not here:
                    return None
                here.pop()
            elif word not in (b"", b"."):
                here.append(word)
                target = self._links.get(b"/".join(here))
                if target is None:
                    continue
                hops += 1
                if hops > _MAX_HOPS:
                    shown = os.fsdecode(path[:200])
                    raise InvalidDocument(
                        f"{self._archive}: the links of {shown!r} lead in circles"
                    )
                here = [] if target.startswith(b"/") else here[:-1]
                waiting += target.split(b"/")[::-1]
        return b"/".join(here)


def _clean(path: bytes) -> bytes | None:
    """Return a member's name without what means nothing in it; None when it leads out."""
    words = [word for word in path.split(b"/") if word not in (b"", b".")]
    return None if b".." in words else b"/".join(words)


class _StreamReader(tar.Reader):
    """A reader of which bodies can be had in pieces."""

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes of the body."""
        self._body -= size
        while size:
            piece = self._piece(size)
            size -= len(piece)
            yield piece

    def pass_over_rest(self) -> None:
        """Read what little follows the last member, so that its writer can end in peace."""
        left = _REST_BYTES
        while left > 0 and self._next_chunk():
            left -= len(self._chunk)


class _Place:
    """The pieces of a file from a position on, which the reader may move."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size
        self.position = 0

    def __iter__(self) -> _Place:
        return self

    def __next__(self) -> bytes:
        data = os.pread(self._descriptor, _HEADERS_BYTES, self.position)
        if not data:
            raise StopIteration
        self.position += len(data)
        return data


class _SeekingReader(tar.Reader):
    """A reader that passes over bodies without reading them."""

    def __init__(self, place: _Place) -> None:
        super().__init__(place, _LIMITS)
        self._place = place

    @property
    def buffered(self) -> int:
        """How much was read and not used yet."""
        return len(self._chunk) - self._position

    def _skip(self, size: int) -> int:
        if size <= self.buffered:
            self._position += size
            return 0
        self._place.position += size - self.buffered
        self._chunk, self._position = b"", 0
        return max(0, self._place.position - self._place.size_bytes)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What is wrong with the archive `name` is said of it."""
    try:
        yield
    except UnpackError as error:
        raise of_archive(error, name) from error
    except tar.SourceFailure as failure:
        cause = failure.__cause__
        if not isinstance(cause, OSError):
            raise
        raise disk.store_error(cause, name) from failure


def of_archive(error: UnpackError, name: str) -> InvalidDocument:
    """Return what the readers of layers found, said of the archive `name`."""
    message = error.message.replace("the layer", "the archive")
    return InvalidDocument(f"{name}: {message}", hint=error.hint)


def is_compressed(head: bytes) -> bool:
    """Tell whether the first ten bytes of a file are those of compressed data."""
    return decompress.compression(head) != ""
