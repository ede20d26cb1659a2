"""A container to an image: its changes as one more layer, its image's config with changes."""

from __future__ import annotations

import os
import time

from udocker import disk, fastjson, trees
from udocker.containers.archive import Archiver
from udocker.containers.changes import changes
from udocker.containers.copying import copy_files
from udocker.containers.files import Files, open_files, open_image, remembered_in
from udocker.containers.leftovers import leftovers
from udocker.errors import IntegrityError, InvalidDocument, UsageError
from udocker.images import instructions, layers, sidefile
from udocker.images.archives.tarwriter import TarWriter
from udocker.images.compression import decompress
from udocker.images.layerwriter import LayerWriter
from udocker.images.tree import WHITEOUT
from udocker.oci import (
    MAX_DOCUMENT_BYTES,
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    ImageConfig,
    Manifest,
    oci_layer_type,
)
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from udocker.containers.container import Container
    from udocker.images.store import Image, ImageStore
    from udocker.reference import Reference

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Wish:
    """What the user says of the new image."""

    message: str = ""
    author: str = ""
    changes: tuple[str, ...] = ()
    """Dockerfile instructions."""
    squash: bool = False
    """One layer with everything, in place of one more."""


@dataclass(frozen=True)
class Committed:
    """What came of it."""

    image: Image
    left_out: tuple[str, ...]
    """Files that a layer cannot hold, in words."""
    squashed: bool
    """The layers of the container's image are gone, so that the new image has one of its own."""


def commit(store: ImageStore, container: Container, reference: Reference, wish: Wish) -> Committed:
    """Make an image named `reference` of the container's files as they are now.

    Nobody else may change them meanwhile. Raises UsageError for instructions that make no
    sense, StoreError; until the image has its name nothing of it shows.
    """
    store.prepare()
    content = store.using()
    try:
        return _Commit(store, container, wish).run(reference)
    finally:
        content.release()


