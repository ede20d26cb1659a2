"""Content by digest: what has a name here was verified, whoever put it.

A blob is collected in `partial/` under a name that says who collects it (host and process).
What a dead process left is taken over by rename, which one taker wins, and continued.
"""

from __future__ import annotations

import errno
import os

from udocker import disk
from udocker.errors import IntegrityError, StoreError
from udocker.oci import Digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from udocker.oci import Descriptor

CHUNK_BYTES = 256 << 10
_STALE_S = 6 * 3600
"""A partial blob of another host that nobody wrote to for so long was left."""
_UNWANTED_S = 7 * 86400
"""A partial blob that nobody continued for so long is not wanted any more."""


class BlobStore:
    """The `blobs/` directory of an OCI image layout, and the place where blobs come to be."""

    def __init__(self, layout: str, partial: str, behind: tuple[str, ...] = ()) -> None:
        """`behind` are layouts of others, from which is read what this one lacks."""
        self.layout = layout
        self.partial = partial
        self._behind = behind

    def path(self, digest: Digest) -> str:
        """Return where the content of that digest lies or would lie."""
        return f"{self.layout}/blobs/{digest.algorithm}/{digest.hex}"

    def find(self, digest: Digest) -> str:
        """Return where the content of that digest can be read: here, or in a layout of others."""
        own = self.path(digest)
        for layout in self._behind if not os.path.exists(own) else ():
            path = f"{layout}/blobs/{digest.algorithm}/{digest.hex}"
            if os.access(path, os.R_OK):
                return path
        return own

    def has(self, descriptor: Descriptor) -> bool:
        """Tell whether the content is here, whole."""
        try:
            return os.stat(self.path(descriptor.digest)).st_size == descriptor.size_bytes
        except OSError:
            return False

    def can_read(self, descriptor: Descriptor) -> bool:
        """Tell whether the content is here or in a layout of others, whole."""
        try:
            return os.stat(self.find(descriptor.digest)).st_size == descriptor.size_bytes
        except OSError:
            return False

    def read(self, digest: Digest, limit_bytes: int) -> bytes:
        """Return the content of that digest. Raises StoreError when it is not here."""
        data = disk.read(self.find(digest), limit_bytes)
        if data is None:
            raise StoreError(f"blob {digest} is missing here", hint="pull the image again")
        return data

    def listed(self) -> list[Digest]:
        """Return the digests of all that is here. Raises StoreError."""
        directory = f"{self.layout}/blobs"
        return [
            Digest(algorithm, name)
            for algorithm in sorted(disk.names_in(directory))
            for name in sorted(disk.names_in(f"{directory}/{algorithm}"))
        ]

    def put(self, data: bytes, algorithm: str = "sha256") -> Digest:
        """Keep `data` under its digest; harmless when it is there already."""
        digest = Digest.of(data, algorithm)
        path = self.path(digest)
        disk.make_directory(self.partial)
        disk.make_directory(os.path.dirname(path))
        disk.write_whole(path, data, drafts=self.partial)
        return digest

    def adopt(self, path: str, digest: Digest) -> None:
        """Give a file of this file system, which has that digest, its name here as well.

        Where it cannot be linked nothing is done.
        """
        final = self.path(digest)
        disk.make_directory(os.path.dirname(final))
        try:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(path, 0o444)
            os.link(path, final)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise disk.store_error(error, final) from error

    def bring(self, descriptor: Descriptor) -> None:
        """Copy to here what a layout of others has. Raises IntegrityError, StoreError."""
        path, partial = self.find(descriptor.digest), self.begin(descriptor)
        try:
            for _ in partial.replay():
                pass
            with open(path, "rb", buffering=0) as source:
                source.seek(partial.size_bytes)
                while chunk := source.read(CHUNK_BYTES):
                    partial.append(chunk)
            partial.commit()
        except OSError as error:
            raise disk.store_error(error, path) from error
        finally:
            partial.leave()

    def lacking_bytes(self, blobs: Iterable[Descriptor]) -> int:
        """Return how many bytes are still to come of those blobs; equal ones come once."""
        sizes = {blob.digest: blob.size_bytes for blob in blobs if not self.has(blob)}
        had: dict[str, int] = {}
        for name in disk.names_in(self.partial) if sizes else ():
            try:
                size = os.stat(f"{self.partial}/{name}").st_size
            except OSError:  # gone just now
                continue
            digest = name.partition(".")[0].replace("-", ":")
            had[digest] = max(size, had.get(digest, 0))
        return sum(max(0, size - had.get(str(digest), 0)) for digest, size in sizes.items())

    def sole(self, digest: Digest) -> disk.Lock:
        """Return the lock of those who bring that blob; held, nobody else does where locks work."""
        locks = disk.make_directory(f"{os.path.dirname(self.partial)}/locks")
        lock = disk.Lock(f"{locks}/blob-{digest.hex}")
        lock.acquire()
        return lock

    def begin(self, descriptor: Descriptor) -> PartialBlob:
        """Return the blob to be collected, with what an earlier, dead process got of it."""
        disk.make_directory(self.partial)
        disk.make_directory(os.path.dirname(self.path(descriptor.digest)))
        prefix = f"{descriptor.digest.algorithm}-{descriptor.digest.hex}."
        own = f"{self.partial}/{prefix}{disk.owner()}"
        for name in sorted(disk.names_in(self.partial)):
            left = f"{self.partial}/{name}"
            if name.startswith(prefix) and is_abandoned(left, name[len(prefix) :]):
                try:
                    os.rename(left, own)
                    os.chmod(own, 0o600)  # of one killed in `commit` it may be read only
                    break
                except FileNotFoundError:  # another process was quicker
                    continue
        return PartialBlob(own, self.path(descriptor.digest), descriptor)

    def forget(self, descriptor: Descriptor) -> None:
        """Remove what dead processes left of a blob that nobody will go on with."""
        prefix = f"{descriptor.digest.algorithm}-{descriptor.digest.hex}."
        for name in disk.names_in(self.partial):
            left = f"{self.partial}/{name}"
            if name.startswith(prefix) and is_abandoned(left, name[len(prefix) :]):
                try:
                    os.unlink(left)
                except FileNotFoundError:  # another process was quicker
                    continue

    def sweep(self) -> None:
        """Remove what dead processes left of blobs that are here by now, or left a week ago."""
        for left in self.leftovers():
            try:
                os.unlink(left)
            except FileNotFoundError:  # another process was quicker
                continue

    def leftovers(self, *, resumable: bool = False) -> Iterator[str]:
        """Yield paths of what dead processes left and nobody will continue; or of all of it."""
        for name in disk.names_in(self.partial):
            left = f"{self.partial}/{name}"
            algorithm, dash, rest = name.partition("-")
            hex_digits, dot, owner = rest.partition(".")
            if not (dash and dot and is_abandoned(left, owner)):
                continue
            here = os.path.exists(f"{self.layout}/blobs/{algorithm}/{hex_digits}")
            if resumable or here or age_s(left) > _UNWANTED_S:
                yield left


