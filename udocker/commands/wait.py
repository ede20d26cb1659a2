"""`udocker wait`."""

from __future__ import annotations

import time

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.containers import state
from udocker.containers.store import left_code
from udocker.errors import ContainerNotFound, StoreError, UdockerError
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.store import ContainerStore

_PAUSE_S = 0.1
"""How often one looks where a lock does not say when a container has ended."""


@click.command()
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def command(settings: Settings, containers: tuple[str, ...]) -> int:
    """Wait until containers have ended; print the exit code of each."""
    store = Stores(settings).containers
    code = 0
    for name in containers:
        try:
            console.put(str(_exit_code(store, store.get(name), name)))
        except UdockerError as error:
            console.say_error(error)
            code = 1
    return code


def _exit_code(store: ContainerStore, container: Container, name: str) -> int:
    """Return the program's exit code when it has ended. Raises StoreError if nobody knows it."""
    condition = state.condition_of(store, container)
    left = _wait(store, container) if condition.is_running else None
    now = state.load(container)
    if now is None and left is None and not condition.is_running:
        raise StoreError(f"container {name} has not been started", hint=f"udocker start {name}")
    code = left if now is None or now.exit_code is None else now.exit_code
    if code is None:
        raise StoreError(
            f"container {name} has ended, with an exit code that nobody saw",
            hint="its own shell has it; udocker run -d and udocker start keep it",
        )
    return code


def _wait(store: ContainerStore, container: Container) -> int | None:
    """Return when the container has ended, with the exit code that its lock was left with."""
    try:
        lock = store.lock(container, asks=True)
    except ContainerNotFound:
        return None
    try:
        lock.acquire()  # sleeps until its last process has gone
        lock.let_go()
        while state.condition_of(store, container).is_running:
            time.sleep(_PAUSE_S)  # a program that has closed its descriptor of the lock
        return left_code(lock)
    finally:
        lock.release()
