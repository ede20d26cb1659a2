"""Pulling an image: resolve, bring and unpack its layers side by side, verify, name it."""

from __future__ import annotations

import os

from udocker import console, disk
from udocker.errors import IntegrityError, InvalidDocument
from udocker.oci import MAX_DOCUMENT_BYTES, Digest, ImageConfig, Platform
from udocker.registry.client import Client
from udocker.transfer.build import TreeBuilder
from udocker.transfer.fetch import LayerFetcher
from udocker.transfer.resolve import Resolved, resolve
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor
    from udocker.reference import Reference
    from udocker.settings import Settings


def pull(
    settings: Settings, store: ImageStore, reference: Reference, platform_text: str | None = None
) -> Image:
    """Return the image that `reference` names at its registry now, whole, in the store.

    Raises ImageNotFound, AccessDenied, RegistryError, InvalidDocument, IntegrityError,
    UnpackError, StoreError; what was brought by then is used by the next try.
    """
    store.prepare()
    content = store.using()
    try:
        return _Pull(settings, store, reference, platform_text).run()
    finally:
        content.release()


class _Pull:
    """One pull, with what all its steps need."""

    def __init__(
        self, settings: Settings, store: ImageStore, reference: Reference, asked: str | None
    ) -> None:
        self.settings = settings
        self.store = store
        self.reference = reference
        self.asked = asked
        machine = os.uname().machine
        self.platform = Platform.parse(asked) if asked else Platform.of_machine(machine)
        self.client = Client(reference.registry, settings)

    def run(self) -> Image:
        self._mend_index()
        current = self._current()
        if current:
            self._tell(f"{self.reference.familiar} is up to date")
            return current
        resolved = resolve(self.client, self.reference, self.platform)
        config = self._bring_config(resolved)
        self._check_platform(config)
        self._bring_layers(resolved, config)
        return self._name(resolved, config)

    def _mend_index(self) -> None:
        broken = self.store.set_aside_broken_index()
        if broken:
            console.warn(f"the list of images was broken and is now {broken}; pull them again")

    def _current(self) -> Image | None:
        """Return the image in the store if it is what the registry has: one request, or none."""
        image = self.store.find(self.reference)
        if image is None or not self.store.is_whole(image):
            return None
        if image.manifest.platform and not self.platform.runs(image.manifest.platform):
            return None
        if self.reference.digest:
            return image
        digest = self.client.head(self.reference)
        return image if digest and str(digest) == self.store.source_digest(image) else None

    def _bring_config(self, resolved: Resolved) -> ImageConfig:
        descriptor = resolved.manifest.config
        algorithm = descriptor.digest.algorithm
        data = disk.read(self.store.blobs.path(descriptor.digest), MAX_DOCUMENT_BYTES)
        if data is None or Digest.of(data, algorithm) != descriptor.digest:
            data = self._bring_document(descriptor)
        config = ImageConfig.from_bytes(data)
        if len(config.diff_ids) != len(resolved.manifest.layers):
            raise InvalidDocument(
                f"{self.reference}: {len(resolved.manifest.layers)} layers, "
                f"but the config names {len(config.diff_ids)}"
            )
        self.store.blobs.put(data, algorithm)
        return config

    def _bring_document(self, descriptor: Descriptor) -> bytes:
        if descriptor.size_bytes > MAX_DOCUMENT_BYTES:
            size = descriptor.size_bytes
            raise InvalidDocument(f"{self.reference}: config of {size} bytes is too large")
        data = b"".join(self.client.blob(self.reference, descriptor))
        found = Digest.of(data, descriptor.digest.algorithm)
        if found != descriptor.digest:
            raise IntegrityError(f"{self.reference}: config {descriptor.digest} came as {found}")
        return data

    def _download_in_worker(self, blob: Descriptor, offset: int) -> Iterator[bytes]:
        self.client.reopen()  # a process that was forked must not use its parent's connections
        return self.client.blob(self.reference, blob, offset)

    def _check_platform(self, config: ImageConfig) -> None:
        """Say when a program cannot run here as it is; refuse when a platform was asked for."""
        if self.platform.runs(config.platform):
            return
        message = f"{self.reference} is an image for {config.platform}, not for {self.platform}"
        if self.asked:
            raise InvalidDocument(message)
        console.warn(message)

    def _bring_layers(self, resolved: Resolved, config: ImageConfig) -> None:
        """Bring all layers and make the tree, unless another process is just doing the same."""
        lock = self.store.lock(f"tree-{config.chain_id.hex}")
        fetcher = LayerFetcher(self.store.blobs, self._download_in_worker)
        try:
            if not lock.acquire(wait=False):
                self._tell(f"waiting for another pull of {self.reference.familiar}")
                lock.acquire()
            builder = TreeBuilder(self.settings, self.store, fetcher)
            left_out = builder.make(resolved.manifest.layers, config)
        finally:
            lock.discard()
        if left_out:
            listed = ", ".join(f"{what} ({count})" for what, count in left_out)
            self._tell(f"left out, for only root can make them: {listed}")

    def _name(self, resolved: Resolved, config: ImageConfig) -> Image:
        descriptor = resolved.descriptor
        self.store.blobs.put(resolved.data, descriptor.digest.algorithm)
        if descriptor.platform is None:
            descriptor = replace(descriptor, platform=config.platform)
        return self.store.add(self.reference, descriptor, resolved.source, config.chain_id)

    def _tell(self, text: str) -> None:
        if not self.settings.quiet:
            console.say(text)
