"""What mounts have left in a container's files: empty files and directories, which are no data."""

from __future__ import annotations

import os

from udocker import disk
from udocker.containers.files import Files, open_files
from udocker.containers.layer import open_layer
from udocker.containers.mountpoints import LISTS, noted
from udocker.images.tree import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.files import Found


def leftovers(container: Container, files: Files) -> frozenset[bytes]:
    """Return the paths of what mounts have left in `files`, the container's: empty files and
    directories that its image does not have, injected links, and lists of ours. Below goes
    before above."""
    with Files(open_layer(container.tree, own=False)) as image:
        search = _Search(files, image)
        for text in noted(container):
            search.add(text)
        return frozenset(search.found)


def remove_leftovers(container: Container) -> tuple[str, ...]:
    """Remove what mounts have left in the container's files, which nothing uses meanwhile.

    Returns their paths in the container. Raises StoreError.
    """
    removed = []
    try:
        with open_files(container) as files:
            for path in sorted(leftovers(container, files), key=lambda path: -path.count(b"/")):
                directory, name = split(path)
                above = files.top.make_writable(directory)
                found = files.top.status(path)
                if found is None:
                    continue
                (os.rmdir if files.top.is_directory(path) else os.unlink)(name, dir_fd=above)
                removed.append(f"/{os.fsdecode(path)}")
    except OSError as error:
        raise disk.store_error(error, container.directory) from error
    return tuple(sorted(removed))


class _Search:
    """Looks for what was left, without touching anything."""

    def __init__(self, files: Files, image: Files) -> None:
        self.found: set[bytes] = set()
        self._files = files
        self._image = image

    def add(self, text: str) -> None:
        """Add the mount point `text`, `PATH` or `PATH -> TARGET`, and what was made above it."""
        path, arrow, target = text.partition(" -> ")
        try:
            place = self._files.reach(os.fsencode(path), follow=not arrow)
        except OSError:
            return
        found = place.found
        if found is None or not self._is_nothing(found, os.fsencode(target)):
            return
        self.found.add(found.path)
        above = split(found.path)[0]
        while above and self._is_hollow(above):
            self.found.add(above)
            above = split(above)[0]

    def _is_nothing(self, found: Found, target: bytes) -> bool:
        if not found.path or self._image.top.status(found.path) is not None:
            return False
        if found.is_link:
            return bool(target) and found.target() == target
        if found.is_directory:
            return not target and self._is_hollow(found.path)
        is_ours = f"/{os.fsdecode(found.path)}" in LISTS
        return not target and found.is_file and (is_ours or found.status.st_size == 0)

    def _is_hollow(self, path: bytes) -> bool:
        """Tell whether a directory that the image does not have holds only what was found."""
        if self._image.top.status(path) is not None:
            return False
        found = self._files.reach(path, follow=False).found
        if found is None or not found.is_directory:
            return False
        return all(child.path in self.found for child in self._files.children(found))
