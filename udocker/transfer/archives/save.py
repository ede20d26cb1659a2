"""Images of the store as archives: docker's, which every docker and podman loads, or OCI's.

docker-archive is what docker wrote until 24: manifest.json and a config for each image, plain
tar for each layer, which is inflated for it; and beside them what docker before 1.10 and
udocker 1 look for. OCI archives hold the blobs as they are, so that all digests stay.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import closing

from udocker import disk, fastjson
from udocker.images.archives.archivewriter import ArchiveWriter
from udocker.oci import OCI_INDEX, REF_NAME, Digest
from udocker.transfer.archives.archivenames import CONTAINERD_NAME
from udocker.transfer.content import blob_chunks, tar_chunks, tar_size
from udocker.transfer.parallel.stages import ahead
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from udocker.images.blobs import BlobStore
    from udocker.oci import Descriptor
    from udocker.reference import Reference
    from udocker.transfer.content import Content

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True)
class Chosen:
    """An image that is to be saved, under what names."""

    content: Content
    names: tuple[Reference, ...]


def write_docker_archive(blobs: BlobStore, images: Sequence[Chosen], out: ArchiveWriter) -> None:
    """Write the images in docker's own layout. Raises StoreError for layers that are damaged."""
    chains = [_Chain(image) for image in images]
    places: dict[Digest, str] = {}
    for chain in chains:
        for path, _, diff_id in chain.layers():
            places.setdefault(diff_id, path)
    out.document("manifest.json", _json([chain.listed(places) for chain in chains]))
    out.document("repositories", _json(_repositories(chains)))
    written: set[str] = set()
    for chain in chains:
        for name, data in chain.documents().items():
            if name not in written:
                out.document(name, data)
                written.add(name)
        for path, layer, diff_id in chain.layers():
            if path in written:
                continue
            written.add(path)
            if places[diff_id] != path:
                out.link(path, f"../{places[diff_id]}")
                continue
            size = None if out.can_mend else tar_size(blobs, layer, diff_id)
            with closing(ahead(tar_chunks(blobs, layer, diff_id))) as chunks:
                out.file(path, chunks, size)
    out.finish()


def write_oci_archive(blobs: BlobStore, images: Sequence[Chosen], out: ArchiveWriter) -> None:
    """Write the images as an OCI layout in a tar. Raises StoreError for blobs that are damaged."""
    out.document("oci-layout", _LAYOUT)
    out.document("index.json", _index(images))
    for path, blob, data in _layout_blobs(images):
        out.file(path, blob_chunks(blobs, blob) if data is None else (data,), blob.size_bytes)
    out.finish()


def write_oci_directory(blobs: BlobStore, images: Sequence[Chosen], directory: str) -> None:
    """Write the images as an OCI layout into an empty directory. Raises StoreError."""
    disk.write_whole(f"{directory}/oci-layout", _LAYOUT)
    for path, blob, data in _layout_blobs(images):
        full = f"{directory}/{path}"
        try:
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "xb") as file:
                for chunk in blob_chunks(blobs, blob) if data is None else (data,):
                    file.write(chunk)
        except OSError as error:
            raise disk.output_error(error, full) from error
    disk.write_whole(f"{directory}/index.json", _index(images))


def _layout_blobs(images: Iterable[Chosen]) -> Iterator[tuple[str, Descriptor, bytes | None]]:
    """Yield every blob once: its path in a layout, itself, and its bytes if it is a document."""
    seen: set[Digest] = set()
    for image in images:
        content = image.content
        documents = {
            content.image.manifest.digest: content.manifest_bytes,
            content.manifest.config.digest: content.config_bytes,
        }
        for blob in (content.image.manifest, *content.blobs):
            if blob.digest not in seen:
                seen.add(blob.digest)
                path = f"blobs/{blob.digest.algorithm}/{blob.digest.hex}"
                yield path, blob, documents.get(blob.digest)


def _index(images: Iterable[Chosen]) -> bytes:
    entries: list[dict[str, Any]] = []
    for image in images:
        plain = replace(image.content.image.manifest, annotations=())
        names = [_annotations(name) for name in image.names] or [()]
        entries += [replace(plain, annotations=pairs).to_json() for pairs in names]
    return _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _annotations(name: Reference) -> tuple[tuple[str, str], ...]:
    return ((CONTAINERD_NAME, str(name)), (REF_NAME, str(name)))


def _repositories(chains: Iterable[_Chain]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for chain in chains:
        for name in chain.names if chain.ids else ():
            if name.tag and not name.digest:
                found.setdefault(name.name, {})[name.tag] = chain.ids[-1]
    return found


def _json(value: Any) -> bytes:
    return fastjson.dumps(value).encode("utf-8", "surrogateescape")


class _Chain:
    """The layers of an image as docker before 1.10 knew them, each with an id of its own."""

    def __init__(self, image: Chosen) -> None:
        content = image.content
        self.names = image.names
        self.content = content
        self.config_name = f"{Digest.of(content.config_bytes).hex}.json"
        self.ids: list[str] = []
        last = len(content.config.diff_ids) - 1
        for number, diff_id in enumerate(content.config.diff_ids):
            parent = self.ids[-1] if self.ids else ""
            own = f"{parent} {diff_id}" + (f" {self.config_name}" if number == last else "")
            self.ids.append(hashlib.sha256(own.encode()).hexdigest())

    def listed(self, places: dict[Digest, str]) -> dict[str, Any]:
        """Return the entry of manifest.json; `places` says where layers lie, some of others."""
        names = [str(name) for name in self.names if name.tag and not name.digest]
        layers = [places[diff_id] for _, _, diff_id in self.layers()]
        return {"Config": self.config_name, "RepoTags": names or None, "Layers": layers}

    def layers(self) -> Iterator[tuple[str, Descriptor, Digest]]:
        """Yield the path of every layer with what is to be there."""
        content = self.content
        for own, layer, diff_id in zip(self.ids, content.manifest.layers, content.config.diff_ids):
            yield f"{own}/layer.tar", layer, diff_id

    def documents(self) -> dict[str, bytes]:
        """Return the config, and the small files beside each layer."""
        whole: dict[str, Any] = fastjson.loads(self.content.config_bytes)
        files = {self.config_name: self.content.config_bytes}
        parent = ""
        for own in self.ids:
            document = {
                "id": own,
                "created": "1970-01-01T00:00:00Z",
                "os": whole.get("os", "linux"),
            }
            if parent:
                document["parent"] = parent
            if own == self.ids[-1]:
                kept = ("created", "architecture", "config", "author")
                document.update({key: whole[key] for key in kept if key in whole})
            files[f"{own}/VERSION"] = b"1.0"
            files[f"{own}/json"] = _json(document)
            parent = own
        return files
