"""Archives as they are written: compressed with gzip, zstd, bzip2 or xz, equal for equal input."""

from __future__ import annotations

import zlib

from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Compressor(Protocol):
        """What the compressors of the libraries have in common."""

        def compress(self, data: bytes, /) -> bytes:
            """Take more; return what has come out by now."""

        def flush(self) -> bytes:
            """Return the rest."""


ENDINGS = {
    ".gz": "gzip",
    ".tgz": "gzip",
    ".zst": "zstd",
    ".tzst": "zstd",
    ".bz2": "bzip2",
    ".tbz2": "bzip2",
    ".xz": "xz",
    ".txz": "xz",
}
GZIP_LEVEL = 4
"""The tar of a Debian tree, 172 MB, becomes 67 MB by 1, 62 MB by 4, 61 MB by 6, which take 1.8,
2.8 and 5.6 s."""
_ISAL_LEVEL, _QUICK_LEVEL = 2, 1
"""Of isal, which has 0 to 3, and of zlib. A tar of 210 MB becomes 75 MB by isal in 0.5 s, by
zlib's 1 in 2.6 s, and 69 MB by zlib's 4 in 3.7 s."""
_ZSTD_LEVEL = 3
_GZIP = 31
"""zlib's window bits for gzip with 32 KiB; the header has no time. Source: zlib.h."""


def kind_by_name(path: str) -> str:
    """Return the kind of compression that a file's name promises; empty: none."""
    return next((kind for ending, kind in ENDINGS.items() if path.endswith(ending)), "")


class Compressed:
    """Compresses what is written on its way to `write`; `finish` writes the rest."""

    def __init__(self, write: Callable[[bytes], object], kind: str) -> None:
        self._write = write
        self._compressor = compressor(kind)

    def write(self, data: bytes) -> None:
        """Take more."""
        out = self._compressor.compress(data)
        if out:
            self._write(out)

    def finish(self) -> None:
        """Write what is left."""
        self._write(self._compressor.flush())


def compressor(kind: str, level: int | None = None) -> Compressor:
    """Return what compresses so. Raises UsageError where this Python cannot."""
    if kind == "gzip":
        return zlib.compressobj(level or GZIP_LEVEL, zlib.DEFLATED, _GZIP)
    try:
        if kind == "zstd":
            import zstandard

            return zstandard.ZstdCompressor(level=level or _ZSTD_LEVEL).compressobj()
        if kind == "bzip2":
            import bz2

            return bz2.BZ2Compressor()
        import lzma

        return lzma.LZMACompressor()
    except ImportError as error:
        hint = "gzip is what every Python can"
        raise UsageError(f"this Python cannot compress with {kind}", hint=hint) from error


def quick_compressor(kind: str) -> Compressor:
    """Return what compresses so in little time: isal for gzip, where it is installed.

    What comes of isal depends on the pieces that it is given, too.
    """
    if kind == "gzip":
        try:
            from isal import isal_zlib
        except ImportError:
            return compressor(kind, _QUICK_LEVEL)
        quick: Compressor = isal_zlib.compressobj(_ISAL_LEVEL, isal_zlib.DEFLATED, _GZIP)
        return quick
    return compressor(kind)
