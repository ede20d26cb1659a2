"""Layers as they travel to the tar stream inside: gzip, zstd, bzip2, xz or nothing, told by magic.

Labels lie: media types say gzip where plain tar or zstd is. Output comes in pieces of 256 KiB at
most, so that a few bytes that stand for gigabytes of zeros cost no memory.
"""

from __future__ import annotations

from itertools import chain

from udocker.errors import UnpackError
from udocker.images.compression import codecs
from udocker.images.compression.bounds import EXPANSION, Expansion
from udocker.images.compression.zstdframes import Frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from udocker.images.compression.codecs import Decoder


PIECE_BYTES = 256 << 10
"""What stays in the cache of a core from one step to the next."""
HEAD_BYTES = 10
"""So much of the beginning tells how data is compressed."""
_GZIP, _XZ, _BZIP2 = b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh"
_ZSTD, _ZSTD_SKIPPABLE = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
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
        return _decoded(pieces, kind, *codecs.gzip())
    if kind == "zstd":
        return _zstd(pieces)
    if kind == "xz":
        return _decoded(pieces, kind, *codecs.xz())
    if kind == "bzip2":
        return _decoded(pieces, kind, *codecs.bzip2())
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
    new_decoder: Callable[[], Decoder],
    broken: type[Exception],
) -> Iterator[bytes]:
    decoder, data = new_decoder(), b""
    while True:
        if decoder.eof:
            data = _at_least(HEAD_BYTES, decoder.unused_data, pieces)
            if compression(data) != name:
                break
            decoder = new_decoder()
        elif decoder.needs_input and not data:
            data = _at_least(1, b"", pieces)
            if not data:
                raise UnpackError(f"the {name} data of the layer is cut off")
        try:
            output = decoder.decompress(data, PIECE_BYTES)
        except broken as error:
            raise _broken(name, error) from error
        data = b""
        if output:
            yield output
    if data and name == "zstd":  # unlike gzip's, its frames are followed by nothing else
        raise UnpackError("the zstd data of the layer is broken: unknown frame")
    for _ in pieces:
        pass


def _broken(name: str, error: Exception) -> UnpackError:
    if "too much memory" in str(error):
        return UnpackError(f"the zstd data needs a window of more than {_ZSTD_WINDOW}")
    return UnpackError(f"the {name} data of the layer is broken: {error}")


def _zstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    codec = codecs.zstd()
    if codec:
        return _decoded(pieces, "zstd", *codec)
    try:
        import zstandard

        return _zstandard(pieces, zstandard)
    except ImportError as error:
        program = codecs.zstd_program()
        if not program:
            way_out = "the Python package zstandard, or the program zstd"
            raise codecs.unknown("zstd", way_out) from error
        return codecs.ZstdProgram(program, pieces, PIECE_BYTES).chunks()


def _zstandard(pieces: Iterator[bytes], zstandard: Any) -> Iterator[bytes]:
    source = _ZstdSource(pieces)
    reader = zstandard.ZstdDecompressor().stream_reader(
        source,
        read_across_frames=True,
    )
    while True:
        try:
            output = reader.read(PIECE_BYTES)
        except zstandard.ZstdError as error:
            raise _broken("zstd", error) from error
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
