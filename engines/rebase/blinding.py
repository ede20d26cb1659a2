"""glibc's loader without eyes for the host: what to overwrite in it, byte for byte."""

from __future__ import annotations

from udocker.engines.rebase.elfwriter import Edit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CACHE_STRINGS = (
    (b"/etc/ld.so.cache\0", b"/dev/null/.cache\0"),
    (b"/etc/ld.so.preload\0", b"/dev/null/.preload\0"),
)
"""What the loader reads of the host, and names of the same length that nothing can have."""


def blinding(loader: bytes) -> Iterator[Edit]:
    """Yield the edits after which a loader of glibc reads nothing of the host.

    Its caches and standard directories get names of the same length that no file can have, or
    that only an administrator could make. LD_LIBRARY_PATH and RPATH work as before. Source:
    glibc elf/dl-load.c (`system_dirs`), elf/dl-cache.c, elf/rtld.c.
    """
    for old, new in _CACHE_STRINGS:
        start = loader.find(old)
        while start >= 0:
            yield Edit(start, old, new)
            start = loader.find(old, start + 1)
    import re

    directory = rb"/(?:usr/)?lib(?:32|64|x32)?/(?:[\w.]+-linux-gnu\w*/)?\0"
    for found in re.finditer(rb"(?<![!-~])(?:%s)+" % directory, loader):
        old = found.group()
        new = b"".join(_nowhere(len(part)) + b"\0" for part in old[:-1].split(b"\0"))
        yield Edit(found.start(), old, new)


def _nowhere(size: int) -> bytes:
    """Return the name of a directory that is not there, of `size` bytes."""
    beginning = b"/dev/null/" if size > 11 else b"/"
    return beginning + b"\x7f" * (size - len(beginning) - 1) + b"/"
