"""The files in a Debian package that are wanted, and no others.

Source: deb(5), ar(5). Nothing is unpacked: contents are read into memory, by name.
"""

from __future__ import annotations

import posixpath
import tempfile

from udocker.errors import IntegrityError, UnpackError
from udocker.images.archives import tar
from udocker.images.compression import decompress
from udocker.provision.catalogue import MAX_FILE_BYTES
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_AR = b"!<arch>\n"
_HEADER_BYTES = 60
_LIMITS = tar.Limits(entries=100_000, size_bytes=1 << 30)
_MAX_HELD_BYTES = 256 << 20
_MAX_LINKS = 8


@dataclass(frozen=True)
class _File:
    data: bytes


@dataclass(frozen=True)
class _Link:
    target: str


class Package:
    """The programs and libraries of a .deb."""

    def __init__(self, data: bytes, subject: str) -> None:
        """`data` is the whole package, `subject` names it. Raises IntegrityError."""
        self._subject = subject
        try:
            self._files = dict(self._read(data))
        except UnpackError as error:
            raise self._broken(error.message) from error

    def file(self, path: str) -> bytes | None:
        """Return the content of a file; symbolic links within the package are followed."""
        for _ in range(_MAX_LINKS):
            found = self._files.get(path)
            if not isinstance(found, _Link):
                return found.data if found else None
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), found.target))
            path = path.lstrip("/")
        return None

    def library(self, soname: str, machine: str) -> bytes | None:
        """Return the library that a program finds by `soname` in the system's directories."""
        triplet = f"{machine}-linux-gnu"
        places = (f"usr/lib/{triplet}", f"lib/{triplet}", "usr/lib", "lib", "usr/lib64", "lib64")
        return next(filter(None, (self.file(f"{place}/{soname}") for place in places)), None)

    def _read(self, data: bytes) -> Iterator[tuple[str, _File | _Link]]:
        held = 0
        reader = tar.Reader(decompress.chunks([self._member(data, b"data.tar")]), _LIMITS)
        for member in reader:
            path = _plain(member.path)
            if path is None or not _is_wanted(path):
                continue
            if member.kind == tar.SYMLINK:
                yield path, _Link(member.link.decode("utf-8", "replace"))
            elif member.kind == tar.FILE and member.extents is None:
                held += member.size
                if member.size > MAX_FILE_BYTES or held > _MAX_HELD_BYTES:
                    raise self._broken(f"{path} is too large")
                yield path, _File(_content(reader, member.size))

    def _member(self, data: bytes, beginning: bytes) -> bytes:
        """Return the member of the outer archive whose name begins so."""
        if not data.startswith(_AR):
            raise self._broken("it is no ar archive")
        position = len(_AR)
        while position + _HEADER_BYTES <= len(data):
            header = data[position : position + _HEADER_BYTES]
            size = header[48:58].strip()
            if header[58:] != b"`\n" or not size.isdigit():
                raise self._broken("a header of its ar archive is broken")
            position += _HEADER_BYTES
            end = position + int(size)
            if end > len(data):
                raise self._broken("its ar archive is cut off")
            if header[:16].startswith(beginning):
                return data[position:end]
            position = end + end % 2
        raise self._broken(f"it has no {beginning.decode()}")

    def _broken(self, reason: str) -> IntegrityError:
        return IntegrityError(
            f"{self._subject}: not a sound package: {reason.replace('the layer', 'its content')}"
        )


def _content(reader: tar.Reader, size: int) -> bytes:
    with tempfile.TemporaryFile() as file:
        reader.copy(file.fileno(), size)
        file.seek(0)
        return file.read()


def _plain(path: bytes) -> str | None:
    """Return a member's path without `./` before it; None for one that leads elsewhere."""
    text = path.decode("utf-8", "replace")
    text = text[2:] if text.startswith("./") else text
    return None if text.startswith("/") or ".." in text.split("/") else text


def _is_wanted(path: str) -> bool:
    top = path.partition("/")[0] if not path.startswith("usr/") else path.split("/")[1]
    return top in ("bin", "sbin") or (top in ("lib", "lib64") and ".so" in path)
