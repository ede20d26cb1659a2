"""One directory tree of a container, entered from descriptors, whatever the modes in it."""

from __future__ import annotations

import errno
import os
import stat

from udocker.errors import StoreError
from udocker.images.tree import Tree, split

_OWN_ATTRIBUTES = "user.overlay."
_MAX_DEPTH = 4096
_THROUGH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA)


class ForeignFileError(StoreError):
    """A file belongs to another of the user's ids, and only that one may look into it."""


class Memory:
    """What is known of a layer's files where they cannot have attributes: nothing. See
    `remembered`."""

    def value(self, path: bytes, status: os.stat_result, mode: int) -> bytes | None:
        """Return what the attribute of `override` would say of a file with that mode."""
        return None

    def close(self) -> None:
        """Let go of all that was opened."""


class Layer(Tree):
    """A directory tree that a container's files are made of.

    In a layer that is the container's `own`, modes that keep its owner out are changed while they
    are in the way, and set again at the end. An image's tree has none, and is never changed.
    """

    def __init__(self, directory: str, *, own: bool) -> None:
        super().__init__(directory, max_depth=_MAX_DEPTH)
        self.own = own
        """Whether it is the container's."""
        self._opened: dict[tuple[int, int], tuple[int, int]] = {}
        """Device and inode of directories that were opened up: a descriptor, their mode."""
        self.memory: Memory | None = None
        """None where all attributes that its files should have are there."""
        self.added = 0
        """Bits that directories that were opened up keep, beside their own mode."""

    def __enter__(self) -> Layer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close_up()
        if self.memory:
            self.memory.close()
        super().__exit__(*error)

    def close_up(self) -> None:
        """Give the directories that were opened up their modes again."""
        while self._opened:
            descriptor, mode = self._opened.popitem()[1]
            os.chmod(f"/proc/self/fd/{descriptor}", mode | self.added)
            os.close(descriptor)

    def mode_of(self, status: os.stat_result) -> int:
        """Return the mode of a file of this layer as the container knows it."""
        opened = self._opened.get((status.st_dev, status.st_ino)) if self._opened else None
        return stat.S_IFMT(status.st_mode) | opened[1] if opened else status.st_mode

    def status(self, path: bytes) -> os.stat_result | None:
        """Return what is at `path`; None: nothing."""
        directory, name = split(path)
        try:
            descriptor = self.descriptor(directory)
            return os.stat(name or b".", dir_fd=descriptor, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open_file(self, path: bytes) -> int:
        """Open a regular file for reading. Raises OSError, also when it is none."""
        directory, name = split(path)
        above = self.descriptor(directory)
        try:
            descriptor = os.open(name, _READING, dir_fd=above)
        except PermissionError:
            descriptor = self._open_closed(name, above)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", path)
        return descriptor

    def make_writable(self, path: bytes) -> int:
        """Return a descriptor of a directory of the container's own in which files can be made."""
        descriptor = self.descriptor(path)
        status = os.fstat(descriptor)
        if self.own and status.st_mode & 0o300 != 0o300 and status.st_uid == os.geteuid():
            self._open_up(os.dup(descriptor), status)
        return descriptor

    def _open_below(self, descriptor: int, name: bytes) -> int:
        try:
            below = super()._open_below(descriptor, name)
        except PermissionError:
            if not self.own:
                raise
            through = os.open(name, _THROUGH | os.O_DIRECTORY, dir_fd=descriptor)
            _check_own(through, name)
            self._open_up(through, os.fstat(through))
            return super()._open_below(descriptor, name)
        if self.own:
            status = os.fstat(below)
            if not status.st_mode & 0o100 and status.st_uid == os.geteuid():
                self._open_up(os.dup(below), status)
        return below

    def _open_up(self, descriptor: int, status: os.stat_result) -> None:
        """Let the owner into a directory until `close_up`; takes over the descriptor."""
        key, mode = (status.st_dev, status.st_ino), stat.S_IMODE(status.st_mode)
        if key in self._opened:
            os.close(descriptor)
            return
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", mode | 0o700)
        except OSError:
            os.close(descriptor)
            raise
        self._opened[key] = (descriptor, mode)

    def _open_closed(self, name: bytes, above: int) -> int:
        """Open a file whose mode keeps its owner from reading; it has that mode again at once."""
        through = os.open(name, _THROUGH, dir_fd=above)
        try:
            status = os.fstat(through)
            if not (self.own and stat.S_ISREG(status.st_mode)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
            _check_own(through, name)
            path, mode = f"/proc/self/fd/{through}", stat.S_IMODE(status.st_mode)
            os.chmod(path, mode | 0o400)
            try:
                return os.open(path, _READING & ~os.O_NOFOLLOW)
            finally:
                os.chmod(path, mode)
        finally:
            os.close(through)


def open_layer(directory: str, *, own: bool = True) -> Layer:
    """Open a tree. Raises StoreError."""
    try:
        return Layer(directory, own=own)
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}") from error


def attribute(descriptor: int, name: str) -> bytes | None:
    """Return an extended attribute; None where there is none."""
    try:
        return os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return None
        raise


def user_attributes(descriptor: int) -> tuple[tuple[str, bytes], ...]:
    """Return the user attributes of an open file but those of overlays, sorted by name."""
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return ()
        raise
    wanted = (n for n in names if n.startswith("user.") and not n.startswith(_OWN_ATTRIBUTES))
    return tuple((name, os.getxattr(descriptor, name)) for name in sorted(wanted))


def _check_own(descriptor: int, name: bytes) -> None:
    """Raise ForeignFileError for a file that is not this user's."""
    uid = os.fstat(descriptor).st_uid
    if uid != os.geteuid():
        raise ForeignFileError(
            f"{os.fsdecode(name)!r} of the container can be read by uid {uid} only",
            hint="udocker setup --fixperm CONTAINER makes all files yours",
        )
