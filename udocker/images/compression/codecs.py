"""What inflates layers: the fastest library that is installed here, Python's own elsewhere.

gzip: isal, zlib-ng, zlib. zstd: Python's own of 3.14, zstandard, backports.zstd; `ZstdProgram`
where none is.
"""

from __future__ import annotations

from udocker.errors import UnpackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    class Decoder(Protocol):
        """What the decoders of bz2, lzma, isal and zstd have in common."""

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
    """How a decoder is made, and what it raises for data that is broken."""

_XZ_MEMORY_BYTES = 256 << 20
_GZIP_WINDOW = 31
"""32 KiB, and gzip's header and trailer around. Source: zlib.h, inflateInit2."""


def gzip() -> Codec:
    """Return the decoder of one gzip member."""
    try:
        from isal import igzip_lib
    except ImportError:
        return _zlib_like()
    # Twice as fast as zlib: 827 against 392 MB/s of output.
    flag = igzip_lib.DECOMP_GZIP
    # Its stubs call the class an instance, and are not there where it is not installed.
    broken: Any = igzip_lib.IsalError
    return lambda: igzip_lib.IgzipDecompressor(flag=flag), broken


def _zlib_like() -> Codec:
    library: Any
    try:
        from zlib_ng import zlib_ng  # 724 MB/s

        library = zlib_ng
    except ImportError:
        import zlib

        library = zlib
    return lambda: _ZlibDecoder(library), library.error


class _ZlibDecoder:
    """The decoder of gzip members that zlib and zlib-ng have, in the shape of the others."""

    def __init__(self, library: Any) -> None:
        self._decoder = library.decompressobj(_GZIP_WINDOW)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def unused_data(self) -> bytes:
        rest: bytes = self._decoder.unused_data
        return rest

    def decompress(self, data: bytes, max_length: int) -> bytes:
        tail = self._decoder.unconsumed_tail
        output: bytes = self._decoder.decompress(tail + data, max_length)
        self.needs_input = len(output) < max_length
        return output


def xz() -> Codec:
    """Return the decoder of one xz stream. Raises UnpackError."""
    try:
        import lzma
    except ImportError as error:
        raise unknown("xz", "a Python with the module lzma") from error
    memory = _XZ_MEMORY_BYTES
    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory), lzma.LZMAError


def bzip2() -> Codec:
    """Return the decoder of one bzip2 stream. Raises UnpackError."""
    try:
        import bz2
    except ImportError as error:
        raise unknown("bzip2", "a Python with the module bz2") from error
    return bz2.BZ2Decompressor, OSError


def zstd() -> Codec | None:
    """Return the decoder of one zstd frame; None where only zstandard has one, or nothing has."""
    library = _zstd_library()
    return (library.ZstdDecompressor, library.ZstdError) if library else None


def _zstd_library() -> Any:
    try:
        import compression.zstd

        return compression.zstd
    except ImportError:  # before Python 3.14
        if has_zstandard():
            return None
    try:
        import backports.zstd

        return backports.zstd
    except ImportError:
        return None


def has_zstandard() -> bool:
    """Tell whether the package zstandard works here."""
    try:
        import zstandard  # noqa: F401
    except ImportError:  # not there, or in a zip file, from which its library cannot be loaded
        return False
    return True


def zstd_program() -> str | None:
    """Return the path of a program that decompresses zstd."""
    from shutil import which

    return which("zstd") or which("unzstd")


class ZstdProgram:
    """zstd as a program: what goes in comes out inflated, in pieces of a bounded size."""

    def __init__(self, path: str, pieces: Iterator[bytes], piece_bytes: int) -> None:
        self._path = path
        self._pieces = pieces
        self._piece_bytes = piece_bytes
        self._failure: BaseException | None = None

    def chunks(self) -> Iterator[bytes]:
        """Yield what comes out. Raises UnpackError where the program refuses the data."""
        from subprocess import PIPE, Popen
        from threading import Thread

        with Popen([self._path, "-dcq"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            feeder = Thread(target=self._feed, args=(process.stdin,), daemon=True)
            feeder.start()
            try:
                assert process.stdout and process.stderr
                while data := process.stdout.read(self._piece_bytes):
                    yield data
            except BaseException:
                process.kill()
                raise
            finally:
                feeder.join()
            said = process.stderr.read(1000).decode(errors="replace").strip()
        if self._failure:
            raise self._failure
        if process.returncode:
            what = "cut off" if "premature" in said else f"broken: {said}"
            raise UnpackError(f"the zstd data of the layer is {what}")

    def _feed(self, pipe: Any) -> None:
        try:
            for piece in self._pieces:
                pipe.write(piece)
        except BrokenPipeError:  # the program does not want the rest, and says why
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            self._failure = error
        finally:
            try:
                pipe.close()
            except BrokenPipeError:
                pass


def unknown(name: str, way_out: str) -> UnpackError:
    """Return what is missing to read a layer."""
    return UnpackError(f"the layer is compressed with {name}", hint=f"install {way_out}")
