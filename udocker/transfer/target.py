"""Where an image goes, whatever will hold it: blobs first, then documents, then the name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from udocker.errors import UsageError
from udocker.oci import Descriptor, Digest
from udocker.registry.upload import Repository

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from udocker.reference import Reference
    from udocker.registry.client import Client

    Read = Callable[[int], Iterator[bytes]]
    Begin = Callable[[int], None]

    class Target(Protocol):
        """A repository of a registry, a layout or an archive."""

        @property
        def name(self) -> str:
            """What it is called in messages."""

        @property
        def wants_foreign(self) -> bool:
            """Whether nothing can be made of an image without its foreign layers."""

        def has(self, blob: Descriptor) -> bool:
            """Tell whether the blob is there already."""

        def blob(self, blob: Descriptor, read: Read, begin: Begin) -> str:
            """Have the blob afterwards; return in a word how it came.

            `read(offset)` yields its bytes, the last of which come only if all are right;
            `begin(offset)` is told where every attempt begins. Called from several threads.
            """

        def document(self, descriptor: Descriptor, data: bytes) -> None:
            """Have a manifest or index that another document names."""

        def finish(self, descriptor: Descriptor, data: bytes) -> None:
            """Have the manifest or index that was meant, under the name that was meant."""


class RegistryTarget:
    """A name in a registry. `origins` tells where else in that registry a blob lies."""

    wants_foreign = False

    def __init__(
        self,
        client: Client,
        reference: Reference,
        origins: Callable[[Digest], Sequence[str]] = lambda _: (),
    ) -> None:
        self._reference = reference
        self._origins = origins
        self._repository = Repository(*client.at_home(reference))

    @property
    def name(self) -> str:
        """The reference."""
        return str(self._reference)

    def has(self, blob: Descriptor) -> bool:
        """Ask the registry."""
        return self._repository.has(blob)

    def blob(self, blob: Descriptor, read: Read, begin: Begin) -> str:
        """Have it in the repository: already, from another one, or sent."""
        if blob.is_foreign:
            return "foreign, not sent"
        if self._repository.has(blob):
            return "there already"
        if self._repository.mount(blob, self._origins(blob.digest)):
            return "shared"
        self._repository.send(blob, read, begin)
        return "sent"

    def document(self, descriptor: Descriptor, data: bytes) -> None:
        """Put it there under its digest."""
        self._repository.put_manifest(descriptor, data, str(descriptor.digest))

    def finish(self, descriptor: Descriptor, data: bytes) -> None:
        """Put it there under the reference's tag, or its digest. Raises UsageError for others."""
        wanted = self._reference.digest
        if wanted and Digest.of(data, wanted.algorithm) != wanted:
            raise UsageError(
                f"{self.name}: what is to be put there is {descriptor.digest}",
                hint="content chooses its digest: name a tag, or none of both",
            )
        name = self._reference.tag or str(wanted or descriptor.digest)
        self._repository.put_manifest(descriptor, data, name)
