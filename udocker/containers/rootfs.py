"""A container's own copy of its files, for engines that have no overlay."""

from __future__ import annotations

import os

from udocker import disk, trees
from udocker.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container


def own_copy(container: Container) -> None:
    """The container has a directory `rootfs` of its own with all its files.

    What it wrote into a layer over its image is in it, and the layer is gone: nobody else may
    use the container meanwhile. Of two copies made at once the first one stays. Killed at any
    point, it leaves the layer or the copy, whole. Raises StoreError.
    """
    if not os.path.isdir(container.rootfs):
        if container.location:
            raise StoreError(f"the root file system {container.location} is not there any more")
        _remove_leftovers(container)
        _copy(container)
    for path in (container.upper, container.work):
        _remove(path)


def _copy(container: Container) -> None:
    from udocker.containers.copying import copy_files
    from udocker.containers.files import open_files

    draft = f"{container.rootfs}.{disk.owner()}"
    try:
        with open_files(container) as files:
            # programs of engines without an overlay have no rights but this user's
            copy_files(files, draft, writable=True)
        os.rename(draft, container.rootfs)
    except BaseException as error:
        trees.remove_tree(draft)
        if not isinstance(error, OSError):
            raise
        if not os.path.isdir(container.rootfs):
            raise disk.store_error(error, container.rootfs) from error


def _remove(path: str) -> None:
    """Remove a directory, under another name first: another process may be doing the same."""
    gone = f"{path}.{disk.owner()}"
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk.store_error(error, path) from error
    trees.remove_tree(gone)


def _remove_leftovers(container: Container) -> None:
    """Remove what processes that were killed have left of copies and layers."""
    from udocker.images.blobs import is_abandoned

    parts = [os.path.basename(p) for p in (container.rootfs, container.upper, container.work)]
    for name in disk.names_in(container.directory):
        part, _, owner = name.partition(".")
        path = f"{container.directory}/{name}"
        if part in parts and owner and is_abandoned(path, owner):
            trees.remove_tree(path)
