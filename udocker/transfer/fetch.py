"""One layer: from the registry into the blob store and, on the way, into a directory."""

from __future__ import annotations

import hashlib
import os
import queue
import threading

from udocker import trees
from udocker.errors import IntegrityError, UnpackError
from udocker.images import decompress, layers
from udocker.images.blobs import CHUNK_BYTES
from udocker.oci import Digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from udocker.images.blobs import BlobStore, PartialBlob
    from udocker.images.layers import LayerTree
    from udocker.oci import Descriptor
    from udocker.transfer.workers import Report

_AHEAD = 8
"""Chunks that one thread is ahead of the other, at most 1 MiB each."""


class LayerFetcher:
    """Brings layers: `download(descriptor, offset)` yields a blob's bytes from the registry."""

    def __init__(
        self, blobs: BlobStore, download: Callable[[Descriptor, int], Iterator[bytes]]
    ) -> None:
        self._blobs = blobs
        self._download = download

    def blob(self, layer: Descriptor, report: Report) -> None:
        """Bring a layer into the store, without unpacking it."""
        for _ in self._bytes(layer, report):
            pass

    def unpack(
        self, layer: Descriptor, diff_id: Digest, directory: str, report: Report
    ) -> LayerTree:
        """Bring a layer into the store and unpack it in `directory`, which is made.

        One thread receives, verifies, keeps and inflates; this one writes files. Raises
        IntegrityError when the bytes are not the layer's, UnpackError when they are but cannot
        be unpacked.
        """
        try:
            return self._unpack(layer, diff_id, directory, report)
        except _Stale:  # what an earlier pull left was wrong; it is gone now
            trees.remove_tree(directory)
            return self._unpack(layer, diff_id, directory, report)

    def _unpack(
        self, layer: Descriptor, diff_id: Digest, directory: str, report: Report
    ) -> LayerTree:
        os.mkdir(directory, 0o755)
        compressed = self._bytes(layer, report)
        hasher = hashlib.new(diff_id.algorithm)
        try:
            tree = layers.unpack(_ahead(_hashed(decompress.chunks(compressed), hasher)), directory)
        except UnpackError as error:
            for _ in compressed:  # wrong bytes are the likelier reason: the digest will tell
                pass
            raise UnpackError(f"layer {layer.digest}: {error.message}", hint=error.hint) from error
        for _ in compressed:
            pass
        found = Digest(diff_id.algorithm, hasher.hexdigest())
        if found != diff_id:
            raise IntegrityError(f"layer {layer.digest} unpacks to {found}, not to {diff_id}")
        return tree

    def _bytes(self, layer: Descriptor, report: Report) -> Iterator[bytes]:
        """Yield the layer's bytes; after the last one the blob is in the store, verified."""
        report.start(layer.digest.hex[:12], layer.size_bytes)
        if self._blobs.has(layer):
            yield from self._kept(layer, report)
            return
        partial = self._blobs.begin(layer)
        resumed = partial.size_bytes
        try:
            yield from _reported(self._collected(layer, partial), report)
            partial.commit()
        except IntegrityError as error:
            if resumed:
                raise _Stale(error.message) from error
            raise
        finally:
            partial.leave()

    def _collected(self, layer: Descriptor, partial: PartialBlob) -> Iterator[bytes]:
        yield from partial.replay()
        for chunk in self._download(layer, partial.size_bytes):
            partial.append(chunk)
            yield chunk

    def _kept(self, layer: Descriptor, report: Report) -> Iterator[bytes]:
        with open(self._blobs.path(layer.digest), "rb", buffering=0) as file:
            yield from _reported(iter(lambda: file.read(CHUNK_BYTES), b""), report)


class _Stale(IntegrityError):
    """A resumed blob turned out wrong: its first part may have been left so."""


def _reported(chunks: Iterator[bytes], report: Report) -> Iterator[bytes]:
    for chunk in chunks:
        report.advance(len(chunk))
        yield chunk


def _hashed(chunks: Iterator[bytes], hasher: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk


def _ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks, made by another thread that is a few of them ahead.

    Receiving, hashing, inflating and writing all let other threads run (they release the
    interpreter's lock), so one layer can keep two cores busy.
    """
    made: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)

    def produce() -> None:
        try:
            for chunk in chunks:
                made.put(chunk)
            made.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            made.put(error)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    while (item := made.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
    producer.join()
