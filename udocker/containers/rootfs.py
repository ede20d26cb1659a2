"""A container's own copy of its files, for engines that have no overlay."""

from __future__ import annotations

import os

from udocker import disk, trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container


def own_copy(container: Container) -> None:
    """The container has a directory `rootfs` of its own with all its files.

    Of two copies made at once the first one stays.
    """
    if os.path.isdir(container.rootfs):
        return
    draft = f"{container.directory}/rootfs.{os.getpid()}"
    trees.copy_tree(container.tree, draft)
    try:
        os.rename(draft, container.rootfs)
    except OSError as error:
        if not os.path.isdir(container.rootfs):
            raise disk.store_error(error, container.rootfs) from error
        trees.remove_tree(draft)
