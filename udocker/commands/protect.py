"""`udocker protect`."""

from __future__ import annotations

import click

from udocker.commands.stores import Stores
from udocker.settings import Settings


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="IMAGE|CONTAINER...")
@click.pass_obj
def command(settings: Settings, names: tuple[str, ...]) -> None:
    """Let nobody remove images or containers until they are unprotected."""
    stores = Stores(settings)
    for name in names:
        stores.protect(name, wanted=True)
