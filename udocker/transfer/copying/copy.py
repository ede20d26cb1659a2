"""An image, or an index with all of them, from where it is to where it is wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from udocker import console
from udocker.errors import ImageNotFound, IntegrityError, InvalidDocument
from udocker.oci import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Digest, Index, Manifest, Platform
from udocker.registry.faults import BlobMissing
from udocker.transfer.parallel import threads
from udocker.transfer.resolve import MAX_NESTING, document, narrow, narrow_strictly
from udocker.transfer.source import content
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from udocker.settings import Settings
    from udocker.transfer.source import Source
    from udocker.transfer.target import Target

    Documents = tuple[tuple[Descriptor, bytes], ...]

    class Change(Protocol):
        """What becomes of an image on its way."""

        def blob(self, blob: Descriptor, advance: Callable[[int], None]) -> Descriptor:
            """Return what goes in place of a blob, which the source has; itself, mostly."""

        def documents(self, documents: Documents) -> Documents:
            """Return the documents that name what went in place of blobs."""


MAX_DOCUMENTS = 1024
MAX_AT_ONCE = 4
"""Blobs on their way at the same time, unless the setting `jobs` says otherwise."""


@dataclass(frozen=True)
class Survey:
    """What is to be copied: documents, each behind those that it names, and their blobs."""

    documents: Documents
    blobs: tuple[Descriptor, ...]
    digests: tuple[Digest, ...]
    """What the source's name stands for, and what of it is copied: who signs one has signed it."""

    @property
    def top(self) -> Descriptor:
        """What the name stands for."""
        return self.documents[-1][0]


def copy(
    settings: Settings,
    source: Source,
    target: Target,
    survey: Survey,
    change: Change | None = None,
) -> Descriptor:
    """Have in `target` what was surveyed of `source`; return what its name means there.

    Byte for byte, but for a `change`. Nothing has a name there before all of it is there and
    verified.
    """
    progress = threads.Shared(console.progress(quiet=settings.quiet))
    carrier = _Carrier(source, target, progress, change)
    first, *others = survey.blobs or (None,)
    try:
        if first:
            carrier.bring(first)  # alone: it meets the registry's challenges for all
        threads.each(others, settings.jobs or MAX_AT_ONCE, carrier.bring)
    finally:
        progress.close()
    *below, top = change.documents(survey.documents) if change else survey.documents
    for descriptor, data in below:
        target.document(descriptor, data)
    target.finish(*top)
    return top[0]


def look_over(source: Source, platform: Platform | None, *, strict: bool) -> Survey:
    """Read all documents that are to be copied. Raises ImageNotFound, InvalidDocument.

    Of an index that is the manifest for `platform`, with None the index and all that it names;
    what is of a type that nobody knows goes along as it is.
    """
    found = source.document()
    named = found[0].digest
    if platform is not None:
        if strict:
            found = narrow_strictly(source, *found, platform)
        else:
            found = narrow(source, *found, platform, strict=False)
    documents: dict[Digest, tuple[Descriptor, bytes]] = {}
    blobs: dict[Digest, Descriptor] = {}
    _read(source, *found, documents, blobs, 0)
    ordered = sorted(blobs.values(), key=lambda blob: blob.size_bytes)
    digests = (named, found[0].digest)
    return Survey(tuple(documents.values()), (*ordered[:1], *reversed(ordered[1:])), digests)


def _read(
    source: Source,
    descriptor: Descriptor,
    data: bytes,
    documents: dict[Digest, tuple[Descriptor, bytes]],
    blobs: dict[Digest, Descriptor],
    depth: int,
) -> None:
    if depth > MAX_NESTING or len(documents) > MAX_DOCUMENTS:
        raise InvalidDocument(f"{source.name}: indexes in indexes without end")
    if descriptor.media_type in INDEX_TYPES:
        for entry in Index.from_bytes(data).manifests:
            if entry.digest not in documents:
                try:
                    below = document(source, entry)
                except ImageNotFound as error:
                    raise _incomplete(source, entry, error) from error
                _read(source, *below, documents, blobs, depth + 1)
    elif descriptor.media_type in MANIFEST_TYPES:
        manifest = Manifest.of_artifact(data, descriptor.media_type)
        for blob in (manifest.config, *manifest.layers):
            blobs.setdefault(blob.digest, blob)
    documents.setdefault(descriptor.digest, (descriptor, data))


def _incomplete(source: Source, entry: Descriptor, error: ImageNotFound) -> ImageNotFound:
    what = f" for {entry.platform}" if entry.platform else ""
    return ImageNotFound(
        f"{source.name}: its manifest {entry.digest}{what} is not there: {error.message}",
        hint="without --all, only the image for one platform is copied",
    )


class _Carrier:
    """Brings blobs, several at a time."""

    def __init__(
        self, source: Source, target: Target, progress: threads.Shared, change: Change | None
    ) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._change = change

    def bring(self, blob: Descriptor) -> None:
        part = blob.digest.hex[:12]
        self._progress.start(part, blob.size_bytes)
        if self._change:
            blob = self._change.blob(blob, lambda count: self._progress.advance(part, count))
        size = blob.size_bytes

        def begin(offset: int) -> None:
            self._progress.start(part, size)
            self._progress.advance(part, offset)

        read = Verified(
            blob,
            lambda offset: content(self._source, blob, offset),
            lambda count: self._progress.advance(part, count),
            self._source.name,
        )
        try:
            note = self._target.blob(blob, read, begin)
        except BlobMissing:
            if not blob.is_foreign or self._target.wants_foreign:
                raise
            note = "foreign, left where it is"
        self._progress.finish(part, note)


class Verified:
    """Reads a blob from any offset on, as often as it takes: the last bytes come if all are right.

    Every byte is hashed once, when it is first read. Bytes that are read again are not: who
    keeps them compares the digest as well.
    """

    def __init__(
        self,
        blob: Descriptor,
        read: Callable[[int], Iterator[bytes]],
        advance: Callable[[int], None],
        name: str,
    ) -> None:
        self._blob = blob
        self._read = read
        self._advance = advance
        self._name = name
        self._hash = hashlib.new(blob.digest.algorithm)
        self._hashed = 0

    def __call__(self, offset: int) -> Iterator[bytes]:
        """Yield the bytes from `offset` on. Raises IntegrityError before a wrong blob ends."""
        position = min(offset, self._hashed)
        for chunk in self._read(position):
            end = position + len(chunk)
            if end > self._hashed:
                self._hash.update(chunk[self._hashed - position :])
                self._hashed = end
            if end >= self._blob.size_bytes:
                self._check()
            wanted = chunk[max(0, offset - position) :]
            position = end
            if wanted:
                yield wanted
                self._advance(len(wanted))
        if position < self._blob.size_bytes:
            raise self._wrong(f"it ends after {position} of {self._blob.size_bytes} bytes")
        if not position:
            self._check()

    def _check(self) -> None:
        if self._hashed > self._blob.size_bytes:
            raise self._wrong(f"it has more than {self._blob.size_bytes} bytes")
        found = Digest(self._blob.digest.algorithm, self._hash.hexdigest())
        if found != self._blob.digest:
            raise self._wrong(f"it came as {found}")

    def _wrong(self, how: str) -> IntegrityError:
        return IntegrityError(f"{self._name}: blob {self._blob.digest} is damaged: {how}")
