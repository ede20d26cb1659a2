"""What the unpacking of a layer leaves to be done when it is merged with the layers below it."""

from __future__ import annotations

from udocker import fastjson
from udocker.errors import StoreError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

ASIDE = b".wh..wh.aside"
"""Where strata below the last one lie in a layer's directory; no entry can have that name."""


@dataclass(frozen=True)
class Stratum:
    """A part of a layer that is merged at one go. Paths are bytes, relative, without `..`."""

    directory: bytes
    """Where it lies in the layer's directory."""
    implicit: tuple[bytes, ...]
    """Directories that the layer has no entry for: they change nothing of those below."""
    replacing: tuple[bytes, ...]
    """Directories that another entry of the layer came before: nothing from below is in them."""
    links: tuple[tuple[bytes, bytes], ...]
    """Hard links still to be made, and their targets in the layers below."""


class Growing:
    """A stratum while its layer is unpacked."""

    def __init__(self, directory: bytes) -> None:
        self.directory = directory
        self.directories: dict[bytes, tuple[int, int] | None] = {b"": None}
        """Every directory with its mode and its time in nanoseconds; None: implicit."""
        self.links: dict[bytes, bytes] = {}
        """Hard links to be made later, and their targets."""
        self.replaced: dict[bytes, None] = {}
        """Paths where something else than a directory was."""

    def take(self, path: bytes, other: Growing) -> None:
        """Take over what `other` has at and below `path`."""
        for key in _at_or_below(path, other.directories):
            self.directories[key] = other.directories.pop(key)
        for key in _at_or_below(path, other.links):
            self.links[key] = other.links.pop(key)
        for key in _at_or_below(path, other.replaced):
            self.replaced[key] = other.replaced.pop(key)

    def finished(self) -> Stratum:
        """Return what `merge` must know of it."""
        implicit = (path for path, found in self.directories.items() if found is None)
        return Stratum(
            directory=self.directory,
            implicit=tuple(path for path in implicit if path not in self.replaced),
            replacing=tuple(path for path in self.replaced if path in self.directories),
            links=tuple(self.links.items()),
        )


LINK_OWNER = "owner of a symbolic link"
"""Linux lets no attribute stand on a link, and no program asks for the owner of one."""


def left_out(skipped: Iterable[tuple[str, int]], *, debug: bool) -> str:
    """Return what to tell of what was left out; empty: nothing that a user would miss."""
    listed = [f"{what} ({count})" for what, count in skipped if debug or what != LINK_OWNER]
    return f"left out, for only root can make them: {', '.join(listed)}" if listed else ""


def _at_or_below(path: bytes, keys: Iterable[bytes]) -> list[bytes]:
    below = path + b"/"
    return [key for key in keys if key == path or key.startswith(below)]


@dataclass(frozen=True)
class LayerTree:
    """A layer as it lies unpacked in a directory of its own."""

    strata: tuple[Stratum, ...]
    """To be merged in this order. There is more than one when an entry of the layer took the
    place of a directory: what was in it still belongs where the layers below lead to."""
    whiteouts: tuple[bytes, ...]
    """Paths that are hidden in the layers below."""
    opaque: tuple[bytes, ...]
    """Directories whose content is hidden in the layers below."""
    skipped: tuple[tuple[str, int], ...]
    """What was left out, and how many times."""
    entries: int
    size_bytes: int
    """Bytes of all files, holes included."""
    noted: tuple[tuple[bytes, tuple[int, ...]], ...] = ()
    """Values of `override` with the inodes of files that cannot have them as attributes."""

    def to_json(self) -> str:
        """Return all of it as text, for `from_json`."""
        return fastjson.dumps(
            {
                "strata": [
                    {
                        "directory": _text(stratum.directory),
                        "implicit": [_text(path) for path in stratum.implicit],
                        "replacing": [_text(path) for path in stratum.replacing],
                        "links": [[_text(path) for path in pair] for pair in stratum.links],
                    }
                    for stratum in self.strata
                ],
                "whiteouts": [_text(path) for path in self.whiteouts],
                "opaque": [_text(path) for path in self.opaque],
                "skipped": self.skipped,
                "entries": self.entries,
                "size_bytes": self.size_bytes,
                "noted": [[_text(value), inodes] for value, inodes in self.noted],
            }
        )

    @staticmethod
    def from_json(text: str) -> LayerTree:
        """Return what `to_json` was called on. Raises StoreError for any other text."""
        try:
            return _layer_tree(fastjson.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"the record of an unpacked layer is broken: {error}") from error


def _layer_tree(members: dict[str, Any]) -> LayerTree:
    return LayerTree(
        strata=tuple(_stratum(value) for value in members["strata"]),
        whiteouts=_paths(members["whiteouts"]),
        opaque=_paths(members["opaque"]),
        skipped=tuple((str(what), int(count)) for what, count in members["skipped"]),
        entries=int(members["entries"]),
        size_bytes=int(members["size_bytes"]),
        noted=tuple((v.encode(), tuple(map(int, some))) for v, some in members["noted"]),
    )


def _stratum(members: dict[str, Any]) -> Stratum:
    return Stratum(
        directory=_path(members["directory"]),
        implicit=_paths(members["implicit"]),
        replacing=_paths(members["replacing"]),
        links=tuple((_path(path), _path(target)) for path, target in members["links"]),
    )


def _paths(texts: list[str]) -> tuple[bytes, ...]:
    return tuple(_path(text) for text in texts)


def _path(text: str) -> bytes:
    path = text.encode("utf-8", "surrogateescape")
    if path and not {b"", b".", b".."}.isdisjoint(path.split(b"/")):
        raise ValueError(f"{text!r} is not a relative path")
    return path


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
