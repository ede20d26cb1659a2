"""Containers whose files a command reads or changes: held, so that no run begins meanwhile."""

from __future__ import annotations

from contextlib import contextmanager

from udocker.containers import choices
from udocker.containers.store import got
from udocker.engines import select
from udocker.errors import ContainerNotFound, StoreError
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.commands.stores import Stores
    from udocker.containers.container import Container


@contextmanager
def held(stores: Stores, container: Container) -> Iterator[None]:
    """No program runs in the container, and its files are as no engine has altered them.

    Raises StoreError while one does.
    """
    lock = stores.containers.lock(container)
    try:
        if not got(lock):
            raise _running(container)
        _check_there(stores, container)
        restore(stores, container)
        yield
    finally:
        lock.release()


@contextmanager
def readable(stores: Stores, container: Container) -> Iterator[None]:
    """The container's files can be read: programs may change them meanwhile, udocker does not.

    Raises StoreError while an engine runs it whose programs need other files than the image's.
    """
    lock = stores.containers.lock(container)
    try:
        alone = got(lock)
        _check_there(stores, container)
        if choices.load(container).prepared:
            if not alone:
                raise _running(container)
            restore(stores, container)
        lock.acquire(shared=True)
        yield
    finally:
        lock.release()


def restore(stores: Stores, container: Container) -> None:
    """Undo what an engine changed in the files for its programs; the lock is held."""
    chosen = choices.load(container)
    if chosen.prepared:
        way = select.ways(chosen.prepared)[0]
        select.make(way, stores.settings.directory).restore(container)
        choices.save(container, replace(chosen, prepared=""))


def _check_there(stores: Stores, container: Container) -> None:
    if not stores.containers.is_there(container):
        raise ContainerNotFound(f"container {container.id[:12]} has been removed")


def _running(container: Container) -> StoreError:
    short = container.id[:12]
    return StoreError(f"container {short} is running", hint=f"udocker stop {short}")
