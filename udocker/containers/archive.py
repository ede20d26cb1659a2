"""Files of a container as a tar stream."""

from __future__ import annotations

import os
import stat

from udocker.containers.owners import Facts, Owners
from udocker.images.archives import tarwriter
from udocker.images.tree import WHITEOUT, join, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.files import Found
    from udocker.images.archives.tarwriter import TarWriter

_BLOCK_BYTES = 512
_HOLES_BYTES = 64 << 10
"""A file with holes of so many bytes is written as a sparse one, where that is allowed."""


class Archiver:
    """Adds files to an archive, and notes what an archive cannot hold.

    `sparse` leaves holes out, in a form that GNU tar, Go and Python read; layers of images
    should not have it (image-spec, layer.md).
    """

    def __init__(self, writer: TarWriter, *, sparse: bool) -> None:
        self._writer = writer
        self._sparse = sparse
        self._owners = Owners()
        self._first: dict[tuple[int, int], bytes] = {}
        self._linked: dict[bytes, Facts] = {}
        """What was written of files that have other names, for those say it again."""
        self.left_out: list[str] = []
        """What the archive does not have as it is, in words."""

    def add(self, found: Found, path: bytes | None = None) -> None:
        """Add one file, as `path` if that is given. Raises OSError."""
        path = found.path if path is None else path
        if found.is_directory:
            self._entry(tarwriter.DIRECTORY, path or b".", found)
        elif self._is_linked(found, path):
            first = self._first[found.status.st_dev, found.status.st_ino]
            self._entry(tarwriter.LINK, path, found, link=first)
        elif found.is_link:
            self._entry(tarwriter.SYMLINK, path, found, link=found.target())
        elif found.is_file:
            self._file(found, path)
        elif stat.S_ISFIFO(found.mode):
            self._entry(tarwriter.FIFO, path, found)
        else:
            kind = "a socket" if stat.S_ISSOCK(found.mode) else "a device node"
            self._leave_out(path, kind)

    def whiteout(self, path: bytes) -> None:
        """Add what hides `path` in the layers below. Source: layer.md, "Whiteouts"."""
        directory, name = split(path)
        hidden = join(directory, WHITEOUT + name)
        with open(os.devnull, "rb") as nothing:
            self._writer.file(hidden, 0o644, 0, nothing.fileno(), 0)

    def _is_linked(self, found: Found, path: bytes) -> bool:
        """Tell whether another name of the file is in the archive; if not, this one is the first.

        A name that is left out of a layer cannot be linked to: none is noted for it.
        """
        if found.status.st_nlink < 2:
            return False
        key = (found.status.st_dev, found.status.st_ino)
        return self._first.setdefault(key, path) != path

    def _entry(self, kind: bytes, path: bytes, found: Found, *, link: bytes = b"") -> None:
        facts = self._linked.get(link) if kind == tarwriter.LINK else None
        facts = facts or self._owners.facts(found, found.attributes())
        self._writer.entry(
            kind,
            path,
            facts.mode,
            found.status.st_mtime_ns,
            link=link,
            owner=facts.owner,
            attributes=facts.attributes if kind == tarwriter.DIRECTORY else (),
        )

    def _file(self, found: Found, path: bytes) -> None:
        status = found.status
        descriptor = found.layer.open_file(found.path)
        try:
            facts = self._owners.facts(found, found.attributes(descriptor))
            mode, mtime_ns, owner = facts.mode, status.st_mtime_ns, facts.owner
            own, size = facts.attributes, os.fstat(descriptor).st_size
            if status.st_nlink > 1:
                self._linked[path] = facts
            if self._sparse and size - status.st_blocks * _BLOCK_BYTES >= _HOLES_BYTES:
                extents = tarwriter.extents_of(descriptor, size)
                whole = self._writer.sparse_file(
                    path, mode, mtime_ns, descriptor, size, extents, owner=owner, attributes=own
                )
            else:
                whole = self._writer.file(
                    path, mode, mtime_ns, descriptor, size, owner=owner, attributes=own
                )
        finally:
            os.close(descriptor)
        if not whole:
            self._leave_out(path, "the end of a file that was cut off meanwhile")

    def _leave_out(self, path: bytes, what: str) -> None:
        self.left_out.append(f"/{os.fsdecode(path)} ({what})")
