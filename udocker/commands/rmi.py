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
    """Remove images, and what of their content no other image needs."""
    stores = Stores(settings)
    for name in images:
        stores.remove_image(stores.get_image(name), force=force)
        console.put(name)
