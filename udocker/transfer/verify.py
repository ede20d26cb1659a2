"""Whether the store holds what its names promise: documents, layers, and the trees made of them.

Every byte of every blob is read once: digest and size, and the digest of what it unpacks to. On
the way the layers are unpacked without the content of files, which is quick and takes no space,
and merged as at a pull: what the tree must look like, entry by entry.
"""

from __future__ import annotations

import hashlib
import os
from itertools import chain, islice

from udocker import disk, fastjson, trees
from udocker.errors import InvalidDocument, StoreError, UnpackError
from udocker.images import layers, sidefile
from udocker.images.blobs import CHUNK_BYTES
from udocker.images.compression import decompress, trailer
from udocker.images.layers import LayerTree
from udocker.images.layers.compare import differences
from udocker.images.treestore import open_to_readers
from udocker.oci import MAX_DOCUMENT_BYTES, Digest, ImageConfig, Manifest
from udocker.transfer.build import side_by_side
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor
    from udocker.settings import Settings
    from udocker.transfer.parallel.workers import Report

MOST_DIFFERENCES = 20
"""Entries of one tree that are named; the rest is counted."""
_RECORD_BYTES = 1 << 30

DOCUMENT, LAYER, TREE, IMAGE = "document", "layer", "tree", "image"
"""What can be at fault. IMAGE: the image itself, which no other copy of it would mend."""


@dataclass(frozen=True)
class Fault:
    """Something that is not as it has to be."""

    kind: str
    text: str
    digest: Digest | None = None
    """Of the blob that is missing or damaged."""


class Verifier:
    """Checks images; nothing of the store is changed. The caller holds `store.using()`."""

    def __init__(self, settings: Settings, store: ImageStore, *, deep: bool) -> None:
        """`deep` compares the content of the files in the trees, too."""
        self._settings = settings
        self._store = store
        self._deep = deep

    def faults(self, image: Image) -> tuple[Fault, ...]:
        """Return what is wrong with an image; nothing: all of it is as it was pulled.

        Raises StoreError when the check itself is not possible: a full disk, say.
        """
        sites = (site for site in self._store.sites if site.site == image.site)
        store = next(sites, self._store)
        try:
            manifest, config = _documents(store, image)
        except _Faulty as error:
            return (error.fault,)
        stage = self._store.new_stage()
        try:
            check = _Check(store, stage, manifest, config, deep=self._deep)
            side_by_side(self._settings, manifest.layers, check.layer)
            return check.layer_faults() or check.tree_faults(image)
        finally:
            trees.remove_tree(stage)


def _documents(store: ImageStore, image: Image) -> tuple[Manifest, ImageConfig]:
    data = _document(store, "manifest", image.manifest.digest)
    try:
        manifest = Manifest.from_bytes(data, image.manifest.media_type)
        config = ImageConfig.from_bytes(_document(store, "config", manifest.config.digest))
    except InvalidDocument as error:  # its bytes are those of the digest
        raise _Faulty(IMAGE, error.message) from error
    if len(config.diff_ids) != len(manifest.layers):
        count = len(manifest.layers)
        raise _Faulty(IMAGE, f"{count} layers, but the config names {len(config.diff_ids)}")
    if config.chain_id != image.chain_id:
        raise _Faulty(IMAGE, "its name stands for a tree of other layers")
    return manifest, config


def _document(store: ImageStore, what: str, digest: Digest) -> bytes:
    data = disk.read(store.blobs.find(digest), MAX_DOCUMENT_BYTES)
    if data is None:
        raise _Faulty(DOCUMENT, f"{what} {digest} is missing", digest)
    found = Digest.of(data, digest.algorithm)
    if found != digest:
        raise _Faulty(DOCUMENT, f"{what} {digest} is damaged: it is {found}", digest)
    return data


class _Faulty(Exception):
    """A document is at fault, so that the rest cannot be checked."""

    def __init__(self, kind: str, text: str, digest: Digest | None = None) -> None:
        super().__init__(text)
        self.fault = Fault(kind, text, digest)


