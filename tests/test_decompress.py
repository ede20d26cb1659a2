"""Decompression: told by magic, whole or refused, never more memory than asked for."""

import bz2
import gzip
import lzma
import random
import subprocess
import sys
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tarballs import archive, file, pieces

from udocker.errors import UnpackError
from udocker.images import decompress
from udocker.images.zstdframes import Frames

NOISE = random.Random(1).randbytes(300_000)
STREAM = archive(file("f", NOISE), file("g", b"text " * 9999))


def zstd(data, **options):
    return zstandard.ZstdCompressor(**options).compress(data)


def skippable(data):
    return b"\x55\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


FORMS = {
    "plain": STREAM,
    "gzip": gzip.compress(STREAM),
    "gzip with a name": gzip.compress(b"")[:3]
    + b"\x08"
    + bytes(6)
    + b"x.tar\0"
    + gzip.compress(STREAM)[10:],
    "gzip of two members": gzip.compress(STREAM[:1000]) + gzip.compress(STREAM[1000:]),
    "gzip with an empty member": gzip.compress(b"") + gzip.compress(STREAM),
    "gzip and zeros": gzip.compress(STREAM) + bytes(999),
    "gzip and garbage": gzip.compress(STREAM) + b"garbage" * 999,
    "gzip and one byte": gzip.compress(STREAM) + b"\x1f",
    "zstd": zstd(STREAM),
    "zstd with a checksum": zstd(STREAM, write_checksum=True),
    "zstd without a size": zstd(STREAM, write_content_size=False),
    "zstd of two frames": zstd(STREAM[:1000]) + zstd(STREAM[1000:]),
    "zstd, skippable first": skippable(b"metadata") + zstd(STREAM) + skippable(b""),
    "zstd, skippable between": zstd(STREAM[:9]) + skippable(bytes(70000)) + zstd(STREAM[9:]),
    "bzip2": bz2.compress(STREAM),
    "bzip2 of two streams": bz2.compress(STREAM[:1000]) + bz2.compress(STREAM[1000:]),
    "xz": lzma.compress(STREAM),
    "xz and padding": lzma.compress(STREAM) + bytes(4),
}


@pytest.mark.parametrize("size", [5, 4099, 1 << 20])
@pytest.mark.parametrize("form", FORMS)
def test_content_is_the_same_in_every_form_and_cut(form, size):
    assert b"".join(decompress.chunks(pieces(FORMS[form], size))) == STREAM


@pytest.mark.parametrize("form", [form for form in FORMS if form != "plain"])
def test_source_is_read_to_its_end(form):
    source = pieces(FORMS[form], 512)
    for _ in decompress.chunks(source):
        pass
    assert next(source, None) is None


@pytest.mark.parametrize("form", ["gzip", "zstd", "zstd with a checksum", "bzip2", "xz"])
@pytest.mark.parametrize("missing", [1, 4, 9, 1000, "most"])
def test_cut_off_data_is_refused(form, missing):
    data = FORMS[form]
    keep = 11 if missing == "most" else len(data) - missing
    with pytest.raises(UnpackError, match="cut off"):
        list(decompress.chunks(pieces(data[:keep])))


@pytest.mark.parametrize("form", ["gzip", "zstd with a checksum", "bzip2", "xz"])
def test_changed_data_is_refused(form):
    data = bytearray(FORMS[form])
    data[len(data) // 2] ^= 0x55
    with pytest.raises(UnpackError, match="broken|cut off"):
        list(decompress.chunks(pieces(bytes(data))))


def test_nothing_decompresses_to_nothing():
    assert list(decompress.chunks(iter([]))) == []
    assert list(decompress.chunks(iter([b"", b""]))) == []


def test_tar_whose_first_name_looks_like_bzip2_is_plain():
    stream = archive(file("BZh9"))
    assert b"".join(decompress.chunks([stream])) == stream


BOMB = bytes(48 << 20)


@pytest.mark.parametrize("compress", [gzip.compress, zstd, bz2.compress, lzma.compress, bytes])
def test_pieces_are_small_however_much_the_data_swells(compress):
    sizes = [len(piece) for piece in decompress.chunks([compress(BOMB)])]
    assert sum(sizes) == len(BOMB)
    assert max(sizes) <= decompress.PIECE_BYTES


WITHOUT = """
import sys
sys.modules[{module!r}] = None
from udocker.errors import UnpackError
from udocker.images import decompress
data = sys.stdin.buffer.read()
try:
    sys.stdout.buffer.write(b"".join(decompress.chunks([data])))
except UnpackError as error:
    sys.stdout.write(f"{{error}}: {{error.hint}}")
"""


def without(module, data):
    """Return what is printed when `data` is decompressed by a Python that lacks `module`."""
    command = [sys.executable, "-c", WITHOUT.format(module=module)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("gzip")])
def test_gzip_needs_no_isal(form):
    assert without("isal", FORMS[form]) == STREAM


@pytest.mark.parametrize(
    ("module", "form"), [("zstandard", "zstd"), ("lzma", "xz"), ("bz2", "bzip2")]
)
def test_missing_module_is_named_with_the_way_out(module, form):
    said = without(module, FORMS[form]).decode()
    assert f"compressed with {form}" in said
    assert "install" in said and module in said


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"]))
def test_noise_is_decompressed_or_refused(noise, magic):
    try:
        b"".join(decompress.chunks([magic + noise]))
    except UnpackError as error:
        assert error.message


@given(st.binary(max_size=3000), st.integers(1, 50), st.booleans(), st.integers(1, 4))
def test_frames_are_whole_only_at_their_ends(data, size, checksum, count):
    frame = zstd(data, write_checksum=checksum, write_content_size=size % 2 == 0)
    stream = (frame + skippable(data[:9])) * count
    frames = Frames()
    for piece in pieces(stream, size):
        frames.feed(piece)
    assert frames.whole
    partly = Frames()
    partly.feed(stream[:-1])
    assert not partly.whole


def test_isal_and_zlib_agree_about_bad_checksums():
    data = bytearray(FORMS["gzip"])
    data[-6] ^= 1
    with pytest.raises(UnpackError, match="broken"):
        list(decompress.chunks([bytes(data)]))
    with pytest.raises(zlib.error):
        zlib.decompressobj(31).decompress(bytes(data))
