"""The tar writer: what it writes, GNU tar, Python and our own reader read as it was."""

import io
import os
import shutil
import subprocess
import tarfile

import pytest

from udocker.images.archives import tar
from udocker.images.archives.tarwriter import DIRECTORY, FIFO, LINK, SYMLINK, TarWriter, extents_of

SECOND = 1_000_000_000


def written(fill):
    parts = []
    writer = TarWriter(parts.append)
    fill(writer)
    writer.finish()
    return b"".join(parts)


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def add_file(writer, path, data, tmp_path, **options):
    source = tmp_path / "source"
    source.write_bytes(data)
    with open(source, "rb") as file:
        size = options.pop("size", len(data))
        return writer.file(path, 0o640, 5 * SECOND, file.fileno(), size, **options)


@pytest.mark.parametrize(
    "name",
    [
        "short",
        "a" * 100,
        "a" * 101,
        "directory/" * 30 + "end",
        "grüße/日本",
        "e" * 99 + "ü",
        "with space\nand line",
    ],
)
def test_names_of_any_length_and_alphabet_are_read_back(name, tmp_path):
    data = written(lambda writer: add_file(writer, os.fsencode(name), b"x", tmp_path))
    assert list(members(data)) == [name]
    assert [m.path for m in tar.Reader([data], tar.Limits())] == [os.fsencode(name)]


@pytest.mark.parametrize("name", [b"latin-\xe9", b"d/" * 60 + b"\xff"])
def test_names_that_are_no_text_keep_their_bytes(name, tmp_path):
    data = written(lambda writer: add_file(writer, name, b"x", tmp_path))
    assert [m.path for m in tar.Reader([data], tar.Limits())] == [name]
    listed = subprocess.run(
        ["tar", "t", "--quoting-style=literal"], input=data, capture_output=True, check=True
    )
    assert listed.stdout == name + b"\n"


def test_every_kind_of_member_is_read_back(tmp_path):
    def fill(writer):
        writer.entry(DIRECTORY, b"d", 0o1777, 7 * SECOND)
        add_file(writer, b"d/f", b"12345", tmp_path, attributes=(("user.note", b"a=b\n"),))
        writer.entry(LINK, b"d/g", 0o640, 0, link=b"d/f")
        writer.entry(SYMLINK, b"l", 0o777, 0, link=b"t" * 200)
        writer.entry(FIFO, b"p", 0o600, 0, owner=(1000, 3_000_000))

    data = written(fill)
    found = members(data)
    assert found["d"].isdir() and found["d"].mode == 0o1777 and found["d"].mtime == 7
    assert found["d/f"].size == 5 and found["d/f"].pax_headers["SCHILY.xattr.user.note"] == "a=b\n"
    assert found["d/g"].islnk() and found["d/g"].linkname == "d/f"
    assert found["l"].linkname == "t" * 200
    assert found["p"].isfifo() and (found["p"].uid, found["p"].gid) == (1000, 3_000_000)
    assert len(data) % 10240 == 0


@pytest.mark.parametrize("mtime", [-5, 0, 8**11])
def test_times_outside_of_a_header_are_read_back(mtime):
    data = written(lambda writer: writer.entry(FIFO, b"p", 0o600, mtime * SECOND))
    assert members(data)["p"].mtime == mtime


def test_a_file_that_became_shorter_keeps_the_archive_whole(tmp_path):
    whole = []

    def fill(writer):
        whole.append(add_file(writer, b"f", b"abc", tmp_path, size=2000))
        whole.append(add_file(writer, b"g", b"abc", tmp_path))

    data = written(fill)
    assert whole == [False, True]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.extractfile("f").read() == b"abc" + bytes(1997)
        assert archive.extractfile("g").read() == b"abc"


def test_a_sparse_file_of_terabytes_takes_as_much_as_it_holds(tmp_path):
    size = 3 << 40
    with open(tmp_path / "big", "w+b") as file:
        file.truncate(size)
        for offset, text in ((1 << 20, b"one"), (2 << 40, b"two")):
            file.seek(offset)
            file.write(text)
        file.flush()
        extents = extents_of(file.fileno(), size)
        data = written(
            lambda writer: writer.sparse_file(b"d/big", 0o600, 0, file.fileno(), size, extents)
        )
    assert len(data) < 1 << 20
    member = next(iter(tar.Reader([data], tar.Limits(size_bytes=size))))
    assert (member.path, member.size) == (b"d/big", size)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("d/big")
        file.seek(2 << 40)
        assert file.read(3) == b"two"


def test_a_file_beyond_8_gib_is_announced_in_an_extended_header(tmp_path):
    size = 9 << 30

    class EnoughError(Exception):
        pass

    parts = []

    def write(data):
        parts.append(data)
        if len(parts) > 1:
            raise EnoughError

    with open("/dev/zero", "rb") as zeros, pytest.raises(EnoughError):
        TarWriter(write).file(b"big", 0o644, 0, zeros.fileno(), size)
    assert next(iter(tar.Reader(iter(parts), tar.Limits()))).size == size


def test_gnu_tar_makes_the_same_tree_of_it(tmp_path):
    if shutil.which("tar") is None:
        pytest.skip("needs tar")

    def fill(writer):
        writer.entry(DIRECTORY, b"x" * 90 + b"/" + b"y" * 90, 0o755, 0)
        add_file(writer, b"x" * 90 + b"/" + b"y" * 90 + b"/f", b"deep", tmp_path)

    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path / "out"), "-x"], input=written(fill), check=True)
    assert (tmp_path / "out" / ("x" * 90) / ("y" * 90) / "f").read_bytes() == b"deep"


def test_equal_members_give_equal_bytes(tmp_path):
    def fill(writer):
        add_file(writer, "ä".encode() * 80, b"1" * 5000, tmp_path)

    assert written(fill) == written(fill)
