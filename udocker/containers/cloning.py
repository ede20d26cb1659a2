"""A copy of a container: its files, how it was made, what was set for it."""

from __future__ import annotations

import os
import time

from udocker import disk, trees
from udocker.containers import choices
from udocker.containers.copying import copy_files
from udocker.containers.files import Files
from udocker.containers.layer import open_layer
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.store import ContainerStore

_DRAFT = "draft."
_KEPT = ("mountpoints",)
_RECORD_BYTES = 16 << 20


def clone(store: ContainerStore, container: Container, name: str | None = None) -> Container:
    """Return a new container with all that `container` has but names, protection and past runs.

    Both share the image's tree; what is above it is copied, and shared where the file system
    can. Nobody may change the container meanwhile. Killed at any point, it leaves no part of a
    container. Raises UsageError when `name` is taken or no name, StoreError.
    """
    _remove_leftovers(store)
    identifier = os.urandom(16).hex()
    draft = f"{store.directory}/{_DRAFT}{disk.owner()}.{identifier}"
    made = replace(
        container,
        id=identifier,
        directory=f"{store.directory}/{identifier}",
        created=int(time.time()),
        ephemeral=False,
    )
    if name is not None:
        store.check_name(name)
    try:
        _fill(container, made, disk.make_directory(draft))
        os.rename(draft, made.directory)
    except BaseException as error:
        trees.remove_tree(draft)
        if isinstance(error, OSError):
            raise disk.store_error(error, made.directory) from error
        raise
    try:
        if name is not None:
            store.add_name(made, name)
    except BaseException:  # somebody else took it meanwhile, or the disk is full
        disk.rename(made.directory, draft)
        trees.remove_tree(draft)
        raise
    return made


def _fill(container: Container, made: Container, draft: str) -> None:
    for source in (container.upper, container.rootfs):
        if os.path.isdir(source) and source != container.location:
            with Files(open_layer(source)) as files:
                copy_files(files, f"{draft}/{os.path.basename(source)}", marks=True)
    for name in _KEPT:
        data = disk.read(f"{container.directory}/{name}", _RECORD_BYTES)
        if data is not None:
            disk.write_whole(f"{draft}/{name}", data)
    chosen = choices.load(container)
    if chosen != choices.Choices():
        choices.save(replace(made, directory=draft), chosen)
    record = made.to_json().encode()
    disk.write_whole(f"{draft}/container.json", record, mode=0o600)


def _remove_leftovers(store: ContainerStore) -> None:
    """Remove what clones that were killed have left."""
    from udocker.images.blobs import is_abandoned

    for name in disk.names_in(store.directory):
        path = f"{store.directory}/{name}"
        owner = name[len(_DRAFT) :].rpartition(".")[0]
        if name.startswith(_DRAFT) and is_abandoned(path, owner):
            trees.remove_tree(path)
