"""Plain layers compressed on their way out, and the manifest that names them then.

The config stays as it is, and with it the image's id and the diff_ids; what is compressed already
stays, too. OCI's words stay OCI's and docker's stay docker's, except that docker has no word for
zstd: then the manifest becomes an OCI one, as podman makes it.
"""

from __future__ import annotations

from udocker import fastjson
from udocker.errors import StoreError
from udocker.images.compressed import ZSTD, CompressedLayers
from udocker.images.compression import decompress
from udocker.oci import (
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    oci_layer_type,
)
from udocker.transfer.content import blob_chunks
from udocker.transfer.source import StoreSource, content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from udocker.images.compressed import Compression
    from udocker.images.store import Image, ImageStore
    from udocker.transfer.copying.copy import Documents
    from udocker.transfer.target import Target

_COMPRESSIBLE = (
    *(f"{OCI_LAYER}{ending}" for ending in ("", "+gzip", "+zstd")),
    *(f"{DOCKER_LAYER}{ending}" for ending in ("", ".gzip", ".zstd")),
)
"""Media types of what may be plain: labels lie. Others (encrypted ones, say) are left alone."""


def compressing(
    store: ImageStore, image: Image, target: Target, how: Compression
) -> Compressing | None:
    """Return how the image changes on its way; None: it has no plain layer."""
    plain = _plain_layers(store, image)
    if not plain:
        return None
    store.prepare()
    return Compressing(store, StoreSource(store, image), target, how, plain)


class Compressing:
    """A change of an image: its plain layers (digests with diff_ids) are compressed."""

    def __init__(
        self,
        store: ImageStore,
        source: StoreSource,
        target: Target,
        how: Compression,
        plain: Mapping[Digest, Digest],
    ) -> None:
        self.how = how
        self._blobs = store.blobs
        self._layers = CompressedLayers(store)
        self._source = source
        self._target = target
        self._plain = plain
        self._made: dict[Digest, Descriptor] = {}

    @property
    def count(self) -> int:
        """How many layers are compressed."""
        return len(self._made)

    def blob(self, blob: Descriptor, advance: Callable[[int], None]) -> Descriptor:
        """Return a plain layer's compressed blob, which the store has unless the target does.

        Raises IntegrityError if the layer is damaged, StoreError.
        """
        diff_id = self._plain.get(blob.digest)
        if diff_id is None:
            return blob
        made = self._layers.known(blob.digest, self.how)
        if made is None or not (self._blobs.has(made) or self._target.has(made)):
            chunks = _counted(content(self._source, blob), advance)
            made = self._layers.make(blob, diff_id, chunks, self.how)
        self._made[blob.digest] = made
        return made

    def documents(self, documents: Documents) -> Documents:
        """Return the image's manifest, naming what its layers have become."""
        return tuple(self._rewritten(*document) for document in documents)

    def forget_damaged(self) -> bool:
        """Remove what of it was compressed earlier and is damaged by now; tell if any was."""
        found = [plain for plain, made in self._made.items() if not self._is_intact(made)]
        for plain in found:
            self._layers.forget(plain, self.how)
        return bool(found)

    def _is_intact(self, made: Descriptor) -> bool:
        try:
            for _ in blob_chunks(self._blobs, made):
                pass
        except StoreError:
            return not self._blobs.has(made)
        return True

    def _rewritten(self, descriptor: Descriptor, data: bytes) -> tuple[Descriptor, bytes]:
        members: dict[str, Any] = fastjson.loads(data)
        kind = descriptor.media_type
        if kind == DOCKER_MANIFEST and self.how.kind == ZSTD:
            kind = members["mediaType"] = OCI_MANIFEST
            members["config"]["mediaType"] = OCI_CONFIG
        for layer in members["layers"]:
            made = self._made.get(Digest.parse(layer["digest"]))
            if made:
                layer["mediaType"] = _media_type(layer["mediaType"], self.how.kind)
                layer["digest"], layer["size"] = str(made.digest), made.size_bytes
                layer.pop("data", None)
            if kind == OCI_MANIFEST:
                layer["mediaType"] = oci_layer_type(layer["mediaType"])
        new = fastjson.dumps(members).encode("utf-8", "surrogateescape")
        digest = Digest.of(new, descriptor.digest.algorithm)
        return Descriptor(kind, digest, len(new)), new


def _plain_layers(store: ImageStore, image: Image) -> dict[Digest, Digest]:
    """Return the layers that are plain tar, with their diff_ids."""
    manifest = store.read_manifest(image)
    diff_ids = store.config(manifest.config.digest).diff_ids
    if len(diff_ids) != len(manifest.layers):
        return {}
    return {
        layer.digest: diff_id
        for layer, diff_id in zip(manifest.layers, diff_ids)
        if layer.media_type in _COMPRESSIBLE and _is_plain(store, layer, diff_id)
    }


def _is_plain(store: ImageStore, layer: Descriptor, diff_id: Digest) -> bool:
    if layer.digest.algorithm == diff_id.algorithm:
        return layer.digest == diff_id
    try:
        with open(store.blobs.find(layer.digest), "rb") as file:
            return not decompress.compression(file.read(decompress.HEAD_BYTES))
    except OSError:  # who reads it will say so
        return False


def _media_type(plain: str, kind: str) -> str:
    """Return the word for a layer of that compression, of the vocabulary of its label."""
    if plain.startswith(DOCKER_LAYER):
        return f"{DOCKER_LAYER}.{kind}"
    return f"{OCI_LAYER}+{kind}"


def _counted(chunks: Iterator[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        advance(len(chunk))
