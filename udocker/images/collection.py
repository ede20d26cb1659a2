"""Throwing away what no image and no container needs, never what a pull is just using.

Content loses its name first. Then it is looked up again who needs what: what somebody has come to
need meanwhile gets its name back, the rest is removed.
"""

from __future__ import annotations

import os

from udocker import disk, fastjson, trees
from udocker.errors import DiskFull, InvalidDocument, StoreError
from udocker.images.compressed import CompressedLayers
from udocker.images.leases import discard
from udocker.oci import MAX_DOCUMENT_BYTES, Descriptor, Digest
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from udocker.images.store import Image, ImageStore

    Kept = Callable[[], frozenset[str]]
    """Returns the digests, as hex, of what containers need of images that may be gone."""

_MAX_DEPTH = 8


@dataclass(frozen=True)
class Freed:
    """What a collection removed, or would remove."""

    blobs: tuple[str, ...] = ()
    """Digests."""
    trees: tuple[str, ...] = ()
    """ChainIDs, as hex."""
    size_bytes: int = 0
    kept: str = ""
    """Why content was kept that no image names; empty: none was."""


def sizes(store: ImageStore, image: Image) -> dict[str, int]:
    """Return what an image is made of, blobs and its tree, and what each takes on the disk."""
    found = {f"tree {image.chain_id.hex}": 0}
    extent = store.tree_store.extent(image.chain_id.hex)
    if extent:
        found[f"tree {image.chain_id.hex}"] = extent.disk_bytes
    blobs = [image.manifest.digest]
    try:
        manifest = store.read_manifest(image)
        blobs += [blob.digest for blob in (manifest.config, *manifest.layers)]
    except StoreError:  # damaged
        pass
    found.update((str(blob), _size(store.blobs.path(blob))) for blob in blobs)
    return found


def unneeded(store: ImageStore, keep: Kept, without: Iterable[str] = ()) -> Freed:
    """Return what `collect` would remove if there were not the names `without`."""
    if not os.path.isdir(store.layout):
        return Freed()
    return _Unneeded(store, keep, frozenset(without)).freed()


def collect(store: ImageStore, keep: Kept = frozenset) -> Freed:
    """Remove content that neither images nor containers (`keep`) need; none during a pull."""
    if not os.path.isdir(store.layout):
        return Freed()
    lease, users = discard(store.locks)
    if lease is None:
        return Freed(kept=f"a pull is going on ({users})")
    with lease:
        found = _Unneeded(store, keep)
        if not found.blobs and not found.trees:
            return found.freed()
        stage = _stage(store, found)
        try:
            freed = _without_name(store, keep, found, stage)
        finally:
            trees.remove_tree(stage)
        CompressedLayers(store).forget_gone()
        return freed


def _stage(store: ImageStore, found: _Unneeded) -> str:
    """Make a directory to throw away; where the disk is full a blob gives way to it."""
    try:
        return store.new_stage()
    except DiskFull:
        for blob in found.blobs:
            disk.remove_file(store.blobs.path(blob))
        return store.new_stage()


def _without_name(store: ImageStore, keep: Kept, found: _Unneeded, stage: str) -> Freed:
    """Move what is not needed into `stage`; back what is needed after all."""
    freed = found.freed()
    moved = {
        f"{stage}/{name}": path
        for name, path in found.paths()
        if disk.rename(path, f"{stage}/{name}")  # or another process was quicker
    }
    again = _Needed(store, keep, frozenset())
    for gone, path in moved.items():
        if again.has(os.path.basename(path), is_blob=path.startswith(store.layout)):
            disk.rename(gone, path)
    return freed


class _Needed:
    """Digests, as hex, of what images and containers need."""

    def __init__(self, store: ImageStore, keep: Kept, without: frozenset[str]) -> None:
        self.why_all = ""
        """Why no blob is removed: one that cannot be read may need any of them."""
        kept = keep()
        images = [image for image in store.images() if image.name not in without]
        self._trees = kept | {image.chain_id.hex for image in images}
        self._blobs = set(kept)
        self._store = store
        for path in store.names.broken():
            self.why_all = f"{path} is broken"
        for image in images:
            self._follow(image.manifest, image.name)
            for key, value in image.manifest.annotations:
                if key.endswith(".digest"):
                    self._blobs.add(value.rpartition(":")[2])
        foreign, is_good = store.names.foreign()
        if not is_good:
            self.why_all = f"{store.names.index} is broken"
        for member in foreign:
            entry = Descriptor.from_json(member)
            self._follow(entry, f"{entry.digest} of another tool")

    def has(self, hex_digits: str, *, is_blob: bool) -> bool:
        """Tell whether the blob or tree is needed."""
        if is_blob:
            return bool(self.why_all) or hex_digits in self._blobs
        return hex_digits in self._trees

    def _follow(self, top: Descriptor, name: str) -> None:
        """All that a manifest or index names, directly or not, is needed."""
        self._blobs.add(top.digest.hex)
        documents = [(top.digest, 0)]
        while documents:
            digest, depth = documents.pop()
            try:
                members = fastjson.loads(self._store.blobs.read(digest, MAX_DOCUMENT_BYTES))
                named = list(_digests(members))
            except (StoreError, ValueError, InvalidDocument):
                if depth == 0:
                    self.why_all = f"image {name} is damaged"
                continue
            self._blobs.update(found.hex for found, _ in named)
            if depth < _MAX_DEPTH:
                documents += [(found, depth + 1) for found, is_document in named if is_document]


def _digests(members: Any) -> Iterator[tuple[Digest, bool]]:
    """Yield what a document names, and whether that is a manifest or an index."""
    if not isinstance(members, dict):
        raise ValueError("not an object")
    for key in ("config", "subject"):
        if isinstance(members.get(key), dict):
            yield Digest.parse(str(members[key].get("digest"))), False
    for key in ("layers", "blobs", "manifests"):
        for member in members.get(key) or ():
            yield Digest.parse(str(member.get("digest"))), key == "manifests"


class _Unneeded:
    """Blobs and trees that nobody needs."""

    def __init__(
        self, store: ImageStore, keep: Kept, without: frozenset[str] = frozenset()
    ) -> None:
        self._store = store
        # listed before it is asked who needs what: what a pull adds meanwhile is not in the list
        blobs, found = store.blobs.listed(), store.tree_store.names()
        self._needed = _Needed(store, keep, without)
        self.blobs = [one for one in blobs if not self._needed.has(one.hex, is_blob=True)]
        self.trees = [name for name in found if not self._needed.has(name, is_blob=False)]

    def paths(self) -> Iterator[tuple[str, str]]:
        """Yield (a name of its own, the path) of all there is to remove."""
        for blob in self.blobs:
            yield f"{blob.algorithm}-{blob.hex}", self._store.blobs.path(blob)
        for name in self.trees:  # without its record a tree is none
            yield f"record-{name}", f"{self._store.tree_store.records}/{name}"
            yield f"tree-{name}", f"{self._store.trees}/{name}"
            yield f"owners-{name}", f"{self._store.tree_store.owners}/{name}"

    def freed(self) -> Freed:
        """Return what would be freed."""
        size = sum(map(_size, map(self._store.blobs.path, self.blobs)))
        extents = map(self._store.tree_store.extent, self.trees)
        size += sum(extent.disk_bytes for extent in extents if extent)
        blobs = tuple(map(str, self.blobs))
        return Freed(blobs, tuple(self.trees), size, self._needed.why_all)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0
