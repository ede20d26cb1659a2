"""Files that appear whole or not at all, locks that spare work, trees that can be removed.

Nothing here needs a lock to be right: two processes, also on two hosts that share a file
system without working locks, at worst do the same work twice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from udocker.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_FICLONE = 0x40049409
"""The ioctl by which a file shares another's extents. Source: ioctl_ficlone(2)."""
_DEPTH = 64
"""Directories held open at the same time while a tree is removed."""


def store_error(error: OSError, path: str) -> StoreError:
    """Return what happened to `path` in words, with the way out where the disk is full."""
    message = f"{path}: {error.strerror or error}"
    if error.errno in _FULL:
        hint = "free space there, or set UDOCKER_DIR to a directory on another file system"
        return StoreError(message, hint=hint)
    if error.errno in (errno.EACCES, errno.EROFS):
        return StoreError(message, hint="set UDOCKER_DIR to a directory that you can write to")
    return StoreError(message)


def make_directory(path: str) -> str:
    """Make the directory `path`, private to the user, with its parents; return it."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise store_error(error, path) from error
    return path


def write_whole(path: str, data: bytes, *, mode: int = 0o644, sync: bool = True) -> None:
    """Make `path` hold `data`: a reader sees the old content or the new, never a part of it."""
    draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(fd)
            os.rename(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        raise store_error(error, path) from error


def read(path: str, limit_bytes: int) -> bytes | None:
    """Return the content of a file of the store; None when there is no such file."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise store_error(error, path) from error
    if len(data) > limit_bytes:
        raise StoreError(f"{path}: larger than {limit_bytes} bytes")
    return data


def is_alive(pid: int) -> bool:
    """Tell whether a process of this host is there and has not ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read(512).rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


class Lock:
    """A lock on a file, held until `release` or the end of the processes that inherited it."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            make_directory(os.path.dirname(path))
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise store_error(error, path) from error

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Take the lock; tell whether it was got. Where locks do not exist it is always got."""
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self.fd, mode if wait else mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise store_error(error, self.path) from error
        return True

    def let_go(self) -> None:
        """Let others have the lock; it can be acquired again."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        except OSError:  # where locks do not exist
            pass

    def pass_on(self) -> None:
        """Let programs that this process becomes or starts hold the lock too."""
        # out of the way of the low numbers that programs use by habit
        number = fcntl.fcntl(self.fd, fcntl.F_DUPFD, 200)
        os.close(self.fd)
        self.fd = number
        os.set_inheritable(number, True)

    def release(self) -> None:
        """Give the lock back."""
        os.close(self.fd)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def copy_tree(source: str, destination: str) -> None:
    """Make `destination` a copy of the tree `source`, sharing data where the file system can.

    Modes, times and hard links are kept; links are copied as links and never followed.
    """
    try:
        _copy_directory(source, destination, {})
    except OSError as error:
        raise store_error(error, error.filename or destination) from error


def _copy_directory(source: str, destination: str, seen: dict[tuple[int, int], str]) -> None:
    os.mkdir(destination, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            copy = f"{destination}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                _copy_directory(entry.path, copy, seen)
            elif entry.is_symlink():
                os.symlink(os.readlink(entry.path), copy)
            elif entry.is_file(follow_symlinks=False):
                _copy_file(entry.path, copy, seen)
    _copy_attributes(source, destination)


def _copy_file(source: str, destination: str, seen: dict[tuple[int, int], str]) -> None:
    status = os.lstat(source)
    first = seen.setdefault((status.st_dev, status.st_ino), destination)
    if first != destination:
        os.link(first, destination)
        return
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    writer = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _copy_content(reader, writer, status.st_size)
    finally:
        os.close(reader)
        os.close(writer)
    _copy_attributes(source, destination)


def _copy_content(reader: int, writer: int, size_bytes: int) -> None:
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError:  # no shared extents here
        while size_bytes > 0:
            copied = os.sendfile(writer, reader, None, size_bytes)
            if not copied:
                return
            size_bytes -= copied


def _copy_attributes(source: str, destination: str) -> None:
    status = os.lstat(source)
    os.chmod(destination, stat.S_IMODE(status.st_mode))
    os.utime(destination, ns=(status.st_atime_ns, status.st_mtime_ns))


def remove_tree(path: str) -> None:
    """Remove `path` and all below it, whatever its modes, following no link.

    Trees deeper than the limit of open files are handled: what is deep is moved up first.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        os.chmod(path, 0o700)
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            while _empty(top, top, 0):
                pass
        finally:
            os.close(top)
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise store_error(error, path) from error


def _empty(directory: int, top: int, depth: int) -> bool:
    """Empty an open directory; tell whether deep parts of it were moved up to `top` instead."""
    moved = False
    for name, is_directory in _entries(directory):
        if not is_directory:
            os.unlink(name, dir_fd=directory)
        elif depth >= _DEPTH:
            os.rename(name, os.urandom(16).hex(), src_dir_fd=directory, dst_dir_fd=top)
            moved = True
        else:
            moved |= _empty_below(directory, name, top, depth)
            os.rmdir(name, dir_fd=directory)
    return moved


def _empty_below(directory: int, name: str, top: int, depth: int) -> bool:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        below = os.open(name, flags, dir_fd=directory)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=directory)
        below = os.open(name, flags, dir_fd=directory)
    try:
        if os.fstat(below).st_mode & 0o700 != 0o700:
            os.fchmod(below, 0o700)
        return _empty(below, top, depth + 1)
    finally:
        os.close(below)


def _entries(directory: int) -> Iterator[tuple[str, bool]]:
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    return iter(found)
