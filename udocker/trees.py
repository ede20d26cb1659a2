"""Whole directory trees: copied with what they share, removed whatever is in them."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from udocker.disk import store_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FICLONE = 0x40049409
"""The ioctl by which a file shares another's extents. Source: ioctl_ficlone(2)."""
_TRIES, _PAUSE_S = 100, 0.02
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
            else:
                _copy_file(entry.path, copy, seen)
    _copy_attributes(source, destination)


def _copy_file(source: str, destination: str, seen: dict[tuple[int, int], str]) -> None:
    status = os.lstat(source)
    first = seen.setdefault((status.st_dev, status.st_ino), destination)
    if first != destination:
        os.link(first, destination)
        return
    if not stat.S_ISREG(status.st_mode):  # a pipe; sockets are nothing without their programs
        if stat.S_ISFIFO(status.st_mode):
            os.mkfifo(destination)
            _copy_attributes(source, destination)
        return
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    writer = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        copy_content(reader, writer, status.st_size)
    finally:
        os.close(reader)
        os.close(writer)
    _copy_attributes(source, destination)


def copy_content(reader: int, writer: int, size_bytes: int) -> None:
    """Copy `size_bytes` of an open file to an empty one, its holes as holes. Raises OSError."""
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError:  # no shared extents here
        os.ftruncate(writer, size_bytes)
        for start, end in _parts(reader):
            os.lseek(reader, start, os.SEEK_SET)
            os.lseek(writer, start, os.SEEK_SET)
            while start < end and (copied := os.sendfile(writer, reader, None, end - start)):
                start += copied


def _parts(file: int) -> Iterator[tuple[int, int]]:
    """Yield where a file holds data, as start and end: what lies between are holes."""
    end = 0
    while True:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def _copy_attributes(source: str, destination: str) -> None:
    status = os.lstat(source)
    os.chmod(destination, stat.S_IMODE(status.st_mode))
    os.utime(destination, ns=(status.st_atime_ns, status.st_mtime_ns))


def size_bytes(path: str) -> int:
    """Return what the files of a tree, or a file, take on the disk, in bytes; 0: there is none.

    A file with several names counts once; what cannot be looked into counts nothing.
    """
    seen: dict[tuple[int, int], int] = {}
    if os.path.isfile(path):
        return os.lstat(path).st_blocks * 512
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                status = os.lstat(f"{directory}/{name}")
            except OSError:
                continue
            seen[(status.st_dev, status.st_ino)] = status.st_blocks * 512
    return sum(seen.values())


def remove_tree(path: str) -> None:
    """Remove `path` and all below it, whatever its modes and depth, following no link.

    Nothing happens when there is nothing. Raises StoreError.
    """
    for tries_left in range(_TRIES, 0, -1):
        try:
            _remove(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # the workers of a killed command write on for the moment until they notice
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or tries_left == 1:
                raise store_error(error, path) from error
        time.sleep(_PAUSE_S)


def _remove(path: str) -> None:
    parent, name = os.path.split(os.path.abspath(path))
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    descriptor = os.open(parent, _DIRECTORY)
    try:
        remove_directory(name, descriptor)
    finally:
        os.close(descriptor)


def remove_directory(name: bytes | str, parent: int) -> None:
    """Remove the directory `name` in the directory `parent`, however deep it is.

    Directories are lifted up to the top before they are emptied: two descriptors are enough, and
    paths that are too long to be spelled do not matter. Raises OSError.
    """
    top = _open_to_empty(name, parent)
    try:
        lifted = _Lift(top)
        while True:
            below = _unlink_files(top)
            if not below:
                break
            for directory in below:
                lifted.empty(directory)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _open_to_empty(name: bytes | str, parent: int) -> int:
    """Open a directory that may be listed and written to from now on, whatever its mode was."""
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    if os.fstat(descriptor).st_mode & 0o700 != 0o700:
        os.fchmod(descriptor, 0o700)
    return descriptor


def _unlink_files(descriptor: int) -> list[str]:
    """Remove what is no directory; return the names of the directories."""
    with os.scandir(descriptor) as listing:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    for name, is_directory in entries:
        if not is_directory:
            os.unlink(name, dir_fd=descriptor)
    return [name for name, is_directory in entries if is_directory]


class _Lift:
    """Empties directories by moving those in them to the directory `top`."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._serial = 0

    def empty(self, directory: str) -> None:
        """Remove `directory` of the top, after the directories in it were moved to the top."""
        descriptor = _open_to_empty(directory, self._top)
        try:
            for name in _unlink_files(descriptor):
                self._move_up(name, descriptor)
        finally:
            os.close(descriptor)
        os.rmdir(directory, dir_fd=self._top)

    def _move_up(self, name: str, descriptor: int) -> None:
        while True:
            self._serial += 1
            try:
                os.rename(
                    name, f".lifted.{self._serial}", src_dir_fd=descriptor, dst_dir_fd=self._top
                )
                return
            except PermissionError:  # to get another parent a directory has to be writable
                os.chmod(name, 0o700, dir_fd=descriptor)
            except OSError as error:
                # A stranger's directory may have that name.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
