"""New layers: a tar stream compressed and hashed on its way into the blob store."""

from __future__ import annotations

import hashlib
import os
import zlib

from udocker import disk
from udocker.oci import OCI_LAYER, Descriptor, Digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.blobs import BlobStore

_LEVEL = 4
"""Of gzip. The tar of a Debian tree, 172 MB, becomes 67 MB by 1, 62 MB by 4, 61 MB by 6, which
take 1.8, 2.8 and 5.6 s."""
_GZIP = 31
"""zlib's window bits for gzip with 32 KiB. Source: zlib.h, deflateInit2."""


class LayerWriter:
    """Takes a tar stream by `write`; `finish` gives it its name in the store.

    `close` removes what was not finished. Raises StoreError.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._diff_id = hashlib.sha256()
        self._digest = hashlib.sha256()
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        self._size_bytes = 0
        disk.make_directory(blobs.partial)
        # a name that `ImageStore.prepare` sweeps when this process is gone
        self._path = f"{blobs.partial}/draft.{disk.owner()}.{os.urandom(4).hex()}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._path, flags, 0o444), "wb", 0)
        except OSError as error:
            raise disk.store_error(error, self._path) from error

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Take a part of the tar stream."""
        self._diff_id.update(data)
        self._keep(self._compressor.compress(data))

    def finish(self) -> tuple[Descriptor, Digest]:
        """Put the layer into the store; return it and the digest of its tar stream."""
        self._keep(self._compressor.flush())
        digest = Digest("sha256", self._digest.hexdigest())
        path = self._blobs.path(digest)
        disk.make_directory(os.path.dirname(path))
        try:
            os.fsync(self._file.fileno())
            os.rename(self._path, path)
        except OSError as error:
            raise disk.store_error(error, path) from error
        descriptor = Descriptor(f"{OCI_LAYER}+gzip", digest, self._size_bytes)
        return descriptor, Digest("sha256", self._diff_id.hexdigest())

    def close(self) -> None:
        """Remove what was not finished."""
        self._file.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:  # it is finished
            pass

    def _keep(self, data: bytes) -> None:
        self._digest.update(data)
        self._size_bytes += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise disk.store_error(error, self._path) from error
