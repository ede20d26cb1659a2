"""From the name of an image to the manifest for one platform."""

from __future__ import annotations

from udocker.errors import ImageNotFound, InvalidDocument
from udocker.oci import (
    CONFIG_TYPES,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT_BYTES,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Platform,
)
from udocker.transfer.source import content, naming
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from udocker.transfer.source import Source

MAX_LAYERS = 4096
MAX_NESTING = 4
"""Indexes in indexes that are followed."""
MAX_INDEXES = 64
"""Indexes that are read in search of one image."""
_SHOWN = 30
"""Platforms that a message lists."""
_REFERENCE_TYPE = "vnd.docker.reference.type"
"""Annotation of BuildKit: the entry says something about another one."""


@dataclass(frozen=True)
class Resolved:
    """The manifest of an image for one platform, and the digest that its name stands for."""

    descriptor: Descriptor
    data: bytes
    manifest: Manifest
    source: Digest


def resolve(source: Source, platform: Platform, *, strict: bool = False) -> Resolved:
    """Return the manifest that `source` has for `platform`. Raises ImageNotFound if none.

    `strict` takes no other architecture, also where the processor could run it.
    """
    with naming(source):
        descriptor, data = source.document()
        found = narrow(source, descriptor, data, platform, strict=strict)
        manifest = Manifest.from_bytes(found[1], found[0].media_type)
    if len(manifest.layers) > MAX_LAYERS:
        raise InvalidDocument(f"{source.name} has more than {MAX_LAYERS} layers")
    return Resolved(*found, manifest, descriptor.digest)


def narrow(
    source: Source, descriptor: Descriptor, data: bytes, platform: Platform, *, strict: bool
) -> tuple[Descriptor, bytes]:
    """Return the manifest for `platform` of an index; what is no index is returned itself."""
    return _Search(source, platform, strict=strict).manifest(descriptor, data)


def narrow_strictly(
    source: Source, descriptor: Descriptor, data: bytes, platform: Platform
) -> tuple[Descriptor, bytes]:
    """Return the manifest for exactly `platform`, or what is no image at all.

    Raises ImageNotFound for an image that is in no index and for another platform.
    """
    found = narrow(source, descriptor, data, platform, strict=True)
    its = _platform_of(source, *found)
    if its and not platform.runs(its, strict=True):
        raise ImageNotFound(f"{source.name} is an image for {its}, not for {platform}")
    return found


def document(source: Source, entry: Descriptor) -> tuple[Descriptor, bytes]:
    """Return what an index's entry names. Raises InvalidDocument for one of another size."""
    if not entry.digest.is_known:
        algorithm = entry.digest.algorithm
        raise InvalidDocument(
            f"{source.name}: a manifest is named by its {algorithm} digest, which is unknown here",
            hint="ask its author for one named by sha256 or sha512",
        )
    if entry.data is not None:
        plain = Descriptor(entry.media_type, entry.digest, entry.size_bytes, entry.platform)
        return plain, entry.data
    found, data = source.document(entry.digest)
    if len(data) != entry.size_bytes:
        raise InvalidDocument(f"{source.name}: manifest {entry.digest} has another size")
    is_known = entry.media_type in (*INDEX_TYPES, *MANIFEST_TYPES)
    media_type = found.media_type if is_known else entry.media_type
    return replace(found, media_type=media_type, platform=entry.platform), data


class _Search:
    """A walk through indexes, the most fitting entries first."""

    def __init__(self, source: Source, platform: Platform, *, strict: bool) -> None:
        self._source = source
        self._platform = platform
        self._strict = strict
        self._indexes = 0

    def manifest(
        self, descriptor: Descriptor, data: bytes, depth: int = 0
    ) -> tuple[Descriptor, bytes]:
        if descriptor.media_type not in INDEX_TYPES:
            return descriptor, data
        self._indexes += 1
        if depth >= MAX_NESTING or self._indexes > MAX_INDEXES:
            raise InvalidDocument(f"{self._source.name}: indexes in indexes without end")
        entries = Index.from_bytes(data).manifests
        none: ImageNotFound | None = None
        other: tuple[Descriptor, bytes] | None = None
        fitting = tuple(candidates(entries, self._platform, strict=self._strict))
        for entry in fitting:
            try:
                found = self.manifest(*document(self._source, entry), depth + 1)
            except ImageNotFound as error:
                if entry.media_type not in INDEX_TYPES:
                    raise
                none = none or error  # another index may have it
            else:
                if len(fitting) == 1 or self._suits(*found):
                    return found
                other = other or found
        if other:
            return other  # who brings it says what it is for
        raise none or _nothing_fits(entries, self._platform, self._source.name)

    def _suits(self, descriptor: Descriptor, data: bytes) -> bool:
        """Tell whether an image is for the platform."""
        its = _platform_of(self._source, descriptor, data)
        return its is not None and self._platform.runs(its, strict=self._strict)


