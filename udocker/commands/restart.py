"""`udocker restart`."""

from __future__ import annotations

import click

from udocker.commands import start
from udocker.commands.stop import stop
from udocker.commands.stores import Stores
from udocker.settings import Settings


@click.command()
@click.option(
    "-t", "--time", "--timeout", "grace_s", type=int, metavar="S", help="Seconds before SIGKILL."
)
@click.option("-s", "--signal", "name", metavar="SIGNAL", help="Signal to ask with.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def command(
    settings: Settings, grace_s: int | None, name: str | None, containers: tuple[str, ...]
) -> int:
    """Stop containers that run, then start them in the background."""
    stores = Stores(settings)
    there = [container for container in containers if stores.containers.find(container)]
    failed = stop(stores, there, grace_s, name, told=False)
    return start.main([*containers], settings) or failed
