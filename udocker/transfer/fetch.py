"""One layer: from the registry into the blob store and, on the way, into a directory."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack, closing

from udocker import trees
from udocker.errors import IntegrityError, UnpackError
from udocker.images import layers
from udocker.images.blobs import CHUNK_BYTES
from udocker.images.compression import decompress, trailer
from udocker.images.compression.bounds import EXPANSION
from udocker.oci import Digest
from udocker.transfer.parallel.stages import LITTLE_BYTES, ahead, in_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import TypeVar

    from udocker.images.blobs import BlobStore, PartialBlob
    from udocker.images.layers import LayerTree
    from udocker.oci import Descriptor
    from udocker.transfer.parallel.workers import Report

    _T = TypeVar("_T")
    Step = Callable[[Iterator[bytes]], Generator[bytes, None, None]]


class LayerFetcher:
    """Brings layers: `download(descriptor, offset)` yields a blob's bytes from the registry.

    None may become more than a GiB and `expansion` times as large; 0: as large as it wants.
    """

    def __init__(
        self,
        blobs: BlobStore,
        download: Callable[[Descriptor, int], Iterator[bytes]],
        *,
        expansion: int = EXPANSION,
    ) -> None:
        self._blobs = blobs
        self._download = download
        self._expansion = expansion

    def blob(self, layer: Descriptor, report: Report) -> None:
        """Bring a layer into the store, without unpacking it."""
        try:
            _pass_over(self._bytes(layer, report))
        except _Stale:
            _pass_over(self._bytes(layer, report))

    def unpack(
        self, layer: Descriptor, diff_id: Digest, directory: str, report: Report
    ) -> LayerTree:
        """Bring a layer into the store and unpack it in `directory`, which is made.

        One thread receives, verifies and keeps, one inflates, one hashes what comes out; this
        one writes files, and does all of it where there is little. Raises IntegrityError when the
        bytes are not the layer's, UnpackError when they are but cannot be unpacked.
        """

        def unpacked(chunks: Iterator[bytes]) -> LayerTree:
            os.mkdir(directory, 0o755)
            return layers.unpack(chunks, directory)

        try:
            return self._inflated(layer, diff_id, report, unpacked)
        except _Stale:  # what an earlier pull left was wrong; it is gone now
            trees.remove_tree(directory)
            return self._inflated(layer, diff_id, report, unpacked)

    def check(self, layer: Descriptor, diff_id: Digest, report: Report) -> None:
        """Bring a layer into the store, without unpacking it, if it is what `diff_id` names.

        Raises IntegrityError, UnpackError.
        """
        try:
            self._inflated(layer, diff_id, report, _pass_over)
        except _Stale:
            self._inflated(layer, diff_id, report, _pass_over)

    def _inflated(
        self,
        layer: Descriptor,
        diff_id: Digest,
        report: Report,
        use: Callable[[Iterator[bytes]], _T],
    ) -> _T:
        """Return what `use` makes of a layer's content, of which every byte is verified then."""
        compressed = self._bytes(layer, report)
        hasher = hashlib.new(diff_id.algorithm)

        def hashed(content: Iterator[bytes]) -> Iterator[bytes]:
            return trailer.completed(content, hasher, diff_id.hex)

        try:
            step = ahead if layer.size_bytes > LITTLE_BYTES else in_step
            used = self._in_steps(compressed, hashed, use, step)
        except UnpackError as error:
            _pass_over(compressed)  # wrong bytes are the likelier reason: the digest will tell
            raise UnpackError(f"layer {layer.digest}: {error.message}", hint=error.hint) from error
        _pass_over(compressed)
        found = Digest(diff_id.algorithm, hasher.hexdigest())
        if found != diff_id:
            raise IntegrityError(f"layer {layer.digest} unpacks to {found}, not to {diff_id}")
        return used

    def _in_steps(
        self,
        compressed: Iterator[bytes],
        hashed: Callable[[Iterator[bytes]], Iterator[bytes]],
        use: Callable[[Iterator[bytes]], _T],
        step: Step,
    ) -> _T:
        """Inflate a layer for `use`; none of the steps still works afterwards."""
        with ExitStack() as steps:
            received = steps.enter_context(closing(step(compressed)))
            content = decompress.chunks(received, expansion=self._expansion)
            inflated = steps.enter_context(closing(step(content)))
            return use(steps.enter_context(closing(step(hashed(inflated)))))

    def _bytes(self, layer: Descriptor, report: Report) -> Iterator[bytes]:
        """Yield the layer's bytes; after the last one the blob is in the store, verified."""
        report.start(layer.digest.hex[:12], layer.size_bytes)
        if not self._blobs.has(layer):
            lock = self._blobs.sole(layer.digest)
            try:
                if not self._blobs.has(layer):  # nobody brought it meanwhile
                    yield from self._brought(layer, report)
                    return
            finally:
                lock.discard()
        yield from self._kept(layer, report)

    def _brought(self, layer: Descriptor, report: Report) -> Iterator[bytes]:
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
        path = self._blobs.path(layer.digest)
        hasher = hashlib.new(layer.digest.algorithm)
        with open(path, "rb", buffering=0) as file:
            chunks = _hashed(iter(lambda: file.read(CHUNK_BYTES), b""), hasher)
            yield from _reported(chunks, report)
        if hasher.hexdigest() != layer.digest.hex:
            try:
                os.unlink(path)
            except FileNotFoundError:  # another worker was quicker: layers may be alike
                pass
            raise _Stale(f"blob {layer.digest} was damaged here")


class _Stale(IntegrityError):
    """What was here of a blob turned out wrong; it is gone now."""


def _pass_over(chunks: Iterator[bytes]) -> None:
    for _ in chunks:
        pass


def _reported(chunks: Iterator[bytes], report: Report) -> Iterator[bytes]:
    for chunk in chunks:
        report.advance(len(chunk))
        yield chunk


def _hashed(chunks: Iterator[bytes], hasher: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
