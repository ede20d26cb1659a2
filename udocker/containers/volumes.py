"""Named volumes: directories of the user's store that containers share and that outlive them."""

from __future__ import annotations

import os

from udocker import disk, trees
from udocker.containers.hostfiles import files_of
from udocker.containers.spec import Bind
from udocker.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.request import NamedVolume


def directory(container: Container) -> str:
    """Return the host path of the directory that holds the named volumes of the store."""
    return f"{os.path.dirname(os.path.dirname(container.directory))}/volumes"


def bind(container: Container, volume: NamedVolume) -> Bind:
    """Return the bind that shows the volume in the container."""
    source = f"{directory(container)}/{volume.name}"
    return Bind(source, volume.destination, readonly=volume.readonly)


def make_volumes(container: Container, volumes: tuple[NamedVolume, ...]) -> None:
    """All of `volumes` are there; a new one has what the container has at its path.

    Of two that are made at once under one name the first one stays. Raises StoreError.
    """
    for volume in volumes:
        path = f"{directory(container)}/{volume.name}"
        if not os.path.isdir(path):
            _make(container, volume, path)


def _make(container: Container, volume: NamedVolume, path: str) -> None:
    disk.make_directory(directory(container))
    draft = f"{directory(container)}/.{volume.name}.{os.urandom(4).hex()}"
    try:
        source = files_of(container).resolve(volume.destination) if volume.copy else None
        if source and os.path.isdir(source):
            trees.copy_tree(source, draft)
        else:
            os.mkdir(draft, 0o755)
        os.rename(draft, path)
    except (OSError, StoreError) as error:
        trees.remove_tree(draft)
        if isinstance(error, StoreError):
            raise
        if not os.path.isdir(path):
            raise disk.store_error(error, path) from error
