"""Where an image comes from: its documents and its blobs, whatever holds them."""

from __future__ import annotations

import os
from contextlib import contextmanager

from udocker.errors import ImageNotFound, IntegrityError, InvalidDocument, StoreError
from udocker.oci import MAX_DOCUMENT_BYTES, Digest
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor
    from udocker.reference import Reference
    from udocker.registry.client import Client

    class Source(Protocol):
        """One image (or index of images) of a registry, a layout or an archive."""

        @property
        def name(self) -> str:
            """What the image is called in messages."""

        def document(self, digest: Digest | None = None) -> tuple[Descriptor, bytes]:
            """Return the manifest or index itself, or another one that an index names.

            The bytes are those of the descriptor's digest. Raises ImageNotFound,
            IntegrityError, InvalidDocument.
            """

        def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
            """Yield a blob's bytes from `offset` on; the digest is for the reader to check."""

        def reopen(self) -> None:
            """Share no connection or file position with the process that was forked from."""


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """Errors about documents say of which image these are."""
    try:
        yield
    except InvalidDocument as error:
        if source.name not in error.message:
            error.message = f"{source.name}: {error.message}"
        raise


class PerProcess:
    """A source for the process that made this and those that it forks."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._process = os.getpid()

    def own(self) -> Source:
        """Return the source, which shares nothing with other processes."""
        if os.getpid() != self._process:
            self._source.reopen()
            self._process = os.getpid()
        return self._source


def content(source: Source, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
    """Return a blob's bytes from `offset` on: those that its descriptor holds, or the source."""
    if blob.data is not None:
        return iter((blob.data[offset:],))
    return source.blob(blob, offset)


class StoreSource:
    """An image of the store as it was pulled, loaded or committed."""

    def __init__(self, store: ImageStore, image: Image) -> None:
        self._store = store
        self._image = image

    @property
    def name(self) -> str:
        """The image's name."""
        return self._image.name

    def document(self, digest: Digest | None = None) -> tuple[Descriptor, bytes]:
        """Return the manifest, which has to be as it was."""
        manifest = self._image.manifest
        if digest not in (None, manifest.digest):
            raise ImageNotFound(f"{self.name}: {digest} is not here")
        data = self._store.blobs.read(manifest.digest, MAX_DOCUMENT_BYTES)
        if Digest.of(data, manifest.digest.algorithm) != manifest.digest:
            raise IntegrityError(f"{self.name}: its manifest is damaged here", hint=_AGAIN)
        return replace(manifest, annotations=()), data

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Read a blob of the store."""
        path = self._store.blobs.find(descriptor.digest)
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(offset)
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            problem = f"{self.name}: blob {descriptor.digest}: {error.strerror}"
            raise StoreError(problem, hint=_AGAIN) from error

    def reopen(self) -> None:
        """Do nothing: every blob is opened for itself."""


_CHUNK_BYTES = 256 << 10
_AGAIN = "udocker pull brings it again"


class RegistrySource:
    """An image as its registry has it."""

    def __init__(self, client: Client, reference: Reference) -> None:
        self.client = client
        self.reference = reference

    @property
    def name(self) -> str:
        """The image's reference."""
        return str(self.reference)

    def document(self, digest: Digest | None = None) -> tuple[Descriptor, bytes]:
        """Fetch the manifest or index, or another one of the same repository."""
        return self.client.manifest(self.reference, digest)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Fetch a blob, over as many connections as it takes."""
        return self.client.blob(self.reference, descriptor, offset)

    def part(self, descriptor: Descriptor, start: int, end: int) -> Iterator[bytes]:
        """Fetch the bytes of a blob from `start` up to `end`; several threads may at a time."""
        return self.client.part(self.reference, descriptor, start, end)

    def reopen(self) -> None:
        """Use new connections from here on."""
        self.client.reopen()
