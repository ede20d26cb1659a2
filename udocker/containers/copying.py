"""Copies of a container's files, made from descriptors: links in them lead nowhere."""

from __future__ import annotations

import os
import stat

from udocker import disk, trees
from udocker.containers.files import OPAQUE, WHITEOUT, Files
from udocker.containers.layer import attribute, open_layer
from udocker.containers.owners import Owners
from udocker.images import override, tree
from udocker.images.tree import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.files import Found
    from udocker.containers.layer import Layer

_MARKS = (OPAQUE, WHITEOUT)
_MASK = 0o7777


def copy_files(
    files: Files,
    destination: str,
    *,
    marks: bool = False,
    link: bool = False,
    writable: bool = False,
) -> None:
    """Make the directory `destination`, with all of `files` in it.

    Modes, times, links, holes and user attributes are kept, data is shared where the file
    system can. With `marks`, the whiteouts of a writable layer are copied as they are. With
    `link`, files are further names of the same ones, which nobody may change then. With
    `writable`, their owner may write to all files of the image, as root may; their own modes
    are remembered.
    Sockets are left out. Raises StoreError; what was copied until then stays.
    """
    try:
        os.mkdir(destination, 0o700)
        with open_layer(destination) as target:
            _Copy(files, target, marks=marks, link=link, writable=writable).run()
    except OSError as error:
        raise disk.store_error(error, destination) from error


class _Copy:
    def __init__(
        self, files: Files, target: Layer, *, marks: bool, link: bool, writable: bool
    ) -> None:
        self._files = files
        self._target = target
        self._marks = marks
        self._link = link
        self._writable = writable
        self._owners = Owners()
        self._first: dict[tuple[int, int], bytes] = {}
        self._directories: list[Found] = []

    def run(self) -> None:
        root = self._files.root()
        self._directories.append(root)
        for found in self._files.walk(root):
            self._copy(found)
        for found in reversed(self._directories):
            self._finish_directory(found)

    def _copy(self, found: Found) -> None:
        directory, name = split(found.path)
        above = self._target.descriptor(directory)
        if found.is_directory:
            os.mkdir(name, 0o700, dir_fd=above)
            self._directories.append(found)
        elif self._link:
            tree.link(name, found.layer.descriptor(directory), name, above)
        elif not self._linked(found, name, above):
            make_node(found, name, above, marks=self._marks)
            if self._writable and not found.layer.own and found.is_file:
                self._let_write(found, name, above)

    def _linked(self, found: Found, name: bytes, above: int) -> bool:
        """Make another name of a file that was copied before, if it was."""
        if found.status.st_nlink < 2:
            return False
        key = (found.status.st_dev, found.status.st_ino)
        first = self._first.setdefault(key, found.path)
        if first == found.path:
            return False
        directory, first_name = split(first)
        tree.link(first_name, self._target.descriptor(directory), name, above)
        return True

    def _let_write(self, found: Found, name: bytes, above: int) -> None:
        """Let the owner of a copy write to it; which mode and owner it has is remembered."""
        if found.mode & 0o200:
            return
        os.chmod(name, stat.S_IMODE(found.mode) | 0o600, dir_fd=above)
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            if attribute(descriptor, override.ATTRIBUTE) is None:
                value = override.encode(self._owners.of(found.status), stat.S_IMODE(found.mode))
                set_attributes(descriptor, ((override.ATTRIBUTE, value),))
        finally:
            os.close(descriptor)

    def _finish_directory(self, found: Found) -> None:
        descriptor = self._target.descriptor(found.path)
        attributes = found.attributes()
        if self._marks:
            own = found.layer.descriptor(found.path)
            attributes += tuple((m, v) for m in _MARKS if (v := attribute(own, m)) is not None)
        set_attributes(descriptor, attributes)
        # its descriptor, for a directory that is closed to its owner is not opened again
        set_facts(descriptor, found, found.mode)


def make_node(
    found: Found,
    name: bytes,
    above: int,
    *,
    marks: bool = False,
    mask: int = _MASK,
    owners: Owners | None = None,
) -> None:
    """Make a copy of a file that is no directory, with those bits of its mode that `mask` has.

    `owners` give it the mode that it has inside, and nothing is remembered any more. Raises
    OSError, also when `name` is there.
    """
    if found.is_file:
        _copy_file(found, name, above, marks=marks, mask=mask, owners=owners)
        return
    if found.is_link:
        os.symlink(found.target(), name, dir_fd=above)
    elif stat.S_ISFIFO(found.mode):
        os.mkfifo(name, 0o600, dir_fd=above)
        os.chmod(name, found.mode & mask, dir_fd=above)
    elif marks and stat.S_ISCHR(found.mode) and found.status.st_rdev == 0:
        os.mknod(name, stat.S_IFCHR | 0o600, 0, dir_fd=above)
    else:  # a socket, which is nothing without its program
        return
    times = (found.status.st_atime_ns, found.status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=above, follow_symlinks=False)


def _copy_file(
    found: Found, name: bytes, above: int, *, marks: bool, mask: int, owners: Owners | None
) -> None:
    reader = found.layer.open_file(found.path)
    try:
        writer = os.open(name, tree.OPEN_NEW, 0o600, dir_fd=above)
        try:
            trees.copy_content(reader, writer, os.fstat(reader).st_size)
            mode, attributes = found.mode, found.attributes(reader)
            if owners:
                facts = owners.facts(found, attributes)
                mode, attributes = facts.mode, facts.attributes
            if marks and attribute(reader, WHITEOUT) is not None:
                attributes += ((WHITEOUT, b"y"),)
            set_attributes(writer, attributes)
            set_facts(writer, found, mode & mask)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def set_facts(descriptor: int, found: Found, mode: int) -> None:
    """Give an open file a mode, and the times of another."""
    os.fchmod(descriptor, stat.S_IMODE(mode))
    os.utime(descriptor, ns=(found.status.st_atime_ns, found.status.st_mtime_ns))


def set_attributes(descriptor: int, attributes: tuple[tuple[str, bytes], ...]) -> None:
    """Give an open file user attributes, where the file system has any."""
    for name, value in attributes:
        try:
            os.setxattr(descriptor, name, value)
        except OSError:
            if name in _MARKS:  # without it, what was removed would be back
                raise
