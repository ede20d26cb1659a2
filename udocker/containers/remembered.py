"""What an image says of a container's files where these cannot have attributes that say it.

Then a path says which file of the image one is, so that rules are needed for those that the
container wrote: a file keeps the owner and the mode that the image has at its path while it is
of the same type there; the set-id bits, as write(2) has it, only while nobody wrote to it.
"""

from __future__ import annotations

import os
import stat

from udocker import console
from udocker.containers.layer import Layer, Memory, attribute, open_layer
from udocker.errors import StoreError
from udocker.images import override, sidefile

_SET_ID = stat.S_ISUID | stat.S_ISGID
_TOLD: set[str] = set()


class Remembered(Memory):
    """The values of `override` for files of one layer: a tree, what is over it, or its copy."""

    def __init__(self, layer: Layer, tree: str, *, copy: bool) -> None:
        """`copy` says that the layer has all files of the tree, and modes for a copy."""
        self._own = layer.own
        self._copy = copy
        self._values = noted_of(tree)
        self._tree = open_layer(tree, own=False)
        self._asks = not sidefile.lacks_attributes(tree)

    def close(self) -> None:
        """Leave the tree."""
        self._tree.__exit__()

    def value(self, path: bytes, status: os.stat_result, mode: int) -> bytes | None:
        """Return what the image says of a file or directory; None: nothing."""
        value = self._values.get(path)
        if not self._own:
            return value
        before = self._tree.status(path)
        if before is None or stat.S_IFMT(before.st_mode) != stat.S_IFMT(mode):
            return None
        if self._asks and value is None:
            value = self._attribute(path, is_directory=stat.S_ISDIR(mode))
        if value is None:
            return self._of_copy(before)
        is_same = stat.S_ISDIR(mode) or _written(before) == _written(status)
        return value if is_same else _without_set_id(value)

    def _attribute(self, path: bytes, *, is_directory: bool) -> bytes | None:
        if is_directory:
            return attribute(self._tree.descriptor(path), override.ATTRIBUTE)
        descriptor = self._tree.open_file(path)
        try:
            return attribute(descriptor, override.ATTRIBUTE)
        finally:
            os.close(descriptor)

    def _of_copy(self, before: os.stat_result) -> bytes | None:
        """Return the mode that a file had before it was copied so that its owner may write."""
        mode = before.st_mode
        if not self._copy or stat.S_ISDIR(mode) or mode & 0o200:
            return None
        return override.encode((0, 0), stat.S_IMODE(mode))


def remember(layer: Layer, tree: str, *, copy: bool = False) -> Layer:
    """Let a layer answer for attributes that its files, or those that an overlay copied to it,
    could not have; return it."""
    lacks = sidefile.lacks_attributes(layer.descriptor(b""))
    lacks = lacks or (not copy and sidefile.lacks_attributes(tree))
    if lacks and os.path.isdir(tree):
        layer.memory = Remembered(layer, tree, copy=copy)
    return layer


def noted_of(tree: str) -> dict[bytes, bytes]:
    """Return what the `sidefile` of an image's tree says; that it is damaged is told, once."""
    path = sidefile.of_tree(tree)
    try:
        return sidefile.load(path)
    except StoreError as error:
        if path not in _TOLD:
            _TOLD.add(path)
            console.warn(f"owners and modes of the image are not known: {error.message}")
        return {}


def _written(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _without_set_id(value: bytes) -> bytes | None:
    known = override.decode(value)
    return override.encode(known[0], known[1] & ~_SET_ID) if known else None
