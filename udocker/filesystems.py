"""The file system that something is on: which it is, what room it has, who else sees it."""

from __future__ import annotations

import os

from udocker.errors import DiskFull


def room(path: str) -> str:
    """Return which file system `path` is on and what is left of it, for messages."""
    place = nearest(path)
    point, kind = mount_of(place)
    text = f"{kind} on {point}"
    try:
        facts = os.statvfs(place)
    except OSError:
        return text
    free = facts.f_bavail * facts.f_frsize
    text += f", {free >> 20} of {facts.f_blocks * facts.f_frsize >> 20} MiB free"
    return f"{text}, room for {facts.f_favail} files" if facts.f_files else text


def check_room(path: str, size_bytes: int, what: str) -> None:
    """Raise DiskFull where `what`, of so many bytes, certainly does not fit on the file system."""
    try:
        facts = os.statvfs(nearest(path))
    except OSError:
        return
    if not facts.f_blocks:  # one that does not say
        return
    free = (facts.f_bfree if os.geteuid() == 0 else facts.f_bavail) * facts.f_frsize
    files = facts.f_ffree if os.geteuid() == 0 else facts.f_favail
    if size_bytes > free or (facts.f_files and size_bytes and files < _FEWEST_FILES):
        raise DiskFull(f"{what}: too much for {room(path)}", hint=way_out(path, quota=False))


_FEWEST_FILES = 10
"""Of any image: its blobs, its name, a tree and what is on the way."""


def way_out(path: str, *, quota: bool) -> str:
    """Return what helps where the file system of `path` is full, or a quota of it is used up."""
    hint = "udocker prune, rmi or rm make room; UDOCKER_DIR can name a directory elsewhere"
    if quota:
        program = "lfs quota" if mount_of(nearest(path))[1] == "lustre" else "quota -s"
        return f"`{program}` shows what you may use, of bytes and of files; {hint}"
    return hint


def nearest(path: str) -> str:
    """Return `path`, or the nearest directory above it that is there."""
    while not os.path.isdir(path) and path not in ("/", ""):
        path = os.path.dirname(path)
    return path or "."


def mount_of(path: str) -> tuple[str, str]:
    """Return the mount point and the type of the file system that `path` is on."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read(4 << 20).splitlines()
    except OSError:
        return path, "a file system"
    real = os.path.realpath(path)
    best = ("", "a file system")
    for line in lines:  # Source: proc_pid_mountinfo(5)
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].encode().decode("unicode_escape", "replace")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):  # a later one lies over an earlier one
            best = (point, rest.split(" ")[0])
    return best[0] or path, best[1]


_SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "afs", "panfs", "pvfs")
_SHARED_ALSO = ("9p", "fuse", "gfs2", "ocfs2", "orangefs", "wekafs", "virtiofs", "glusterfs")


def is_shared(path: str) -> bool:
    """Tell whether other hosts may see the file system that `path` is on."""
    return mount_of(path)[1].startswith((*_SHARED, *_SHARED_ALSO))


def flush(path: str) -> bool:
    """Write out what is not yet written of the file system that `path` is on; tell if it was."""
    import subprocess

    try:  # syncfs(2), which Python does not have
        return (
            subprocess.run(["sync", "-f", path], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False
