"""The machine: facts read below a root directory, lazily, each once."""

from __future__ import annotations

import os


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
