"""Directory trees of strangers: every step is taken from a descriptor and follows no link.

Paths are bytes relative to the root of the tree, `b""` the root itself. A path is *canonical*
when none of its directories is a symbolic link; only `Tree.resolve` reads links, and it reads
them as the container will: `/` and `..` never lead out of the root.

openat2(2) with RESOLVE_IN_ROOT would bring neither safety nor speed. It follows links, but only to
what is there, and layers lead through links to what they have yet to make; Python has no call for
it. With the descriptors that are kept here, a Debian tree takes 0.2 such steps an entry.
"""

from __future__ import annotations

import errno
import os
import stat

from udocker import trees
from udocker.errors import UnpackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
WHITEOUT = b".wh."
"""How names begin that hide others. Source: image-spec layer.md, "Whiteouts"."""
_DESCRIPTORS = 64
_FEW_DESCRIPTORS = 4
_FREE_STEPS = 100_000
_STEPS_PER_ENTRY = 32
"""Directories looked into on the ways to all entries of an archive. Where these come as a Debian
tree lists them that is 0.2 each, in random order 6; by links to links it could be 10,000."""
_MAX_LINKS = 40
"""Symbolic links in one path. Source: Linux, MAXSYMLINKS."""
_COPY_BYTES = 1 << 20


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of `name` in `directory`, either of which may be the root."""
    return directory + b"/" + name if directory and name else directory or name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory and the name of `path`."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


class Tree:
    """A directory tree of the host, entered only by canonical paths.

    It keeps few descriptors open (processes may often have 1024 or even 256); whoever removes or
    moves a directory of the tree says `forget`.
    """

    def __init__(
        self, directory: str, *, max_depth: int, entries: Callable[[], int] | None = None
    ) -> None:
        """`entries` says how many of an archive were read so far: ways to them are bounded."""
        self.directory = directory
        """The host path of the root, for messages."""
        self._max_depth = max_depth
        self._entries = entries
        self._steps = 0
        self._most = _affordable()
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._root = os.open(directory, flags)
        self._open: dict[bytes, int] = {}

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
        os.close(self._root)

    def descriptor(self, path: bytes) -> int:
        """Return a descriptor of the directory `path`, which stays the tree's.

        It lives at least until the next but one is asked for. Raises OSError when a part of the
        path is missing or is not a directory.
        """
        if not path:
            return self._root
        descriptor = self._open.pop(path, -1)
        if descriptor < 0:
            descriptor = self._enter(path)
        self._open[path] = descriptor
        return descriptor

    def forget(self) -> None:
        """Close every descriptor but the root's: paths may lead elsewhere from now on."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _enter(self, path: bytes) -> int:
        if len(self._open) >= self._most:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest))
        above, name = split(path)
        if above in self._open or not above:
            return self._open_below(self._open[above] if above else self._root, name)
        descriptor = os.dup(self._root)
        names = path.split(b"/")
        self._walked(len(names))
        for name in names:
            try:
                below = self._open_below(descriptor, name)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _walked(self, steps: int) -> None:
        """Count steps on the ways to entries. Raises UnpackError when they are too many."""
        self._steps += steps
        if self._entries is None or self._steps < _FREE_STEPS:
            return
        if self._steps > _FREE_STEPS + _STEPS_PER_ENTRY * self._entries():
            raise UnpackError(f"after {self._steps} directories entered: links lead too long ways")

    def _open_below(self, descriptor: int, name: bytes) -> int:
        """Open the directory `name` of an open one, following no link. Raises OSError."""
        if name in (b"", b".", b".."):
            raise ValueError(f"{name!r} is not a name in a canonical path")
        return os.open(name, OPEN_DIRECTORY, dir_fd=descriptor)

    def mode(self, path: bytes) -> int | None:
        """Return type and permission bits of what is at `path`; None: nothing there."""
        directory, name = split(path)
        try:
            descriptor = self.descriptor(directory)
            return os.stat(name or b".", dir_fd=descriptor, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_directory(self, path: bytes) -> bool:
        """Tell whether `path` is there and is a directory."""
        mode = self.mode(path)
        return mode is not None and stat.S_ISDIR(mode)

    def resolve(
        self, path: bytes, start: bytes = b"", make: Callable[[bytes], None] | None = None
    ) -> bytes:
        """Return the canonical path of the directory that `path` leads to from `start`.

        What is missing or no directory stays in the path as it is named, unless `make` makes a
        directory of it. Raises UnpackError for too many links or directories.
        """
        here, left, links = start, _reversed_parts(path), 0
        while left:
            name = left.pop()
            if name in (b"", b"."):
                continue
            self._walked(1)
            if name == b"..":
                here = split(here)[0]
                continue
            below = join(here, name)
            mode = self.mode(below)
            if mode is not None and stat.S_ISLNK(mode):
                links += 1
                target = self._read_link(below, links)
                left += _reversed_parts(target)
                here = b"" if target.startswith(b"/") else here
                continue
            if make is not None and (mode is None or not stat.S_ISDIR(mode)):
                make(below)
            here = below
            if here.count(b"/") >= self._max_depth:
                raise UnpackError(f"{path[:200]!r} is more than {self._max_depth} directories deep")
        return here

    def resolve_parent(self, path: bytes) -> bytes:
        """Return `path` with its directory resolved and its last name as it is."""
        directory, name = split(path)
        return join(self.resolve(directory), name)

    def _read_link(self, path: bytes, links: int) -> bytes:
        if links > _MAX_LINKS:
            raise UnpackError(f"{path[:200]!r}: too many levels of symbolic links")
        directory, name = split(path)
        return os.readlink(name, dir_fd=self.descriptor(directory))

    def make_directory(self, path: bytes, mode: int) -> None:
        """Make one directory, whose parent exists. Raises OSError."""
        directory, name = split(path)
        os.mkdir(name, mode, dir_fd=self.descriptor(directory))

    def rename(self, path: bytes, new_path: bytes) -> None:
        """Move the directory `path`, whatever is in it, to `new_path` of the same tree."""
        directory, name = split(path)
        new_directory, new_name = split(new_path)
        source, destination = self.descriptor(directory), self.descriptor(new_directory)
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=destination)
        self.forget()

    def remove(self, path: bytes) -> None:
        """Remove what is at `path` and everything below it; nothing there is fine."""
        directory, name = split(path)
        descriptor = self.descriptor(directory)
        try:
            os.unlink(name, dir_fd=descriptor)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            self.forget()
            trees.remove_directory(name, self.descriptor(directory))

    def empty(self, path: bytes) -> None:
        """Remove everything below the directory `path`."""
        for name in os.listdir(self.descriptor(path)):
            self.remove(join(path, os.fsencode(name)))