def _platform_of(source: Source, descriptor: Descriptor, data: bytes) -> Platform | None:
    """Return what an image is for, which its config knows if no index says; None: no image."""
    if descriptor.platform is not None:
        return descriptor.platform
    try:
        config = Manifest.from_bytes(data, descriptor.media_type).config
        if config.size_bytes > MAX_DOCUMENT_BYTES:
            return None
        read = b"".join(content(source, config))
        if Digest.of(read, config.digest.algorithm) != config.digest:
            return None
        return ImageConfig.from_bytes(read).platform
    except InvalidDocument:
        return None


def choose(
    entries: Iterable[Descriptor], platform: Platform, name: str, *, strict: bool = False
) -> Descriptor:
    """Return the first of `candidates`. Raises ImageNotFound, saying what there is instead."""
    listed = tuple(entries)
    for entry in candidates(listed, platform, strict=strict):
        return entry
    raise _nothing_fits(listed, platform, name)


def candidates(
    entries: Iterable[Descriptor], platform: Platform, *, strict: bool = False
) -> Iterator[Descriptor]:
    """Yield entries that run on `platform`, the closest first, of equals the first.

    Attestations, artifacts and what is of an unknown type are no images and are passed over;
    entries without a platform are the last resort.
    """
    images = [entry for entry in entries if _is_image(entry)]
    ranked = [(_rank(entry, platform, strict=strict), entry) for entry in images]
    fitting = [(rank, entry) for rank, entry in ranked if rank is not None]
    # an unknown kind of digest comes behind known ones of the same platform
    fitting.sort(key=lambda pair: (pair[0], not pair[1].digest.is_known))
    yield from (entry for _, entry in fitting)
    yield from (entry for entry in images if entry.platform is None)


def _rank(entry: Descriptor, platform: Platform, *, strict: bool) -> int | None:
    return platform.rank(entry.platform, strict=strict) if entry.platform else None


def holds_images(entries: Iterable[Descriptor]) -> bool:
    """Tell whether any entry of an index may be an image."""
    return any(map(_is_image, entries))


def _is_image(entry: Descriptor) -> bool:
    """Tell whether an entry may be one; of an image's manifest the artifact type is its config's.

    Source: image-spec 1.1, descriptor.md, "artifactType".
    """
    if entry.media_type not in (*INDEX_TYPES, *MANIFEST_TYPES):
        return False
    return entry.artifact_type in ("", *CONFIG_TYPES) and not is_attestation(entry)


def is_attestation(entry: Descriptor) -> bool:
    """Tell whether an entry of an index only says something about another one."""
    if entry.annotation(_REFERENCE_TYPE) is not None:
        return True
    return entry.platform is not None and "unknown" in (
        entry.platform.os,
        entry.platform.architecture,
    )


def _nothing_fits(entries: Iterable[Descriptor], platform: Platform, name: str) -> ImageNotFound:
    listed = tuple(entries)
    offered = sorted({str(entry.platform) for entry in listed if _is_image(entry)})
    if offered:
        more = f" and {len(offered) - _SHOWN} more" if len(offered) > _SHOWN else ""
        return ImageNotFound(
            f"{name} has no image for {platform}; it offers {', '.join(offered[:_SHOWN])}{more}",
            hint="--platform OS/ARCH takes another one",
        )
    kinds = sorted({entry.artifact_type or entry.media_type for entry in listed})
    held = ", ".join(kind[:100] for kind in kinds[:5]) or "nothing"
    return ImageNotFound(f"{name} is an index without container images; it holds {held}")
