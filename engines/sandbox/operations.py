"""Changes to a container's file system as values, each made while chrooted into it."""

from __future__ import annotations

import ctypes
import os
import stat

from udocker.engines.sandbox.kernel import (
    AT_FDCWD,
    AT_RECURSIVE,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    OPEN_TREE_CLONE,
    SYS_MOUNT_SETATTR,
    SYS_MOVE_MOUNT,
    SYS_OPEN_TREE,
    SandboxError,
    check,
    libc,
    mount,
)

SCRATCH = "/run/udocker"
"""In every container: an empty file system in memory, for what is injected."""


def make_directory(path: str) -> None:
    """Make a directory of the container, with its parents, where there is none."""
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as error:
        raise SandboxError(f"make the directory {path} in the container", error.errno) from error


def make_mount_point(path: str, *, directory: bool) -> str:
    """Make `path` exist in the container as a directory or file; return a path of it.

    Its last component is no link: what is to be mounted there would not follow it.
    """
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return _new_mount_point(path, directory=directory)
    if stat.S_ISDIR(kind) == directory and not stat.S_ISLNK(kind):
        return path
    return _new_mount_point(path, directory=directory)


def _new_mount_point(path: str, *, directory: bool) -> str:
    if not directory and _is_made(path):
        return path
    real = os.path.realpath(path)
    if directory:
        make_directory(real)
    elif os.path.isdir(real):
        raise SandboxError(f"{path} is a directory in the container: no file can show there")
    elif not os.path.lexists(real):
        make_directory(os.path.dirname(real))
        try:
            os.close(os.open(real, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise SandboxError(f"make the file {path} in the container", error.errno) from error
    return real


def _is_made(path: str) -> bool:
    """Tell whether an empty file could be made at `path`, where nothing was, not even a link.

    This is so for most of a GPU's 40 files; to follow the links of each path costs 30 µs.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    except OSError:
        return False
    return True


def make_readonly(path: str) -> None:
    """Make the mount at `path` and all below it read-only, as seen from here."""
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY, 0, 0, 0)
    result = libc.syscall(
        SYS_MOUNT_SETATTR,
        AT_FDCWD,
        os.fsencode(path),
        AT_RECURSIVE,
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )
    if result < 0:  # before Linux 5.12: one by one
        for point in _mounts_at_or_below(os.path.realpath(path)):
            _remount_readonly(point)


def _mounts_at_or_below(path: str) -> list[str]:
    with open("/proc/self/mountinfo", "rb") as file:
        points = [os.fsdecode(line.split()[4].decode("unicode_escape")) for line in file]
    below = path.rstrip("/") + "/"
    return [point for point in points if point == path or point.startswith(below)]


def _remount_readonly(path: str) -> None:
    present = os.statvfs(path).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | present)


class Operation:
    """One change to the container's file system, made while chrooted into it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self) -> None:
        """Open what is needed of the host, before the root is entered."""

    def stage(self) -> None:
        """Make what is needed in the scratch directory, before a later change may cover that."""

    def apply(self) -> None:
        """Make the change."""


class BindMount(Operation):
    """A file or directory of the host shows at `path`, with the mounts below it."""

    def __init__(self, source: str, path: str, *, readonly: bool = False) -> None:
        super().__init__(path)
        self.source = source
        self.readonly = readonly
        self._fd = -1
        self._detached = False

    def open(self) -> None:
        flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
        path = os.fsencode(self.source)
        self._fd = libc.syscall(SYS_OPEN_TREE, AT_FDCWD, path, flags)
        self._detached = self._fd >= 0
        if self._detached:
            return
        try:
            self._fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise SandboxError(f"show {self.source} in the container", error.errno) from error

    def apply(self) -> None:
        target = make_mount_point(self.path, directory=stat.S_ISDIR(os.stat(self._fd).st_mode))
        if self._detached:
            self._attach(target)
        else:
            mount(f"/proc/self/fd/{self._fd}", target, "", MS_BIND | MS_REC)
        os.close(self._fd)
        if self.readonly:
            make_readonly(target)

    def _attach(self, target: str) -> None:
        result = libc.syscall(
            SYS_MOVE_MOUNT,
            self._fd,
            b"",
            AT_FDCWD,
            os.fsencode(target),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
        check(result, f"show {self.source} at {self.path} in the container")


class TextFile(Operation):
    """A small file, kept in memory, shows read-only at `path`."""

    count = 0

    def __init__(self, path: str, text: str) -> None:
        super().__init__(path)
        self.text = text
        self._fd = -1

    def stage(self) -> None:
        make_directory(f"{SCRATCH}/files")
        TextFile.count += 1
        source = f"{SCRATCH}/files/{TextFile.count}"
        fd = os.open(source, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(self.text)
        self._fd = os.open(source, os.O_PATH | os.O_CLOEXEC)

    def apply(self) -> None:
        target = make_mount_point(self.path, directory=False)
        mount(f"/proc/self/fd/{self._fd}", target, "", MS_BIND)
        os.close(self._fd)
        make_readonly(target)


class MemoryDirectory(Operation):
    """An empty file system in memory at `path`."""

    def __init__(self, path: str, options: str, flags: int = 0) -> None:
        super().__init__(path)
        self.options = options
        self.flags = flags | MS_NOSUID | MS_NODEV

    def apply(self) -> None:
        target = make_mount_point(self.path, directory=True)
        mount("tmpfs", target, "tmpfs", self.flags, self.options)


def tmpfs(path: str, options: str) -> MemoryDirectory:
    """Return what mount(8) makes of `options`; everybody may write there unless they say no."""
    given = options.split(",") if options else []
    flags = sum(flag for name, flag in _FLAGS.items() if name in given)
    rest = [option for option in given if option not in _FLAGS]
    return MemoryDirectory(path, ",".join(["mode=1777", *rest]), flags)


_FLAGS = {"ro": MS_RDONLY, "noexec": MS_NOEXEC}


class Directory(Operation):
    """A directory exists at `path`."""

    def apply(self) -> None:
        make_mount_point(self.path, directory=True)


class Link(Operation):
    """A symbolic link stands at `path`, in place of any file there."""

    def __init__(self, target: str, path: str) -> None:
        super().__init__(path)
        self.target = target

    def apply(self) -> None:
        make_directory(os.path.dirname(self.path))
        try:
            if os.path.lexists(self.path) and not os.path.isdir(self.path):
                os.unlink(self.path)
            os.symlink(self.target, self.path)
        except OSError as error:
            raise SandboxError(f"link {self.path} in the container", error.errno) from error


class Devices(Operation):
    """A /dev of its own: the harmless nodes, the host's terminals and shared memory.

    The mode matters: in a sticky directory `> /dev/null` would fail, for O_CREAT there asks who
    owns the file (protected_regular). The host's pts is kept so that `tty` knows the terminal;
    its shm, because MPI and NCCL ranks meet there.
    """

    NODES = ("null", "zero", "full", "random", "urandom", "tty")
    SHARED = ("pts", "shm", "mqueue", "hugepages")
    LINKS = {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        "ptmx": "pts/ptmx",
        "core": "/proc/kcore",
    }

    def __init__(self, *, shared: bool = True) -> None:
        """Not `shared`: the harmless nodes only, without terminals and without shared memory."""
        super().__init__("/dev")
        self._shared = shared
        wanted = self.NODES + (self.SHARED if shared else ())
        self._own_terminals = shared and _opens_no_terminals() and not _has_terminal()
        names = [name for name in wanted if os.path.lexists(f"/dev/{name}")]
        if self._own_terminals:
            names.remove("pts")
        self._binds = [BindMount(f"/dev/{name}", f"/dev/{name}") for name in names]

    def open(self) -> None:
        for bind in self._binds:
            bind.open()

    def apply(self) -> None:
        MemoryDirectory(self.path, "mode=755").apply()
        for bind in self._binds:
            bind.apply()
        for name, target in self.LINKS.items():
            if self._shared or name != "ptmx":
                os.symlink(target, f"/dev/{name}")
        if self._own_terminals:
            make_directory("/dev/pts")
            mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "ptmxmode=666,mode=620")
        make_directory("/dev/shm")
        if not os.path.ismount("/dev/shm"):
            os.chmod("/dev/shm", 0o1777)


def _opens_no_terminals() -> bool:
    """Tell whether the host's pts has a multiplexer that nobody may open, as most have.

    The one in /dev itself, which hosts use, looks for pts beside itself and fails when bound.
    Source: Documentation/filesystems/devpts.rst, `ptmxmode`.
    """
    return os.path.exists("/dev/pts/ptmx") and not os.access("/dev/pts/ptmx", os.R_OK | os.W_OK)


def _has_terminal() -> bool:
    """Tell whether a standard stream is a terminal, which only the host's pts can name."""
    return any(os.isatty(number) for number in (0, 1, 2))


class System(Operation):
    """/sys: the host's, or in a network namespace of its own a fresh one that shows it."""

    def __init__(self, *, fresh: bool) -> None:
        super().__init__("/sys")
        self.fresh = fresh
        self._host = BindMount("/sys", "/sys")

    def open(self) -> None:
        self._host.open()

    def apply(self) -> None:
        target = make_mount_point(self.path, directory=True)
        if self.fresh:
            try:
                mount("sysfs", target, "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
                return
            except SandboxError:  # a container around us hides parts of /sys: the kernel says no
                pass
        self._host.apply()


class ReadOnlyRoot(Operation):
    """Nothing of the root file system can be changed; what is mounted in it can."""

    def __init__(self) -> None:
        super().__init__("/")

    def apply(self) -> None:
        _remount_readonly("/")
