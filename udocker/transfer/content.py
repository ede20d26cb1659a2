"""What the store has of an image, verified while it is read, for whoever hands it on."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager

from udocker import disk
from udocker.errors import StoreError, UnpackError
from udocker.images.blobs import CHUNK_BYTES
from udocker.images.compression import decompress, trailer
from udocker.oci import MAX_DOCUMENT_BYTES, Digest, ImageConfig, Manifest
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.images.blobs import BlobStore
    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor


@dataclass(frozen=True)
class Content:
    """An image of which everything is here."""

    image: Image
    manifest_bytes: bytes
    manifest: Manifest
    config_bytes: bytes
    config: ImageConfig

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers."""
        return (self.manifest.config, *self.manifest.layers)


@contextmanager
def reading(store: ImageStore) -> Iterator[None]:
    """No content is thrown away meanwhile, unless this user cannot write to the store."""
    try:
        content = store.using()
    except StoreError:
        yield
        return
    try:
        yield
    finally:
        content.release()


def content_of(store: ImageStore, image: Image) -> Content:
    """Return what is here of an image. Raises StoreError unless all of it is, documents intact.

    Of layers only the sizes are compared.
    """
    manifest = store.read_manifest(image)
    for layer in manifest.layers:
        if not store.blobs.can_read(layer):
            raise StoreError(
                f"{image.name}: the layer {layer.digest} is not here",
                hint=f"udocker pull {image.name} brings it, unless it is not to be distributed",
            )
    config = store.config(manifest.config.digest)
    if len(config.diff_ids) != len(manifest.layers):
        raise StoreError(f"{image.name}: config and manifest do not fit each other")
    return Content(
        image,
        _intact(store, image, image.manifest.digest),
        manifest,
        _intact(store, image, manifest.config.digest),
        config,
    )


def blob_chunks(blobs: BlobStore, blob: Descriptor) -> Iterator[bytes]:
    """Yield a blob's bytes. Raises StoreError, at the end, if they are not the blob's."""
    hasher, size_bytes = hashlib.new(blob.digest.algorithm), 0
    path = blobs.find(blob.digest)
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                hasher.update(chunk)
                size_bytes += len(chunk)
                yield chunk
    except OSError as error:
        raise disk.store_error(error, path) from error
    if hasher.hexdigest() != blob.digest.hex or size_bytes != blob.size_bytes:
        raise _damaged(f"blob {blob.digest}")


def tar_chunks(blobs: BlobStore, layer: Descriptor, diff_id: Digest) -> Iterator[bytes]:
    """Yield the tar stream of a layer. Raises StoreError, at the end, if it is another one."""
    hasher = hashlib.new(diff_id.algorithm)
    try:
        inflated = decompress.chunks(blob_chunks(blobs, layer), expansion=0)
        yield from trailer.completed(inflated, hasher, diff_id.hex)
    except UnpackError as error:
        raise _damaged(f"layer {layer.digest}") from error
    if hasher.hexdigest() != diff_id.hex:
        raise _damaged(f"layer {layer.digest}")


def tar_size(blobs: BlobStore, layer: Descriptor, diff_id: Digest) -> int:
    """Return the size of a layer's tar stream, which is read for it if it is compressed."""
    with open(blobs.find(layer.digest), "rb") as file:
        if not decompress.compression(file.read(decompress.HEAD_BYTES)):
            return layer.size_bytes
    return sum(map(len, tar_chunks(blobs, layer, diff_id)))


def _intact(store: ImageStore, image: Image, digest: Digest) -> bytes:
    data = store.blobs.read(digest, MAX_DOCUMENT_BYTES)
    if Digest.of(data, digest.algorithm) != digest:
        raise _damaged(f"{image.name}: {digest}")
    return data


def _damaged(what: str) -> StoreError:
    return StoreError(f"{what} is damaged here", hint="pull or load the image again")
