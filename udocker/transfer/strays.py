"""Blobs of the store that no image of its names has: other tools', or left for later."""

from __future__ import annotations

import hashlib
import os

from udocker import disk, trees
from udocker.errors import InvalidDocument, StoreError
from udocker.images.blobs import CHUNK_BYTES
from udocker.oci import Descriptor, Digest
from udocker.transfer.build import side_by_side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.store import ImageStore
    from udocker.settings import Settings
    from udocker.transfer.parallel.workers import Report

_AT_ONCE = 4096
"""Blobs that workers are given at one go."""


class Strays:
    """Checks the blobs that no image leads to: their names have to be their digests."""

    def __init__(self, settings: Settings, store: ImageStore) -> None:
        self._settings = settings
        self._store = store

    def damaged(self) -> tuple[Digest, ...]:
        """Return those whose content is not that of their names."""
        listed = self._listed()
        found: list[Digest] = []
        for start in range(0, len(listed), _AT_ONCE):
            found += self._damaged_of(listed[start : start + _AT_ONCE])
        return tuple(found)

    def _damaged_of(self, wanted: list[Descriptor]) -> list[Digest]:
        stage = self._store.new_stage()

        def check(number: int, report: Report) -> None:
            if not _is_good(self._store.blobs.path(wanted[number].digest), wanted[number], report):
                disk.write_whole(f"{stage}/{number}", b"", sync=False)

        try:
            side_by_side(self._settings, wanted, check)
            return [wanted[int(name)].digest for name in sorted(os.listdir(stage), key=int)]
        finally:
            trees.remove_tree(stage)

    def throw_away(self, digest: Digest) -> None:
        """Remove a blob that is damaged: it is of use to nobody. Raises StoreError."""
        path = self._store.blobs.path(digest)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk.store_error(error, path) from error

    def _listed(self) -> list[Descriptor]:
        known = self._of_images()
        found = []
        for named in self._store.blobs.listed():
            try:
                digest = Digest.parse(str(named))
                size_bytes = os.stat(self._store.blobs.path(digest)).st_size
            except (InvalidDocument, OSError):  # no blob, or it is gone just now
                continue
            if digest.is_known and digest not in known:
                found.append(Descriptor("", digest, size_bytes))
        return found

    def _of_images(self) -> set[Digest]:
        known = set()
        for image in self._store.images():
            known.add(image.manifest.digest)
            try:
                manifest = self._store.read_manifest(image)
            except StoreError:  # told already
                continue
            known.update(blob.digest for blob in (manifest.config, *manifest.layers))
        return known


def _is_good(path: str, blob: Descriptor, report: Report) -> bool:
    report.start(blob.digest.hex[:12], blob.size_bytes)
    hasher = hashlib.new(blob.digest.algorithm)
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK_BYTES):
                report.advance(len(chunk))
                hasher.update(chunk)
    except FileNotFoundError:  # somebody threw it away
        return True
    except OSError:
        return False
    is_good = hasher.hexdigest() == blob.digest.hex
    report.finish("checked" if is_good else "at fault")
    return is_good
