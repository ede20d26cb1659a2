"""Writing small images: tar layers, config and manifest as an OCI image layout.

Source: image-spec 1.1 (image-layout.md, layer.md, config.md). Equal input gives equal bytes.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile

from udocker import disk, fastjson
from udocker.oci import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    Digest,
    Platform,
)
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK_BYTES = 128 << 10
_ZSTD_WINDOW = b"\x38"  # 2 ** (10 + 7) bytes: as many as a block may have


@dataclass(frozen=True)
class Entry:
    """A member of a layer. `path` is relative to the image's root, without `..`."""

    path: str
    kind: bytes
    """`REGTYPE`, `DIRTYPE` or `SYMTYPE` of tarfile."""
    mode: int
    data: bytes = b""
    target: str = ""


def directory(path: str, mode: int = 0o755) -> Entry:
    """Return a directory."""
    return Entry(path, tarfile.DIRTYPE, mode)


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file that holds `data`."""
    return Entry(path, tarfile.REGTYPE, mode, data)


def symlink(path: str, target: str) -> Entry:
    """Return a symbolic link to `target`."""
    return Entry(path, tarfile.SYMTYPE, 0o777, target=target)


def whiteout(path: str) -> Entry:
    """Return what hides `path` in the layers below. Source: layer.md, "Whiteouts"."""
    parent, name = os.path.split(path)
    return file(os.path.join(parent, f".wh.{name}"), b"")


def opaque(path: str) -> Entry:
    """Return what hides all that the layers below have in the directory `path`."""
    return file(f"{path}/.wh..wh..opq", b"")


@dataclass(frozen=True)
class Layer:
    """A layer that lies in the layout."""

    descriptor: Descriptor
    diff_id: Digest
    """The digest of its tar archive, uncompressed."""


class LayoutBuilder:
    """Writes images into the layout `directory`, which is made; it is valid after every call.

    Layers are built in memory: this is for images of some megabytes. Raises StoreError when a
    file cannot be written.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._manifests: list[Descriptor] = []
        disk.make_directory(f"{directory}/blobs/sha256")
        self._write_document("oci-layout", {"imageLayoutVersion": "1.0.0"})
        self._write_index()

    def layer(self, entries: Iterable[Entry], compression: str = "gzip") -> Layer:
        """Add a layer; `compression` is `gzip`, `zstd` or `none`.

        The data of zstd is stored as it is in frames that every decoder reads.
        """
        archive = _tar(entries)
        suffix, compress = _COMPRESSIONS[compression]
        return Layer(self._add(compress(archive), OCI_LAYER + suffix), Digest.of(archive))

    def image(
        self,
        name: str,
        layers: Sequence[Layer],
        *,
        platform: Platform,
        env: Sequence[str] = (),
        cmd: Sequence[str] = (),
        working_dir: str = "",
    ) -> Descriptor:
        """Add an image of `layers`, lowest first, and let `name` name it; return its manifest."""
        config = {
            "os": platform.os,
            "architecture": platform.architecture,
            **({"variant": platform.variant} if platform.variant else {}),
            "config": {"Env": list(env), "Cmd": list(cmd), "WorkingDir": working_dir},
            "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._add(_json(config), OCI_CONFIG).to_json(),
            "layers": [layer.descriptor.to_json() for layer in layers],
        }
        found = replace(self._add(_json(manifest), OCI_MANIFEST), platform=platform)
        others = [other for other in self._manifests if other.annotation(REF_NAME) != name]
        self._manifests = [*others, replace(found, annotations=((REF_NAME, name),))]
        self._write_index()
        return found

    def _add(self, data: bytes, media_type: str) -> Descriptor:
        digest = Digest.of(data)
        disk.write_whole(f"{self.directory}/blobs/sha256/{digest.hex}", data, sync=False)
        return Descriptor(media_type, digest, len(data))

    def _write_index(self) -> None:
        manifests = [manifest.to_json() for manifest in self._manifests]
        self._write_document("index.json", {"schemaVersion": 2, "manifests": manifests})

    def _write_document(self, name: str, members: Mapping[str, object]) -> None:
        disk.write_whole(f"{self.directory}/{name}", _json(members), sync=False)


def _json(members: Mapping[str, object]) -> bytes:
    return fastjson.dumps(members).encode()


def _tar(entries: Iterable[Entry]) -> bytes:
    """Return an archive in which all belongs to root and is as old as the epoch."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry.path)
            member.type, member.mode, member.linkname = entry.kind, entry.mode, entry.target
            member.size = len(entry.data)
            archive.addfile(member, io.BytesIO(entry.data))
    return stream.getvalue()


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def _zstd(data: bytes) -> bytes:
    """Return a frame of raw blocks. Source: RFC 8878, sections 3.1.1.1 and 3.1.1.2."""
    frame = [_ZSTD_MAGIC, b"\0", _ZSTD_WINDOW]
    for start in range(0, len(data) or 1, _ZSTD_BLOCK_BYTES):
        block = data[start : start + _ZSTD_BLOCK_BYTES]
        last = start + _ZSTD_BLOCK_BYTES >= len(data)
        frame += [(len(block) << 3 | last).to_bytes(3, "little"), block]
    return b"".join(frame)


_COMPRESSIONS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("+gzip", _gzip),
    "zstd": ("+zstd", _zstd),
    "none": ("", bytes),
}
