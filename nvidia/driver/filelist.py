"""The driver's own list of the files that it installs, with what each is for.

Source: `sandboxutils-filelist.json` of driver 565 and later, a flat array of objects
`{"name": BASENAME, "type": "LIB", "category": ["cuda", ...]}` in which a name may come again with
other words.
"""

from __future__ import annotations

from udocker import fastjson
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 1 << 20
_MAX_ENTRIES = 4096
_MAX_NAME = 255


@dataclass(frozen=True)
class FileList:
    """What a list names; the keys are base names, the values categories, each once."""

    libraries: dict[str, tuple[str, ...]]
    configurations: dict[str, tuple[str, ...]]
    """Of loaders: JSON files, and `.icd`."""
    links: frozenset[str]
    """Symbolic links, by which programs open libraries."""


def parse(data: bytes) -> FileList:
    """Read a list. Raises ValueError when it is none; entries of a kind not known are passed over.

    Programs and firmware are among these: for programs a table knows which belong in a container,
    and firmware is loaded by the kernel, from the host's own directories.
    """
    entries = fastjson.loads(data)
    if not isinstance(entries, list) or len(entries) > _MAX_ENTRIES:
        raise ValueError("not a list of files")
    kinds: dict[str, dict[str, tuple[str, ...]]] = {}
    for entry in entries:
        kind, name, words = _entry(entry)
        held = kinds.setdefault(kind, {})
        held[name] = tuple(dict.fromkeys(held.get(name, ()) + words))
    configurations = {**kinds.get("JSON", {}), **kinds.get("ICD", {})}
    return FileList(kinds.get("LIB", {}), configurations, frozenset(kinds.get("SYMLINK", {})))


def _entry(entry: Any) -> tuple[str, str, tuple[str, ...]]:
    """Return kind, base name and categories of an entry."""
    if not isinstance(entry, dict):
        raise ValueError("an entry is not an object")
    kind, name, words = entry.get("type"), entry.get("name"), entry.get("category", [])
    words = [words] if isinstance(words, str) else words
    if not isinstance(kind, str) or not isinstance(name, str) or not isinstance(words, list):
        raise ValueError("an entry lacks its name or type")
    name = name.rpartition("/")[2]
    if not name or len(name) > _MAX_NAME or "\0" in name:
        raise ValueError("an entry has a name that no file can have")
    return kind, name, tuple(word for word in words if isinstance(word, str))
