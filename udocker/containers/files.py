"""The files of a container seen from outside: what it wrote over what its image has.

Paths are bytes relative to the container's root, `b""` the root itself. They are entered from
descriptors and links are read as the container would, so that nothing in it leads to the host.
Source: Linux, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import chain

from udocker.containers.layer import Layer, attribute, open_layer, user_attributes
from udocker.containers.remembered import remember
from udocker.images import override
from udocker.images.tree import join, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.container import Container

OPAQUE, WHITEOUT = "user.overlay.opaque", "user.overlay.whiteout"
"""Attributes by which an overlay hides all of a directory below, or one name."""
_MAX_LINKS = 40


class Found:
    """A file of a container. Plain slots: a tree has ten thousands of them."""

    __slots__ = ("layers", "mode", "path", "status")

    def __init__(self, path: bytes, status: os.stat_result, layers: tuple[Layer, ...]) -> None:
        self.path = path
        self.status = status
        self.layers = layers
        """Those that have it, topmost first; of anything but a directory the first one counts."""
        self.mode = layers[0].mode_of(status)

    @property
    def layer(self) -> Layer:
        """The layer that says what it is."""
        return self.layers[0]

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    def target(self) -> bytes:
        """Return where a symbolic link points."""
        directory, name = split(self.path)
        return os.readlink(name, dir_fd=self.layer.descriptor(directory))

    def attributes(self, descriptor: int | None = None) -> tuple[tuple[str, bytes], ...]:
        """Return its user attributes but those of the overlay itself.

        `descriptor` is that of the file, which is open already. What its image says of it is
        among them where the file system has none, too.
        """
        if descriptor is None:
            if not self.is_directory:
                return ()
            descriptor = self.layer.descriptor(self.path)
        attributes = user_attributes(descriptor)
        if self.layer.memory and override.value_in(attributes) is None:
            value = self.layer.memory.value(self.path, self.status, self.mode)
            attributes += ((override.ATTRIBUTE, value),) if value else ()
        return attributes


class Place:
    """Where a path leads: a directory that is there, a name in it, and what has that name."""

    __slots__ = ("directory", "found", "name")

    def __init__(self, directory: Found, name: bytes, found: Found | None) -> None:
        self.directory = directory
        self.name = name
        """Empty for the root."""
        self.found = found

    @property
    def path(self) -> bytes:
        """The path without links."""
        return join(self.directory.path, self.name)


class Files:
    """Layers seen as one tree, the topmost first."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *error: object) -> None:
        for layer in self.layers:
            layer.__exit__(*error)

    @property
    def top(self) -> Layer:
        """The layer that is written to."""
        return self.layers[0]

    def root(self) -> Found:
        """Return the root directory."""
        status = os.fstat(self.top.descriptor(b""))
        return Found(b"", status, self.layers)

    def child(self, directory: Found, name: bytes) -> Found | None:
        """Return what has that name in a directory; None: nothing."""
        path, found = join(directory.path, name), None
        marked = _marks_by_attribute(directory)
        for layer in directory.layers:
            status = layer.status(path)
            if status is None:
                continue
            if found is None:
                if layer is not directory.layers[-1] and is_whiteout(layer, path, status, marked):
                    return None
                found = Found(path, status, (layer,))
                if not found.is_directory or is_opaque(layer, path):
                    break
            elif stat.S_ISDIR(status.st_mode):
                found.layers += (layer,)
            else:
                break
        return found

    def children(self, directory: Found) -> list[Found]:
        """Return what is in a directory, in the order of the names' bytes."""
        found: dict[bytes, Found] = {}
        hidden: set[bytes] = set()
        marked = _marks_by_attribute(directory)
        for layer in directory.layers:
            lowest = layer is directory.layers[-1]
            for path, status in _listing(layer, directory.path):
                if path in hidden:
                    continue
                above = found.get(path)
                if above is None:
                    if not lowest and is_whiteout(layer, path, status, marked):
                        hidden.add(path)
                        continue
                    found[path] = Found(path, status, (layer,))
                    if not lowest and not (
                        stat.S_ISDIR(status.st_mode) and not is_opaque(layer, path)
                    ):
                        hidden.add(path)
                elif stat.S_ISDIR(status.st_mode):
                    above.layers += (layer,)
                else:
                    hidden.add(path)
        return [found[path] for path in sorted(found)]

    def walk(self, top: Found) -> Iterator[Found]:
        """Yield all that is below a directory: each directory before what is in it, sorted."""
        work = [iter(self.children(top))]
        while work:
            found = next(work[-1], None)
            if found is None:
                work.pop()
                continue
            yield found
            if found.is_directory:
                work.append(iter(self.children(found)))

    def reach(self, path: bytes, *, follow: bool) -> Place:
        """Return where `path` leads from the root, links on the way read as the container does.

        A link that `path` ends at is followed only with `follow`. Raises FileNotFoundError when a
        directory on the way is missing, NotADirectoryError when it is none.
        """
        chain = [self.root()]
        left, links = path.split(b"/")[::-1], 0
        while left:
            name = left.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                chain = chain[: max(1, len(chain) - 1)]
                continue
            if not chain[-1].is_directory:
                raise _not_a_directory(chain[-1].path)
            found = self.child(chain[-1], name)
            if found is None:
                if any(part not in (b"", b".") for part in left):
                    missing = join(chain[-1].path, name)
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), missing)
                return Place(chain[-1], name, None)
            if found.is_link and (left or follow):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = found.target()
                left += target.split(b"/")[::-1]
                chain = chain[:1] if target.startswith(b"/") else chain
                continue
            chain.append(found)
        if path.endswith(b"/") and not chain[-1].is_directory:
            raise _not_a_directory(chain[-1].path)
        above = chain[-2] if len(chain) > 1 else chain[0]
        return Place(above, split(chain[-1].path)[1], chain[-1])


