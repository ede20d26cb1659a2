"""Archives of images as tar: few members, some of a size that is known only once they are written.

Equal members give equal bytes: no times, no owners.
"""

from __future__ import annotations

import os

from udocker.images.archives.tarwriter import BLOCK_BYTES, directory_header, file_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ZEROS = bytes(10240)


class ArchiveWriter:
    """Writes members by `write`; `descriptor` is a file in which a header can be written later.

    Directories come before what is in them: skopeo gives those that it has to make itself to
    root, which only root can.
    """

    def __init__(self, write: Callable[[bytes], object], descriptor: int | None = None) -> None:
        self._write = write
        self._descriptor = descriptor
        self._written = 0
        self._directories: set[str] = set()

    @property
    def can_mend(self) -> bool:
        """Tell whether the size of a member may be unknown before it is written."""
        return self._descriptor is not None

    def document(self, name: str, data: bytes) -> None:
        """Add a small file."""
        self._make_parents(name)
        self._put(file_header(name.encode(), len(data)) + data + bytes(-len(data) % BLOCK_BYTES))

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._make_parents(name)
        self._put(file_header(name.encode(), 0, link=target.encode()))

    def file(self, name: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        """Add a file of `chunks`; `size`, which they must have, is needed unless `can_mend`."""
        self._make_parents(name)
        start = self._written
        self._put(file_header(name.encode(), size or 0))
        for chunk in chunks:
            self._put(chunk)
        found = self._written - start - BLOCK_BYTES
        self._put(bytes(-found % BLOCK_BYTES))
        if size is None:
            assert self._descriptor is not None
            os.pwrite(self._descriptor, file_header(name.encode(), found), start)
        elif size != found:
            raise ValueError(f"{name} has {found} bytes, not {size}")

    def finish(self) -> None:
        """Write the end of the archive."""
        self._put(_ZEROS[: 2 * BLOCK_BYTES])
        self._put(_ZEROS[: -self._written % len(_ZEROS)])

    def _make_parents(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            directory = "/".join(parts[:depth])
            if directory not in self._directories:
                self._directories.add(directory)
                self._put(directory_header(directory.encode()))

    def _put(self, data: bytes) -> None:
        self._written += len(data)
        if data:
            self._write(data)
