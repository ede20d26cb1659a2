"""Containers as `udocker export --clone` of udocker 1 packed them: their files, and their config.

Such an archive is the directory of a container: `ROOT/` with its files, `container.json` with
its image's config, and more that concerns udocker 1 alone. Source: udocker 1.3.17,
container/structure.py.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager

from udocker import disk, fastjson, trees
from udocker.containers.archive import Archiver
from udocker.containers.files import Files
from udocker.containers.layer import open_layer
from udocker.errors import InvalidDocument, StoreError, UdockerError, UnpackError
from udocker.images import layers
from udocker.images.archives.tarwriter import TarWriter, write_all
from udocker.images.compression import decompress
from udocker.images.tree import WHITEOUT
from udocker.oci import MAX_DOCUMENT_BYTES
from udocker.transfer.parallel import threads
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from udocker.images.store import ImageStore
    from udocker.settings import Settings

_KEPT = ("Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "User", "Volumes", "WorkingDir")
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Clone:
    """A container that was packed."""

    process: dict[str, Any]
    """The member `config` of its image's config."""
    rootfs: str

    def chunks(self) -> Iterator[bytes]:
        """Yield its files as a tar stream. Raises StoreError."""
        reading, writing = os.pipe()
        failures: list[Exception] = []
        writer = threads.start(lambda: _pack(self.rootfs, writing, failures))
        try:
            while data := os.read(reading, _PIECE_BYTES):
                yield data
        finally:
            os.close(reading)  # a writer that is not done meets a broken pipe
            writer.join()
        if failures:
            raise StoreError(f"{self.rootfs}: {failures[0]}") from failures[0]


@contextmanager
def unpacked_clone(
    settings: Settings, store: ImageStore, source: str, chunks: Iterable[bytes]
) -> Iterator[Clone]:
    """Unpack such an archive; it is gone afterwards. Raises InvalidDocument, StoreError."""
    stage = store.new_stage()
    try:
        os.mkdir(f"{stage}/layer", 0o755)
        content = decompress.chunks(chunks, expansion=settings.max_expansion)
        try:
            found = layers.unpack(content, f"{stage}/layer")
        except UnpackError as error:
            message = error.message.replace("the layer", "it")
            raise InvalidDocument(f"{source}: {message}", hint=error.hint) from error
        layers.merge([(f"{stage}/layer", found)], f"{stage}/all")
        if not _is_directory(f"{stage}/all/ROOT"):
            hint = "without --clone, an archive of a system's files is imported"
            raise InvalidDocument(f"{source}: not made by export --clone of udocker 1", hint=hint)
        yield Clone(_process(f"{stage}/all/container.json"), f"{stage}/all/ROOT")
    finally:
        trees.remove_tree(stage)


def _is_directory(path: str) -> bool:
    """Tell whether it is one, and not a link that leads to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _process(path: str) -> dict[str, Any]:
    """Return what the container's image says of its program; nothing where that is not known."""
    if not os.path.lexists(path) or not stat.S_ISREG(os.lstat(path).st_mode):
        return {}
    try:
        document = fastjson.loads(disk.read(path, MAX_DOCUMENT_BYTES) or b"")
        process = document.get("config") or document.get("container_config") or {}
        return {key: process[key] for key in _KEPT if process.get(key)}
    except (ValueError, AttributeError, TypeError):
        return {}


def _pack(rootfs: str, descriptor: int, failures: list[Exception]) -> None:
    try:
        writer = TarWriter(write_all(descriptor))
        archiver = Archiver(writer, sparse=False)
        with Files(open_layer(rootfs, own=False)) as files:
            root = files.root()
            archiver.add(root, b".")
            for found in files.walk(root):
                if WHITEOUT not in found.path:
                    archiver.add(found)
        writer.finish()
    except (OSError, UdockerError) as error:  # raised again by the reader, if it still reads
        failures.append(error)
    finally:
        os.close(descriptor)
