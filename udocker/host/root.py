"""Reading below a directory as if it were `/`: no symbolic link in it leads out of it.

For trees of images, whose `/etc/passwd` may be a link to a secret of the host, and for whole
machines that lie below a directory.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINKS = 40
"""Links followed in one path, as many as the kernel follows. Source: path_resolution(7)."""


class Root:
    """A directory in which every absolute path, and every link met on the way, is read as in it.

    Paths given are absolute paths of the tree; what is returned for them are host paths. Nothing
    is ever changed, and nothing that is not a regular file is ever waited for.
    """

    def __init__(self, path: str, origin: str = "") -> None:
        """`origin` is the host path of the tree that this one was copied from, if of any."""
        self.path = path.rstrip("/")
        self.origin = origin or self.path

    def resolve(self, absolute: str) -> str | None:
        """Return the host path of `absolute`, free of links; None where nothing can be reached.

        The answer holds while nobody changes the tree; `read` holds even if somebody does.
        """
        parts = self._walk(absolute)
        return None if parts is None else "/".join([self.path, *parts]) or "/"

    def resolve_all(self, absolute: str) -> tuple[str, ...]:
        """Return what `resolve` does, of every tree that has something there, topmost first."""
        path = self.resolve(absolute)
        return () if path is None else (path,)

    def locate(self, absolute: str) -> str | None:
        """Return the path in the tree that is free of links and means the same as `absolute`."""
        parts = self._walk(absolute)
        return None if parts is None else "/" + "/".join(parts)

    def exists(self, absolute: str) -> bool:
        """Tell whether `absolute` leads to something in the tree."""
        return self._walk(absolute) is not None

    def read(self, absolute: str, limit_bytes: int) -> bytes:
        """Return the whole content of a regular file of at most `limit_bytes`.

        Raises FileNotFoundError when nothing can be reached under that name, and OSError when it
        is not a regular file, is larger (EFBIG) or cannot be read.
        """
        parts = self._walk(absolute)
        if parts is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), absolute)
        with open(self._open(parts), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", absolute)
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise OSError(errno.EFBIG, f"more than {limit_bytes} bytes", absolute)
        return data

    def listdir(self, absolute: str) -> tuple[str, ...]:
        """Return the names in a directory, sorted; none where there is no such directory."""
        path = self.resolve(absolute)
        try:
            return tuple(sorted(os.listdir(path))) if path else ()
        except OSError:
            return ()

    def _walk(self, absolute: str) -> list[str] | None:
        """Return the link-free components of `absolute`, or None."""
        try:
            return self._follow(absolute)
        except (OSError, ValueError):  # ValueError: a name that no file system can hold
            return None

    def _follow(self, absolute: str) -> list[str] | None:
        pending = list(_components(absolute))
        done: list[str] = []
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                del done[-1:]
                continue
            path = "/".join([self.path, *done, name])
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > MAX_LINKS:
                    return None
                target = self._inside(os.readlink(path))
                done = [] if target.startswith("/") else done
                pending.extend(_components(target))
            elif pending and not stat.S_ISDIR(mode):
                return None
            else:
                done.append(name)
        return done

    def _inside(self, target: str) -> str:
        """Return a link's target as in the tree; fakechroot has some by their host path."""
        root = os.path.realpath(self.path) if self.path and target.startswith("/") else ""
        return target[len(root) :] if root and target.startswith(root + "/") else target

    def _open(self, parts: list[str]) -> int:
        """Open the file that link-free `parts` name; a link that has come since is an error."""
        *directories, name = parts or ["."]
        through = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(self.path or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in directories:
                below = os.open(part, through, dir_fd=directory)
                os.close(directory)
                directory = below
            # O_NONBLOCK: opening a FIFO must not wait for its other end
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(name, flags, dir_fd=directory)
        finally:
            os.close(directory)


class Stack(Root):
    """Trees that lie one over the other, topmost first, as the layers of an overlay do.

    The first that has a file counts. What an upper tree took away of a lower one is seen still.
    """

    def __init__(self, *paths: str) -> None:
        """`path` is that of the lowest tree."""
        super().__init__(paths[-1])
        self._roots = tuple(Root(path) for path in paths)

    def resolve(self, absolute: str) -> str | None:
        """Return the host path in the first tree that has one, as `Root.resolve`."""
        return next(filter(None, (root.resolve(absolute) for root in self._roots)), None)

    def resolve_all(self, absolute: str) -> tuple[str, ...]:
        """Return the host paths in all the trees that have one, topmost first."""
        return tuple(path for root in self._roots for path in root.resolve_all(absolute))

    def locate(self, absolute: str) -> str | None:
        """Return the link-free path in the first tree that has one, as `Root.locate`."""
        return next(filter(None, (root.locate(absolute) for root in self._roots)), None)

    def exists(self, absolute: str) -> bool:
        """Tell whether `absolute` leads to something in any of the trees."""
        return any(root.exists(absolute) for root in self._roots)

    def read(self, absolute: str, limit_bytes: int) -> bytes:
        """Return the content in the first tree that has one, as `Root.read`."""
        for root in self._roots[:-1]:
            try:
                return root.read(absolute, limit_bytes)
            except OSError:  # not there, or not to be read
                continue
        return self._roots[-1].read(absolute, limit_bytes)

    def listdir(self, absolute: str) -> tuple[str, ...]:
        """Return the names in all the trees, sorted."""
        return tuple(sorted({name for root in self._roots for name in root.listdir(absolute)}))


def _components(path: str) -> Iterator[str]:
    """Yield the components of `path`, last first, so that a list of them pops in order."""
    return reversed([part for part in path.split("/") if part not in ("", ".")])
