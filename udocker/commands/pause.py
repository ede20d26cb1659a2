"""`udocker pause`, and `unpause` with it."""

from __future__ import annotations

import click

from udocker.commands.several import each
from udocker.commands.stores import Stores
from udocker.containers import state
from udocker.containers.ending import Running, running
from udocker.errors import StoreError
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


@click.command()
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def command(settings: Settings, containers: tuple[str, ...]) -> int:
    """Let all processes of running containers stand still."""
    return change(settings, containers, state.RUNNING, Running.stop_processes)


def change(
    settings: Settings,
    names: tuple[str, ...],
    wanted: str,
    action: Callable[[Running], None],
) -> int:
    """Do `action` with containers whose status is `wanted`; return 1 if one's is not."""
    store = Stores(settings).containers

    def act(name: str) -> None:
        container = store.get(name)
        found = running(store, container)
        status = state.condition_of(store, container).status
        if found is None or status != wanted:
            raise StoreError(f"container {name} is not {wanted}, but {status}")
        action(found)

    return each(names, act)