def _affordable() -> int:
    """Return how many descriptors a tree may keep open, for two of them and all the rest."""
    limit = os.sysconf("SC_OPEN_MAX")
    return min(_DESCRIPTORS, max(_FEW_DESCRIPTORS, limit // 8)) if limit > 0 else _DESCRIPTORS


def refuse_marks(path: bytes) -> None:
    """Raise UnpackError when links lead to the name of a whiteout, or to what is set aside."""
    if path.startswith(WHITEOUT) or b"/" + WHITEOUT in path:
        raise UnpackError(f"{path[:200]!r} is the name of a whiteout, not of a directory")


def _reversed_parts(path: bytes) -> list[bytes]:
    return path.split(b"/")[::-1]


_UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


def link(source: bytes, source_descriptor: int, name: bytes, descriptor: int) -> None:
    """Make `name` another name of the file or link `source`, or a copy where that is refused.

    File systems without hard links refuse, and those where a file has too many. Raises OSError.
    """
    try:
        os.link(
            source,
            name,
            src_dir_fd=source_descriptor,
            dst_dir_fd=descriptor,
            follow_symlinks=False,
        )
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        _copy(source, source_descriptor, name, descriptor)


def _copy(source: bytes, source_descriptor: int, name: bytes, descriptor: int) -> None:
    found = os.stat(source, dir_fd=source_descriptor, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source, dir_fd=source_descriptor), name, dir_fd=descriptor)
    elif stat.S_ISFIFO(found.st_mode):
        os.mkfifo(name, stat.S_IMODE(found.st_mode), dir_fd=descriptor)
    else:
        _copy_file(source, source_descriptor, name, descriptor)
    times = (found.st_atime_ns, found.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=descriptor, follow_symlinks=False)


def _copy_file(source: bytes, source_descriptor: int, name: bytes, descriptor: int) -> None:
    reading = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(source, reading, dir_fd=source_descriptor), "rb", 0) as original:
        mode = stat.S_IMODE(os.fstat(original.fileno()).st_mode)
        with os.fdopen(os.open(name, OPEN_NEW, 0o600, dir_fd=descriptor), "wb", 0) as copy:
            while data := original.read(_COPY_BYTES):
                while data:
                    data = data[copy.write(data) :]
            set_attributes(copy.fileno(), attributes(original.fileno()))
            os.fchmod(copy.fileno(), mode)


def attributes(descriptor: int) -> tuple[tuple[str, bytes], ...]:
    """Return the user attributes of an open file; none where the file system has none."""
    try:
        names = [name for name in os.listxattr(descriptor) if name.startswith("user.")]
        return tuple((name, os.getxattr(descriptor, name)) for name in names)
    except OSError:
        return ()


def set_attributes(descriptor: int, wanted: tuple[tuple[str, bytes], ...]) -> None:
    """Give an open file user attributes, as many as the file system takes."""
    for name, value in wanted:
        try:
            os.setxattr(descriptor, name, value)
        except OSError:
            continue


def remove_attributes(descriptor: int) -> None:
    """Take all user attributes from an open file."""
    for name, _ in attributes(descriptor):
        os.removexattr(descriptor, name)
