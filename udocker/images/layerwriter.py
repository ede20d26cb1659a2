"""New layers: a tar stream compressed and hashed on its way into the blob store."""

from __future__ import annotations

import hashlib
import os

from udocker import disk
from udocker.images.compression.compress import quick_compressor
from udocker.oci import OCI_LAYER, Descriptor, Digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.blobs import BlobStore
    from udocker.images.compression.compress import Compressor


_PIECE_BYTES = 256 << 10
"""The encoder gets pieces of one size: what comes of isal depends on them."""


class LayerWriter:
    """Takes a tar stream by `write`; `finish` gives it its name in the store.

    `close` removes what was not finished. Raises StoreError.
    """

    def __init__(
        self, blobs: BlobStore, kind: str = "gzip", encoder: Compressor | None = None
    ) -> None:
        """`encoder` compresses, with what the media type calls `kind`; None: the quickest does."""
        self._blobs = blobs
        self._kind = kind
        self._diff_id = hashlib.sha256()
        self._digest = hashlib.sha256()
        self._compressor = encoder or quick_compressor(kind)
        self._rest = bytearray()
        """What is less than a piece."""
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
        if not self._rest and len(data) == _PIECE_BYTES:
            self._keep(self._compressor.compress(data))
            return
        self._rest += data
        while len(self._rest) >= _PIECE_BYTES:
            self._keep(self._compressor.compress(bytes(self._rest[:_PIECE_BYTES])))
            del self._rest[:_PIECE_BYTES]

    @property
    def diff_id(self) -> Digest:
        """The digest of what came so far."""
        return Digest("sha256", self._diff_id.hexdigest())

    def finish(self) -> tuple[Descriptor, Digest]:
        """Put the layer into the store; return it and the digest of its tar stream."""
        self._keep(self._compressor.compress(bytes(self._rest)))
        self._keep(self._compressor.flush())
        digest = Digest("sha256", self._digest.hexdigest())
        path = self._blobs.path(digest)
        disk.make_directory(os.path.dirname(path))
        try:
            os.fsync(self._file.fileno())
            os.rename(self._path, path)
        except OSError as error:
            raise disk.store_error(error, path) from error
        descriptor = Descriptor(f"{OCI_LAYER}+{self._kind}", digest, self._size_bytes)
        return descriptor, self.diff_id

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
