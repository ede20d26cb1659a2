"""`udocker tag`."""

from __future__ import annotations

import click

from udocker.commands.stores import Stores
from udocker.errors import StoreError, UsageError
from udocker.oci import Digest
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.store import Image, ImageStore
    from udocker.reference import Reference


@click.command()
@click.argument("image", metavar="IMAGE")
@click.argument("names", nargs=-1, required=True, metavar="NAME[:TAG]...")
@click.pass_obj
def command(settings: Settings, image: str, names: tuple[str, ...]) -> None:
    """Give an image further names; a name that another image has moves to this one."""
    stores = Stores(settings)
    store = stores.images
    references = [_reference(stores, name) for name in names]
    store.prepare()
    content = store.using()
    try:
        found = stores.get_image(image)
        if found.site:
            hint = "udocker pull makes it one of yours, under another name of its registry"
            raise StoreError(f"image {found.name} is in the site's store {found.site}", hint=hint)
        for reference in references:
            _check_protection(store, reference, found)
        source = Digest.parse(store.source_digest(found) or str(found.manifest.digest))
        for reference in references:
            store.add(reference, found.manifest, source, found.chain_id)
    finally:
        content.release()


def _reference(stores: Stores, name: str) -> Reference:
    """Read a name that may be given. Raises UsageError."""
    reference = stores.reference(name)
    if reference.digest:
        raise UsageError(f"{name}: a digest cannot be given to an image", hint="give it a tag")
    return reference


def _check_protection(store: ImageStore, reference: Reference, image: Image) -> None:
    """Raise StoreError where the name would be taken from an image that is protected under it."""
    older = store.find(reference)
    if older and older.manifest.digest != image.manifest.digest and store.is_protected(older):
        raise StoreError(f"image {older.name} is protected", hint=f"udocker unprotect {older.name}")
