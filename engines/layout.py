"""Where everything lies in a container, for engines that are told every mount in words.

A program that mounts for us may follow links of the image while it makes mount points, also out
of the container: bubblewrap 0.8 makes files in the host's directories if `/etc/x` of the image is
a link to `/oldroot/home/...`. So the links are followed here, and such a program gets paths
without links. (A program that runs in the same container meanwhile could put a link there after
that; what it gains is an empty file in a directory of its own user, as in CVE-2024-45310.)
"""

from __future__ import annotations

import errno
import os
import stat

from udocker.containers.spec import Tmpfs
from udocker.errors import StartError
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.spec import RuntimeSpec, Symlink

OWN = "/run/udocker"
"""In the container: an empty file system in memory, for what is injected."""
NODES = ("null", "zero", "full", "random", "urandom", "tty")
SHARED = ("pts", "shm", "mqueue", "hugepages")
"""Of the host's /dev: terminals keep their names, and ranks of MPI and NCCL meet in shm."""
MAX_LINKS = 40
"""Links followed in one path, as many as the kernel follows. Source: path_resolution(7)."""


@dataclass(frozen=True)
class Mount:
    """Something that shows at a path of the container."""

    destination: str
    """Absolute path in the container."""
    source: str = ""
    """Host path of what shows, with the mounts below it; empty: a new file system."""
    readonly: bool = False
    kind: str = "bind"
    """`bind`, `tmpfs` or `sysfs`."""
    options: str = ""
    """Of a tmpfs, as mount(8) takes them."""


def text_files(spec: RuntimeSpec) -> tuple[tuple[str, str], ...]:
    """Return host paths below the run's scratch directory, and texts, of the generated files."""
    return tuple((f"{spec.scratch}/text.{n}", file.text) for n, file in enumerate(spec.files))


def mounts(spec: RuntimeSpec) -> tuple[Mount, ...]:
    """Return what shows in the container over its root, in the order in which to mount it.

    Deeper paths come later, so that no mount hides another; equal depths keep their order.
    """
    asked = [*_asked(spec)]
    if any(mount.destination.startswith(OWN + "/") for mount in asked):
        asked.insert(0, Mount(OWN, kind="tmpfs", options="mode=755"))
    taken = {mount.destination for mount in asked}
    base = [mount for mount in _base(spec) if mount.destination not in taken]
    return (*base, *sorted(asked, key=lambda mount: mount.destination.rstrip("/").count("/")))


def _base(spec: RuntimeSpec) -> Iterator[Mount]:
    if not spec.system_directories:
        return
    yield Mount("/proc", "/proc")
    if spec.network != "host" and shows_all_of_sys():
        yield Mount("/sys", kind="sysfs")
    else:
        yield Mount("/sys", "/sys")
    yield Mount("/dev", kind="tmpfs", options="mode=755")
    for name in (*NODES, *SHARED):
        if os.path.exists(f"/dev/{name}"):
            yield Mount(f"/dev/{name}", f"/dev/{name}")


def _asked(spec: RuntimeSpec) -> Iterator[Mount]:
    for memory in spec.tmpfs:
        yield Mount(memory.destination, kind="tmpfs", options=_options(memory))
    for file, (written, _) in zip(spec.files, text_files(spec)):
        yield Mount(file.destination, written, readonly=True)
    for node in spec.edits.device_nodes:
        yield Mount(node.destination, node.source)
    for bind in spec.edits.binds:
        yield Mount(bind.destination, bind.source, bind.readonly)
    for link in spec.edits.symlinks:
        if not _leads_to_injected(link):
            yield _linked(spec, link)


def _options(memory: Tmpfs) -> str:
    given = [option for option in memory.options.split(",") if option]
    has_mode = any(option.startswith("mode=") for option in given)
    return ",".join(given if has_mode else ["mode=1777", *given])


def _linked(spec: RuntimeSpec, link: Symlink) -> Mount:
    """Return the mount by which what a link leads to shows at the link's own path as well.

    Nothing of it stays in the container's files, and a loader sees that both are one file.
    """
    target = os.path.normpath(os.path.join(os.path.dirname(link.path), link.target))
    for bind in reversed(spec.edits.binds):
        if _is_below(target, bind.destination):
            source = bind.source + target[len(bind.destination) :]
            return Mount(link.path, source, bind.readonly)
    image = View(spec.rootfs.tree)
    found = image.host_path(image.resolve(target))
    if found is None or not os.path.exists(found):
        raise _leads_nowhere(link)
    return Mount(link.path, found)


def _leads_nowhere(link: Symlink) -> StartError:
    return StartError(f"cannot link {link.path} to {link.target}, which is not in the container")


def _has_place(path: str, target: str) -> bool:
    """Tell whether a link stands at a host path, or nothing does and it can be made."""
    try:
        return os.readlink(path) == target
    except FileNotFoundError:
        directory = os.path.dirname(path)
    except OSError:  # what is there is no link
        return False
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    return os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)


def _leads_to_injected(link: Symlink) -> bool:
    """Tell whether a link of the container's files leads to what is there during a run only."""
    return link.target.startswith(f"{OWN}/") and not link.path.startswith(f"{OWN}/")


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def shows_all_of_sys() -> bool:
    """Tell whether a new sysfs may be mounted: not where a container around us hides some of it.

    Source: mount_too_revealing() in the kernel's fs/namespace.c.
    """
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line.split() for line in file]
    own = [words[5].split(b",") for words in lines if words[4] == b"/sys"]
    hidden = any(words[4].startswith((b"/sys/firmware", b"/sys/devices")) for words in lines)
    return bool(own) and b"ro" not in own[-1] and not hidden


