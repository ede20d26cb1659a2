"""Decompression: told by magic, whole or refused, never more memory than asked for."""

import bz2
import gzip
import lzma
import os
import random
import shutil
import subprocess
import sys
import zlib
from contextlib import closing

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from registries import needs
from tarballs import archive, file, pieces

from udocker.errors import UnpackError
from udocker.images.compression import codecs, decompress
from udocker.images.compression.bounds import Expansion
from udocker.images.compression.zstdframes import Frames

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


def test_zeros_that_stand_for_gigabytes_are_refused_early():
    # Members of 48 MiB of zeros, each 48 KiB: 10 GB from 10 MB.
    member, read = gzip.compress(BOMB), 0
    with pytest.raises(UnpackError, match="over 250 times as much") as caught:
        for piece in decompress.chunks(member for _ in range(210)):
            read += len(piece)
    assert 1 << 30 <= read < (1 << 30) + (1 << 20)
    assert "UDOCKER_MAX_EXPANSION" in caught.value.hint


@pytest.mark.parametrize(("most", "refused"), [(250, True), (0, False), (2000, False)])
def test_how_much_data_may_swell_can_be_set(most, refused):
    bound = Expansion(most)
    list(bound.counted([bytes(1 << 20)]))
    swelling = bound.checked(bytes(1 << 20) for _ in range(1100))
    if refused:
        with pytest.raises(UnpackError):
            list(swelling)
    else:
        assert sum(1 for _ in swelling) == 1100


def test_data_of_an_honest_size_may_be_large():
    bound = Expansion(250)
    source = bound.counted(bytes(1 << 20) for _ in range(100))
    assert sum(1 for _ in bound.checked(piece for piece in source for _ in range(60))) == 6000


def test_zstd_that_needs_gigabytes_of_memory_is_refused():
    # A frame header that asks for a window of 2 GiB, and the header of a raw block.
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([21 << 3]) + b"\x01\x00\x00"
    with pytest.raises(UnpackError, match="window of more than 128 MiB"):
        list(decompress.chunks([frame + bytes(100)]))


def test_xz_that_needs_gigabytes_of_memory_is_refused():
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    data = lzma.compress(b"x", filters=filters, format=lzma.FORMAT_XZ)
    with pytest.raises(UnpackError, match="[Mm]emory"):
        list(decompress.chunks([data]))


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
from udocker.errors import UnpackError
from udocker.images.compression import codecs, decompress
data = sys.stdin.buffer.read()
try:
    sys.stdout.buffer.write(b"".join(decompress.chunks([data[:7000], data[7000:]])))
except UnpackError as error:
    sys.stdout.write(f"{error}: {error.hint}")
"""


def without(modules, data, path=os.environ["PATH"]):
    """Return what is printed when `data` is decompressed by a Python that lacks `modules`."""
    command = [sys.executable, "-c", WITHOUT, *modules]
    env = {**os.environ, "PATH": path}
    return subprocess.run(command, input=data, capture_output=True, check=True, env=env).stdout


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("gzip")])
@pytest.mark.parametrize("modules", [("isal",), ("isal", "zlib_ng")])
def test_gzip_needs_no_package(form, modules):
    assert without(modules, FORMS[form]) == STREAM


NO_ZSTD = ("compression", "zstandard", "backports")


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("zstd")])
@pytest.mark.parametrize("modules", [NO_ZSTD[:2], NO_ZSTD])
def test_zstd_needs_one_of_the_packages_or_the_program(form, modules):
    needs("zstd")
    assert without(modules, FORMS[form]) == STREAM


@pytest.mark.parametrize("modules", [NO_ZSTD[:1], NO_ZSTD[:2], NO_ZSTD])
def test_every_way_to_read_zstd_finds_what_is_wrong_with_it(modules):
    needs("zstd")
    whole = FORMS["zstd with a checksum"]
    for data, word in ((whole[:-9], "cut off"), (whole + b"garbage", "broken")):
        assert word in without(modules, data)[-300:].decode(errors="replace")


@pytest.mark.parametrize(
    ("modules", "form", "package"),
    [(NO_ZSTD, "zstd", "zstandard"), (("lzma",), "xz", "lzma"), (("bz2",), "bzip2", "bz2")],
)
def test_missing_module_is_named_with_the_way_out(modules, form, package):
    said = without(modules, FORMS[form], path="/nowhere").decode()
    assert f"compressed with {form}" in said
    assert "install" in said and package in said


def test_the_program_zstd_inflates_no_more_than_is_read():
    needs("zstd")
    program = codecs.ZstdProgram(shutil.which("zstd"), iter([zstd(BOMB)]), 1000)
    with closing(program.chunks()) as pieces:
        assert len(next(pieces)) <= 1000


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
