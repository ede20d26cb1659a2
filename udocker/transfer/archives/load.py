"""Images of archives and layouts into the store: `docker save`'s, OCI's, from a file or a stream.

Several layers are brought at once. What had to be kept on disk because the archive could not be
read where it lies becomes a blob by a link, so that nothing is written twice.
"""

from __future__ import annotations

import os

from udocker import trees
from udocker.errors import UsageError
from udocker.oci import MAX_DOCUMENT_BYTES, REF_NAME, Digest, ImageConfig, Platform
from udocker.transfer.admission import Admission
from udocker.transfer.archives.archived import archived_images
from udocker.transfer.archives.archiveinput import opened
from udocker.transfer.archives.layoutsource import LayoutSource, PlainSource
from udocker.transfer.archives.signed import keep_signatures
from udocker.transfer.ingest import Ingest
from udocker.transfer.resolve import resolve
from udocker.trust.kept import KeptSignatures
from udocker.trust.place import DIRECTORY, DOCKER_ARCHIVE, OCI, OCI_ARCHIVE, in_file
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.images.archives.archivefiles import Files
    from udocker.images.store import Image, ImageStore
    from udocker.oci import Descriptor
    from udocker.reference import Reference
    from udocker.settings import Settings
    from udocker.transfer.archives.archived import Archived
    from udocker.transfer.archives.archivenames import Wanted
    from udocker.transfer.resolve import Resolved
    from udocker.trust.place import Place


@dataclass(frozen=True)
class Load:
    """What to load: `path` is a file, a directory, or `-` for standard input."""

    path: str
    wanted: Wanted | None
    platform: str | None


def load(settings: Settings, store: ImageStore, what: Load) -> Iterator[Reference]:
    """Bring the images of an archive, one after the other; yield each name as it is there.

    Raises InvalidDocument, IntegrityError, UnpackError, StoreError; images before the one that
    failed stay.
    """
    store.prepare()
    content = store.using()
    stages: list[str] = []
    try:
        files = opened(settings, what.path, store, stages)
        yield from _Loading(settings, store, what).run(files)
    finally:
        for stage in stages:
            trees.remove_tree(stage)
        content.release()


class _Loading:
    def __init__(self, settings: Settings, store: ImageStore, what: Load) -> None:
        machine = os.uname().machine
        self._settings = settings
        self._store = store
        self._what = what
        self._platform = (
            Platform.parse(what.platform) if what.platform else Platform.of_machine(machine)
        )

    def run(self, files: Files) -> Iterator[Reference]:
        images = archived_images(files, self._platform, self._known)
        self._check_names(images)
        for image in images:
            yield from self._bring(image)

    def _check_names(self, images: list[Archived]) -> None:
        """Raise UsageError where several images would get the same name."""
        wanted = self._what.wanted
        if wanted is None or len(images) < 2:
            return
        tags = [set(image.given.chosen(wanted, _NO_CONFIG)) for image in images]
        if wanted.has_tag or sum(map(len, tags)) > len(set().union(*tags)):
            raise UsageError(
                f"{self._what.path} has {len(images)} images, which cannot have one name",
                hint="load them under their own names; udocker tag gives others",
            )

    def _bring(self, image: Archived) -> Iterator[Reference]:
        resolved = resolve(image.source, self._platform)
        admission = Admission(self._settings, self._place(image))
        digests = (resolved.source, resolved.descriptor.digest)
        keep_signatures(KeptSignatures(self._settings.directory), image.beside, digests)
        admission.check(image.source.name, digests)
        for layer in resolved.manifest.layers:
            part = image.source.stored(layer)
            if part and part.digest == layer.digest and not self._store.blobs.has(layer):
                self._store.blobs.adopt(part.path, layer.digest)
        names = image.given.chosen(self._what.wanted, resolved.manifest.config.digest)
        try:
            first = self._here(names[0], resolved) or self._ingest(image, names[0], admission)
        except BaseException:
            for layer in resolved.manifest.layers:  # as quickly read again as gone on with
                self._store.blobs.forget(layer)
            raise
        for name in names[1:]:
            if not self._here(name, resolved):
                self._store.add(name, first.manifest, resolved.source, first.chain_id)
        yield from names

    def _here(self, name: Reference, resolved: Resolved) -> Image | None:
        """Return the image if it is here, whole, under that name already, and is what was asked."""
        image = self._store.find(name)
        if image is None or image.manifest.digest != resolved.descriptor.digest:
            return None
        its = image.manifest.platform
        if self._what.platform and its and not self._platform.runs(its, strict=True):
            return None
        return image if self._store.is_whole(image) else None

    def _ingest(self, image: Archived, name: Reference, admission: Admission) -> Image:
        how = (self._settings, self._store, image.source, self._platform, admission)
        return Ingest(*how, strict=bool(self._what.platform)).run(name)

    def _place(self, image: Archived) -> Place:
        """Return where the image comes from in the words of policies; a stream has no path."""
        path = "" if self._what.path == "-" else self._what.path
        if not isinstance(image.source, LayoutSource):
            return in_file(DOCKER_ARCHIVE, path)
        if isinstance(image.source, PlainSource):
            return in_file(DIRECTORY, path)
        transport = OCI if os.path.isdir(path) else OCI_ARCHIVE
        return in_file(transport, path, image.source.entry.annotation(REF_NAME) or "")

    def _known(self, config: ImageConfig, digest: Digest) -> tuple[Descriptor, bytes] | None:
        """Return the manifest of an image that is here, whole, with the same config."""
        store = self._store
        for image in store.images():
            is_alike = image.chain_id == config.chain_id and store.is_whole(image)
            if is_alike and store.read_manifest(image).config.digest == digest:
                data = store.blobs.read(image.manifest.digest, MAX_DOCUMENT_BYTES)
                return image.manifest, data
        return None


_NO_CONFIG = Digest.of(b"")
