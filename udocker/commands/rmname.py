"""`udocker rmname`."""

from __future__ import annotations

import click

from udocker.commands.stores import Stores
from udocker.settings import Settings


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.pass_obj
def command(settings: Settings, names: tuple[str, ...]) -> None:
    """Take names away from their containers, which stay."""
    store = Stores(settings).containers
    for name in names:
        store.remove_name(name)
