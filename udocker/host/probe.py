"""The machine: facts read below a root directory, lazily, each once."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Asked = list[list[Any]]
    """Questions (names of methods), paths and answers, all as JSON can say them."""


class Host:
    """A machine whose files lie below `root` (`/` for the real one; a tree for tests).

    Reading never changes anything. Paths given are absolute paths of that machine.
    """

    def __init__(self, root: str = "/") -> None:
        self.root = root.rstrip("/")
        self._facts: dict[str, str] = {}

    def path(self, absolute: str) -> str:
        """Return where the machine's file `absolute` lies on this one."""
        return self.root + absolute

    def text(self, absolute: str, limit_bytes: int = 1 << 20) -> str:
        """Return the text of a file, read once; empty when it cannot be read."""
        if absolute not in self._facts:
            try:
                with open(self.path(absolute), encoding="utf-8", errors="replace") as file:
                    self._facts[absolute] = file.read(limit_bytes)
            except OSError:
                self._facts[absolute] = ""
        return self._facts[absolute]

    def exists(self, absolute: str) -> bool:
        """Tell whether the machine has a file of that name."""
        return os.path.lexists(self.path(absolute))

    def names(self, absolute: str) -> list[str]:
        """Return the sorted names in a directory; none where it cannot be listed."""
        try:
            return sorted(os.listdir(self.path(absolute)))
        except OSError:
            return []

    def is_directory(self, absolute: str) -> bool:
        """Tell whether a path leads to a directory."""
        return os.path.isdir(self.path(absolute))

    def state(self, absolute: str) -> list[int]:
        """Return what changes with a directory's names or a file: device, inode, time in ns.

        Empty where nothing is.
        """
        try:
            status = os.stat(self.path(absolute))
        except OSError:
            return []
        return [status.st_dev, status.st_ino, status.st_mtime_ns]

    def access(self, absolute: str) -> list[int]:
        """Return who may use a file: its mode and group, whether this user may read, and write it.

        Empty where nothing is. access(2) asks the device cgroup as open(2) does
        (`inode_permission` in fs/namei.c), but does not wake a sleeping device.
        """
        path = self.path(absolute)
        try:
            status = os.stat(path)
        except OSError:
            return []
        rights = (os.access(path, os.R_OK), os.access(path, os.W_OK))
        return [status.st_mode, status.st_gid, *map(int, rights)]

    def still_says(self, asked: Asked) -> bool:
        """Tell whether all questions have the answers that a `Witness` noted.

        Raises LookupError, TypeError or ValueError for what is none.
        """
        questions: dict[str, Callable[[str], Any]] = {
            "text": self.text,
            "exists": self.exists,
            "names": self.names,
            "is_directory": self.is_directory,
            "state": self.state,
            "access": self.access,
        }
        return all(questions[question](path) == answer for question, path, answer in asked)

    @property
    def boot_id(self) -> str:
        """What changes at every boot: facts about the kernel may be remembered under it."""
        return self.text("/proc/sys/kernel/random/boot_id").strip()

    @property
    def machine(self) -> str:
        """The architecture as `uname -m` says it."""
        return os.uname().machine

    @property
    def kernel(self) -> tuple[int, int]:
        """The kernel's version, major and minor."""
        major, _, rest = os.uname().release.partition(".")
        minor = "".join(c for c in rest.split(".")[0] if c.isdigit())
        return int(major), int(minor or 0)
