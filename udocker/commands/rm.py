"""`udocker rm`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.errors import ContainerNotFound
from udocker.settings import Settings


@click.command()
@click.option("-f", "--force", is_flag=True, help="Do not mind containers that are not there.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def command(settings: Settings, force: bool, containers: tuple[str, ...]) -> None:
    """Remove containers with all that their programs wrote."""
    store = Stores(settings).containers
    for name in containers:
        try:
            store.remove(store.get(name))
        except ContainerNotFound:
            if not force:
                raise
        else:
            console.put(name)
