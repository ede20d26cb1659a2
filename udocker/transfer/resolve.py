"""From the name of an image to the manifest for one platform."""

from __future__ import annotations

from udocker.errors import ImageNotFound, InvalidDocument
from udocker.oci import INDEX_TYPES, Descriptor, Digest, Index, Manifest, Platform
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from udocker.transfer.source import Source

MAX_LAYERS = 4096
MAX_NESTING = 4
"""Indexes in indexes that are followed."""


@dataclass(frozen=True)
class Resolved:
    """The manifest of an image for one platform, and the digest that its name stands for."""

    descriptor: Descriptor
    data: bytes
    manifest: Manifest
    source: Digest


def resolve(source: Source, platform: Platform) -> Resolved:
    """Return the manifest that `source` has for `platform`. Raises ImageNotFound if none."""
    descriptor, data = source.document()
    named = descriptor.digest
    for _ in range(MAX_NESTING):
        if descriptor.media_type not in INDEX_TYPES:
            manifest = Manifest.from_bytes(data, descriptor.media_type)
            if len(manifest.layers) > MAX_LAYERS:
                raise InvalidDocument(f"{source.name} has more than {MAX_LAYERS} layers")
            return Resolved(descriptor, data, manifest, named)
        chosen = choose(Index.from_bytes(data).manifests, platform, source.name)
        descriptor, data = source.document(chosen.digest)
        descriptor = replace(descriptor, platform=chosen.platform)
        if len(data) != chosen.size_bytes:
            raise InvalidDocument(f"{source.name}: manifest {chosen.digest} has another size")
    raise InvalidDocument(f"{source.name}: indexes nested more than {MAX_NESTING} deep")


def choose(entries: Iterable[Descriptor], platform: Platform, name: str) -> Descriptor:
    """Return the entry that runs on `platform`, of several the one that fits it most closely.

    Attestations are no images and are passed over; an entry without platform is the last resort.
    """
    images = [entry for entry in entries if not _is_attestation(entry)]
    fitting = [entry for entry in images if entry.platform and platform.runs(entry.platform)]
    if fitting:
        return max(fitting, key=_variant)
    unnamed = [entry for entry in images if entry.platform is None]
    if unnamed:
        return unnamed[0]
    offered = ", ".join(sorted({str(entry.platform) for entry in images})) or "nothing"
    raise ImageNotFound(
        f"{name} has no image for {platform}; it offers {offered}",
        hint="udocker pull --platform OS/ARCH takes another one",
    )


def _variant(entry: Descriptor) -> str:
    return entry.platform.variant if entry.platform else ""


def _is_attestation(entry: Descriptor) -> bool:
    if entry.annotation("vnd.docker.reference.type") is not None:
        return True
    return entry.platform is not None and "unknown" in (
        entry.platform.os,
        entry.platform.architecture,
    )
