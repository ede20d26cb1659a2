"""Layers as they travel to the tar stream inside: gzip, zstd, bzip2, xz or nothing, told by magic.

Labels lie: media types say gzip where plain tar or zstd is. Output comes in pieces of 1 MiB at
most, so that a few bytes that stand for gigabytes of zeros cost no memory.
"""

from __future__ import annotations

from itertools import chain

from udocker.errors import UnpackError
from udocker.images.bounds import EXPANSION, Expansion
from udocker.images.zstdframes import Frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Protocol

    class Decoder(Protocol):
        """What the decoders of bz2, lzma and isal have in common."""

        @property
        def eof(self) -> bool:
            """Whether the end of the compressed stream was seen."""

        @property
        def needs_input(self) -> bool:
            """Whether nothing more can come out before something goes in."""

        @property
        def unused_data(self) -> bytes:
            """What followed the end of the compressed stream."""

        def decompress(self, data: bytes, max_length: int) -> bytes:
            """Return at most `max_length` bytes more."""

    Codec = tuple[Callable[[], Decoder], type[Exception]]


PIECE_BYTES = 256 << 10
HEAD_BYTES = 10
"""So much of the beginning tells how data is compressed."""
_GZIP, _XZ, _BZIP2 = b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh"
_ZSTD, _ZSTD_SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
_XZ_MEMORY_BYTES = 256 << 20
_ZSTD_WINDOW = "128 MiB"
"""What `zstd --ultra -22` and `--long` have. Source: zstd.h, ZSTD_WINDOWLOG_LIMIT_DEFAULT."""


def chunks(source: Iterable[bytes], *, expansion: int = EXPANSION) -> Iterator[bytes]:
    """Return the uncompressed content of `source`, which is read to its end.

    What follows the last gzip member is passed over, as GNU gzip does. Raises UnpackError when
    the data is broken or cut off, when this Python cannot decompress it, or when it becomes more
    than a GiB and more than `expansion` times what it was (0: whatever it becomes).
    """
    bound = Expansion(expansion)
    return bound.checked(_uncompressed(bound.counted(source)))


def _uncompressed(source: Iterator[bytes]) -> Iterator[bytes]:
    rest = filter(None, source)
    head = _at_least(HEAD_BYTES, b"", rest)
    pieces = chain([head] if head else [], rest)
    kind = compression(head)
    if kind == "gzip":
        return _decoded(pieces, kind, _GZIP, *_gzip())
    if kind == "zstd":
        return _zstd(pieces)
    if kind == "xz":
        return _decoded(pieces, kind, _XZ, *_xz())
    if kind == "bzip2":
        return _decoded(pieces, kind, _BZIP2, *_bzip2())
    return _small(pieces)


def compression(head: bytes) -> str:
    """Return how data that begins with `head` (`HEAD_BYTES`) is compressed; empty: not at all."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or (head[1:4] == _ZSTD_SKIPPABLE and head[0] >> 4 == 5):
        return "zstd"
    if head.startswith(_XZ):
        return "xz"
    if head.startswith(_BZIP2) and head[4:HEAD_BYTES] in _BZIP2_BLOCKS:
        return "bzip2"
    return ""


def _at_least(size: int, data: bytes, pieces: Iterator[bytes]) -> bytes:
    """Return `data` and as many `pieces` as it takes to have `size` bytes, if there are."""
    while len(data) < size:
        piece = next(pieces, None)
        if piece is None:
            break
        data += piece
    return data


def _small(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if len(piece) <= PIECE_BYTES:
            yield piece
        else:
            for start in range(0, len(piece), PIECE_BYTES):
                yield piece[start : start + PIECE_BYTES]


def _decoded(
    pieces: Iterator[bytes],
    name: str,
    magic: bytes,
    new_decoder: Callable[[], Decoder],
    broken: type[Exception],
) -> Iterator[bytes]:
    decoder, data = new_decoder(), b""
    while True:
        if decoder.eof:
            data = _at_least(len(magic), decoder.unused_data, pieces)
            if not data.startswith(magic):
                break
            decoder = new_decoder()
        elif decoder.needs_input and not data:
            data = _at_least(1, b"", pieces)
            if not data:
                raise UnpackError(f"the {name} data of the layer is cut off")
        try:
            output = decoder.decompress(data, PIECE_BYTES)
        except broken as error:
            raise UnpackError(f"the {name} data of the layer is broken: {error}") from error
        data = b""
        if output:
            yield output
    for _ in pieces:
        pass


def _gzip() -> Codec:
    try:
        from isal import igzip_lib
    except ImportError:
        import zlib

        return _ZlibDecoder, zlib.error
    # Twice as fast as zlib: 827 against 392 MB/s of output.
    flag = igzip_lib.DECOMP_GZIP
    # Its stubs call the class an instance, and are not there where it is not installed.
    broken: Any = igzip_lib.IsalError
    return lambda: igzip_lib.IgzipDecompressor(flag=flag), broken


class _ZlibDecoder:
    """zlib's decoder of gzip members in the shape of the others."""

    def __init__(self) -> None:
        import zlib

        self._decoder = zlib.decompressobj(31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        output = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        self.needs_input = len(output) < max_length
        return output


def _xz() -> Codec:
    try:
        import lzma
    except ImportError as error:
        raise _unknown("xz", "a Python with the module lzma") from error
    memory = _XZ_MEMORY_BYTES
    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory), lzma.LZMAError


def _bzip2() -> Codec:
    try:
        import bz2
    except ImportError as error:
        raise _unknown("bzip2", "a Python with the module bz2") from error
    return bz2.BZ2Decompressor, OSError


def reads_zstd() -> bool:
    """Tell whether layers that are compressed with zstd can be read here."""
    try:
        import zstandard  # noqa: F401
    except ImportError:  # not there, or in a zip file, from which its library cannot be loaded
        return False
    return True


def _zstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise _unknown("zstd", "the Python package zstandard") from error
    source = _ZstdSource(pieces)
    reader = zstandard.ZstdDecompressor().stream_reader(
        source,  # type: ignore[arg-type]  # read() is all that it calls
        read_across_frames=True,
    )
    while True:
        try:
            output = reader.read(PIECE_BYTES)
        except zstandard.ZstdError as error:
            if "too much memory" in str(error):
                raise UnpackError(
                    f"the zstd data needs a window of more than {_ZSTD_WINDOW}"
                ) from error
            raise UnpackError(f"the zstd data of the layer is broken: {error}") from error
        if not output:
            break
        yield output
    if not source.frames.whole:
        raise UnpackError("the zstd data of the layer is cut off")


class _ZstdSource:
    """The file that the reader of zstandard asks for; it gives pieces of any length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.frames = Frames()

    def read(self, _size: int = -1) -> bytes:
        piece = next(self._pieces, b"")
        self.frames.feed(piece)
        return piece


def _unknown(name: str, way_out: str) -> UnpackError:
    return UnpackError(f"the layer is compressed with {name}", hint=f"install {way_out}")
