"""`udocker images`."""

from __future__ import annotations

import gc

import click

from udocker import console
from udocker.commands.imagelist import (
    TITLES,
    Filters,
    created_s,
    familiar,
    fields,
    short_id,
    shown_size,
    since,
)
from udocker.commands.stores import Stores
from udocker.commands.templates import put_rows
from udocker.errors import StoreError
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from udocker.images.names import Listed
    from udocker.oci import Descriptor

_NAME = "REPOSITORY:TAG"
"""First in the plain list, as udocker 1 has it: scripts look for `name:tag` there."""
_PLAIN = [_NAME, "ID", "CreatedSince", "Size"]


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Print ids and nothing else.")
@click.option("-l", "long", is_flag=True, help="Show layers too.")
@click.option("-p", "show_platform", is_flag=True, help="Show platforms too.")
@click.option("-a", "--all", "_all", is_flag=True, help="Accepted; all are always listed.")
@click.option("--digests", is_flag=True, help="Show the digests of the names too.")
@click.option("--no-trunc", is_flag=True, help="Show whole ids.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only such.")
@click.option("--format", "template", metavar="TEMPLATE", help="[table] {{.Repository}}, or json.")
@click.argument("patterns", nargs=-1, metavar="[REPOSITORY[:TAG]]...")
@click.pass_obj
def command(
    settings: Settings,
    /,
    quiet: bool,
    long: bool,
    show_platform: bool,
    _all: bool,
    digests: bool,
    no_trunc: bool,
    filters: tuple[str, ...],
    template: str | None,
    patterns: tuple[str, ...],
) -> None:
    """List the images that are here, in the user's own store and in those of the site.

    SIZE is what the image takes on the disk: its layers as they came and its unpacked tree,
    both of which other images may share. Filters: reference, before, since, until, label,
    dangling.
    """
    gc.disable()  # nothing that is read here is garbage before the end
    stores = Stores(settings)
    wanted = Filters(stores, filters, patterns)
    images = [image for image in stores.images.listed() if wanted.take(image)]
    if quiet:
        console.put_lines(i.digest if no_trunc else short_id(i) for i in images)
    elif template and template != "table":
        put_rows(template, (fields(image, whole=no_trunc) for image in images), TITLES)
    else:
        named = ["Repository", "Tag"] if template else [_NAME]
        titles = [*named, *(["Digest"] if digests else []), "ID", "CreatedSince", "Size"]
        titles += ["Platform"] if show_platform else []
        titles += ["Site"] if any(image.site for image in images) else []
        rows = _rows(stores, images, titles, long=long, whole=no_trunc)
        console.table([TITLES.get(title, title) for title in titles], rows)


def _rows(
    stores: Stores, images: Sequence[Listed], titles: Sequence[str], *, long: bool, whole: bool
) -> Iterator[list[str]]:
    for image in images:
        if titles != _PLAIN:
            shown = {_NAME: familiar(image.name), **fields(image, whole=whole)}
            row = [shown[title] for title in titles]
        else:  # of 10,000 images only what is shown is made
            identifier = image.digest if whole else short_id(image)
            row = [familiar(image.name), identifier, since(created_s(image)), shown_size(image)]
        yield row
        for layer in _layers(stores, image) if long else ():
            size = console.human_size(layer.size_bytes)
            yield [f"  {layer.digest}", *(size if t == "Size" else "" for t in titles[1:])]


def _layers(stores: Stores, image: Listed) -> tuple[Descriptor, ...]:
    try:
        return stores.images.read_manifest(stores.get_image(image.name)).layers
    except StoreError:
        console.warn(f"{image.name} is damaged here; pull it again")
        return ()
