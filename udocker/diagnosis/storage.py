"""Where images and containers lie, and whether that place suits them."""

from __future__ import annotations

import os

from udocker.diagnosis.finding import FAIL, OK, WARN, Finding
from udocker.diagnosis.kernel import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.engines.userns import Support
    from udocker.host.probe import Host

_LITTLE_BYTES = 2_000_000_000
_NOTHING_BYTES = 50_000_000
_FEW_FILES = 20_000
"""What an image of a distribution has, about."""
_NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "panfs")


def findings(
    host: Host, directory: str, temporary: str, support: Support | None
) -> Iterator[Finding]:
    """Yield what is to be said of the store `directory` and of the directory for drafts.

    `support` is what the kernel allows with namespaces in it, None when that is not known.
    """
    place = existing(directory)
    yield _file_system(host, directory, place)
    yield _overlay(host, place, support)
    yield _space(directory, place)
    yield _temporary(temporary)
    yield _fuse(host)


def existing(path: str) -> str:
    """Return `path`, or the nearest directory above it that is there."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _file_system(host: Host, directory: str, place: str) -> Finding:
    kind = file_system(host, place)
    text = f"{directory} on {kind}"
    try:
        flags = os.statvfs(place).f_flag
    except OSError as error:
        return Finding("store", FAIL, f"{text}: {error.strerror}", _ELSEWHERE)
    if flags & os.ST_RDONLY or not os.access(place, os.W_OK):
        return Finding("store", FAIL, f"{text}: it cannot be written to", _ELSEWHERE)
    if flags & os.ST_NOEXEC:
        reason = "no program may run from there (noexec)"
        return Finding("store", FAIL, f"{text}: {reason}", _ELSEWHERE)
    return Finding("store", OK, text)


_ELSEWHERE = "set UDOCKER_DIR to a directory on another file system"


def file_system(host: Host, place: str) -> str:
    """Return the type of the file system that `place` lies on, as mount(8) calls it."""
    real = os.path.realpath(place)
    best = ("", "unknown")
    for point, kind, _ in mounts(host):
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def _overlay(host: Host, place: str, support: Support | None) -> Finding:
    kind = file_system(host, place)
    if support is None or not support.namespaces:
        return Finding("overlay", WARN, "not to be had without user namespaces")
    if support.overlay:
        return Finding("overlay", OK, f"works on {kind}")
    fix = "set UDOCKER_DIR to a local file system, of this node or in memory"
    what = f"does not work on {kind}: containers that are kept are copies of their images"
    return Finding("overlay", WARN, what, fix if kind in _NETWORK else "")


def _space(directory: str, place: str) -> Finding:
    try:
        facts = os.statvfs(place)
    except OSError as error:
        return Finding("space", FAIL, f"{place}: {error.strerror}", _ELSEWHERE)
    free, files = facts.f_bavail * facts.f_frsize, facts.f_favail
    text = f"{free / 1e9:.1f} GB free (a quota may allow less)"
    if facts.f_files and files < _FEW_FILES:
        text += f", for {files} files"
    if free < _NOTHING_BYTES:
        return Finding("space", FAIL, text, _FREE)
    few = facts.f_files and files < _FEW_FILES
    return Finding("space", WARN if free < _LITTLE_BYTES or few else OK, text, _FREE if few else "")


_FREE = "udocker rmi, udocker rm; or set UDOCKER_DIR to a directory with more room"


def _temporary(directory: str) -> Finding:
    try:
        flags = os.statvfs(directory).f_flag
    except OSError as error:
        return Finding("tmpdir", WARN, f"{directory}: {error.strerror}", "set TMPDIR")
    if flags & os.ST_NOEXEC:
        return Finding("tmpdir", WARN, f"{directory}: no program may run from there (noexec)")
    return Finding("tmpdir", OK, directory)


def _fuse(host: Host) -> Finding:
    if os.access(host.path("/dev/fuse"), os.R_OK | os.W_OK):
        return Finding("fuse", OK, "/dev/fuse can be opened")
    return Finding("fuse", OK, "/dev/fuse cannot be opened: only Apptainer would use it")
