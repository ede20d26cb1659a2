"""Plain layers compressed for who wants them so: once, and remembered what came of it.

    compressed/sha256-HEX.gzip    which blob the plain layer of that digest is, compressed so

The blob lies among the store's others. No image needs it, so the next collection of what is not
needed takes it along; the record stays as long as the plain layer, for a registry that has the
blob can be asked for it by its digest.
"""

from __future__ import annotations

import hashlib
import os

from udocker import disk, fastjson
from udocker.errors import IntegrityError, InvalidDocument
from udocker.images.compression.compress import compressor, quick_compressor
from udocker.images.layerwriter import LayerWriter
from udocker.oci import Descriptor, Digest
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from udocker.images.store import ImageStore

GZIP, ZSTD = "gzip", "zstd"
LEVELS = {GZIP: range(1, 10), ZSTD: range(1, 23)}
_RECORD_BYTES = 4096
_OWN = "sha256"
"""What the writer of layers hashes with."""


@dataclass(frozen=True)
class Compression:
    """How layers are compressed; without a level quickly, by the best library that is here."""

    kind: str
    level: int | None = None


class CompressedLayers:
    """What a store knows of its plain layers, compressed. May be used by several threads."""

    def __init__(self, store: ImageStore) -> None:
        self._blobs = store.blobs
        self._drafts = store.partial
        self._directory = f"{store.directory}/compressed"

    def known(self, plain: Digest, how: Compression) -> Descriptor | None:
        """Return what came of a plain layer, be it here or gone; None: it never was compressed."""
        data = disk.read(self._path(plain, how), _RECORD_BYTES)
        return _parsed(data) if data else None

    def all_known(self) -> Iterator[tuple[Digest, Digest]]:
        """Yield all plain layers with what came of them, in whatever way."""
        for name, plain in self._records():
            found = _parsed(disk.read(f"{self._directory}/{name}", _RECORD_BYTES) or b"")
            if found:
                yield plain, found.digest

    def make(
        self, layer: Descriptor, diff_id: Digest, chunks: Iterable[bytes], how: Compression
    ) -> Descriptor:
        """Have a plain layer, whose bytes are `chunks`, compressed in the store.

        The same bytes give the same blob where the same library compresses them. Raises
        IntegrityError, and keeps nothing, if they are not the layer; StoreError, UsageError.
        """
        encoder = compressor(how.kind, how.level) if how.level else quick_compressor(how.kind)
        names = {layer.digest, diff_id}
        others = [(d, hashlib.new(d.algorithm)) for d in names if d.algorithm != _OWN]
        with LayerWriter(self._blobs, how.kind, encoder) as writer:
            for piece in chunks:
                writer.write(piece)
                for _, hasher in others:
                    hasher.update(piece)
            found = {writer.diff_id, *(Digest(d.algorithm, h.hexdigest()) for d, h in others)}
            if not names <= found:
                raise IntegrityError(
                    f"layer {layer.digest} is damaged here: what lies there is {writer.diff_id}",
                    hint="load or pull the image again",
                )
            made, _ = writer.finish()
        self._remember(layer.digest, made, how)
        return made

    def forget(self, plain: Digest, how: Compression) -> None:
        """Remove a blob that is not what it was, and its record."""
        made = self.known(plain, how)
        disk.remove_file(self._path(plain, how))
        if made:
            disk.remove_file(self._blobs.path(made.digest))

    def forget_gone(self) -> None:
        """Remove the records of plain layers that are gone."""
        for name, plain in self._records():
            if not os.path.exists(self._blobs.find(plain)):
                disk.remove_file(f"{self._directory}/{name}")

    def _remember(self, plain: Digest, made: Descriptor, how: Compression) -> None:
        disk.make_directory(self._directory)
        data = fastjson.dumps(made.to_json()).encode()
        disk.write_whole(self._path(plain, how), data, drafts=self._drafts)

    def _records(self) -> Iterator[tuple[str, Digest]]:
        for name in disk.names_in(self._directory):
            try:
                yield name, Digest.parse(name.partition(".")[0].replace("-", ":"))
            except InvalidDocument:  # none of ours
                continue

    def _path(self, plain: Digest, how: Compression) -> str:
        level = "" if how.level is None else f"-{how.level}"
        return f"{self._directory}/{plain.algorithm}-{plain.hex}.{how.kind}{level}"


def _parsed(data: bytes) -> Descriptor | None:
    try:
        return Descriptor.from_json(fastjson.loads(data))
    except (ValueError, InvalidDocument):  # broken: it is made again
        return None
