"""An image from any source into the store: its documents, its layers side by side, its name."""

from __future__ import annotations

from udocker import console, disk, filesystems
from udocker.errors import DiskFull, IntegrityError, InvalidDocument
from udocker.images import layers
from udocker.oci import MAX_DOCUMENT_BYTES, Digest, ImageConfig
from udocker.transfer.build import TreeBuilder, jobs
from udocker.transfer.fetch import LayerFetcher
from udocker.transfer.parallel.ranges import connections, download
from udocker.transfer.resolve import Resolved, resolve
from udocker.transfer.source import PerProcess, content, naming
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor, Platform
    from udocker.reference import Reference
    from udocker.settings import Settings
    from udocker.transfer.admission import Admission
    from udocker.transfer.source import Source


class Ingest:
    """Brings one image. `strict` refuses one that does not run on `platform`.

    The caller holds `store.using()`, so that nothing is thrown away meanwhile.
    """

    def __init__(
        self,
        settings: Settings,
        store: ImageStore,
        source: Source,
        platform: Platform,
        admission: Admission,
        *,
        strict: bool,
    ) -> None:
        self._settings = settings
        self._store = store
        self._source = source
        self._in_workers = PerProcess(source)
        self._platform = platform
        self._admission = admission
        self._strict = strict
        self._connections = 1
        """Over how many each layer may come."""

    def run(self, reference: Reference) -> Image:
        """Bring the image, verify it, make its tree and let `reference` name it.

        Raises TrustError for one that the policy does not let in.
        """
        resolved = resolve(self._source, self._platform, strict=self._strict)
        # before anything else of it is looked at, or brought
        self._admission.check(self._source.name, (resolved.source, resolved.descriptor.digest))
        with naming(self._source):
            config = self._bring_config(resolved)
        self._check_platform(config, resolved.descriptor.platform)
        self._bring_layers(resolved, config)
        return self._name(reference, resolved, config)

    def _bring_config(self, resolved: Resolved) -> ImageConfig:
        descriptor = resolved.manifest.config
        algorithm = descriptor.digest.algorithm
        data = disk.read(self._store.blobs.path(descriptor.digest), MAX_DOCUMENT_BYTES)
        if data is None or Digest.of(data, algorithm) != descriptor.digest:
            data = self._bring_document(descriptor)
        config = ImageConfig.from_bytes(data)
        if len(config.diff_ids) != len(resolved.manifest.layers):
            raise InvalidDocument(
                f"{self._source.name}: {len(resolved.manifest.layers)} layers, "
                f"but the config names {len(config.diff_ids)}"
            )
        self._store.blobs.put(data, algorithm)
        return config

    def _bring_document(self, descriptor: Descriptor) -> bytes:
        name = self._source.name
        if descriptor.size_bytes > MAX_DOCUMENT_BYTES:
            size = descriptor.size_bytes
            raise InvalidDocument(f"{name}: config of {size} bytes is too large")
        data = b"".join(content(self._source, descriptor))
        found = Digest.of(data, descriptor.digest.algorithm)
        if found != descriptor.digest:
            raise IntegrityError(f"{name}: config {descriptor.digest} came as {found}")
        return data

    def _download_in_worker(self, blob: Descriptor, offset: int) -> Iterator[bytes]:
        return download(self._in_workers.own(), blob, offset, self._connections)

    def _check_platform(self, config: ImageConfig, listed: Platform | None) -> None:
        """Say when a program cannot run here as it is; refuse when a platform was asked for.

        Of variants the index knows more: configs of images for arm/v6 often name none.
        """
        its = config.platform
        if listed and (listed.os, listed.architecture) == (its.os, its.architecture):
            its = listed
        if self._platform.runs(its, strict=self._strict):
            return
        message = f"{self._source.name} is an image for {its}, not for {self._platform}"
        if self._strict:
            raise InvalidDocument(message)
        console.warn(message)

    def _bring_layers(self, resolved: Resolved, config: ImageConfig) -> None:
        """Bring all layers and make the tree, unless another process is just doing the same."""
        lock = self._store.lock(f"tree-{config.chain_id.hex}")
        fetcher = LayerFetcher(
            self._store.blobs,
            self._download_in_worker,
            expansion=self._settings.max_expansion,
        )
        try:
            if not lock.acquire(wait=False):
                self._tell(f"waiting for another pull of {self._source.name}")
                lock.acquire()
            missing = [
                layer for layer in resolved.manifest.layers if not self._store.blobs.has(layer)
            ]
            sizes = [layer.size_bytes for layer in missing]
            self._connections = connections(sizes, jobs(self._settings))
            needed = self._store.blobs.lacking_bytes(missing)
            what = f"{self._source.name} has layers of {console.human_size(needed)}"
            filesystems.check_room(self._store.partial, needed, what)
            builder = TreeBuilder(self._settings, self._store, fetcher)
            skipped = builder.make(resolved.manifest.layers, config)
        except DiskFull as error:
            raise self._with_needs(error, resolved) from error
        finally:
            lock.discard()
        missed = layers.left_out(skipped, debug=self._settings.debug)
        if missed:
            self._tell(missed)

    def _with_needs(self, error: DiskFull, resolved: Resolved) -> DiskFull:
        size = sum(layer.size_bytes for layer in resolved.manifest.layers)
        sizes = f"{console.human_size(size)} as it comes, mostly 2 to 4 times as much unpacked"
        return DiskFull(f"{error.message}; all of the image: {sizes}", hint=error.hint)

    def _name(self, reference: Reference, resolved: Resolved, config: ImageConfig) -> Image:
        descriptor = resolved.descriptor
        self._store.blobs.put(resolved.data, descriptor.digest.algorithm)
        if descriptor.platform is None:
            descriptor = replace(descriptor, platform=config.platform)
        return self._store.add(reference, descriptor, resolved.source, config.chain_id)

    def _tell(self, text: str) -> None:
        if not self._settings.quiet:
            console.say(text)
