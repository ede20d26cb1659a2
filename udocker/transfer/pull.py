"""Pulling an image: resolve, bring and unpack its layers side by side, verify, name it."""

from __future__ import annotations

import os

from udocker import console, disk, trees
from udocker.errors import IntegrityError, InvalidDocument
from udocker.images import layers
from udocker.images.layers import LayerTree
from udocker.oci import MAX_DOCUMENT_BYTES, Digest, ImageConfig, Platform
from udocker.registry.client import Client
from udocker.transfer import workers
from udocker.transfer.fetch import LayerFetcher
from udocker.transfer.resolve import Resolved, resolve
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor
    from udocker.reference import Reference
    from udocker.settings import Settings

MAX_JOBS = 6


def pull(
    settings: Settings, store: ImageStore, reference: Reference, platform_text: str | None = None
) -> Image:
    """Return the image that `reference` names at its registry now, whole, in the store.

    Raises ImageNotFound, AccessDenied, RegistryError, InvalidDocument, IntegrityError,
    UnpackError, StoreError; what was brought by then is used by the next try.
    """
    platform = _platform(platform_text)
    store.prepare()
    client = Client(reference.registry, settings)
    content = store.using()
    try:
        _mend_index(store)
        current = _current(store, client, reference, platform)
        if current:
            _tell(settings, f"{reference.familiar} is up to date")
            return current
        resolved = resolve(client, reference, platform)
        config = _bring_config(store, client, reference, resolved)
        _check_platform(config, platform, platform_text, reference)
        _bring_layers(settings, store, client, reference, resolved, config)
        return _name(store, reference, resolved, config)
    finally:
        content.release()


def _platform(text: str | None) -> Platform:
    return Platform.parse(text) if text else Platform.of_machine(os.uname().machine)


def _mend_index(store: ImageStore) -> None:
    broken = store.set_aside_broken_index()
    if broken:
        console.warn(f"the list of images was broken and is now {broken}; pull them again")


def _tell(settings: Settings, text: str) -> None:
    if not settings.quiet:
        console.say(text)


def _current(
    store: ImageStore, client: Client, reference: Reference, platform: Platform
) -> Image | None:
    """Return the image in the store if it is what the registry has: one request, or none."""
    image = store.find(reference)
    if image is None or not store.is_whole(image):
        return None
    if image.manifest.platform and not platform.runs(image.manifest.platform):
        return None
    if reference.digest:
        return image
    digest = client.head(reference)
    return image if digest and str(digest) == store.source_digest(image) else None


def _bring_config(
    store: ImageStore, client: Client, reference: Reference, resolved: Resolved
) -> ImageConfig:
    descriptor = resolved.manifest.config
    algorithm = descriptor.digest.algorithm
    data = disk.read(store.blobs.path(descriptor.digest), MAX_DOCUMENT_BYTES)
    if data is None or Digest.of(data, algorithm) != descriptor.digest:
        data = _bring_document(client, reference, descriptor)
    config = ImageConfig.from_bytes(data)
    if len(config.diff_ids) != len(resolved.manifest.layers):
        raise InvalidDocument(
            f"{reference}: {len(resolved.manifest.layers)} layers, "
            f"but the config names {len(config.diff_ids)}"
        )
    store.blobs.put(data, algorithm)
    return config


def _bring_document(client: Client, reference: Reference, descriptor: Descriptor) -> bytes:
    if descriptor.size_bytes > MAX_DOCUMENT_BYTES:
        raise InvalidDocument(f"{reference}: config of {descriptor.size_bytes} bytes is too large")
    data = b"".join(client.blob(reference, descriptor))
    found = Digest.of(data, descriptor.digest.algorithm)
    if found != descriptor.digest:
        raise IntegrityError(f"{reference}: config {descriptor.digest} came as {found}")
    return data


def _check_platform(
    config: ImageConfig, platform: Platform, asked: str | None, reference: Reference
) -> None:
    """Say when a program cannot run here as it is; refuse when another platform was asked for."""
    if platform.runs(config.platform):
        return
    message = f"{reference} is an image for {config.platform}, not for {platform}"
    if asked:
        raise InvalidDocument(message)
    console.warn(message)


def _bring_layers(
    settings: Settings,
    store: ImageStore,
    client: Client,
    reference: Reference,
    resolved: Resolved,
    config: ImageConfig,
) -> None:
    """Bring all layers and make the tree, unless another process is just doing the same."""
    lock = store.lock(f"tree-{config.chain_id.hex}")
    try:
        if not lock.acquire(wait=False):
            _tell(settings, f"waiting for another pull of {reference.familiar}")
            lock.acquire()
        _unpack_layers(settings, store, client, reference, resolved, config)
    finally:
        lock.release()


def _unpack_layers(
    settings: Settings,
    store: ImageStore,
    client: Client,
    reference: Reference,
    resolved: Resolved,
    config: ImageConfig,
) -> None:
    wanted = resolved.manifest.layers
    have_tree = os.path.isdir(store.tree_path(config.chain_id))
    if have_tree and all(map(store.blobs.has, wanted)):
        return
    fetcher = LayerFetcher(store.blobs, lambda blob, offset: client.blob(reference, blob, offset))
    stage = store.new_stage()

    def work(number: int, report: workers.Report) -> None:
        client.reopen()
        layer = wanted[number]
        if have_tree:
            fetcher.blob(layer, report)
            report.finish("done")
            return
        tree = fetcher.unpack(layer, config.diff_ids[number], f"{stage}/{number}", report)
        disk.write_whole(f"{stage}/{number}.json", tree.to_json().encode(), sync=False)
        report.finish("done")

    progress = console.progress(quiet=settings.quiet)
    try:
        largest_first = sorted(range(len(wanted)), key=lambda number: -wanted[number].size_bytes)
        workers.run(len(wanted), _jobs(settings), work, largest_first, progress)
        if not have_tree:
            _tell_skipped(settings, _publish(store, stage, len(wanted), config))
    finally:
        progress.close()
        trees.remove_tree(stage)


def _jobs(settings: Settings) -> int:
    return settings.jobs or min(max(2, len(os.sched_getaffinity(0))), MAX_JOBS)


def _publish(
    store: ImageStore, stage: str, count: int, config: ImageConfig
) -> list[tuple[str, int]]:
    """Merge the layers, lowest first, and give the tree its name; return what they left out."""
    parts = []
    for number in range(count):
        data = disk.read(f"{stage}/{number}.json", 1 << 30) or b""
        parts.append((f"{stage}/{number}", LayerTree.from_json(data.decode())))
    rootfs = f"{stage}/rootfs"
    layers.merge(parts, rootfs)
    store.publish_tree(rootfs, config.chain_id)
    return [skipped for _, tree in parts for skipped in tree.skipped]


def _tell_skipped(settings: Settings, skipped: list[tuple[str, int]]) -> None:
    """Say what of the layers a user cannot make; `/dev` is the host's in any case."""
    counts: dict[str, int] = {}
    for what, count in skipped:
        counts[what] = counts.get(what, 0) + count
    if counts:
        listed = ", ".join(f"{what} ({count})" for what, count in sorted(counts.items()))
        _tell(settings, f"left out, for only root can make them: {listed}")


def _name(
    store: ImageStore, reference: Reference, resolved: Resolved, config: ImageConfig
) -> Image:
    descriptor = resolved.descriptor
    store.blobs.put(resolved.data, descriptor.digest.algorithm)
    if descriptor.platform is None:
        descriptor = replace(descriptor, platform=config.platform)
    return store.add(reference, descriptor, resolved.source, config.chain_id)
