"""The root file system: a tree with a writable layer over it, made the root of this process."""

from __future__ import annotations

import os
import sys
import time

from udocker.engines.sandbox.kernel import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
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


MEMORY = "memory"
"""In place of an upper directory: what is written lies in memory."""
MOST_LOWERS = 500
"""Source: OVL_MAX_STACK in fs/overlayfs/params.h."""
_SPECIAL = frozenset(":,\\")


class Root:
    """Where the container's files come from: a tree, with a writable layer unless it is flat."""

    def __init__(
        self,
        tree: str,
        upper: str = "",
        work: str = "",
        *,
        lowers: Sequence[str] = (),
        volatile: bool = False,
    ) -> None:
        """`upper` may be MEMORY. `lowers`, the top one first, take the place of the tree."""
        self.tree = tree
        self.lowers = tuple(lowers)
        self.upper = upper
        self.work = work
        self.volatile = volatile

    def mount(self) -> str:
        """Mount the root over the tree's own directory (in this namespace); return it."""
        if not self.upper:
            mount(self.tree, self.tree, "", MS_BIND | MS_REC)
        elif self.lowers or self.upper == MEMORY or _SPECIAL & set(self._paths()):
            self._mount_by_links()
        else:
            self._forget_volatile()
            self._mount_overlay(self.tree, self.upper, self.work)
        return self.tree

    def _paths(self) -> str:
        return self.tree + self.upper + self.work

    def _mount_overlay(self, lower: str, upper: str, work: str) -> None:
        # Leaving an overlay writes the whole file system of its upper layer to the disk
        # (0.4 to 1.7 s with 300 MB to write); volatile spares that for layers thrown away.
        options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
        mount("overlay", self.tree, "overlay", 0, options + (",volatile" if self.volatile else ""))

    def _mount_by_links(self) -> None:
        """Mount an overlay whose directories are named by short links, in memory below it.

        All the options of a mount have to fit into a page of 4096 bytes, which the names of some
        twenty layers fill; and names with `:`, `,` or a backslash mean something else there.
        """
        lowers = self.lowers or (self.tree,)
        if len(lowers) > MOST_LOWERS:
            raise SandboxError(
                f"mount {len(lowers)} layers: the kernel takes {MOST_LOWERS}; "
                "--execmode=N1 makes one directory of them"
            )
        if self.upper != MEMORY:
            self._forget_volatile()
        tree = os.open(self.tree, os.O_PATH | os.O_CLOEXEC)  # before something lies over it
        mount("tmpfs", self.tree, "tmpfs", 0, "mode=755")
        before = os.open(".", os.O_PATH | os.O_CLOEXEC)
        os.chdir(self.tree)
        for number, lower in enumerate(lowers):
            os.symlink(f"/proc/self/fd/{tree}" if lower == self.tree else lower, str(number))
        for name, path in (("upper", self.upper), ("work", self.work)):
            if self.upper == MEMORY:
                os.mkdir(name, 0o755)
            else:
                os.symlink(path, name)
        self._mount_overlay(":".join(map(str, range(len(lowers)))), "upper", "work")
        os.fchdir(before)
        os.close(before)
        os.close(tree)

    def _forget_volatile(self) -> None:
        mark = f"{self.work}/work/incompat"
        try:  # left by a volatile mount; with it the kernel refuses the layer
            made = os.stat(f"{mark}/volatile/dirty").st_mtime
            os.unlink(f"{mark}/volatile/dirty")
            os.rmdir(f"{mark}/volatile")
            os.rmdir(mark)
        except OSError:
            return
        if made < time.time() - time.clock_gettime(time.CLOCK_BOOTTIME):
            text = "note: this machine was started anew after the last run, which asked for nothing"
            print(f"udocker: {text} to be kept: {self.upper} may be damaged", file=sys.stderr)


def _mount_proc(root: str, *, fresh: bool) -> None:
    """Show the host's /proc in the root, the one mount made from outside of it.

    A `fresh` proc needs a pid namespace, which CUDA IPC and MPI ranks cannot cross; and where
    a container around us hides parts of /proc, the kernel refuses it also then.
    """
    target = f"{root}/proc"
    if not os.path.lexists(target):
        os.mkdir(target, 0o755)
    if os.path.islink(target) or not os.path.isdir(target):
        raise SandboxError("the image's /proc is not a directory")
    if fresh:
        try:
            mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
            return
        except SandboxError as error:
            text = f"note: {error}: the container shows the host's /proc, with other numbers"
            print(f"udocker: {text} of processes than its own", file=sys.stderr)
    mount("/proc", target, "", MS_BIND | MS_REC)


def build(
    root: Root,
    base: Sequence[Operation],
    operations: Sequence[Operation],
    cwd: str,
    *,
    fresh_proc: bool = False,
) -> None:
    """Make `root` the root of this process, and `cwd` its directory.

    In it is what `base` makes and then, with room to stage things there, what `operations` make.
    """
    host = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mount("", "/", "", MS_REC | MS_SLAVE)
    for operation in (*base, *operations):
        operation.open()
    path = root.mount()
    _mount_proc(path, fresh=fresh_proc)
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
