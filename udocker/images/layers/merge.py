"""Unpacked layers to one root file system, by renaming: what is in nobody's way moves whole.

One layer of 6,800 files takes 0.5 ms, for only directories that several layers have are looked
into; eleven layers that overlap everywhere, with 14,000 files, take 0.2 s.
"""

from __future__ import annotations

import os
import stat

from udocker import trees
from udocker.errors import StoreError, UnpackError
from udocker.images import override, sidefile, tree
from udocker.images.archives.tar import Limits
from udocker.images.layers.layertree import ASIDE
from udocker.images.tree import Tree, join, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from udocker.images.layers.layertree import LayerTree, Stratum

    Attributes = tuple[tuple[str, bytes], ...]
    Times = tuple[int, int]

_IMPLICIT_MODE = 0o755
_MAX_DEPTH = 2 * Limits().depth
"""Deeper than in a layer, for links of the layers below may lead deeper."""
_GONE = (FileNotFoundError, NotADirectoryError)


def merge(layers: Sequence[tuple[str, LayerTree]], rootfs: str) -> None:
    """Make `rootfs` of unpacked `layers`, lowest first; their directories are gone afterwards.

    All must lie on one file system; `rootfs` is made, or is empty. Where one layer names one place
    by two paths (`lib/f` and `usr/lib/f`, the layers below having `lib -> usr/lib`) the order of
    the names decides, not that of the archive. What layers noted of files, and a `sidefile` of
    `rootfs`, become one beside it. Raises UnpackError when a hard link has no target or links go
    in circles, StoreError when the disk refuses.
    """
    noted: dict[int, bytes] = {}
    try:
        if not os.path.isdir(rootfs):
            os.mkdir(rootfs)
            os.chmod(rootfs, _IMPLICIT_MODE)
        else:
            noted.update(sidefile.inodes_in(rootfs))
        for _, layer in layers:
            noted.update((inode, value) for value, some in layer.noted for inode in some)
        entries = sum(layer.entries for _, layer in layers)
        with Tree(rootfs, max_depth=_MAX_DEPTH, entries=lambda: entries) as target:
            for directory, layer in layers:
                with Tree(directory, max_depth=_MAX_DEPTH, entries=lambda: entries) as source:
                    _Merge(source, target, layer, noted).run()
                trees.remove_tree(directory)
        if noted:
            sidefile.save_inodes(rootfs, noted)
    except OSError as error:
        raise StoreError(f"{rootfs}: cannot merge layers: {error}") from error


