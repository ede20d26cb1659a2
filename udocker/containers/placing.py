"""Files put into a tree: a container's, stopped or joined from inside, or a directory of the host.

A file takes the place of another at once, by its name. In a container that has an overlay what
is above it is copied up, and whiteouts give way, as the kernel does it: overlayfs.rst,
"Directories" and "whiteouts and opaque directories".
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial

from udocker.containers.copying import make_node, set_attributes, set_facts
from udocker.containers.files import OPAQUE, Place
from udocker.containers.owners import Owners
from udocker.images import tree
from udocker.images.archives import tar
from udocker.images.tree import join, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from udocker.containers.files import Files, Found

_IMPLICIT_MODE = 0o755
_MASK = 0o1777
"""No set-id bits: they would let every user of this machine become this user."""
_LIMITS = tar.Limits()


class Placer:
    """Puts files into `files`; paths are taken as the container takes them.

    Every method raises OSError, with the path in the container as its `filename`.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._serial = 0
        self._directories: dict[bytes, Found] = {}
        """Directories by the paths that they were asked for by."""
        self._made: list[tuple[bytes, int, int]] = []
        self.left_out: list[str] = []
        """What could not be put there, in words."""

    def destination(self, path: bytes, name: bytes, *, is_directory: bool, contents: bool) -> bytes:
        """Return where docker puts something called `name` that is copied to `path`.

        With `contents` a directory gives what is in it. Source: docker-cp(1).
        """
        place = self._files.reach(path, follow=True)
        found = place.found
        if found is None:
            if path.endswith(b"/") and not is_directory:
                raise _error(errno.ENOTDIR, path)
            return place.path
        if found.is_directory:
            return found.path if contents else join(found.path, name)
        if is_directory:
            raise _error(errno.ENOTDIR, path)
        return place.path

    def is_directory(self, path: bytes) -> bool:
        """Tell whether a directory is there."""
        found = self._files.reach(path, follow=True).found
        return found is not None and found.is_directory

    def directory(self, path: bytes, mode: int, mtime_ns: int) -> None:
        """Make a directory; one that is there stays as it is."""
        place = self._place(path)
        if place.found is None:
            self._make_directory(place)
            self._made.append((place.path, mode, mtime_ns))
        elif not place.found.is_directory:
            raise _error(errno.ENOTDIR, path)

    def node(self, path: bytes, make: Callable[[bytes, int], object]) -> None:
        """Put what `make(name, directory)` makes there, in the place of any other file."""
        place = self._place(path)
        if place.found is not None and place.found.is_directory:
            raise _error(errno.EISDIR, path)
        above = self._writable(place.directory)
        self._serial += 1
        draft = b".udocker-%d-%d" % (os.getpid(), self._serial)
        try:
            make(draft, above)
            os.rename(draft, place.name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:
            try:
                os.unlink(draft, dir_fd=above)
            except FileNotFoundError:
                pass
            raise

    def file(self, path: bytes, mode: int, mtime_ns: int, fill: Callable[[int], object]) -> None:
        """Put a file there with what `fill(descriptor)` writes."""

        def make(name: bytes, above: int) -> None:
            descriptor = os.open(name, tree.OPEN_NEW, 0o600, dir_fd=above)
            try:
                fill(descriptor)
                os.fchmod(descriptor, mode)
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(descriptor)

        self.node(path, make)

    def link(self, path: bytes, target: bytes) -> None:
        """Make another name of the file `target`, or a copy where it cannot have two."""
        place = self._place(target)
        found = place.found
        if found is None or found.is_directory:
            raise _error(errno.ENOENT, target)

        def make(name: bytes, above: int) -> None:
            if found.layer is self._files.top:
                directory, old = split(found.path)
                tree.link(old, found.layer.descriptor(directory), name, above)
            else:
                make_node(found, name, above, mask=_MASK)

        if place.path != self._place(path).path:
            self.node(path, make)

    def finish(self) -> None:
        """Give new directories their modes and times, when nothing more is put into them."""
        for path, mode, mtime_ns in reversed(self._made):
            descriptor = self._files.top.descriptor(path)
            os.fchmod(descriptor, mode)
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        self._made.clear()

    def _place(self, path: bytes) -> Place:
        """Return the place of a path, its last name as it is; directories above are made."""
        directory, name = split(path)
        if not path:
            root = self._files.root()
            return Place(root, b"", root)
        above = self._directories.get(directory)
        if above is None:
            above = self._directories[directory] = self._directory(directory)
        return Place(above, name, self._files.child(above, name))

    def _directory(self, path: bytes) -> Found:
        try:
            place = self._files.reach(path, follow=True)
        except FileNotFoundError:
            above, name = split(path)
            parent = self._directory(above)
            place = Place(parent, name, self._files.child(parent, name))
        if place.found is None:
            return self._make_directory(place)
        if not place.found.is_directory:
            raise _error(errno.ENOTDIR, path)
        return place.found

    def _make_directory(self, place: Place) -> Found:
        above = self._writable(place.directory)
        hidden = self._files.top.status(place.path) is not None  # by a whiteout
        self._serial += 1
        draft = b".udocker-%d-%d" % (os.getpid(), self._serial)
        os.mkdir(draft, _IMPLICIT_MODE, dir_fd=above)
        try:
            if hidden:  # without the mark, what was removed below would be in it
                descriptor = os.open(draft, tree.OPEN_DIRECTORY, dir_fd=above)
                try:
                    os.setxattr(descriptor, OPAQUE, b"y")
                finally:
                    os.close(descriptor)
                os.unlink(place.name, dir_fd=above)
            os.rename(draft, place.name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:
            os.rmdir(draft, dir_fd=above)
            raise
        made = self._files.child(place.directory, place.name)
        if made is None:
            raise _error(errno.ENOENT, place.path)
        return made

    def _writable(self, directory: Found) -> int:
        """Return a descriptor of a directory in the layer that is written to."""
        top = self._files.top
        if directory.layer is not top:
            self._copy_up(directory)
        return top.make_writable(directory.path)

    def _copy_up(self, directory: Found) -> None:
        """Make a directory of the image in the layer that is written to, with those above it."""
        top = self._files.top
        if top.status(directory.path) is not None:
            return
        above_path, name = split(directory.path)
        parent = self._files.reach(above_path, follow=False).found
        assert parent is not None
        above = self._writable(parent)
        before = os.fstat(above)
        os.mkdir(name, 0o700, dir_fd=above)
        descriptor = top.descriptor(directory.path)
        set_attributes(descriptor, directory.attributes())
        set_facts(descriptor, directory, directory.mode)
        os.utime(above, ns=(before.st_atime_ns, before.st_mtime_ns))
        directory.layers = (top, *directory.layers)


def put_tree(placer: Placer, files: Files, found: Found, path: bytes) -> None:
    """Put `found` of `files`, with all that is below it, at `path`. Raises OSError."""
    put = _Put(placer)
    put.add(found, path)
    if found.is_directory:
        for below in files.walk(found):
            relative = below.path[len(found.path) :].lstrip(b"/")
            put.add(below, join(path, relative))
    placer.finish()


class _Put:
    """The copying of a tree to another one; its files have the modes that they have inside."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._owners = Owners()
        self._first: dict[tuple[int, int], bytes] = {}

    def add(self, found: Found, path: bytes) -> None:
        """Copy one file."""
        if found.is_directory:
            mode = self._owners.facts(found, found.attributes()).mode
            self._placer.directory(path, mode & _MASK, found.status.st_mtime_ns)
        elif not (found.is_file or found.is_link or stat.S_ISFIFO(found.mode)):
            self._placer.left_out.append(f"{os.fsdecode(path)} (a socket or a device node)")
        elif self._is_linked(found, path):
            self._placer.link(path, self._first[found.status.st_dev, found.status.st_ino])
        else:
            make = partial(make_node, found, mask=_MASK, owners=self._owners)
            self._placer.node(path, make)

    def _is_linked(self, found: Found, path: bytes) -> bool:
        key = (found.status.st_dev, found.status.st_ino)
        return found.status.st_nlink > 1 and self._first.setdefault(key, path) != path


def extract(placer: Placer, chunks: Iterable[bytes], place: Callable[[bytes], bytes]) -> None:
    """Put the members of a tar stream where `place` says; it is given paths without dots.

    Raises UnpackError for a broken stream, OSError.
    """
    reader = tar.Reader(chunks, _LIMITS)
    for member in reader:
        path, mode = place(_clean(member.path)), member.mode & _MASK
        if member.kind == tar.DIRECTORY:
            placer.directory(path, mode, member.mtime_ns)
        elif member.kind == tar.FILE:
            placer.file(path, mode, member.mtime_ns, _filling(reader, member))
        elif member.kind == tar.SYMLINK:
            placer.node(path, partial(_symlink, member.link))
        elif member.kind == tar.LINK:
            placer.link(path, place(_clean(member.link)))
        elif member.kind == tar.FIFO:
            placer.node(path, partial(_fifo, mode))
        else:
            placer.left_out.append(f"{os.fsdecode(path)} (a device node)")
    reader.drain()
    placer.finish()


def _symlink(target: bytes, name: bytes, above: int) -> None:
    os.symlink(target, name, dir_fd=above)


def _fifo(mode: int, name: bytes, above: int) -> None:
    os.mkfifo(name, mode, dir_fd=above)


def _filling(reader: tar.Reader, member: tar.Member) -> Callable[[int], object]:
    def fill(descriptor: int) -> None:
        if member.extents is None:
            reader.copy(descriptor, member.size)
            return
        for offset, length in member.extents:
            os.lseek(descriptor, offset, os.SEEK_SET)
            reader.copy(descriptor, length)
        os.ftruncate(descriptor, member.size)

    return fill


def _clean(path: bytes) -> bytes:
    """Return a path of an archive below the root, without dots."""
    return os.path.normpath(b"/" + path).lstrip(b"/")


def _error(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), path)
