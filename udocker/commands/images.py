"""`udocker images`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.errors import StoreError
from udocker.reference import Reference
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Print ids and nothing else.")
@click.option("-l", "long", is_flag=True, help="Show layers too.")
@click.option("-p", "show_platform", is_flag=True, help="Show platforms too.")
@click.pass_obj
def command(settings: Settings, quiet: bool, long: bool, show_platform: bool) -> None:
    """List the images that are here."""
    store = Stores(settings).images
    images = store.images()
    if quiet:
        for image in images:
            console.put(image.short_id)
        return
    rows = []
    for image in images:
        layers = _layers(store, image)
        size = "damaged" if layers is None else _human_size(*layers)
        row = [Reference.parse(image.name).familiar, image.short_id, size]
        rows.append([*row, str(image.manifest.platform)] if show_platform else row)
        if long:
            rows += [[f"  {layer.digest}", "", _human_size(layer)] for layer in layers or ()]
    header = ["REPOSITORY:TAG", "IMAGE ID", "SIZE"]
    console.table([*header, "PLATFORM"] if show_platform else header, rows)


def _layers(store: ImageStore, image: Image) -> tuple[Descriptor, ...] | None:
    """Return the layers of an image; None when its manifest cannot be read."""
    try:
        return store.read_manifest(image).layers
    except StoreError:
        return None


def _human_size(*layers: Descriptor) -> str:
    return console.human_size(sum(layer.size_bytes for layer in layers))
