"""`udocker images`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.commands.templates import put_rows
from udocker.errors import StoreError
from udocker.reference import Reference
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor

TITLES = {
    **{"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "Digest": "DIGEST"},
    **{"Size": "SIZE", "Platform": "PLATFORM"},
}
"""What stands above the fields of `--format`, in docker's words."""


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Print ids and nothing else.")
@click.option("-l", "long", is_flag=True, help="Show layers too.")
@click.option("-p", "show_platform", is_flag=True, help="Show platforms too.")
@click.option("-a", "--all", is_flag=True, help="Accepted; all are always listed.")
@click.option("--no-trunc", is_flag=True, help="Accepted; --format has whole digests.")
@click.option("--format", "template", metavar="TEMPLATE", help="[table] {{.Repository}}, or json.")
@click.pass_obj
def command(
    settings: Settings,
    /,
    quiet: bool,
    long: bool,
    show_platform: bool,
    template: str | None,
    **_: Any,
) -> None:
    """List the images that are here."""
    store = Stores(settings).images
    images = store.images()
    if quiet:
        for image in images:
            console.put(image.short_id)
    elif template and template != "table":
        put_rows(template, (_fields(store, image) for image in images), TITLES)
    else:
        _put_table(store, images, long=long, show_platform=show_platform)


def _put_table(
    store: ImageStore, images: Iterable[Image], *, long: bool, show_platform: bool
) -> None:
    rows = []
    for image in images:
        layers = _layers(store, image)
        size = _shown_size(layers)
        row = [Reference.parse(image.name).familiar, image.short_id, size]
        rows.append([*row, str(image.manifest.platform)] if show_platform else row)
        if long:
            rows += [[f"  {layer.digest}", "", _human_size(layer)] for layer in layers or ()]
    header = ["REPOSITORY:TAG", "IMAGE ID", "SIZE"]
    console.table([*header, "PLATFORM"] if show_platform else header, rows)


def _fields(store: ImageStore, image: Image) -> dict[str, str]:
    """Return what docker's `--format` knows of an image."""
    reference = Reference.parse(image.name)
    name = reference.familiar.partition("@")[0]
    return {
        "Repository": name.rpartition(":")[0] if reference.tag else name,
        "Tag": reference.tag or "<none>",
        "ID": image.short_id,
        "Digest": str(image.manifest.digest),
        "Size": _shown_size(_layers(store, image)),
        "Platform": str(image.manifest.platform),
    }


def _shown_size(layers: tuple[Descriptor, ...] | None) -> str:
    return "damaged" if layers is None else _human_size(*layers)


def _layers(store: ImageStore, image: Image) -> tuple[Descriptor, ...] | None:
    """Return the layers of an image; None when its manifest cannot be read."""
    try:
        return store.read_manifest(image).layers
    except StoreError:
        return None


def _human_size(*layers: Descriptor) -> str:
    return console.human_size(sum(layer.size_bytes for layer in layers))
