"""The kernel's calls that Python has no functions for, and what their failure means."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUTS = 0x20000, 0x4000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 22, 36, 38
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SIGKILL = 9
NS_GET_USERNS, NS_GET_PARENT = 0xB701, 0xB702
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4

libc = ctypes.CDLL(None, use_errno=True)


class SandboxError(Exception):
    """A step failed: `step` says which, `errno` why (None: not the kernel's doing)."""

    exit_code = 125

    def __init__(self, step: str, errno: int | None = None) -> None:
        reason = f": {os.strerror(errno)}" if errno else ""
        super().__init__(step + reason)
        self.step = step
        self.errno = errno


class ProgramError(SandboxError):
    """The program itself cannot be executed; `exit_code` is 126 or 127."""

    def __init__(self, step: str, errno: int, exit_code: int) -> None:
        super().__init__(step, errno)
        self.exit_code = exit_code


def check(result: int, step: str) -> int:
    """Return the result of a call. Raises SandboxError when it is an error."""
    if result < 0:
        raise SandboxError(step, ctypes.get_errno())
    return result


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises SandboxError naming what was to be mounted where."""
    result = libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        os.fsencode(data) if data else None,
    )
    check(result, f"mount {kind or 'bind'} {source} on {target}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(libc.unshare(flags), "unshare namespaces")


def write_text(path: str, text: str) -> None:
    """Write to a file of the kernel's. Raises SandboxError naming it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise SandboxError(f"write {text.strip()!r} to {path}", error.errno) from error


def enter_user_namespace(flags: int, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    """Enter a new user namespace (and others by `flags`) with one uid and one gid mapped."""
    unshare(CLONE_NEWUSER | flags)
    write_text("/proc/self/setgroups", "deny")
    write_text("/proc/self/uid_map", f"{inside[0]} {outside[0]} 1")
    write_text("/proc/self/gid_map", f"{inside[1]} {outside[1]} 1")


def hide_from_debuggers() -> None:
    """No process without rights on the host may look into this one, the container's root say."""
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Processes that come from this one become its children when their parents end."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int) -> None:
    """This process gets the signal `number` when its parent ends, however it ends."""
    libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
