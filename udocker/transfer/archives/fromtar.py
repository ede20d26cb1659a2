"""An image of one layer from the files of a system in a tar stream: `udocker import`."""

from __future__ import annotations

import os
import time
from contextlib import closing

from udocker import console, fastjson, trees
from udocker.errors import InvalidDocument, UnpackError
from udocker.images import instructions, layers
from udocker.images.compression import decompress
from udocker.images.layerwriter import LayerWriter
from udocker.oci import OCI_CONFIG, OCI_MANIFEST, Descriptor, ImageConfig, Platform
from udocker.reference import Reference
from udocker.transfer.admission import Admission
from udocker.transfer.parallel.stages import ahead
from udocker.trust.place import TARBALL, Place
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from udocker.images.layers import LayerTree
    from udocker.images.store import Image, ImageStore
    from udocker.oci import Digest
    from udocker.settings import Settings


@dataclass(frozen=True)
class Wish:
    """What the user says of the new image."""

    reference: Reference | None
    """Its name; None: `localhost/` and the digits of its config's digest."""
    platform: Platform
    message: str = ""
    changes: tuple[str, ...] = ()
    """Dockerfile instructions."""
    process: Mapping[str, Any] | None = None
    """The member `config` of the config, before the instructions; None: empty."""


def import_tar(
    settings: Settings, store: ImageStore, source: str, chunks: Iterable[bytes], wish: Wish
) -> Image:
    """Make an image of the tar stream `chunks`, compressed in any way or not, read once.

    Nothing of it has a name before all of it was unpacked. The caller holds `store.using()`.
    Raises UsageError for instructions that make no sense, InvalidDocument for what is no tar or
    a hostile one, StoreError, TrustError.
    """
    Admission(settings, Place(TARBALL, ())).check(source, ())
    process = instructions.apply(dict(wish.process or {}), wish.changes)
    stage = store.new_stage()
    try:
        os.mkdir(f"{stage}/layer", 0o755)
        with LayerWriter(store.blobs) as writer:
            tree = _unpacked(settings, source, chunks, writer, f"{stage}/layer")
            layer, diff_id = writer.finish()
        config = _config(source, process, diff_id, wish)
        layers.merge([(f"{stage}/layer", tree)], f"{stage}/rootfs")
        _tell(settings, source, tree, f"{stage}/rootfs")
        chain_id = ImageConfig.from_bytes(config).chain_id
        store.publish_tree(f"{stage}/rootfs", chain_id)
    finally:
        trees.remove_tree(stage)
    return _add(store, wish, config, layer, chain_id)


def _unpacked(
    settings: Settings, source: str, chunks: Iterable[bytes], writer: LayerWriter, to: str
) -> LayerTree:
    """Unpack the stream; reading, compressing and writing go on side by side."""
    content = decompress.chunks(chunks, expansion=settings.max_expansion)
    try:
        with (
            closing(ahead(content)) as inflated,
            closing(ahead(_kept(source, inflated, writer))) as kept,
        ):
            return layers.unpack(kept, to)
    except UnpackError as error:
        message = error.message.replace("the layer", "it")
        raise InvalidDocument(f"{source}: {message}", hint=error.hint) from error


def _kept(source: str, chunks: Iterable[bytes], writer: LayerWriter) -> Iterator[bytes]:
    """Yield the chunks, which become the layer on their way."""
    is_empty = True
    for chunk in chunks:
        is_empty = False
        writer.write(chunk)
        yield chunk
    if is_empty:
        raise InvalidDocument(f"{source}: nothing was read, not even an empty tar archive")


def _config(source: str, process: instructions.Process, diff_id: Digest, wish: Wish) -> bytes:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    comment = wish.message or f"Imported from {source}"
    document = {
        "created": created,
        "architecture": wish.platform.architecture,
        "os": wish.platform.os,
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id)]},
        "history": [{"created": created, "created_by": "udocker import", "comment": comment}],
    }
    if wish.platform.variant:
        document["variant"] = wish.platform.variant
    return fastjson.dumps(document).encode("utf-8", "surrogateescape")


def _tell(settings: Settings, source: str, tree: LayerTree, rootfs: str) -> None:
    missed = layers.left_out(tree.skipped, debug=settings.debug)
    if missed and not settings.quiet:
        console.say(missed)
    of_images = ("manifest.json", "oci-layout", "repositories")
    if any(os.path.isfile(f"{rootfs}/{name}") for name in of_images):
        console.warn(f"{source} looks like an archive of images: udocker load reads those")


def _add(
    store: ImageStore, wish: Wish, config: bytes, layer: Descriptor, chain_id: Digest
) -> Image:
    digest = store.blobs.put(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(OCI_CONFIG, digest, len(config)).to_json(),
        "layers": [layer.to_json()],
    }
    data = fastjson.dumps(manifest).encode()
    named = store.blobs.put(data)
    descriptor = Descriptor(OCI_MANIFEST, named, len(data), platform=wish.platform)
    reference = wish.reference or Reference("localhost", digest.hex[:12], "latest", None)
    return store.add(reference, descriptor, named, chain_id)
