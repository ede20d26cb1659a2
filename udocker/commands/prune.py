"""`udocker prune`."""

from __future__ import annotations

import os
import sys

import click

from udocker import console, trees
from udocker.commands.imagelist import Filters
from udocker.commands.stores import Stores
from udocker.errors import UsageError
from udocker.images.collection import Freed, unneeded
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.store import Image


@click.command()
@click.option("-a", "--all", "unused", is_flag=True, help="Images without containers too.")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Which images: until=24h, ..."
)
@click.option("-f", "--force", is_flag=True, help="Do not ask before images are removed.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.pass_obj
def command(
    settings: Settings, unused: bool, filters: tuple[str, ...], force: bool, dry_run: bool
) -> None:
    """Remove what killed commands left, and content that no image or container needs.

    With --all images of which there is no container go too; protected ones stay.
    """
    stores = Stores(settings)
    if not dry_run:
        stores.images.prepare()
    images = _unused(stores, filters) if unused else []
    left = stores.images.leftovers()
    size_left = sum(map(trees.size_bytes, left))
    if dry_run:
        names = [image.name for image in images]
        _tell("would remove", images, left, unneeded(stores.images, stores.kept, names), size_left)
        return
    if images and not force:
        _ask(images)
    for image in images:
        stores.images.remove(image)
    for path in left:
        stores.images.throw_away(path)
    if os.path.isdir(stores.images.partial):
        stores.images.remove_set_aside(stores.is_tree_in_use)
    stores.containers.remove_leftovers()
    stores.images.remove_set_aside(stores.is_tree_in_use)
    _tell("removed", images, left, stores.collect(), size_left)


def _tell(done: str, images: list[Image], left: list[str], freed: Freed, size_left: int) -> None:
    for image in images:
        console.put(f"{done} image {image.name}")
    for digest in freed.blobs:
        console.put(f"{done} blob {digest}")
    for chain_id in freed.trees:
        console.put(f"{done} tree {chain_id}")
    for path in left:
        console.put(f"{done} {path}")
    if freed.kept:
        console.warn(f"some content is kept: {freed.kept}")
    console.put(f"{done} {console.human_size(freed.size_bytes + size_left)}")


def _unused(stores: Stores, filters: tuple[str, ...]) -> list[Image]:
    used = {container.manifest for container in stores.containers.containers()}
    wanted = Filters(stores, filters)
    chosen = {image.name for image in stores.images.names.listed("") if wanted.take(image)}
    return [
        image
        for image in stores.images.images()
        if image.name in chosen
        and image.manifest.digest not in used
        and not stores.images.is_protected(image)
    ]


def _ask(images: list[Image]) -> None:
    hint = "udocker prune --all --force does not ask"
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"{len(images)} images would be removed", hint=hint)
    for image in images:
        console.say(image.name)
    if not click.confirm("Remove these images?", default=False, err=True):
        raise UsageError("nothing was removed", hint=hint)
