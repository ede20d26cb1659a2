"""The namespaces of a container: a network of its own, joining, being found by others."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

from udocker.engines.sandbox.kernel import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    NS_GET_PARENT,
    NS_GET_USERNS,
    SandboxError,
    check,
    libc,
)


def raise_loopback() -> None:
    """Bring up `lo` in a new network namespace. Source: netdevice(7)."""
    interface_up, siocsifflags = 0x1 | 0x40, 0x8914
    fd = check(libc.socket(2, 2 | 0o2000000, 0), "open a socket")
    request = ctypes.create_string_buffer(struct.pack("16sH14x", b"lo", interface_up))
    check(libc.ioctl(fd, siocsifflags, request), "bring up the loopback interface")
    os.close(fd)


def enter_namespaces_of(pid: int) -> None:
    """Enter the container that process `pid` is in.

    The kernel lets the owner of a user namespace into it and into those below. What the first
    of the two user namespaces owns has to be entered from it. Source: setns(2), ioctl_ns(2).
    """
    try:
        inner = _open_namespace(pid, "user")
        outer = fcntl.ioctl(inner, NS_GET_PARENT)
        kinds = (("net", CLONE_NEWNET), ("uts", CLONE_NEWUTS))
        opened = [(_open_namespace(pid, name), kind) for name, kind in kinds]
        owned = [(fd, kind) for fd, kind in opened if _owns(outer, fd)]
        mounts = _open_namespace(pid, "mnt")
        steps = [(outer, CLONE_NEWUSER), *owned, (inner, CLONE_NEWUSER), (mounts, CLONE_NEWNS)]
    except OSError as error:
        raise SandboxError(f"join the container of process {pid}", error.errno) from error
    for fd, kind in steps:
        check(libc.setns(fd, kind), f"join the container of process {pid}")


def _open_namespace(pid: int, name: str) -> int:
    return os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


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


def announce(lock: int) -> None:
    """Write into the locked file which process and mount namespace the container is, and let
    others, who wait for that, share the lock."""
    text = f"{os.getpid()} {os.readlink('/proc/self/ns/mnt')}\n"
    os.ftruncate(lock, 0)
    os.pwrite(lock, text.encode(), 0)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError:  # a file system without locks: nobody waits
        pass
