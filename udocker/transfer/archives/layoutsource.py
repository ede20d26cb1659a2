"""Images of an OCI image layout, in a directory or in an archive."""

from __future__ import annotations

from udocker import fastjson
from udocker.errors import ImageNotFound, IntegrityError, InvalidDocument
from udocker.images.archives.archivefiles import read
from udocker.oci import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, Index
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.images.archives.archivefiles import Files, Part


def layout_entries(files: Files) -> tuple[Descriptor, ...] | None:
    """Return what the index of a layout lists; None where there is no layout."""
    data = read(files, "index.json")
    if data is None or files.find("oci-layout") is None:
        return None
    try:
        return Index.from_bytes(data).manifests
    except InvalidDocument as error:
        raise InvalidDocument(f"{files.name}: index.json: {error.message}") from error


class LayoutSource:
    """One image, or index of images, that a layout's index lists."""

    def __init__(self, files: Files, entry: Descriptor) -> None:
        self._files = files
        self.entry = entry

    @property
    def name(self) -> str:
        """The archive's name: messages are about it, not about the image's names in it."""
        return self._files.name

    def document(self, digest: Digest | None = None) -> tuple[Descriptor, bytes]:
        """Read the manifest or index, or another one that it names."""
        wanted = digest or self.entry.digest
        data = read(self._files, self._document_path(wanted))
        if data is None:
            raise ImageNotFound(
                f"{self.name}: the manifest {wanted} is not there",
                hint="perhaps only one platform was saved: --platform OS/ARCH asks for it",
            )
        found = Digest.of(data, wanted.algorithm)
        if found != wanted:
            raise IntegrityError(f"{self.name}: what is called {wanted} is {found}")
        if digest is None:
            if len(data) != self.entry.size_bytes:
                size = self.entry.size_bytes
                raise IntegrityError(f"{self.name}: {wanted} has {len(data)} bytes, not {size}")
            return replace(self.entry, annotations=()), data
        return Descriptor(_media_type(data), wanted, len(data)), data

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Read a blob."""
        part = self.stored(descriptor)
        if part is None:
            raise InvalidDocument(f"{self.name}: the blob {descriptor.digest} is not there")
        if part.size_bytes != descriptor.size_bytes:
            raise IntegrityError(
                f"{self.name}: the blob {descriptor.digest} has {part.size_bytes} bytes, "
                f"not {descriptor.size_bytes}"
            )
        return part.chunks(offset)

    def stored(self, descriptor: Descriptor) -> Part | None:
        """Return where a blob lies; None where it is missing."""
        return self._files.find(self._blob_path(descriptor.digest))

    def reopen(self) -> None:
        """Nothing is open between two readings."""

    def _document_path(self, digest: Digest) -> str:
        return self._blob_path(digest)

    def _blob_path(self, digest: Digest) -> str:
        return f"blobs/{digest.algorithm}/{digest.hex}"


class PlainSource(LayoutSource):
    """The one image, or index, of a directory that skopeo's `dir:` or podman's `docker-dir` made.

    Source: containers-transports(5), "dir:path"; containers/image, directory_transport.go.
    """

    @staticmethod
    def of(files: Files) -> PlainSource | None:
        """Return the image; None where `files` are nothing of the kind."""
        if not (read(files, "version") or b"").startswith(b"Directory Transport Version: "):
            return None
        data = read(files, "manifest.json")
        if data is None:
            return None
        return PlainSource(files, Descriptor(_media_type(data), Digest.of(data), len(data)))

    def _document_path(self, digest: Digest) -> str:
        return "manifest.json" if digest == self.entry.digest else f"{digest.hex}.manifest.json"

    def _blob_path(self, digest: Digest) -> str:
        return digest.hex


def _media_type(data: bytes) -> str:
    """Return what kind of document `data` is: what it says, or what it looks like."""
    try:
        members = fastjson.from_outside(data)
        stated = members.get("mediaType")
    except (ValueError, AttributeError):
        return OCI_MANIFEST  # whose reader says what is wrong
    if isinstance(stated, str):
        return stated
    return OCI_INDEX if "manifests" in members else OCI_MANIFEST
