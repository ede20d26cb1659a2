"""`udocker clone`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.atrest import held
from udocker.commands.stores import Stores
from udocker.containers import cloning
from udocker.settings import Settings


@click.command()
@click.option("--name", metavar="NAME", help="Name the copy.")
@click.argument("container", metavar="CONTAINER")
@click.pass_obj
def command(settings: Settings, name: str | None, container: str) -> None:
    """Copy a container with all that its programs wrote; print the id of the copy."""
    stores = Stores(settings)
    found = stores.containers.get(container)
    with held(stores, found):
        made = cloning.clone(stores.containers, found, name)
    console.put(made.id)
