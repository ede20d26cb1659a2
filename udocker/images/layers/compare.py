"""Whether a tree is what its layers make: two trees, compared entry by entry, following no link."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack

from udocker.images.archives.tar import Limits
from udocker.images.tree import Tree, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_DEPTH = 2 * Limits().depth
_CHUNK_BYTES = 1 << 20


def differences(expected: str, actual: str, *, content: bool) -> Iterator[str]:
    """Yield what is other in the tree `actual` than in `expected`, a sentence for each entry.

    Compared are names, types, modes, link targets, sizes and times of files; with `content` also
    every byte and every attribute of the user's. Raises OSError.
    """
    with (
        Tree(expected, max_depth=_MAX_DEPTH) as wanted,
        Tree(actual, max_depth=_MAX_DEPTH) as found,
    ):
        yield from _Comparison(wanted, found, content=content).run()


class _Comparison:
    def __init__(self, wanted: Tree, found: Tree, *, content: bool) -> None:
        self._wanted = wanted
        self._found = found
        self._content = content

    def run(self) -> Iterator[str]:
        """Yield the differences, directory by directory."""
        work = [b""]
        yield from self._attributes(b"", *self._statuses(b"", b"."))
        while work:
            directory = work.pop()
            wanted, found = (self._names(tree, directory) for tree in (self._wanted, self._found))
            for name in sorted(wanted - found):
                yield f"{_shown(join(directory, name))} is missing"
            for name in sorted(found - wanted):
                yield f"{_shown(join(directory, name))} is in no layer"
            for name in sorted(wanted & found):
                path = join(directory, name)
                statuses = self._statuses(directory, name)
                told = list(self._attributes(path, *statuses))
                yield from told
                if not told and stat.S_ISDIR(statuses[0].st_mode):
                    work.append(path)
                elif not told:
                    yield from self._contents(directory, name, statuses[0])

    def _names(self, tree: Tree, directory: bytes) -> frozenset[bytes]:
        return frozenset(map(os.fsencode, os.listdir(tree.descriptor(directory))))

    def _statuses(self, directory: bytes, name: bytes) -> tuple[os.stat_result, os.stat_result]:
        trees = (self._wanted, self._found)
        wanted, found = (
            os.stat(name, dir_fd=tree.descriptor(directory), follow_symlinks=False)
            for tree in trees
        )
        return wanted, found

    def _attributes(
        self, path: bytes, wanted: os.stat_result, found: os.stat_result
    ) -> Iterator[str]:
        if stat.S_IFMT(wanted.st_mode) != stat.S_IFMT(found.st_mode):
            yield f"{_shown(path)} is of another type"
            return
        if not stat.S_ISLNK(wanted.st_mode) and wanted.st_mode != found.st_mode:
            modes = (stat.S_IMODE(status.st_mode) for status in (found, wanted))
            yield "{} has mode {:o}, not {:o}".format(_shown(path), *modes)
        elif stat.S_ISREG(wanted.st_mode):
            if wanted.st_size != found.st_size:
                yield f"{_shown(path)} has {found.st_size} bytes, not {wanted.st_size}"
            elif wanted.st_mtime_ns != found.st_mtime_ns:
                yield f"{_shown(path)} was written to, by its time"

    def _contents(self, directory: bytes, name: bytes, wanted: os.stat_result) -> Iterator[str]:
        trees = (self._wanted, self._found)
        if stat.S_ISLNK(wanted.st_mode):
            targets = [os.readlink(name, dir_fd=tree.descriptor(directory)) for tree in trees]
            if targets[0] != targets[1]:
                yield f"{_shown(join(directory, name))} leads elsewhere"
        elif stat.S_ISREG(wanted.st_mode) and self._content:
            with ExitStack() as opened:
                files = [_open(tree, directory, name, opened) for tree in trees]
                if _attributes_of(files[0]) != _attributes_of(files[1]):
                    yield f"{_shown(join(directory, name))} has other attributes"
                if not _same(*files):
                    yield f"{_shown(join(directory, name))} has other content"


def _open(tree: Tree, directory: bytes, name: bytes, opened: ExitStack) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=tree.descriptor(directory))
    opened.callback(os.close, descriptor)
    return descriptor


def _attributes_of(descriptor: int) -> dict[str, bytes]:
    try:
        names = [name for name in os.listxattr(descriptor) if name.startswith("user.")]
        return {name: os.getxattr(descriptor, name) for name in names}
    except OSError:  # a file system without them
        return {}


def _same(one: int, other: int) -> bool:
    """Tell whether two files of one size hold the same; what is a hole in both is not read."""
    size_bytes, end = os.fstat(one).st_size, 0
    while (start := min(_data(one, end), _data(other, end))) < size_bytes:
        end = min(start + _CHUNK_BYTES, size_bytes)
        if os.pread(one, end - start, start) != os.pread(other, end - start, start):
            return False
    return True


def _data(file: int, position: int) -> int:
    """Return where the next data of a file begin, or its end."""
    try:
        return os.lseek(file, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return os.fstat(file).st_size
        return position  # a file system that cannot tell


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")
