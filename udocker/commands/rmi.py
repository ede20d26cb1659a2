"""`udocker rmi`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.settings import Settings


@click.command()
@click.option("-f", "--force", is_flag=True, help="Also when containers were made of it.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.pass_obj
def command(settings: Settings, force: bool, images: tuple[str, ...]) -> None:
    """Remove images, and what of their content no other image needs.

    An image with several names loses the one that is given; by its id, with -f, all of them.
    """
    stores = Stores(settings)
    for name in images:
        for image in stores.images_to_remove(name, force=force):
            stores.remove_image(image, force=force)
        console.put(name)
