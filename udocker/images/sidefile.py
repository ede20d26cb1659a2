"""What `override` remembers of a tree's files, beside it: for file systems without user attributes.

NFS before version 4.2, Lustre without `user_xattr`, ramfs and tmpfs of older kernels have none.
What a layer says of its files is noted by their inodes, which stay as they are when layers are
merged by renaming; the file of the finished tree has it by paths. It holds a JSON object: values,
as in the attribute, with the paths that have them. Where attributes are there is no such file.
"""

from __future__ import annotations

import errno
import os
import stat

from udocker import disk, fastjson
from udocker.errors import StoreError
from udocker.images import override
from udocker.images.tree import join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Inodes = tuple[tuple[bytes, tuple[int, ...]], ...]

_MAX_BYTES = 64 << 20
MOST = 500_000
"""Files of a layer that are noted: each takes 100 bytes of memory until the layers are merged."""


def lacks_attributes(place: int | str) -> bool:
    """Tell whether the file system of an open file, or of a path, has no user attributes."""
    try:
        os.getxattr(place, override.ATTRIBUTE)
    except OSError as error:
        return error.errno == errno.ENOTSUP
    return False


class Noted:
    """Values by the inodes of files that lie on one file system."""

    def __init__(self) -> None:
        self.values: dict[int, bytes] = {}
        self._known: dict[bytes, bytes] = {}

    def note(self, inode: int, value: bytes) -> bool:
        """Note the value of a file; tell whether there was room for it."""
        if len(self.values) >= MOST:
            return False
        self.values[inode] = self._known.setdefault(value, value)
        return True

    def forget(self, name: bytes, directory: int) -> None:
        """Forget what is about to be removed: another file may get its inode."""
        if not self.values:
            return
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            for _, _, names, descriptor in os.fwalk(name, dir_fd=directory):
                self.values.pop(os.fstat(descriptor).st_ino, None)
                for below in names:
                    self.forget(os.fsencode(below), descriptor)
        elif status.st_nlink < 2:
            self.values.pop(status.st_ino, None)

    def by_value(self) -> Inodes:
        """Return the values, each with its inodes."""
        found: dict[bytes, list[int]] = {}
        for inode, value in self.values.items():
            found.setdefault(value, []).append(inode)
        return tuple((value, tuple(inodes)) for value, inodes in found.items())


def beside(prepared: str) -> str:
    """Return where the file of a tree is that is still being made."""
    return f"{prepared}.owners"


def of_tree(tree: str) -> str:
    """Return where the file of a tree in a store is, if there is one."""
    directory, _, name = tree.rpartition("/")
    return f"{os.path.dirname(directory)}/owners/{name}"


def inodes_in(tree: str) -> dict[int, bytes]:
    """Return the values of a tree that is being made by inodes. Raises StoreError."""
    found = {}
    for path, value in load(beside(tree)).items():
        try:
            status = os.lstat(os.path.join(os.fsencode(tree), path))
        except OSError:
            continue
        found[status.st_ino] = value
    return found


def save_inodes(tree: str, values: Mapping[int, bytes]) -> None:
    """Write the file of a tree that is being made; no inode is that of another file now.

    Raises OSError, StoreError.
    """
    named = ((path, values[inode]) for path, inode in _inodes(tree) if inode in values)
    save(beside(tree), named)


def _inodes(tree: str) -> Iterator[tuple[bytes, int]]:
    yield b"", os.stat(tree).st_ino
    directories, top = [b""], os.fsencode(tree)
    while directories:
        directory = directories.pop()
        with os.scandir(os.path.join(top, directory)) as entries:
            for entry in entries:
                path = join(directory, entry.name)
                yield path, entry.stat(follow_symlinks=False).st_ino
                if entry.is_dir(follow_symlinks=False):
                    directories.append(path)


def add(tree: str, values: Mapping[bytes, bytes]) -> None:
    """Add values of paths that have none yet to the file of a tree that is being made."""
    save(beside(tree), {**values, **load(beside(tree))}.items())


def save(path: str, values: Iterable[tuple[bytes, bytes]]) -> None:
    """Write a file of values of paths. What would be too much to be read again is left out.

    Raises StoreError.
    """
    found: dict[str, list[str]] = {}
    room = _MAX_BYTES
    for name, value in values:
        text = name.decode("utf-8", "surrogateescape")
        # as JSON has them at worst
        room -= 4 + len(text) * (2 if text.isascii() and text.isprintable() else 12)
        room -= 0 if (said := value.decode()) in found else 70
        if room < 0:
            break
        found.setdefault(said, []).append(text)
    disk.write_whole(path, fastjson.dumps(found).encode())


def load(path: str) -> dict[bytes, bytes]:
    """Return the values of paths in such a file; none where there is no file.

    Raises StoreError for one that is damaged.
    """
    data = disk.read(path, _MAX_BYTES)
    return parse(data, path) if data is not None else {}


def parse(data: bytes, path: str) -> dict[bytes, bytes]:
    """Return the values of paths that the content of a file says. Raises StoreError."""
    try:
        return dict(_pairs(fastjson.loads(data)))
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} is damaged: {error}", hint="udocker verify --repair makes its tree anew"
        ) from error


def _pairs(members: dict[str, list[str]]) -> Iterator[tuple[bytes, bytes]]:
    for text, names in members.items():
        value = text.encode()
        if override.decode(value) is None:
            raise ValueError(f"{text[:100]!r} is no owner and mode")
        if not isinstance(names, list):
            raise ValueError(f"{text} has no list of paths")
        for name in names:
            if "\0" in name or (".." in name and ".." in name.split("/")) or name[:1] == "/":
                raise ValueError(f"{name[:100]!r} is no path in a tree")
            yield name.encode("utf-8", "surrogateescape"), value