class _Merge:
    """The merging of one layer."""

    def __init__(
        self, source: Tree, target: Tree, layer: LayerTree, noted: dict[int, bytes]
    ) -> None:
        self._source = source
        self._target = target
        self._layer = layer
        self._noted = noted
        self._notes = bool(noted)
        # Of these there are as many as directories: a whole stat_result has 800 bytes.
        self._attributes: list[tuple[bytes, int, Times, Attributes]] = []
        self._times: dict[bytes, tuple[int, Times]] = {}
        """Times of the directories below that get or lose something and have no entry."""

    def run(self) -> None:
        """Make links to what is below, hide what is hidden, then move everything."""
        for stratum in self._layer.strata:
            self._make_links(stratum)
        self._hide()
        for stratum in self._layer.strata:
            self._move(stratum)
        for place, (inode, times) in self._times.items():
            self._set_times(place, inode, times)
        for place, mode, times, attributes in reversed(self._attributes):
            self._set_attributes(place, mode, times, attributes)

    def _make_links(self, stratum: Stratum) -> None:
        for path, link in stratum.links:
            target = self._target.resolve_parent(link)
            mode = self._target.mode(target)
            if mode is None or stat.S_ISDIR(mode):
                raise UnpackError(f"{path!r} is a hard link to {link!r}, which is no file")
            target_directory, target_name = split(target)
            directory, name = split(join(stratum.directory, path))
            descriptor = self._source.descriptor(directory)
            before = os.stat(descriptor)
            tree.link(target_name, self._target.descriptor(target_directory), name, descriptor)
            os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _hide(self) -> None:
        places = _Places(self._source, self._target, self._layer.strata[-1])
        # All places are found before the first is emptied: hiding a link must not change where
        # another whiteout leads.
        opaque = [places.find(path) for path in self._layer.opaque]
        hidden = []
        for path in self._layer.whiteouts:
            directory, name = split(path)
            hidden.append(join(places.find(directory), name))
        for path in opaque:
            if self._target.is_directory(path):
                self._keep_times(path)
                self._target.empty(path)
        for path in hidden:
            if self._target.mode(path) is not None:
                self._keep_times(split(path)[0])
                self._target.remove(path)

    def _move(self, stratum: Stratum) -> None:
        implicit, replacing = frozenset(stratum.implicit), frozenset(stratum.replacing)
        self._keep_times(b"")
        if b"" not in implicit:
            self._remember(stratum.directory, b"")
        work = [(b"", b"")]
        while work:
            path, place = work.pop()
            if not self._target.is_directory(place):
                # The same layer has put something else there, through another name.
                continue
            for name, is_directory in self._listing(join(stratum.directory, path)):
                below = join(path, name)
                moving, below_place = join(stratum.directory, below), join(place, name)
                if moving == ASIDE:
                    continue
                existing = None
                if is_directory and below not in replacing:
                    existing = self._existing(below_place, implicit=below in implicit)
                if existing is None:
                    self._replace(moving, below_place, is_directory=is_directory)
                    continue
                self._keep_times(existing)
                if below not in implicit:
                    self._remember(moving, existing)
                work.append((below, existing))

    def _listing(self, path: bytes) -> list[tuple[bytes, bool]]:
        """Return names in a directory, and whether each is one, in an order that is always so."""
        with os.scandir(self._source.descriptor(path)) as entries:
            return sorted(
                (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries
            )

    def _existing(self, place: bytes, *, implicit: bool) -> bytes | None:
        """Return the directory that one at `place` is merged with; None: it moves as a whole.

        One with an entry of its own takes the place of a link; one without follows it.
        """
        mode = self._target.mode(place)
        if mode is None:
            return None
        if stat.S_ISDIR(mode):
            return place
        if implicit and stat.S_ISLNK(mode):
            return self._target.resolve(place, make=self._make)
        return None

    def _make(self, path: bytes) -> None:
        """Make the directory that a link leads to, as if this layer had named it."""
        tree.refuse_marks(path)
        self._target.remove(path)
        self._target.make_directory(path, _IMPLICIT_MODE)
        if self._notes:  # it may have got the inode of what was removed before
            self._noted.pop(os.fstat(self._target.descriptor(path)).st_ino, None)

    def _replace(self, path: bytes, place: bytes, *, is_directory: bool) -> None:
        if is_directory and self._target.mode(place) is not None:
            self._target.remove(place)
        try:
            self._rename(path, place)
        except IsADirectoryError:
            self._target.remove(place)
            self._rename(path, place)

    def _rename(self, path: bytes, place: bytes) -> None:
        directory, name = split(path)
        new_directory, new_name = split(place)
        os.rename(
            name,
            new_name,
            src_dir_fd=self._source.descriptor(directory),
            dst_dir_fd=self._target.descriptor(new_directory),
        )

    def _keep_times(self, place: bytes) -> None:
        """Give the directory `place` its times again when everything has moved."""
        if place not in self._times:
            status = os.fstat(self._target.descriptor(place))
            self._times[place] = (status.st_ino, _times(status))

    def _set_times(self, place: bytes, inode: int, times: Times) -> None:
        try:
            descriptor = self._target.descriptor(place)
        except _GONE:
            return
        if os.fstat(descriptor).st_ino == inode:  # not another one in its place
            os.utime(descriptor, ns=times)

    def _remember(self, path: bytes, place: bytes) -> None:
        descriptor = self._source.descriptor(path)
        status, attributes = os.fstat(descriptor), tree.attributes(descriptor)
        if status.st_ino in self._noted:
            attributes = ((override.ATTRIBUTE, self._noted.pop(status.st_ino)),)
        self._attributes.append((place, stat.S_IMODE(status.st_mode), _times(status), attributes))

    def _set_attributes(
        self, place: bytes, mode: int, times: Times, attributes: Attributes
    ) -> None:
        try:
            descriptor = self._target.descriptor(place)
        except _GONE:
            return
        tree.remove_attributes(descriptor)
        tree.set_attributes(descriptor, attributes)
        if self._notes:
            self._note(os.fstat(descriptor).st_ino, override.value_in(attributes))
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=times)

    def _note(self, inode: int, value: bytes | None) -> None:
        if value is None:
            self._noted.pop(inode, None)
        else:
            self._noted[inode] = value


def _times(status: os.stat_result) -> Times:
    return status.st_atime_ns, status.st_mtime_ns


class _Places:
    """Where the directories of a layer lie in the tree of the layers below."""

    def __init__(self, source: Tree, target: Tree, stratum: Stratum) -> None:
        self._source = source
        self._target = target
        self._implicit = frozenset(stratum.implicit)
        self._found = {b"": b""}

    def find(self, path: bytes) -> bytes:
        """Return the canonical path of the directory `path`, whether it is there or not.

        A link on the way is followed, unless the layer puts a directory in the link's place.
        """
        found = self._found.get(path)
        if found is None:
            directory, name = split(path)
            found = join(self.find(directory), name)
            if path in self._implicit or not self._source.is_directory(path):
                found = self._target.resolve(name, start=self.find(directory))
            self._found[path] = found
        return found
