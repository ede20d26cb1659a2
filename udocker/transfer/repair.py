"""Mending what `verify` finds: blobs come again from the registry, trees from the blobs.

Whatever is brought is verified as at a pull and appears whole. A process that is killed on the way
leaves the faults that it did not get to, and none besides: at worst a tree is missing whose blobs
are good, which the next pull or repair makes.
"""

from __future__ import annotations

from udocker.errors import IntegrityError, InvalidReference, StoreError, UdockerError
from udocker.oci import MAX_DOCUMENT_BYTES, Digest
from udocker.reference import Reference
from udocker.registry.client import Client
from udocker.transfer.build import TreeBuilder, side_by_side
from udocker.transfer.fetch import LayerFetcher
from udocker.transfer.parallel import workers
from udocker.transfer.source import PerProcess, RegistrySource, content
from udocker.transfer.verify import DOCUMENT, IMAGE, LAYER, TREE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor
    from udocker.settings import Settings
    from udocker.transfer.source import Source
    from udocker.transfer.verify import Fault, Verifier


class Repairer:
    """Mends images, with a registry only where blobs are missing or damaged."""

    def __init__(self, settings: Settings, store: ImageStore, verifier: Verifier) -> None:
        self._settings = settings
        self._store = store
        self._verifier = verifier

    def repair(self, image: Image, faults: Sequence[Fault]) -> tuple[Fault, ...]:
        """Mend an image that has these faults; return what is left, which cannot be mended.

        Raises RegistryError, ImageNotFound, IntegrityError and others where the content cannot be
        brought again.
        """
        if image.site:
            hint = "who looks after that store can repair it; udocker pull brings you your own"
            raise StoreError(f"{image.name} is in the store {image.site}, not yours", hint=hint)
        left = tuple(faults)
        while left and not any(fault.kind in (IMAGE, TREE) for fault in left):
            before = left
            self._bring(image, left)
            left = self._verifier.faults(image)  # the manifest is there now, and may name more
            if left == before:
                return left
        if left and all(fault.kind == TREE for fault in left):
            self._rebuild(image)
            return ()
        return left

    def _bring(self, image: Image, faults: Sequence[Fault]) -> None:
        source = self._source(image)
        for fault in faults:
            if fault.kind == DOCUMENT:
                self._bring_document(image, fault.digest, source)
        wanted = {fault.digest for fault in faults if fault.kind == LAYER}
        if wanted:
            layers = self._store.read_manifest(image).layers
            self._bring_layers([layer for layer in layers if layer.digest in wanted], source)

    def _source(self, image: Image) -> Source:
        """Return the registry, which is asked for digests and not for what the name means now."""
        try:
            name = Reference.parse(image.name)
        except InvalidReference as error:
            raise StoreError(f"{image.name} names no registry to bring it from") from error
        return RegistrySource(Client(name.registry, self._settings), name)

    def _bring_document(self, image: Image, wanted: Digest | None, source: Source) -> None:
        """Bring the manifest or, when that is good, the config."""
        blobs, digest = self._store.blobs, image.manifest.digest
        if wanted == digest:
            blobs.put(source.document(digest)[1], digest.algorithm)
            return
        config = self._store.read_manifest(image).config
        if config.size_bytes > MAX_DOCUMENT_BYTES:
            raise IntegrityError(f"{image.name}: a config of {config.size_bytes} bytes")
        data = b"".join(content(source, config))
        found = Digest.of(data, config.digest.algorithm)
        if found != config.digest:
            raise IntegrityError(f"{image.name}: config {config.digest} came as {found}")
        blobs.put(data, config.digest.algorithm)

    def _bring_layers(self, layers: Sequence[Descriptor], source: Source) -> None:
        in_workers = PerProcess(source)

        def download(layer: Descriptor, offset: int) -> Iterator[bytes]:
            return content(in_workers.own(), layer, offset)

        fetcher = LayerFetcher(self._store.blobs, download)

        def bring(number: int, report: workers.Report) -> None:
            fetcher.blob(layers[number], report)
            report.finish("brought again")

        side_by_side(self._settings, layers, bring)

    def _rebuild(self, image: Image) -> None:
        """Make the tree anew of blobs, which were just found good."""
        manifest = self._store.read_manifest(image)
        config = self._store.config(manifest.config.digest)
        fetcher = LayerFetcher(self._store.blobs, _nothing_to_bring)
        TreeBuilder(self._settings, self._store, fetcher).make(manifest.layers, config, anew=True)


def _nothing_to_bring(layer: Descriptor, _: int) -> Iterator[bytes]:
    raise UdockerError(f"layer {layer.digest} was damaged just now", hint="repair it once more")
