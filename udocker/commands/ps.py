"""`udocker ps`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.reference import Reference
from udocker.settings import Settings


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Print ids and nothing else.")
@click.option("-a", "--all", "everything", is_flag=True, help="Accepted; all are always listed.")
@click.option("-m", "modes", is_flag=True, help="Accepted.")
@click.option("-s", "sizes", is_flag=True, help="Accepted.")
@click.pass_obj
def command(settings: Settings, quiet: bool, everything: bool, modes: bool, sizes: bool) -> None:
    """List containers, oldest first."""
    store = Stores(settings).containers
    store.remove_leftovers()
    containers = store.containers()
    if quiet:
        for container in containers:
            console.put(container.id)
        return
    names = store.names()
    rows = [
        (
            container.id,
            "running" if store.is_running(container) else "stopped",
            str(list(names.get(container.id, ()))) if container.id in names else "",
            Reference.parse(container.image).familiar,
        )
        for container in containers
    ]
    console.table(("CONTAINER ID", "STATUS", "NAMES", "IMAGE"), rows)