def open_files(container: Container) -> Files:
    """Return the files of a container: its own copy, or its writable layer over the image's tree.

    Raises StoreError.
    """
    tree = container.tree
    if container.location:
        return Files(open_layer(container.rootfs))
    if os.path.isdir(container.rootfs):
        return Files(remember(open_layer(container.rootfs), tree, copy=True))
    image = open_image(tree)
    if os.path.isdir(container.upper):
        return Files(remember(open_layer(container.upper), tree), image)
    return Files(image)


def open_image(tree: str) -> Layer:
    """Return the tree of an image. Raises StoreError."""
    return remember(open_layer(tree, own=False), tree)


def remembered_in(files: Files) -> Iterator[tuple[bytes, bytes]]:
    """Yield paths and what `override` remembers of them. Raises OSError."""
    root = files.root()
    for found in chain((root,), files.walk(root)):
        if value := _remembered(found):
            yield found.path, value


def _remembered(found: Found) -> bytes | None:
    if found.layer.memory:
        return found.layer.memory.value(found.path, found.status, found.mode)
    if not found.is_file:
        return override.value_in(found.attributes())
    descriptor = found.layer.open_file(found.path)
    try:
        return override.value_in(found.attributes(descriptor))
    finally:
        os.close(descriptor)


def is_whiteout(layer: Layer, path: bytes, status: os.stat_result, marked: bool) -> bool:
    """Tell whether a file of an upper layer hides what the layers below have of that name.

    `marked` says that its directory has whiteouts that are files with an attribute.
    """
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    if not marked or not stat.S_ISREG(status.st_mode) or status.st_size:
        return False
    descriptor = layer.open_file(path)
    try:
        return attribute(descriptor, WHITEOUT) is not None
    finally:
        os.close(descriptor)


def is_opaque(layer: Layer, path: bytes) -> bool:
    """Tell whether a directory of an upper layer hides all that the layers below have in it."""
    return attribute(layer.descriptor(path), OPAQUE) == b"y"


def _marks_by_attribute(directory: Found) -> bool:
    if len(directory.layers) < 2:
        return False
    return attribute(directory.layer.descriptor(directory.path), OPAQUE) == b"x"


def _listing(layer: Layer, path: bytes) -> list[tuple[bytes, os.stat_result]]:
    listed = []
    with os.scandir(layer.descriptor(path)) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # a program of the container removed it just now
                continue
            listed.append((join(path, os.fsencode(entry.name)), status))
    return listed


def _not_a_directory(path: bytes) -> OSError:
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
