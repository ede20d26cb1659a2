"""An image whose blobs are taken from the site's stores, where they have them."""

from __future__ import annotations

import hashlib

from udocker.images.blobs import CHUNK_BYTES
from udocker.oci import Digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.images.store import ImageStore
    from udocker.oci import Descriptor
    from udocker.transfer.source import RegistrySource


class NearbySource:
    """A source whose blobs need not come over the network if a store of the site has them."""

    def __init__(self, source: RegistrySource, store: ImageStore) -> None:
        self._source = source
        self._store = store

    @property
    def name(self) -> str:
        """What the source behind calls the image."""
        return self._source.name

    def document(self, digest: Digest | None = None) -> tuple[Descriptor, bytes]:
        """Fetch the document from the source behind."""
        return self._source.document(digest)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Yield the blob of a site's store if it is whole there, else that of the source."""
        path = self._store.blobs.find(descriptor.digest)
        if path == self._store.blobs.path(descriptor.digest) or not _is_whole(path, descriptor):
            return self._source.blob(descriptor, offset)
        return _chunks(path, offset)

    def part(self, descriptor: Descriptor, start: int, end: int) -> Iterator[bytes]:
        """Fetch a part of a blob from the source behind."""
        return self._source.part(descriptor, start, end)

    def reopen(self) -> None:
        """Let the source behind open its connections anew."""
        self._source.reopen()


def _is_whole(path: str, descriptor: Descriptor) -> bool:
    """Tell whether a file holds the blob: one that is damaged shall not end the pull."""
    hasher = hashlib.new(descriptor.digest.algorithm)
    try:
        for chunk in _chunks(path, 0):
            hasher.update(chunk)
    except OSError:
        return False
    return hasher.hexdigest() == descriptor.digest.hex


def _chunks(path: str, offset: int) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
