"""Archives of images as they are handed over: a file, a directory, a pipe, compressed or not.

One that can be read at any place is read where it lies. One that cannot, a pipe or a compressed
file, is kept in the store's `partial/` first, file by file.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import closing

from udocker import console
from udocker.errors import UdockerError, UsageError
from udocker.images.archives.archivefiles import Directory, Indexed, Spooled, is_compressed
from udocker.images.compression import bounds, decompress
from udocker.transfer.parallel.stages import ahead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from udocker.images.archives.archivefiles import Files
    from udocker.images.store import ImageStore
    from udocker.settings import Settings

_PIECE_BYTES = 1 << 20
_STDIN = "/proc/self/fd/0"
_PART = "archive"


def opened(settings: Settings, path: str, store: ImageStore, stages: list[str]) -> Files:
    """Return the files of an archive; directories made for them are added to `stages`.

    `-` is standard input. Raises UsageError for a terminal, UdockerError for what cannot be read.
    """
    if path == "-":
        return _from_standard_input(settings, store, stages)
    try:
        if os.path.isdir(path):
            return Directory(path)
        with open(path, "rb", buffering=0) as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            if is_file and not is_compressed(os.pread(file.fileno(), decompress.HEAD_BYTES, 0)):
                return Indexed(path, path)
            return _spooled(settings, path, file.fileno(), store, stages)
    except OSError as error:
        raise UdockerError(f"{path}: {error.strerror}") from error


def _from_standard_input(settings: Settings, store: ImageStore, stages: list[str]) -> Files:
    if sys.stdin is None or sys.stdin.isatty():
        hint = "udocker load -i FILE, or: COMMAND | udocker load"
        raise UsageError("an archive is expected on standard input", hint=hint)
    descriptor, name = sys.stdin.fileno(), "standard input"
    can_seek = _is_file_from_its_start(descriptor)
    if can_seek and not is_compressed(os.pread(descriptor, decompress.HEAD_BYTES, 0)):
        return Indexed(name, _STDIN)
    return _spooled(settings, name, descriptor, store, stages)


def _is_file_from_its_start(descriptor: int) -> bool:
    """Tell whether it can be opened once more and then be read at any place."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.lseek(descriptor, 0, os.SEEK_CUR):
        return False
    return os.access(_STDIN, os.R_OK)


def _spooled(
    settings: Settings, name: str, descriptor: int, store: ImageStore, stages: list[str]
) -> Files:
    stages.append(store.new_stage())
    found = os.fstat(descriptor)
    size_bytes = found.st_size if stat.S_ISREG(found.st_mode) else 0
    told = _told(settings, _chunks(descriptor), size_bytes)
    content = decompress.chunks(told, expansion=settings.max_expansion)
    with closing(told), closing(ahead(content)) as chunks:
        return Spooled(name, bounds.while_room(chunks, stages[-1]), stages[-1])


def _told(
    settings: Settings, chunks: Iterator[bytes], size_bytes: int
) -> Generator[bytes, None, None]:
    """Yield the chunks and tell the user how many of `size_bytes` (0: who knows) have come."""
    progress = console.progress(quiet=settings.quiet)
    progress.start(_PART, size_bytes)
    come_bytes = 0
    try:
        for chunk in chunks:
            come_bytes += len(chunk)
            progress.advance(_PART, len(chunk))
            yield chunk
        progress.start(_PART, come_bytes)
        progress.finish(_PART, "read")
    finally:
        progress.close()


def _chunks(descriptor: int) -> Iterator[bytes]:
    while data := os.read(descriptor, _PIECE_BYTES):
        yield data
