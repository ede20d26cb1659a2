"""One layer's tar stream to a directory tree of its own.

Source: image-spec 1.1, layer.md; where it is silent, what containerd does (pkg/archive/tar.go).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from udocker import disk
from udocker.errors import StoreError, UdockerError, UnpackError
from udocker.images import override, tree
from udocker.images.archives import tar
from udocker.images.compression import bounds
from udocker.images.layers.layertree import ASIDE, LINK_OWNER, Growing, LayerTree
from udocker.images.layers.leftout import LeftOut
from udocker.images.tree import WHITEOUT, join, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_PLINK = b".wh..wh.plnk/"
"""Where aufs keeps files that have hard links. Source: moby, pkg/archive/diff.go."""
_IMPLICIT_MODE = 0o755
_MAX_STRATA = 64
_MAX_PLACES = 4096
_IMPOSSIBLE = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EFBIG)


def unpack(
    chunks: Iterable[bytes],
    directory: str,
    limits: tar.Limits | None = None,
    *,
    hollow: bool = False,
) -> LayerTree:
    """Unpack the uncompressed layer `chunks`, read to its end, into the empty `directory`.

    Everything belongs to this user, who can always read and remove it (files have 0400, directories
    0700 at least). Device nodes are left out, and nothing else is in their place; so are the set-id
    bits of files: they would let every user of this machine become this user. What differs from
    owner and mode in the layer is remembered, see `override`. Whiteouts, and hard links to layers
    below, come back for `merge`.
    `hollow`: files get their sizes and no content, to see what a tree should look like.

    The umask of the process is 0 meanwhile: let no other thread create files. Raises UnpackError
    for a layer that is broken, hostile or beyond `limits`; StoreError when the disk refuses or
    would be full.
    """
    limits = limits or tar.Limits()
    reader = tar.Reader(bounds.while_room(chunks, directory), limits)
    try:
        entries = lambda: reader.entries  # noqa: E731
        with _umask(0), tree.Tree(directory, max_depth=limits.depth, entries=entries) as root:
            unpacker = _Unpacker(reader, root, limits, hollow=hollow)
            for member in reader:
                unpacker.add(member)
            reader.drain()
            return unpacker.finish()
    except tar.SourceFailure as failure:
        raise failure.__cause__ or failure from None
    except OSError as error:
        raise _disk_failure(error, directory, b"") from error


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class _Unpacker:
    """Puts members into a tree one by one, as if each were the last."""

    def __init__(
        self, reader: tar.Reader, root: tree.Tree, limits: tar.Limits, *, hollow: bool
    ) -> None:
        self._reader = reader
        self._hollow = hollow
        self._tree = root
        self._limits = limits
        self._last = Growing(b"")
        self._aside: list[Growing] = []
        self._whiteouts: dict[bytes, None] = {}
        self._opaque: dict[bytes, None] = {}
        self._devices: dict[bytes, None] = {}
        self._plinks: dict[bytes, bytes] = {}
        self._skipped = LeftOut()
        self._entries = 0
        self._size_bytes = 0
        self._kept_bytes = 0
        # Where the directories of paths are, by their names in the archive: nine of ten members
        # stand in the same directory as one before them.
        self._places: dict[bytes, bytes] = {}
        self._makers = {
            tar.FILE: self._file,
            tar.LINK: self._hard_link,
            tar.SYMLINK: self._symlink,
            tar.DIRECTORY: self._directory,
            tar.FIFO: self._fifo,
            tar.CHARACTER: self._device,
            tar.BLOCK: self._device,
        }

    def add(self, member: tar.Member) -> None:
        """Make what `member` says in the place of what has its path now."""
        self._entries += 1
        try:
            path = _clean(member.path)
            if len(path) > self._limits.path_bytes:
                raise UnpackError(f"the path {path[:100]!r}... has {len(path)} bytes")
            if WHITEOUT in path and self._is_marker(path):
                if path.startswith(_PLINK) and member.kind == tar.FILE:
                    self._keep_for_links(member, path)
                return
            if member.kind not in self._makers:
                self._skipped.note("entry of unknown type")
            elif path:
                self._put(member, path)
            else:
                self._describe_root(member)
        except OSError as error:
            raise _disk_failure(error, self._tree.directory, member.path) from error

    def finish(self) -> LayerTree:
        """Set the times of all directories and return the account of everything."""
        strata = [*self._aside, self._last]
        for stratum in strata:
            self._set_directory_times(stratum)
        return LayerTree(
            strata=tuple(stratum.finished() for stratum in strata),
            whiteouts=tuple(self._whiteouts),
            opaque=tuple(self._opaque),
            skipped=tuple(self._skipped.counts.items()),
            entries=self._entries,
            size_bytes=self._size_bytes,
            noted=self._skipped.noted.by_value(),
        )

    def _put(self, member: tar.Member, path: bytes) -> None:
        parent, name = split(path)
        place = self._places.get(parent)
        if place is None:
            place = self._place(parent)
        path = join(place, name)
        if path in self._last.links:
            self._forget_link(path)
        make = self._makers[member.kind]
        try:
            make(member, self._tree.descriptor(place), name, path)
        except FileExistsError:
            self._clear(path)
            make(member, self._tree.descriptor(place), name, path)

    def _place(self, parent: bytes) -> bytes:
        """Return the canonical path of the directory `parent`, made where it is missing."""
        place = self._tree.resolve(parent, make=self._make_implicit)
        tree.refuse_marks(place)
        if len(self._places) >= _MAX_PLACES:
            self._places.clear()
        self._places[parent] = place
        return place

    def _make_implicit(self, path: bytes) -> None:
        tree.refuse_marks(path)
        if path in self._last.links:
            self._forget_link(path)
        try:
            self._tree.make_directory(path, _IMPLICIT_MODE)
        except FileExistsError:
            self._clear(path)
            self._tree.make_directory(path, _IMPLICIT_MODE)
        self._last.directories[path] = None
        self._check_kept(path)

    def _clear(self, path: bytes) -> None:
        """Take away what is at `path`."""
        self._places.clear()
        if path in self._last.directories:
            self._set_aside(path)
        else:
            self._remove(path)
            self._last.replaced[path] = None

    def _remove(self, path: bytes) -> None:
        directory, name = split(path)
        self._skipped.noted.forget(name, self._tree.descriptor(directory))
        self._tree.remove(path)

    def _forget_link(self, path: bytes) -> None:
        del self._last.links[path]
        self._last.replaced[path] = None

    def _keep_for_links(self, member: tar.Member, path: bytes) -> None:
        """Keep a file that is in the tree only by its hard links; it is gone after the merge."""
        self._make_room_aside()
        name = b"plink%d" % self._entries  # a path may come again
        kept = self._plinks[path] = join(ASIDE, name)
        self._file(member, self._tree.descriptor(ASIDE), name, kept)
        self._check_kept(path)

    def _make_room_aside(self) -> None:
        if not self._aside and not self._plinks:
            self._tree.make_directory(ASIDE, 0o700)

    def _set_aside(self, path: bytes) -> None:
        """Move the directory `path` to a stratum of its own, below the last one."""
        if len(self._aside) >= _MAX_STRATA:
            raise UnpackError(f"the layer replaces more than {_MAX_STRATA} of its own directories")
        self._make_room_aside()
        stratum = Growing(join(ASIDE, b"%d" % len(self._aside)))
        self._tree.make_directory(stratum.directory, 0o700)
        parents = path.split(b"/")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = b"/".join(parents[:depth])
            found = self._last.directories[parent]
            stratum.directories[parent] = found
            if parent in self._last.replaced:
                stratum.replaced[parent] = None
            mode = found[0] if found else _IMPLICIT_MODE
            self._tree.make_directory(join(stratum.directory, parent), mode)
        self._tree.rename(path, join(stratum.directory, path))
        stratum.take(path, self._last)
        self._aside.append(stratum)

    def _file(self, member: tar.Member, parent: int, name: bytes, path: bytes) -> None:
        mode = member.mode & 0o777 | 0o400
        attributes = member.xattrs or mode != member.mode or member.owner != tar.ROOT
        # Linux lets only those who may write to a file give it attributes, open or not.
        first = mode | 0o200 if attributes else mode
        descriptor = os.open(name, tree.OPEN_NEW, first, dir_fd=parent)
        try:
            if self._hollow:
                os.ftruncate(descriptor, member.size)
            elif member.extents is not None:
                self._write_extents(member, descriptor)
            elif member.size:
                self._reader.copy(descriptor, member.size)
            if attributes:
                self._skipped.set_attributes(member, descriptor, mode)
                if first != mode:
                    os.fchmod(descriptor, mode)
            os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(descriptor)
        self._size_bytes += member.size

    def _write_extents(self, member: tar.Member, descriptor: int) -> None:
        for offset, length in member.extents or ():
            os.lseek(descriptor, offset, os.SEEK_SET)
            self._reader.copy(descriptor, length)
        os.ftruncate(descriptor, member.size)

    def _directory(self, member: tar.Member, parent: int, name: bytes, path: bytes) -> None:
        mode = override.directory_mode(member.mode)
        new = path not in self._last.directories
        if new:
            self._check_kept(path)
            os.mkdir(name, mode, dir_fd=parent)
        if not new or mode & 0o2000:
            # mkdir(2) does not set the set-group-id bit.
            os.fchmod(self._tree.descriptor(path), mode)
        if not new:
            tree.remove_attributes(self._tree.descriptor(path))
            if self._skipped.noted.values:
                inode = os.fstat(self._tree.descriptor(path)).st_ino
                self._skipped.noted.values.pop(inode, None)
        if member.xattrs or mode != member.mode or member.owner != tar.ROOT:
            self._skipped.set_attributes(member, self._tree.descriptor(path), mode)
        self._last.directories[path] = (mode, member.mtime_ns)

    def _describe_root(self, member: tar.Member) -> None:
        if member.kind != tar.DIRECTORY:
            # containerd passes over it as well.
            self._skipped.note("entry in the place of the root")
            return
        self._directory(member, self._tree.descriptor(b""), b".", b"")

    def _symlink(self, member: tar.Member, parent: int, name: bytes, path: bytes) -> None:
        if not member.link:
            raise UnpackError(f"the symbolic link {member.path!r} has no target")
        os.symlink(member.link, name, dir_fd=parent)
        self._set_time(member, parent, name)
        self._skipped.attributes_of(member, LINK_OWNER)

    def _fifo(self, member: tar.Member, parent: int, name: bytes, path: bytes) -> None:
        os.mkfifo(name, member.mode & 0o777 | 0o600, dir_fd=parent)
        self._set_time(member, parent, name)
        self._skipped.attributes_of(member, "owner of a named pipe")

    def _device(self, member: tar.Member, parent: int, name: bytes, path: bytes) -> None:
        """Leave nothing in the place of what only root can make, not what was there before."""
        for stratum in (*self._aside, self._last):
            if path in stratum.directories:
                self._remove(join(stratum.directory, path))
                Growing(b"").take(path, stratum)
        self._remove(path)
        self._places.clear()
        self._devices[path] = self._whiteouts[path] = None
        self._check_kept(path)
        self._skipped.note("device node")

    def _hard_link(self, member: tar.Member, parent: int, name: bytes, path: bytes) -> None:
        target = self._link_target(_clean(member.link))
        mode = self._tree.mode(target)
        if mode is None and target in self._devices:
            self._device(member, parent, name, path)
        elif mode is None:
            if self._tree.mode(path) is not None:
                raise FileExistsError(path)
            self._last.links[path] = self._last.links.get(target, target)
            self._check_kept(path + target)
        elif stat.S_ISDIR(mode):
            raise UnpackError(f"{member.path!r} is a hard link to the directory {member.link!r}")
        elif path != target:
            directory, target_name = split(target)
            source = self._tree.descriptor(directory)
            tree.link(target_name, source, name, self._tree.descriptor(split(path)[0]))

    def _link_target(self, link: bytes) -> bytes:
        kept = self._plinks.get(link)
        if kept is None:
            kept = self._tree.resolve_parent(link)
            tree.refuse_marks(kept)
        return kept

    def _set_time(self, member: tar.Member, parent: int, name: bytes) -> None:
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _set_directory_times(self, stratum: Growing) -> None:
        for path, found in stratum.directories.items():
            if found:
                parent, name = split(join(stratum.directory, path))
                times = (found[1], found[1])
                descriptor = self._tree.descriptor(parent)
                os.utime(name or b".", ns=times, dir_fd=descriptor, follow_symlinks=False)

    def _check_kept(self, path: bytes) -> None:
        """One path more is kept in memory. Raises UnpackError when they are too many."""
        last, self._kept_bytes = self._last, self._kept_bytes + len(path)
        marks = len(self._whiteouts) + len(self._opaque) + len(self._plinks)
        kept = len(last.directories) + len(last.links) + marks
        if kept > self._limits.kept or self._kept_bytes > self._limits.kept_bytes:
            raise UnpackError(
                f"the layer has more than {self._limits.kept} directories, whiteouts and "
                f"hard links, or their paths more than {self._limits.kept_bytes >> 20} MiB"
            )

    def _is_marker(self, path: bytes) -> bool:
        """Take note of a whiteout; tell whether `path` is one, or another mark of aufs."""
        *parents, name = path.split(b"/")
        if any(parent.startswith(_META) for parent in parents):
            return True
        if any(parent.startswith(WHITEOUT) for parent in parents):
            raise UnpackError(f"{path!r} stands below the name of a whiteout")
        if not name.startswith(WHITEOUT):
            return False
        self._check_kept(path)
        if name == _OPAQUE:
            self._opaque[self._tree.resolve(b"/".join(parents))] = None
        elif not name.startswith(_META):
            hidden = name[len(WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise UnpackError(f"{path!r} is a whiteout of nothing")
            self._whiteouts[join(self._tree.resolve(b"/".join(parents)), hidden)] = None
        return True


def _clean(path: bytes) -> bytes:
    """Return `path` below the root, without `.`, `..` and empty names, as containerd reads it."""
    if path[:2] == b"./":
        path = path[2:]
    path = path.strip(b"/")
    if path[:1] == b"." or b"/." in path or b"//" in path:
        path = os.path.normpath(b"/" + path)[1:]
    return path


def _disk_failure(error: OSError, directory: str, path: bytes) -> UdockerError:
    what = f"cannot unpack {repr(path[:200]) if path else 'the layer'}: {error.strerror or error}"
    if error.errno in disk.FULL:
        return disk.store_error(error, directory)
    if error.errno in _IMPOSSIBLE and path:
        return UnpackError(what)
    return StoreError(f"{directory}: {what}")
