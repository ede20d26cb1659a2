"""What an image says of a container's files where these cannot have attributes that say it.

Then a path says which file of the image one is, so that rules are needed for those that the
container wrote: a file keeps the owner and the mode that the image has at its path while it is
of the same type there; the set-id bits, as write(2) has it, only while nobody wrote to it.
"""

from __future__ import annotations

import os
import stat

from udocker import console
from udocker.containers.layer import Layer, attribute, open_layer
from udocker.errors import StoreError
from udocker.images import override, sidefile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.files import Found

_SET_ID = stat.S_ISUID | stat.S_ISGID
_TOLD: set[str] = set()


class Remembered:
    """The values of `override` for files of one layer over a tree, or of a copy of it."""

    def __init__(self, tree: str, *, copy: bool) -> None:
        """`copy` says that the layer has all files of the tree, and modes for a copy."""
        self._copy = copy
        self._values = noted_of(tree)
        self._tree = open_layer(tree, own=False)
        self._asks = not sidefile.lacks_attributes(tree)

    def close(self) -> None:
        """Leave the tree."""
        self._tree.__exit__()

    def value(self, found: Found) -> bytes | None:
        """Return what the image says of a file or directory; None: nothing."""
        value = self._values.get(found.path)
        if not found.layer.own:
            return value
        before = self._tree.status(found.path)
        if before is None or stat.S_IFMT(before.st_mode) != stat.S_IFMT(found.mode):
            return None
        if self._asks and value is None:
            value = self._attribute(found)
        if value is None:
            return self._of_copy(before, found)
        return value if _is_untouched(before, found) else _without_set_id(value)

    def _attribute(self, found: Found) -> bytes | None:
        if found.is_directory:
            return attribute(self._tree.descriptor(found.path), override.ATTRIBUTE)
        descriptor = self._tree.open_file(found.path)
        try:
            return attribute(descriptor, override.ATTRIBUTE)
        finally:
            os.close(descriptor)

    def _of_copy(self, before: os.stat_result, found: Found) -> bytes | None:
        """Return the mode that a file had before it was copied so that its owner may write."""
        if not self._copy or found.is_directory or before.st_mode & 0o200:
            return None
        return override.encode((0, 0), stat.S_IMODE(before.st_mode))


def remember(layer: Layer, tree: str, *, copy: bool = False) -> Layer:
    """Let a layer answer for attributes that its files cannot have; return it."""
    if sidefile.lacks_attributes(layer.descriptor(b"")) and os.path.isdir(tree):
        layer.remembered = Remembered(tree, copy=copy)
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


def _is_untouched(before: os.stat_result, found: Found) -> bool:
    now = found.status
    facts = (now.st_size, now.st_mtime_ns)
    return found.is_directory or facts == (before.st_size, before.st_mtime_ns)


def _without_set_id(value: bytes) -> bytes | None:
    known = override.decode(value)
    return override.encode(known[0], known[1] & ~_SET_ID) if known else None
