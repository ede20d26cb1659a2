"""Where files of a container lie on the host, for engines that make no mounts.

The container's files are one directory; over it lie binds, which the engine shows by changing
the names that programs use.
"""

from __future__ import annotations

import errno
import os

from udocker.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from udocker.containers.spec import Bind, DeviceNode, Symlink

_MAX_LINKS = 40
"""Links followed in one path, as many as the kernel follows. Source: path_resolution(7)."""


class Places:
    """A directory and the binds over it, by *place*: a path of the container free of links.

    Links are followed as programs of the container follow them: to `/` means to the directory.
    """

    def __init__(self, tree: str) -> None:
        self._tree = tree.rstrip("/")
        self.binds: dict[str, str] = {}
        """Host paths by the places where they show."""

    def bind(self, binds: Iterable[Bind | DeviceNode]) -> None:
        """Add binds, those of deeper paths over the others; of two for one path the last holds."""
        for bind in sorted(binds, key=lambda bind: bind.destination.rstrip("/").count("/")):
            place = self.follow(bind.destination)
            shown = self.host(place)
            if shown not in (bind.source, os.path.realpath(bind.source)):
                self.binds[place] = bind.source  # else a directory above shows it already

    def link(self, links: Iterable[Symlink]) -> None:
        """Show at the path of each link what it leads to.

        One that leads to nothing is left out: to open it and to open nothing is the same.
        """
        waiting = list(links)
        for _ in waiting:
            waiting = [link for link in waiting if not self._show(link)]

    def follow(self, path: str) -> str:
        """Return the place that `path` leads to, whether something is there or not.

        Raises StartError for too many links.
        """
        pending = _components(path)
        here = ""
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            below = f"{here}/{name}"
            target = None if below in self.binds else _target(self.host(below))
            if target is None:
                here = below
                continue
            links += 1
            if links > _MAX_LINKS:
                raise StartError(f"{path} of the container: {os.strerror(errno.ELOOP)}")
            pending += _components(target)
            here = "" if target.startswith("/") else here
        return here or "/"

    def host(self, place: str) -> str:
        """Return where a place lies on the host."""
        above, below = place, ""
        while above:
            if above in self.binds:
                return self.binds[above] + below
            above, _, name = above.rpartition("/")
            below = f"/{name}{below}" if name else below
        return self._tree + below

    def missing(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return which directories and files the directory lacks for binds to show over them.

        They are host paths. What lies in another bind is not made: that is the host's.
        """
        directories, files = [], []
        for place, source in self.binds.items():
            parent = self._own(place.rpartition("/")[0])
            if parent is None or os.path.lexists(self._tree + place):
                continue
            if os.path.isdir(source):
                directories.append(self._tree + place)
            else:
                directories.append(parent)
                files.append(self._tree + place)
        return tuple(dict.fromkeys(directories)), tuple(files)

    def _own(self, place: str) -> str | None:
        """Return where a place lies in the directory; None if it lies in a bind."""
        path = self._tree + place
        return path if self.host(place) == path else None

    def _show(self, link: Symlink) -> bool:
        above, _, name = link.path.rpartition("/")
        directory = self.follow(above)
        source = self.host(self.follow(os.path.join(directory, link.target)))
        if os.path.lexists(source):
            self.binds[f"{directory.rstrip('/')}/{name}"] = source
            return True
        return False


def _target(path: str) -> str | None:
    """Return what the symbolic link `path` says; None: it is none."""
    try:
        return os.readlink(path)
    except (OSError, ValueError):
        return None


def _components(path: str) -> list[str]:
    """Return the components of `path`, last first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
