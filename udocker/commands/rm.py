"""`udocker rm`."""

from __future__ import annotations

import signal

import click

from udocker.commands.several import each
from udocker.commands.stores import Stores
from udocker.containers.ending import running
from udocker.errors import ContainerNotFound
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container

GRACE_S = 3
"""How long programs have to end when they are asked to."""


@click.command()
@click.option("-f", "--force", is_flag=True, help="End what runs; do not mind what is not there.")
@click.option("-v", "--volumes", is_flag=True, help="Accepted; volumes are the host's.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def command(settings: Settings, force: bool, volumes: bool, containers: tuple[str, ...]) -> int:
    """Remove containers with all that their programs wrote."""
    stores = Stores(settings)
    absent = {name for name in containers if force and stores.containers.find(name) is None}

    def act(name: str) -> None:
        try:
            remove(stores, stores.containers.get(name), force=force)
        except ContainerNotFound:  # one that is named twice, or ended as a run with --rm
            if not force:
                raise

    return each((name for name in containers if name not in absent), act)


def remove(stores: Stores, container: Container, *, force: bool = False) -> None:
    """Remove a container; with `force` what runs in it is ended first. Raises StoreError."""
    found = (
        running(stores.containers, container)
        if force and not stores.containers.is_protected(container)
        else None
    )
    if found:
        found.signal(signal.SIGTERM)
        if not found.has_ended(within_s=GRACE_S):
            found.end()
    stores.containers.remove(container)
    stores.release(container)
