"""Where an image comes from: its documents and its blobs, whatever holds them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from udocker.oci import Descriptor, Digest
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

    def reopen(self) -> None:
        """Use new connections from here on."""
        self.client.reopen()
