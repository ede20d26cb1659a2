"""Pushing an image: what its registry lacks is sent, and then given its name."""

from __future__ import annotations

from collections.abc import Sequence

from udocker import console
from udocker.errors import IntegrityError, InvalidReference, StoreError
from udocker.images.compressed import CompressedLayers
from udocker.reference import Reference
from udocker.transfer.content import reading
from udocker.transfer.copying.compressing import compressing
from udocker.transfer.copying.copy import copy, look_over
from udocker.transfer.source import StoreSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.compressed import Compression
    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor, Digest
    from udocker.settings import Settings
    from udocker.transfer.target import Target

MAX_RELATIVES = 256
"""Images of the same registry that are looked into for blobs to share."""


def push(
    settings: Settings,
    store: ImageStore,
    image: Image,
    target: Target,
    how: Compression | None = None,
) -> Descriptor:
    """Have `image` where `target` is; return the descriptor that its manifest has there.

    Layers that are plain go compressed as `how` says, all else as it is. Raises AccessDenied,
    RegistryError, IntegrityError, StoreError, UsageError; the name appears last.
    """
    with reading(store):
        source = StoreSource(store, image)
        survey = look_over(source, None, strict=False)
        change = compressing(store, image, target, how) if how else None
        try:
            pushed = copy(settings, source, target, survey, change)
        except IntegrityError as error:
            if change and change.forget_damaged():
                error.hint = "push again: what was compressed before is made anew"
            raise
    if change and not settings.quiet:
        said = f"{change.count} layers went compressed with {change.how.kind}"
        console.warn(f"{said}: the image is {pushed.digest} there, {survey.top.digest} here")
    return pushed


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
        compressed: dict[Digest, list[Digest]] = {}
        for plain, made in CompressedLayers(self._store).all_known():
            compressed.setdefault(plain, []).append(made)
        for image, repository in self._relatives()[:MAX_RELATIVES]:
            try:
                manifest = self._store.read_manifest(image)
            except StoreError:
                continue
            own = [blob.digest for blob in (manifest.config, *manifest.layers)]
            others = [digest for one in own for digest in compressed.get(one, ())]
            for digest in (*own, *others):
                repositories = known.setdefault(digest, [])
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
