"""The directories that a tree's `/etc/ld.so.conf` and a program's LD_LIBRARY_PATH name.

Source: ldconfig(8), ld.so(8).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.root import Root

PATH = "/etc/ld.so.conf"
DIRECTORY = "/etc/ld.so.conf.d"
"""Where that file, as distributions have it, looks for more such files."""
MAX_FILES = 64
"""Files that one line may include."""
_MAX_BYTES = 65536


def directories(root: Root, path: str = PATH, depth: int = 0) -> Iterator[str]:
    """Yield the directories that a file of ldconfig's configuration names."""
    try:
        text = os.fsdecode(root.read(path, _MAX_BYTES))
    except OSError:
        return
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["include"] and depth < 2:
            for included in _included(root, words[1:2], path):
                yield from directories(root, included, depth + 1)
        elif words[:1] != ["hwcap"]:
            yield from (word for word in words if word.startswith("/"))


def elements(library_path: str) -> list[str]:
    """Return what an LD_LIBRARY_PATH names, in its order; colons and semicolons separate."""
    return library_path.replace(";", ":").split(":")


def _included(root: Root, patterns: list[str], including: str) -> Iterator[str]:
    for pattern in patterns:
        whole = os.path.join(os.path.dirname(including), pattern)
        directory, _, name = whole.rpartition("/")
        if "*" not in name:
            yield whole
            continue
        before, _, after = name.partition("*")
        for found in root.listdir(directory)[:MAX_FILES]:
            if found.startswith(before) and found.endswith(after):
                yield f"{directory}/{found}"
