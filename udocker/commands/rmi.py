"""`udocker rmi`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.several import each
from udocker.commands.stores import Stores
from udocker.errors import ImageNotFound, UsageError
from udocker.settings import Settings


@click.command()
@click.option("-f", "--force", is_flag=True, help="Containers of it are no obstacle, nor absence.")
@click.option("-a", "--all", "every", is_flag=True, help="All images of the user's own store.")
@click.option("--no-prune", is_flag=True, help="Keep the content; udocker prune removes it.")
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.pass_obj
def command(
    settings: Settings, force: bool, every: bool, no_prune: bool, images: tuple[str, ...]
) -> int:
    """Remove images, by name, digest or id, and what of their content nobody else needs.

    An id removes the image's only name; with --force all of them, and images of which there are
    containers; these keep what they need.
    """
    if bool(images) == every:
        raise UsageError("which images?", hint="udocker rmi IMAGE..., or udocker rmi --all")
    stores = Stores(settings)
    names = [image.name for image in stores.images.images()] if every else images

    def act(name: str) -> None:
        try:
            stores.remove_names(name, force=force)
        except ImageNotFound:
            if not force:
                raise

    code = each(names, act)
    if no_prune:
        stores.images.write_index()
    else:
        freed = stores.collect()
        if freed.kept:
            console.warn(f"content is kept: {freed.kept}; udocker prune removes it later")
    return code