class View:
    """What the container's paths lead to on the host, with the mounts that were placed so far."""

    def __init__(self, rootfs: str) -> None:
        """`rootfs` is a host path without links in it."""
        self._rootfs = rootfs.rstrip("/")
        self.placed: list[Mount] = []
        """The mounts, with destinations that are free of links."""
        self.links: list[tuple[str, str]] = []
        """Host paths and targets of links that are to be made in the container's own files."""
        self._numbers: dict[str, int] = {}
        """Of the last mount at each destination."""

    def place(self, mount: Mount) -> None:
        """`mount` shows from now on. Raises StartError where it cannot."""
        real = self.resolve(mount.destination)
        if real == "/":
            raise StartError(f"nothing can show at {mount.destination}, the container's root")
        over = self.host_path(real)
        if over is not None and os.path.isdir(over) and not self._is_directory(mount):
            text = f"{mount.destination} is a directory in the container: no file can show there"
            raise StartError(text)
        self._numbers[real] = len(self.placed)
        self.placed.append(replace(mount, destination=real))

    def link(self, link: Symlink, *, can_write: bool) -> None:
        """`link` shows from now on: as such in the container's own files, if it has its place.

        Where something is already, in volumes and where nothing can be made, what it leads to is
        mounted; everywhere unless this `can_write`. A link that stands need not be made.
        """
        above, _, name = link.path.rpartition("/")
        place = f"{self.resolve(above).rstrip('/')}/{name}"
        own = self._rootfs + place
        if can_write and self.host_path(place) == own and _has_place(own, link.target):
            if not os.path.islink(own):
                self.links.append((own, link.target))
            return
        source = self.host_path(self.resolve(link.target))
        if source is None or not os.path.exists(source):
            raise _leads_nowhere(link)
        self.place(Mount(link.path, source, readonly=True))

    @staticmethod
    def _is_directory(mount: Mount) -> bool:
        return mount.kind != "bind" or os.path.isdir(mount.source)

    def resolve(self, path: str) -> str:
        """Return `path` without links; what of it is not there stays as it is.

        Raises StartError for a circle of links.
        """
        pending = _components(path)
        done: list[str] = []
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                del done[-1:]
                continue
            target = self._link("/" + "/".join((*done, name)))
            if target is None:
                done.append(name)
                continue
            links += 1
            if links > MAX_LINKS:
                raise StartError(f"{path} of the container: {os.strerror(errno.ELOOP)}")
            done = [] if target.startswith("/") else done
            pending += _components(target)
        return "/" + "/".join(done)

    def host_path(self, real: str) -> str | None:
        """Return where a path without links lies on the host; None: in a new file system."""
        mount = self._over(real)
        if mount is None:
            return self._rootfs + real
        return mount.source + real[len(mount.destination) :] if mount.source else None

    def _over(self, real: str) -> Mount | None:
        """Return the mount in which a path without links lies; None: it lies in none."""
        above, last = real, -1
        while above:
            last = max(last, self._numbers.get(above, -1))
            above = above.rpartition("/")[0]
        return self.placed[last] if last >= 0 else None

    def status(self, path: str) -> os.stat_result | None:
        """Return what stat(2) would say in the container; None where nothing is there.

        Raises OSError where it cannot be known: in a new file system, or for lack of rights.
        """
        host = self.host_path(self.resolve(path))
        if host is None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), path)
        try:
            return os.stat(host, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def beginning(self, path: str, size: int) -> bytes:
        """Return the first bytes of a file of the container. Raises OSError."""
        host = self.host_path(self.resolve(path))
        if host is None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), path)
        fd = os.open(host, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            return os.pread(fd, size, 0)
        finally:
            os.close(fd)

    def _link(self, real: str) -> str | None:
        mount = self._over(real)
        if mount and mount.destination == real:  # of a link the mount is what that leads to
            return None
        host = self.host_path(real)
        try:
            return os.readlink(host) if host is not None else None
        except (OSError, ValueError):  # no link; ValueError: a null byte in a link's text
            return None


def view(spec: RuntimeSpec) -> View:
    """Return the container as the program of `spec` sees it. Raises StartError."""
    seen = View(os.path.realpath(spec.rootfs.tree))
    for mount in mounts(spec):
        seen.place(mount)
    for link in filter(_leads_to_injected, spec.edits.symlinks):
        seen.link(link, can_write=spec.rootfs.flat)  # never in an image's, which others share
    return seen


def with_submounts(mount: Mount, points: Points) -> Iterator[Mount]:
    """Yield `mount` and the mounts below its source, one by one, for who makes each read-only."""
    yield mount
    top = os.path.realpath(mount.source)
    for point in filter(_is_in_reach, points.below(top)):
        yield replace(mount, source=point, destination=mount.destination + point[len(top) :])


def _is_in_reach(point: str) -> bool:
    return os.access(point, os.F_OK)


class Points:
    """Where something is mounted on the host, read once: 200 mounts take 0.2 ms."""

    def __init__(self) -> None:
        self._known: tuple[str, ...] | None = None

    def below(self, directory: str) -> Iterator[str]:
        """Yield the host paths of mounts below a directory (free of links), higher ones first.

        A file has none. Some may be out of this user's reach, and are there still: a bind without
        them is refused.
        """
        if not os.path.isdir(directory):
            return
        if self._known is None:
            self._known = tuple(dict.fromkeys(_mount_points()))
        start = directory.rstrip("/") + "/"
        for point in self._known:
            if point.startswith(start):
                yield point


def _mount_points() -> Iterator[str]:
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file.read().splitlines():
            word = line.split(b" ", 5)[4]
            if b"\\" in word:  # as octal: blanks, for one
                word = word.decode("unicode_escape").encode("latin-1")
            yield os.fsdecode(word)


def _components(path: str) -> list[str]:
    """Return the components of `path`, last first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
