"""Pulling an image: what its registry has now is brought, unless it is here already."""

from __future__ import annotations

import os

from udocker import console
from udocker.errors import IntegrityError
from udocker.oci import Platform
from udocker.registry.client import Client
from udocker.transfer.admission import Admission
from udocker.transfer.nearby import NearbySource
from udocker.transfer.source import RegistrySource
from udocker.trust.place import in_registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.store import Image, ImageStore
    from udocker.reference import Reference
    from udocker.settings import Settings


def pull(
    settings: Settings, store: ImageStore, reference: Reference, platform_text: str | None = None
) -> Image:
    """Return the image that `reference` names at its registry now, whole, in the store.

    Raises ImageNotFound, AccessDenied, RegistryError, InvalidDocument, IntegrityError,
    UnpackError, StoreError, TrustError; what was brought by then is used by the next try.
    """
    store.prepare()
    content = store.using()
    try:
        return _pull(settings, store, reference, platform_text)
    finally:
        content.release()


def _pull(settings: Settings, store: ImageStore, reference: Reference, asked: str | None) -> Image:
    platform = Platform.parse(asked) if asked else Platform.of_machine(os.uname().machine)
    client = Client(reference.registry, settings)
    admission = Admission(settings, in_registry(reference), client)
    current = _current(store, client, reference, platform)
    if current:
        # what was let in before stays and runs, but is not called up to date
        admission.check(str(reference), store.digests(current))
        if not settings.quiet:
            console.say(f"{reference.familiar} is up to date")
        return current
    from udocker.transfer.ingest import Ingest  # 4 ms that an image which is here is spared

    registry = RegistrySource(client, reference)
    source = NearbySource(registry, store) if store.sites else registry
    ingest = Ingest(settings, store, source, platform, admission, strict=bool(asked))
    try:
        image = ingest.run(reference)
    except IntegrityError as error:
        if not client.leave_mirrors(reference):
            raise
        console.warn(f"{error.message}; now without mirrors")
        image = ingest.run(reference)
    # where no lease keeps others from throwing away, what is gone again is brought again
    return image if store.is_whole(image) else ingest.run(reference)


def _current(
    store: ImageStore, client: Client, reference: Reference, platform: Platform
) -> Image | None:
    """Return the image in the store if it is what the registry has: one request, or none."""
    image = store.find(reference)
    if image is None or not store.is_whole(image):
        return None
    if image.manifest.platform not in (None, platform):
        return None  # the registry may have one that fits better
    if reference.digest:
        return image
    digest = client.head(reference)
    return image if digest and str(digest) == store.source_digest(image) else None
