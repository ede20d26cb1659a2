"""The namespaces of a container: a network of its own, joining, being found by others."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

from udocker.engines.sandbox.kernel import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    NS_GET_PARENT,
    NS_GET_USERNS,
    SandboxError,
    check,
    libc,
    write_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

JOINED = ("net", "uts", "pid_for_children", "mnt")
"""The namespaces that a later run of a container joins; the last one leads to the user's."""
_KINDS = (CLONE_NEWNET, CLONE_NEWUTS, CLONE_NEWPID)


def set_up_network() -> None:
    """Bring up `lo` in a new network namespace, and let programs listen on all ports.

    The container's root has no rights over the namespace, which is of the first of the two
    user namespaces; yet it listens on port 80. Source: netdevice(7), ip(7).
    """
    try:
        write_text("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
    except SandboxError:  # before Linux 4.11, or /proc cannot be written to
        pass
    interface_up, siocsifflags = 0x1 | 0x40, 0x8914
    fd = check(libc.socket(2, 2 | 0o2000000, 0), "open a socket")
    request = ctypes.create_string_buffer(struct.pack("16sH14x", b"lo", interface_up))
    check(libc.ioctl(fd, siocsifflags, request), "bring up the loopback interface")
    os.close(fd)


def open_namespaces(pid: str, mounts: str) -> tuple[int, ...]:
    """Return descriptors of a process's namespaces if its mount namespace is `mounts`, else none.

    As long as they are open the namespaces last, also when the process ends. `mounts` is
    written as in /proc, `mnt:[4026531841]`.
    """
    try:
        if os.readlink(f"/proc/{pid}/ns/mnt") == mounts:
            return tuple(_open_namespace(pid, name) for name in JOINED)
    except OSError:  # it has ended, or is not the caller's
        pass
    return ()


def _open_namespace(pid: str, name: str) -> int:
    return os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


def enter_namespaces(descriptors: Sequence[int]) -> bool:
    """Enter the container whose namespaces, those of JOINED, are open.

    Tells whether it has a namespace of processes: then only children of this one are in it.

    The kernel lets the owner of a user namespace into it and into those below. What the first
    of the two user namespaces owns has to be entered from it. Source: setns(2), ioctl_ns(2).
    """
    *others, mounts = descriptors
    try:
        inner = fcntl.ioctl(mounts, NS_GET_USERNS)
        outer = fcntl.ioctl(inner, NS_GET_PARENT)
        owned = [(fd, kind) for fd, kind in zip(others, _KINDS) if _owns(outer, fd)]
    except OSError as error:
        raise SandboxError("join the container", error.errno) from error
    for fd, kind in [(outer, CLONE_NEWUSER), *owned, (inner, CLONE_NEWUSER), (mounts, CLONE_NEWNS)]:
        check(libc.setns(fd, kind), "join the container")
    return any(kind == CLONE_NEWPID for _, kind in owned)


def _owns(user_namespace: int, fd: int) -> bool:
    """Tell whether a namespace is of the container: the host's need not and cannot be entered."""
    try:
        owner = fcntl.ioctl(fd, NS_GET_USERNS)
    except PermissionError:  # of a user namespace above the caller's own
        return False
    try:
        return os.fstat(owner).st_ino == os.fstat(user_namespace).st_ino
    finally:
        os.close(owner)


def announce(lock: int, pid: int) -> None:
    """Write into the locked file which process and mount namespace the container is, and let
    others, who wait for that, share the lock. `pid` is this process's number for the caller."""
    text = f"{pid} {os.readlink('/proc/self/ns/mnt')}\n"
    os.ftruncate(lock, 0)
    os.pwrite(lock, text.encode(), 0)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError:  # a file system without locks: nobody waits
        pass
