"""`udocker rename`."""

from __future__ import annotations

import click

from udocker.commands.stores import Stores
from udocker.settings import Settings


@click.command()
@click.argument("container", metavar="CONTAINER")
@click.argument("name", metavar="NAME")
@click.pass_obj
def command(settings: Settings, container: str, name: str) -> None:
    """Give a container another name in place of the one it has."""
    Stores(settings).containers.rename(container, name)
