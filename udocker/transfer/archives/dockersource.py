"""Images of archives that `docker save` wrote.

Such an archive has no manifest; one is made of what it has, always the same. Layers that are
plain tar are kept as they are: their digest is then the diff_id of the config, so they are
verified while they are read, and `save` gives the same bytes back. The config, whose digest
docker calls the image's id, is kept byte for byte.
"""

from __future__ import annotations

import hashlib

from udocker import fastjson
from udocker.errors import InvalidDocument
from udocker.images.archives.dockerarchive import config_of, diff_id_of, layer_part
from udocker.images.compression import decompress
from udocker.oci import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Digest, ImageConfig
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from udocker.images.archives.archivefiles import Files, Part
    from udocker.images.archives.dockerarchive import Saved

    Known = Callable[[ImageConfig, Digest], "tuple[Descriptor, bytes] | None"]
    """The manifest of an image in the store with that config, if there is one."""


@dataclass(frozen=True)
class _Layer:
    part: Part
    is_inflated: bool
    """Whether the layer is what the file holds after inflating."""


class DockerSource:
    """One image of such an archive."""

    def __init__(self, files: Files, saved: Saved, known: Known) -> None:
        self._files = files
        self._saved = saved
        self._known = known
        self._config = b""
        self._layers: dict[Digest, _Layer] = {}
        self._document: tuple[Descriptor, bytes] | None = None

    @property
    def name(self) -> str:
        """The archive's name."""
        return self._files.name

    def document(self, digest: Digest | None = None) -> tuple[Descriptor, bytes]:
        """Return the manifest that is made for the image."""
        if self._document is None:
            self._config = config_of(self._files, self._saved)
            config = ImageConfig.from_bytes(self._config)
            known = self._known(config, Digest.of(self._config))
            self._document = known or self._made(config)
        return self._document

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Read the config or a layer."""
        layer = self._layers.get(descriptor.digest)
        if layer is None:
            return iter((self._config[offset:],))
        if layer.is_inflated:
            return _from(offset, decompress.chunks(layer.part.chunks()))
        return layer.part.chunks(offset)

    def stored(self, descriptor: Descriptor) -> Part | None:
        """Return where the bytes of a layer lie; None where they lie nowhere as they are."""
        layer = self._layers.get(descriptor.digest)
        return layer.part if layer and not layer.is_inflated else None

    def reopen(self) -> None:
        """Nothing is open between two readings."""

    def _made(self, config: ImageConfig) -> tuple[Descriptor, bytes]:
        paths = self._saved.layers
        if len(paths) != len(config.diff_ids):
            raise InvalidDocument(
                f"{self.name}: {len(paths)} layers, but the config names {len(config.diff_ids)}"
            )
        layers = [self._layer(path, diff_id) for path, diff_id in zip(paths, config.diff_ids)]
        described = Descriptor(OCI_CONFIG, Digest.of(self._config), len(self._config))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        data = fastjson.dumps(manifest).encode()
        return Descriptor(OCI_MANIFEST, Digest.of(data), len(data)), data

    def _layer(self, path: str, diff_id: Digest) -> Descriptor:
        part = layer_part(self._files, path)
        head = next(part.chunks(), b"")[: decompress.HEAD_BYTES]
        kind = decompress.compression(head)
        media_type, digest, size_bytes = OCI_LAYER, diff_id, part.size_bytes
        if kind in ("gzip", "zstd"):
            media_type, digest = f"{OCI_LAYER}+{kind}", part.digest or _digest(part)
        elif kind:  # OCI has no word for it
            digest, size_bytes = diff_id_of(part, self.name)
        self._layers[digest] = _Layer(part, kind not in ("", "gzip", "zstd"))
        return Descriptor(media_type, digest, size_bytes)


def _digest(part: Part) -> Digest:
    hasher = hashlib.sha256()
    for chunk in part.chunks():
        hasher.update(chunk)
    return Digest("sha256", hasher.hexdigest())


def _from(offset: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Leave out the first `offset` bytes."""
    for chunk in chunks:
        if offset < len(chunk):
            yield chunk[offset:]
        offset = max(0, offset - len(chunk))