class _Check:
    """The layers of one image, each read by some worker process, and the tree they make."""

    def __init__(
        self, store: ImageStore, stage: str, manifest: Manifest, config: ImageConfig, *, deep: bool
    ) -> None:
        self._store = store
        self._stage = stage
        self._layers = manifest.layers
        self._diff_ids = config.diff_ids
        self._deep = deep

    def layer(self, number: int, report: Report) -> None:
        """Read a layer and write down what is wrong with it, or what it holds."""
        layer, directory = self._layers[number], f"{self._stage}/{number}"
        report.start(layer.digest.hex[:12], layer.size_bytes)
        try:
            record = self._read(layer, self._diff_ids[number], directory, report).to_json()
            note = "checked"
        except _Faulty as error:
            record, note = fastjson.dumps([error.fault.kind, error.fault.text]), error.fault.text
            note = "at fault"
        disk.write_whole(f"{directory}.json", record.encode(), sync=False)
        report.finish(note)

    def _read(
        self, layer: Descriptor, diff_id: Digest, directory: str, report: Report
    ) -> LayerTree:
        path, what = self._store.blobs.find(layer.digest), f"layer {layer.digest}"
        try:
            size_bytes = os.stat(path).st_size
        except OSError as error:
            raise _Faulty(LAYER, f"{what} is missing") from error
        if size_bytes != layer.size_bytes:
            text = f"{what} is damaged: it has {size_bytes} bytes, not {layer.size_bytes}"
            raise _Faulty(LAYER, text)
        os.mkdir(directory, 0o755)
        outer, inner = hashlib.new(layer.digest.algorithm), hashlib.new(diff_id.algorithm)
        compressed = _hashed(_chunks(path, report), outer)
        tree = failure = None
        try:
            inflated = decompress.chunks(compressed, expansion=0)
            whole = trailer.completed(inflated, inner, diff_id.hex)
            tree = layers.unpack(whole, directory, hollow=not self._deep)
        except UnpackError as error:  # wrong bytes are the likelier reason
            failure = error
        for _ in compressed:
            pass
        if outer.hexdigest() != layer.digest.hex:
            found = f"{layer.digest.algorithm}:{outer.hexdigest()}"
            raise _Faulty(LAYER, f"{what} is damaged: it is {found}")
        if tree is None:
            raise _Faulty(IMAGE, f"{what} cannot be unpacked: {failure}")
        if inner.hexdigest() != diff_id.hex:
            found = f"{diff_id.algorithm}:{inner.hexdigest()}"
            raise _Faulty(IMAGE, f"{what} unpacks to {found}, not to {diff_id}")
        return tree

    def layer_faults(self) -> tuple[Fault, ...]:
        """Return what is wrong with layers."""
        found = []
        for number, layer in enumerate(self._layers):
            value = fastjson.loads(self._record(number))
            if isinstance(value, list):
                found.append(Fault(value[0], value[1], layer.digest))
        return tuple(found)

    def tree_faults(self, image: Image) -> tuple[Fault, ...]:
        """Return in what the tree differs from the one that the layers make."""
        if not os.path.isdir(image.tree):
            return (Fault(TREE, "its tree is missing"),)
        parts = [
            (f"{self._stage}/{number}", LayerTree.from_json(self._record(number).decode()))
            for number in range(len(self._layers))
        ]
        expected = f"{self._stage}/rootfs"
        try:
            layers.merge(parts, expected)
        except UnpackError as error:
            return (Fault(IMAGE, f"its layers cannot be merged: {error.message}"),)
        try:
            if self._store.is_public:
                open_to_readers(expected)
            told = chain(
                differences(expected, image.tree, content=self._deep),
                _owners(expected, image.tree),
            )
            found = [Fault(TREE, f"tree: {text}") for text in islice(told, MOST_DIFFERENCES)]
            more = sum(1 for _ in told)
        except OSError as error:
            return (Fault(TREE, f"tree: it cannot be read: {error.strerror}"),)
        if more:
            found.append(Fault(TREE, f"tree: {more} more differences"))
        if not found and not self._store.is_ready(image):
            found.append(Fault(TREE, "tree: the record of it is missing"))
        return tuple(found)

    def _record(self, number: int) -> bytes:
        data = disk.read(f"{self._stage}/{number}.json", _RECORD_BYTES)
        if data is None:
            raise StoreError(f"{self._stage}: the record of a layer is missing")
        return data


def _owners(expected: str, tree: str) -> Iterator[str]:
    """Yield what is wrong with what is kept of owners and modes beside a tree."""
    if not all(map(sidefile.lacks_attributes, (expected, tree))):
        return
    try:
        if sidefile.load(sidefile.of_tree(tree)) != sidefile.load(sidefile.beside(expected)):
            yield f"{sidefile.of_tree(tree)} says other owners and modes"
    except StoreError as error:
        yield error.message


def _chunks(path: str, report: Report) -> Iterator[bytes]:
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                report.advance(len(chunk))
                yield chunk
    except OSError as error:  # of a disk that is broken, mostly
        raise _Faulty(LAYER, f"{path} cannot be read: {error.strerror}") from error


def _hashed(chunks: Iterator[bytes], hasher: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
