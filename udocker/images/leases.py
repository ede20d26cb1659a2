"""Who uses the content of a store, and who throws some away: never both at once.

Each says so with a file in `locks/` and only then looks for files of the other kind, so that of
two who begin at the same moment at least one sees the other, also on two hosts whose locks do
not reach each other. Who throws away gives way; who uses waits the moment that it takes. A lock
says the same where it works, also to processes that cannot see each other's ids (containers).
"""

from __future__ import annotations

import os
import time

from udocker import disk
from udocker.errors import DiskFull
from udocker.images.blobs import age_s, is_abandoned

_USE, _DISCARD = "use", "discard"
_PAUSE_S = 0.05
_STALE_S = 3600


class Lease:
    """The right to use content, or to throw some away; held until `release`."""

    def __init__(self, locks: str, lock: disk.Lock, kind: str) -> None:
        self._locks = locks
        self._lock = lock
        self._path = f"{locks}/{kind}.{disk.owner()}.{os.urandom(4).hex()}"

    def take(self) -> Lease:
        """Say so to others."""
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            self._lock.release()
            raise disk.store_error(error, self._path) from error
        return self

    def others(self, kind: str) -> list[str]:
        """Return the owners (`host-pid`) of living leases of that kind; dead ones are removed."""
        found = []
        for name in disk.names_in(self._locks):
            begun, _, rest = name.partition(".")
            owner = rest.rpartition(".")[0]
            if begun != kind or not owner:
                continue
            if owner != disk.owner() and _is_dead(f"{self._locks}/{name}", owner):
                _unlink(f"{self._locks}/{name}")
            else:
                found.append(owner)
        return found

    def release(self) -> None:
        """Give the right back."""
        _unlink(self._path)
        self._lock.release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def use(locks: str) -> Lease:
    """Return a lease under which no content is thrown away; waits for who does so just now."""
    disk.make_directory(locks)
    lock = disk.Lock(f"{locks}/content")
    lock.acquire(shared=True)
    lease = Lease(locks, lock, _USE).take()
    try:
        while lease.others(_DISCARD):
            time.sleep(_PAUSE_S)
    except BaseException:
        lease.release()
        raise
    return lease


def discard(locks: str) -> tuple[Lease | None, str]:
    """Return the lease to throw content away; or None, and who uses the content now."""
    disk.make_directory(locks)
    lock = disk.Lock(f"{locks}/content")
    if not lock.acquire(wait=False):
        lock.release()
        lock = disk.Lock(f"{locks}/content")
        owners = Lease(locks, lock, _DISCARD).others(_USE)
        lock.release()
        return None, ", ".join(owners) or "another process"
    lease = Lease(locks, lock, _DISCARD)
    try:
        lease.take()
    except DiskFull:  # the more so something must be thrown away, and the lock is held
        lock = disk.Lock(f"{locks}/content")
        lock.acquire(wait=False)
        lease = Lease(locks, lock, _DISCARD)
    owners = lease.others(_USE)
    if owners:
        lease.release()
        return None, ", ".join(owners)
    return lease, ""


def _is_dead(path: str, owner: str) -> bool:
    """Tell whether the owner of a lease is gone, for all that can be known of another host's.

    A pull that goes on for longer looks at its end whether all is still there.
    """
    if owner.rpartition("-")[0] == os.uname().nodename:
        return is_abandoned(path, owner)
    return age_s(path) > _STALE_S


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # another process was quicker, or nothing can be written there
        pass
