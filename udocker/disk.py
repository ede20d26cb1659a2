"""Files that appear whole or not at all, and locks that spare work.

Nothing here needs a lock to be right: two processes, also on two hosts that share a file
system without working locks, at worst do the same work twice.
"""

from __future__ import annotations

import errno
import fcntl
import os

from udocker.errors import DiskFull, StoreError

FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_FILE = (errno.EISDIR, errno.ENXIO, errno.ELOOP, errno.EACCES, errno.EAGAIN)
_PAUSE_S = 0.01
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def store_error(error: OSError, path: str) -> StoreError:
    """Return what happened to `path` in words, with the way out where the disk is full."""
    message = f"{path}: {error.strerror or error}"
    if error.errno in FULL:
        from udocker import filesystems

        hint = filesystems.way_out(path, quota=error.errno == errno.EDQUOT)
        return DiskFull(f"{message} ({filesystems.room(path)})", hint=hint)
    if error.errno in (errno.EACCES, errno.EROFS):
        return StoreError(message, hint="set UDOCKER_DIR to a directory that you can write to")
    return StoreError(message)


def output_error(error: OSError, path: str) -> StoreError:
    """Return what happened to a file that the user named, which is no part of a store."""
    found = store_error(error, path)
    if isinstance(found, DiskFull):
        found.hint = "name a file where there is more room"
    elif found.hint:
        found.hint = "name a file where you can write"
    return found


def make_directory(path: str, mode: int = 0o700) -> str:
    """Make the directory `path`, private to the user unless `mode` says other things, with its
    parents; return it."""
    missing, place = [], path
    while place and not os.path.isdir(place):
        missing.append(place)
        place = os.path.dirname(place)
    try:
        for directory in reversed(missing):  # os.makedirs gives parents the mode of the umask
            try:
                os.mkdir(directory, mode)
            except FileExistsError:  # made just now by another process, or it is a file
                if not os.path.isdir(directory):
                    what = NotADirectoryError(errno.ENOTDIR, "there is something else in its place")
                    raise store_error(what, directory) from None
    except OSError as error:
        raise store_error(error, path) from error
    return path


def owner() -> str:
    """Return who this process is among those that share a store: `host-pid`."""
    return f"{os.uname().nodename}-{os.getpid()}"


def write_whole(
    path: str, data: bytes, *, mode: int = 0o644, sync: bool = True, drafts: str | None = None
) -> None:
    """Make `path` hold `data`: a reader sees the old content or the new, never a part of it.

    In the directory `drafts`, or else beside `path`, lies what a killed process leaves.
    """
    beginning = f"{drafts}/draft" if drafts else path
    draft = f"{beginning}.{owner()}.{os.urandom(4).hex()}"
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


def names_in(directory: str) -> list[str]:
    """Return the names in a directory, in no order; none when there is none. Raises StoreError."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_error(error, directory) from error


def rename(path: str, other: str) -> bool:
    """Rename a file or directory; tell if it was there. Raises StoreError."""
    try:
        os.rename(path, other)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise store_error(error, path) from error
    return True


def remove_file(path: str) -> None:
    """There is no file `path`. Idempotent. Raises StoreError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise store_error(error, path) from error


def read(path: str, limit_bytes: int) -> bytes | None:
    """Return the content of a file of the store; None when there is no such file."""
    try:
        with open(path, "rb", opener=open_at_once) as file:
            # a buffer of the whole limit does not fit where a batch system limits memory
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, limit_bytes) + 1) or b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise store_error(error, path) from error
    if len(data) > limit_bytes:
        raise StoreError(f"{path}: larger than {limit_bytes} bytes")
    return data


def open_at_once(path: str, flags: int) -> int:
    """Open what should be a file; a named pipe in its place is empty, and keeps nobody waiting."""
    return os.open(path, flags | os.O_NONBLOCK)


def is_of_no_file(error: BaseException | None) -> bool:
    """Tell whether a file cannot be read for it is none: a directory, a socket, a link to itself,
    or nothing that this user may read. One of them is broken, and need not hide the others."""
    return isinstance(error, OSError) and error.errno in _NO_FILE


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

    def __init__(self, path: str, *, asks: bool = False) -> None:
        """`path` is made in a directory that is there. Raises StoreError.

        Who only `asks` who has the lock can be told from who has it by the flag O_APPEND, which
        /proc shows of the descriptor; they may do so where nothing can be written.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if asks else 0)
        try:
            self.fd = self._open(flags, asks=asks)
        except OSError as error:
            raise store_error(error, path) from error

    def _open(self, flags: int, *, asks: bool) -> int:
        try:
            return os.open(self.path, flags, 0o600)
        except OSError as error:
            if not asks or error.errno != errno.EROFS:
                raise
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_APPEND)

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

    def acquire_within(self, seconds: float) -> bool:
        """Take the lock if that is possible so soon: its holder may have been made to stand still.

        Tells whether it was got.
        """
        import time

        end = time.monotonic() + seconds
        while not self.acquire(wait=False):
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE_S)
        return True

    def let_go(self) -> None:
        """Let others have the lock; it can be acquired again."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        except OSError:  # where locks do not exist
            pass

    def forget(self) -> None:
        """The file says nothing of what former holders wrote."""
        try:
            os.ftruncate(self.fd, 0)
        except OSError as error:
            raise store_error(error, self.path) from error

    def note(self, word: str) -> None:
        """The file says `word` after what it says already."""
        try:
            os.pwrite(self.fd, f"{word}\n".encode(), os.fstat(self.fd).st_size)
        except OSError as error:
            raise store_error(error, self.path) from error

    def pass_on(self) -> None:
        """Let programs that this process becomes or starts hold the lock too."""
        for least in (200, 50, 10):  # out of the way of the numbers that programs use by habit
            try:
                number = fcntl.fcntl(self.fd, fcntl.F_DUPFD, least)
            except OSError:  # this user may not have that many open files
                continue
            os.close(self.fd)
            self.fd = number
            break
        os.set_inheritable(self.fd, True)

    def release(self) -> None:
        """Give the lock back."""
        os.close(self.fd)

    def discard(self) -> None:
        """Give the lock back and remove its file; who waits for it may then do work twice."""
        try:
            os.unlink(self.path)
        except OSError:  # another one was quicker
            pass
        self.release()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
