"""`udocker rm`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.errors import ContainerNotFound
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.store import ContainerStore

GRACE_S = 3
"""How long programs have to end when they are asked to."""


@click.command()
@click.option("-f", "--force", is_flag=True, help="End what runs; do not mind what is not there.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def command(settings: Settings, force: bool, containers: tuple[str, ...]) -> None:
    """Remove containers with all that their programs wrote."""
    stores = Stores(settings)
    store = stores.containers
    for name in containers:
        try:
            container = store.get(name)
            if force:
                _end(store, container)
            store.remove(container)
            stores.release(container)
        except ContainerNotFound:
            if not force:
                raise
        else:
            console.put(name)


def _end(store: ContainerStore, container: Container) -> None:
    """End the programs that run in the container on this machine."""
    from udocker.containers.store import announced
    from udocker.host import processes

    lock = store.lock(container)
    try:
        if not lock.acquire(wait=False):
            namespace = announced(lock)[1]
            processes.end(processes.of_container(lock.path, namespace), GRACE_S)
    finally:
        lock.release()
