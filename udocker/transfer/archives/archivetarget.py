"""An archive as the place that images are copied to: an OCI layout in a tar, whole or not there.

With docker's own list beside it (`manifest.json`, as docker 25 and later write it) it is what
`docker load` and `podman load` take, too: layers stay compressed, and digests what they are.
"""

from __future__ import annotations

import os
import threading
from itertools import chain

from udocker import disk, fastjson
from udocker.errors import InvalidReference, UsageError
from udocker.images.archives.archivewriter import ArchiveWriter
from udocker.images.archives.tarwriter import write_all
from udocker.oci import INDEX_TYPES, OCI_INDEX, REF_NAME, Descriptor, Digest, Manifest
from udocker.reference import Reference
from udocker.transfer.archives.archivenames import CONTAINERD_NAME
from udocker.transfer.archives.layouttarget import LAYOUT
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from udocker.transfer.target import Begin, Read


class ArchiveTarget:
    """A file that has its name, in place of an older one, once `finish` was called."""

    def __init__(self, path: str, name: str, *, docker: bool) -> None:
        """`name` is what the archive will call the image; with `docker` it lists it for docker.

        Raises UsageError for a name that docker cannot read, StoreError.
        """
        self._path = path
        self._tags = _tags(name) if docker else None
        self._annotations = _annotations(name, self._tags)
        self.wants_foreign = docker
        self._draft = f"{path}.{disk.owner()}"
        self._lock = threading.Lock()
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._descriptor = os.open(self._draft, flags, 0o666)
        except OSError as error:
            raise disk.output_error(error, path) from error
        self._out = ArchiveWriter(write_all(self._descriptor), self._descriptor)
        self._out.document("oci-layout", LAYOUT)

    def __enter__(self) -> ArchiveTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Leave no draft. Raises StoreError in place of an error of the file system's own."""
        if kind is None:
            os.close(self._descriptor)
        # else threads that the error left behind may still write, and must not hit another file
        try:
            os.unlink(self._draft)
        except FileNotFoundError:  # it has its name
            pass
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise disk.output_error(error, self._path) from error

    @property
    def name(self) -> str:
        """The file."""
        return self._path

    def has(self, _: Descriptor) -> bool:
        """Tell that it is not there: archives are written anew."""
        return False

    def blob(self, blob: Descriptor, read: Read, begin: Begin) -> str:
        """Add a blob; one at a time, for a tar has one end."""
        chunks = read(0)
        first = next(chunks, b"")  # before anything of it is written: it may be missing
        with self._lock:
            self._out.file(_member(blob.digest), chain((first,), chunks), blob.size_bytes)
        return "copied"

    def document(self, descriptor: Descriptor, data: bytes) -> None:
        """Add a manifest or index."""
        if self._tags is not None and descriptor.media_type in INDEX_TYPES:
            hint = "without --all, or to oci-archive:"
            raise UsageError("docker-archive: has room for one platform of an image", hint=hint)
        self._out.document(_member(descriptor.digest), data)

    def finish(self, descriptor: Descriptor, data: bytes) -> None:
        """Add the last document and the lists of what is there; the file gets its name."""
        self.document(descriptor, data)
        if self._tags is not None:
            manifest = Manifest.from_bytes(data, descriptor.media_type)
            listed = {
                "Config": _member(manifest.config.digest),
                "RepoTags": self._tags or None,
                "Layers": [_member(layer.digest) for layer in manifest.layers],
            }
            self._out.document("manifest.json", _json([listed]))
        entry = replace(descriptor, annotations=self._annotations, data=None).to_json()
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        self._out.document("index.json", _json(index))
        self._out.finish()
        os.fsync(self._descriptor)
        os.rename(self._draft, self._path)


def _member(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _annotations(name: str, tags: list[str] | None) -> tuple[tuple[str, str], ...]:
    """Return what the layout calls the image: as docker's list does, or exactly `name`."""
    if tags:
        return ((CONTAINERD_NAME, tags[0]), (REF_NAME, tags[0]))
    return ((REF_NAME, name),) if name else ()


def _tags(name: str) -> list[str]:
    """Return the names for docker's list. Raises UsageError for what is none."""
    if not name:
        return []
    try:
        reference = Reference.parse(name)
    except InvalidReference as error:
        raise UsageError(error.message, hint=error.hint) from error
    if reference.digest:
        raise UsageError(f"{name}: docker's archives know tags, not digests")
    return [str(reference)]


def _json(value: object) -> bytes:
    return fastjson.dumps(value).encode("utf-8", "surrogateescape")
