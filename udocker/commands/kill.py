"""`udocker kill`."""

from __future__ import annotations

import signal

import click

from udocker.commands.several import each
from udocker.commands.stores import Stores
from udocker.containers.ending import running, signal_number
from udocker.errors import StoreError
from udocker.settings import Settings


@click.command()
@click.option("-s", "--signal", "name", default="KILL", metavar="SIGNAL", help="KILL by default.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def command(settings: Settings, name: str, containers: tuple[str, ...]) -> int:
    """Send a signal to the programs of running containers."""
    number = signal_number(name)
    stores = Stores(settings)

    def send(container: str) -> None:
        found = running(stores.containers, stores.containers.get(container))
        if found is None:
            raise StoreError(f"container {container} is not running")
        if number == signal.SIGKILL:
            found.kill()
        else:
            found.signal(number)

    return each(containers, send)