class _Commit:
    def __init__(self, store: ImageStore, container: Container, wish: Wish) -> None:
        self._store = store
        self._container = container
        self._wish = wish
        self._left_out: list[str] = []

    def run(self, reference: Reference) -> Committed:
        if self._container.location:
            raise UsageError(
                "the container was made of a directory, not of an image",
                hint=f"udocker export {self._container.id[:12]} | udocker import - NAME",
            )
        document = self._base_config()
        config: dict[str, Any] = document.get("config") or {}
        document["config"] = instructions.apply(config, self._wish.changes)
        base = None if self._wish.squash else self._base_layers()
        layer, diff_id = self._write_layer(whole=base is None)
        self._describe(document, diff_id, whole=base is None)
        image = self._add(reference, document, (*(base or ()), layer))
        squashed = base is None and not self._wish.squash
        return Committed(image, tuple(self._left_out), squashed)

    def _base_config(self) -> dict[str, Any]:
        config = self._store.blobs.read(self._container.config, MAX_DOCUMENT_BYTES)
        self._store.config(self._container.config)  # raises for one that is damaged
        document: dict[str, Any] = fastjson.loads(config)
        return document

    def _base_layers(self) -> tuple[Descriptor, ...] | None:
        """Return the layers of the container's image; None when they are not here any more.

        Those of a store of the site are copied: other tools look for them beside the new one.
        """
        blobs = self._store.blobs
        data = disk.read(blobs.find(self._container.manifest), MAX_DOCUMENT_BYTES)
        try:
            kind = fastjson.loads(data).get("mediaType", OCI_MANIFEST) if data else OCI_MANIFEST
            found = Manifest.from_bytes(data, kind).layers if data else ()
        except (ValueError, AttributeError, InvalidDocument):
            return None
        if data is None or not all(map(self._is_here, found)):
            return None
        return tuple(replace(layer, media_type=oci_layer_type(layer.media_type)) for layer in found)

    def _is_here(self, layer: Descriptor) -> bool:
        blobs = self._store.blobs
        if not blobs.has(layer) and blobs.can_read(layer):
            try:
                blobs.bring(layer)
            except IntegrityError:
                return False
        return blobs.has(layer)

    def _write_layer(self, *, whole: bool) -> tuple[Descriptor, Digest]:
        with LayerWriter(self._store.blobs) as layer:
            try:
                self._write_files(TarWriter(layer.write), whole=whole)
            except OSError as error:
                raise disk.store_error(error, self._container.directory) from error
            return layer.finish()

    def _write_files(self, writer: TarWriter, *, whole: bool) -> None:
        archiver = Archiver(writer, sparse=False)
        with open_files(self._container) as files:
            left = leftovers(self._container, files)
            if whole:
                root = files.root()
                archiver.add(root, b".")
                for found in files.walk(root):
                    if found.path not in left and not self._is_mark(found.path):
                        archiver.add(found)
            else:
                for change in changes(self._container, files, left):
                    if self._is_mark(change.path):
                        continue
                    if change.found is None:
                        archiver.whiteout(change.path)
                    else:
                        archiver.add(change.found)
        writer.finish()
        self._left_out += archiver.left_out

    def _is_mark(self, path: bytes) -> bool:
        """Tell whether a file has a name that hides others in layers, and cannot be in one."""
        if not (path.startswith(WHITEOUT) or b"/" + WHITEOUT in path):
            return False
        self._left_out.append(f"/{os.fsdecode(path)} (the name of a whiteout)")
        return True

    def _describe(self, document: dict[str, Any], diff_id: Digest, *, whole: bool) -> None:
        """Put layer, time, author and history into the config."""
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        step = {"created": created, "created_by": "udocker commit"}
        if self._wish.author:
            document["author"] = step["author"] = self._wish.author
        if self._wish.message:
            step["comment"] = self._wish.message
        before = [] if whole else document["rootfs"]["diff_ids"]
        document["rootfs"] = {"type": "layers", "diff_ids": [*before, str(diff_id)]}
        document["history"] = [*_history(document, len(before)), step]
        document["created"] = created
        for of_docker in ("container", "container_config", "docker_version"):
            document.pop(of_docker, None)

    def _add(
        self, reference: Reference, document: dict[str, Any], wanted: tuple[Descriptor, ...]
    ) -> Image:
        data = fastjson.dumps(document).encode("utf-8", "surrogateescape")
        config = ImageConfig.from_bytes(data)
        if not self._store.has_tree(config.chain_id):
            self._make_tree(wanted, config)
        digest = self._store.blobs.put(data)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(OCI_CONFIG, digest, len(data)).to_json(),
            "layers": [layer.to_json() for layer in wanted],
        }
        data = fastjson.dumps(manifest).encode()
        named = self._store.blobs.put(data)
        descriptor = Descriptor(OCI_MANIFEST, named, len(data), platform=config.platform)
        return self._store.add(reference, descriptor, named, config.chain_id)

    def _make_tree(self, wanted: tuple[Descriptor, ...], config: ImageConfig) -> None:
        """Make the new image's tree: the old one's files by links, the new layer over them."""
        stage = self._store.new_stage()
        try:
            if len(wanted) > 1:
                _copy_tree(self._container.tree, f"{stage}/rootfs")
            os.mkdir(f"{stage}/layer", 0o755)
            found = layers.unpack(self._tar(wanted[-1]), f"{stage}/layer")
            layers.merge([(f"{stage}/layer", found)], f"{stage}/rootfs")
            self._store.publish_tree(f"{stage}/rootfs", config.chain_id)
        finally:
            trees.remove_tree(stage)

    def _tar(self, layer: Descriptor) -> Iterator[bytes]:
        with open(self._store.blobs.find(layer.digest), "rb", buffering=0) as file:
            pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
            yield from decompress.chunks(pieces, expansion=0)  # it was written here


def _copy_tree(tree: str, copy: str) -> None:
    """Make a copy of a tree, by links on one file system, and of what is noted beside it."""
    link = os.stat(tree).st_dev == os.stat(os.path.dirname(copy)).st_dev
    with Files(open_image(tree)) as files:
        copy_files(files, copy, link=link)
        if sidefile.lacks_attributes(copy):
            sidefile.save(sidefile.beside(copy), remembered_in(files))


def _history(document: dict[str, Any], count: int) -> list[Any]:
    """Return the history of `count` layers; readers want a step for each, or none at all."""
    steps = document.get("history") or []
    with_layer = [step for step in steps if not step.get("empty_layer")]
    if count and len(with_layer) == count:
        return list(steps)
    return [{"created_by": "unknown"} for _ in range(count)]
