"""Pushing an image: what its registry lacks is sent, unchanged, and then given its name."""

from __future__ import annotations

from collections.abc import Sequence

from udocker.errors import InvalidReference, StoreError
from udocker.reference import Reference
from udocker.transfer.content import reading
from udocker.transfer.copy import copy, look_over
from udocker.transfer.source import StoreSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor, Digest
    from udocker.settings import Settings
    from udocker.transfer.target import Target

MAX_RELATIVES = 256
"""Images of the same registry that are looked into for blobs to share."""


def push(settings: Settings, store: ImageStore, image: Image, target: Target) -> Descriptor:
    """Have `image` where `target` is; return its manifest's descriptor.

    Raises AccessDenied, RegistryError, IntegrityError, StoreError; the name appears last.
    """
    with reading(store):
        source = StoreSource(store, image)
        return copy(settings, source, target, look_over(source, None, strict=False))


class Origins:
    """Repositories of one registry that have blobs, as far as the store's own images tell."""

    def __init__(self, store: ImageStore, reference: Reference) -> None:
        self._store = store
        self._reference = reference
        self._known: dict[Digest, list[str]] | None = None

    def __call__(self, digest: Digest) -> Sequence[str]:
        """Return repositories that have, or had, the blob."""
        if self._known is None:
            self._known = self._find()
        return self._known.get(digest, ())

    def _find(self) -> dict[Digest, list[str]]:
        known: dict[Digest, list[str]] = {}
        for image, repository in self._relatives()[:MAX_RELATIVES]:
            try:
                manifest = self._store.read_manifest(image)
            except StoreError:
                continue
            for blob in (manifest.config, *manifest.layers):
                repositories = known.setdefault(blob.digest, [])
                if repository not in repositories:
                    repositories.append(repository)
        return known

    def _relatives(self) -> list[tuple[Image, str]]:
        """Return the images of the same registry in other repositories, with these."""
        own, registry = self._reference.repository, self._reference.registry
        found = []
        for image in self._store.all_images():
            if not image.name.startswith(f"{registry}/"):
                continue
            try:
                repository = Reference.parse(image.name).repository
            except InvalidReference:
                continue
            if repository != own:
                found.append((image, repository))
        return found