def is_abandoned(path: str, owner: str) -> bool:
    """Tell whether the process that works on `path` (`host-pid`) is gone."""
    host, _, pid = owner.rpartition("-")
    if host != os.uname().nodename or not pid.isdigit():
        return age_s(path) > _STALE_S
    return int(pid) == os.getpid() or not disk.is_alive(int(pid))


def age_s(path: str) -> float:
    """Return how long ago a file was written to, in seconds; 0 when it is gone."""
    import time

    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0


class PartialBlob:
    """A blob on its way: replay what is there, append what comes, commit when it is whole."""

    def __init__(self, path: str, final: str, descriptor: Descriptor) -> None:
        import hashlib

        self.path = path
        self.descriptor = descriptor
        self._final = final
        self._hash = hashlib.new(descriptor.digest.algorithm)
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115 - closed by commit or leave
        self.size_bytes = min(os.fstat(self._file.fileno()).st_size, descriptor.size_bytes)

    def replay(self) -> Iterator[bytes]:
        """Yield what was collected before, hashing it. To be read to the end before `append`."""
        position = 0
        while position < self.size_bytes:
            length = min(CHUNK_BYTES, self.size_bytes - position)
            chunk = os.pread(self._file.fileno(), length, position)
            if not chunk:
                raise StoreError(f"{self.path}: became shorter while it was read")
            position += len(chunk)
            self._hash.update(chunk)
            yield chunk
        self._file.truncate(self.size_bytes)

    def append(self, chunk: bytes) -> None:
        """Add what comes next."""
        try:
            view = memoryview(chunk)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise disk.store_error(error, self.path) from error
        self.size_bytes += len(chunk)
        self._hash.update(chunk)

    def commit(self) -> None:
        """Give the blob its name. Raises IntegrityError, and keeps nothing, when it is wrong."""
        wanted = self.descriptor
        digest = Digest(wanted.digest.algorithm, self._hash.hexdigest())
        if self.size_bytes != wanted.size_bytes or digest != wanted.digest:
            self._file.close()
            os.unlink(self.path)
            raise IntegrityError(
                f"blob {wanted.digest} ({wanted.size_bytes} bytes announced) came as {digest} "
                f"({self.size_bytes} bytes)"
            )
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            os.chmod(self.path, 0o444)
            os.rename(self.path, self._final)
        except OSError as error:
            raise disk.store_error(error, self._final) from error

    def leave(self) -> None:
        """Stop here; a later process continues."""
        self._file.close()
