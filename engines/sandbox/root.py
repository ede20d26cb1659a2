"""The root file system: a tree with a writable layer over it, made the root of this process."""

from __future__ import annotations

import os

from udocker.engines.sandbox.kernel import (
    MNT_DETACH,
    MS_BIND,
    MS_REC,
    MS_SLAVE,
    SandboxError,
    check,
    libc,
    mount,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from udocker.engines.sandbox.operations import Operation


class Root:
    """Where the container's files come from: a tree, with a writable layer unless it is flat."""

    def __init__(
        self, tree: str, upper: str = "", work: str = "", *, volatile: bool = False
    ) -> None:
        self.tree = tree
        self.upper = upper
        self.work = work
        self.volatile = volatile

    def mount(self) -> str:
        """Mount the root over the tree's own directory (in this namespace); return it."""
        if not self.upper:
            mount(self.tree, self.tree, "", MS_BIND | MS_REC)
        elif self.upper == "memory":
            self._mount_memory_overlay()
        else:
            self._forget_volatile()
            self._mount_overlay(self.tree, self.upper, self.work)
        return self.tree

    def _mount_overlay(self, lower: str, upper: str, work: str) -> None:
        # Leaving an overlay writes the whole file system of its upper layer to the disk
        # (0.4 to 1.7 s with 300 MB to write); volatile spares that for layers thrown away.
        options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
        mount("overlay", self.tree, "overlay", 0, options + (",volatile" if self.volatile else ""))

    def _mount_memory_overlay(self) -> None:
        lower = os.open(self.tree, os.O_PATH | os.O_CLOEXEC)
        mount("tmpfs", self.tree, "tmpfs", 0, "mode=755")
        upper, work = f"{self.tree}/upper", f"{self.tree}/work"
        os.mkdir(upper, 0o755)
        os.mkdir(work, 0o755)
        self._mount_overlay(f"/proc/self/fd/{lower}", upper, work)

    def _forget_volatile(self) -> None:
        mark = f"{self.work}/work/incompat"
        try:  # left by a volatile mount; with it the kernel refuses the layer
            os.unlink(f"{mark}/volatile/dirty")
            os.rmdir(f"{mark}/volatile")
            os.rmdir(mark)
        except OSError:
            pass


def _mount_proc(root: str) -> None:
    """Show the host's /proc in the root, the one mount made from outside of it.

    A fresh proc would need a pid namespace, which CUDA IPC and MPI ranks cannot cross.
    """
    target = f"{root}/proc"
    if not os.path.lexists(target):
        os.mkdir(target, 0o755)
    if os.path.islink(target) or not os.path.isdir(target):
        raise SandboxError("the image's /proc is not a directory")
    mount("/proc", target, "", MS_BIND | MS_REC)


def build(root: Root, base: Sequence[Operation], operations: Sequence[Operation], cwd: str) -> None:
    """Make `root` the root of this process, and `cwd` its directory.

    In it is what `base` makes and then, with room to stage things there, what `operations` make.
    """
    host = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mount("", "/", "", MS_REC | MS_SLAVE)
    for operation in (*base, *operations):
        operation.open()
    path = root.mount()
    _mount_proc(path)
    os.chroot(path)
    os.chdir("/")
    for operation in base:
        operation.apply()
    for operation in operations:
        operation.stage()
    for operation in operations:
        operation.apply()
    os.fchdir(host)
    os.chroot(".")
    os.chdir(path)
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "unmount the host's root")
    os.close(host)
    change_directory(cwd)


def change_directory(path: str) -> None:
    """Go to a directory of the container. Raises SandboxError."""
    try:
        os.chdir(path)
    except OSError as error:
        step = f"change to the directory {path} of the container"
        raise SandboxError(step, error.errno) from error
