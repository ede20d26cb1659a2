"""The reader of tar streams: its dialects, its bounds and the errors of broken streams."""

import io
import os
import tarfile

import pytest
import tarballs
from hypothesis import given
from hypothesis import strategies as st
from tarballs import archive, entry, extended, file, folder, header, padded, pieces

from udocker.errors import UnpackError
from udocker.images.archives import tar

MIB = 1 << 20


def read(stream, limits=None, size=MIB):
    """Return all members with their stored data."""
    reader = tar.Reader(pieces(stream, size), limits or tar.Limits())
    found = []
    for member in reader:
        stored = member.size
        if member.extents is not None:
            stored = sum(length for _, length in member.extents)
        found.append((member, _body(reader, stored)))
    reader.drain()
    return found


def _body(reader, size):
    with open(os.memfd_create("body"), "w+b", 0) as target:
        reader.copy(target.fileno(), size)
        target.seek(0)
        return target.read()


def test_ustar_member_is_read():
    ((member, data),) = read(archive(file("a/b", b"text", 0o751, mtime=7)))
    assert (member.kind, member.path, member.mode) == (tar.FILE, b"a/b", 0o751)
    assert (member.mtime_ns, data) == (7 * 10**9, b"text")


@pytest.mark.parametrize("size", [1, 511, 512, 513, MIB])
def test_members_are_the_same_however_the_stream_is_cut(size):
    stream = archive(folder("d"), file("d/f", b"x" * 1500), file("e"), file("g", b"y"))
    assert [(member.path, data) for member, data in read(stream, size=size)] == [
        (b"d", b""),
        (b"d/f", b"x" * 1500),
        (b"e", b""),
        (b"g", b"y"),
    ]


NAMES = {
    "ustar prefix": (header(b"b", b"0", 0, prefix=b"a" * 155), b"a" * 155 + b"/b"),
    "star prefix": (
        header(b"b", b"0", 0, tail=b"a" * 131 + b"00000000000 00000000000 " + bytes(8) + b"tar\0"),
        b"a" * 131 + b"/b",
    ),
    "gnu has no prefix": (header(b"b", b"0", 0, magic=tarballs.GNU, prefix=b"no"), b"b"),
    "v7": (header(b"b", b"\0", 0, magic=tarballs.V7), b"b"),
    "all of 100 bytes": (header(b"n" * 100, b"0", 0), b"n" * 100),
    "gnu long": (tarballs.gnu_long(b"L", b"l" * 300) + header(b"l", b"0", 0), b"l" * 300),
    "pax": (file("p" * 300), b"p" * 300),
    "pax over header": (entry("short", pax={b"path": b"real"}), b"real"),
    "empty pax record": (entry("short", pax={b"path": b""}), b"short"),
    "global pax": (extended({b"path": b"all"}, b"g") + file("f"), b"all"),
    "not utf-8": (file(b"\xff\xfe"), b"\xff\xfe"),
    "newline": (file("a\nb", pax={b"comment": b"x\ny"}), b"a\nb"),
}


@pytest.mark.parametrize("case", NAMES)
def test_name_is_found_in_every_dialect(case):
    stream, name = NAMES[case]
    assert [member.path for member, _ in read(archive(stream))] == [name]


LINKS = {
    "header": tarballs.symlink("l", "target"),
    "gnu long": tarballs.gnu_long(b"K", b"target") + header(b"l", b"2", 0, link=b"tar"),
    "pax": entry("l", b"2", pax={b"linkpath": b"target"}),
}


@pytest.mark.parametrize("case", LINKS)
def test_link_target_is_found_in_every_dialect(case):
    assert [member.link for member, _ in read(archive(LINKS[case]))] == [b"target"]


TIMES = {
    "fraction": ({b"mtime": b"1.5"}, 0, 1_500_000_000),
    "finer than nanoseconds": ({b"mtime": b"1.0000000019"}, 0, 1_000_000_001),
    "negative": ({b"mtime": b"-1.5"}, 0, 0),
    "negative binary": ({}, -5, 0),
    "beyond 2262": ({b"mtime": b"9" * 30}, 0, 2**63 - 1),
    "binary": ({}, 8**11, 8**11 * 10**9 if 8**11 * 10**9 < 2**63 else 2**63 - 1),
}


@pytest.mark.parametrize("case", TIMES)
def test_time_is_bounded_to_what_file_systems_take(case):
    pax, mtime, expected = TIMES[case]
    ((member, _),) = read(archive(file("f", pax=pax, mtime=mtime)))
    assert member.mtime_ns == expected


def test_pax_size_replaces_that_of_the_header():
    stream = extended({b"size": b"3"}) + header(b"f", b"0", 0) + padded(b"abc")
    assert [data for _, data in read(archive(stream, file("g")))] == [b"abc", b""]


@pytest.mark.parametrize(
    ("kind", "expected"), [(b"7", tar.FILE), (b"\0", tar.FILE), (b"5", tar.DIRECTORY)]
)
def test_kinds_of_old_dialects_are_known(kind, expected):
    assert [member.kind for member, _ in read(archive(entry("f", kind)))] == [expected]


def test_old_directory_is_told_by_its_slash():
    stream = archive(header(b"d/", b"\0", 0, magic=tarballs.V7))
    assert [member.kind for member, _ in read(stream)] == [tar.DIRECTORY]


def test_size_of_what_has_no_body_is_passed_over():
    stream = archive(header(b"d", b"5", 4096), file("f", b"x"))
    assert [member.path for member, _ in read(stream)] == [b"d", b"f"]


def test_signed_checksum_is_accepted():
    block = tarballs.sealed(header(b"\xff\xfe", b"0", 0), signed=True)
    assert [member.path for member, _ in read(archive(block))] == [b"\xff\xfe"]


def _old_sparse(pairs, size, stored, *, more=b"\0"):
    fields = b"".join(tarballs.number(number) for pair in pairs[:4] for number in pair)
    tail = bytes(41) + fields.ljust(96, b"\0") + more + tarballs.number(size)
    return header(b"s", b"S", stored, magic=tarballs.GNU, tail=tail)


def _continued(pairs):
    fields = b"".join(tarballs.number(number) for pair in pairs for number in pair)
    return fields.ljust(504, b"\0") + bytes(8)


MAP = b"2\n0\n3\n1000\n2\n"
SPARSE = {
    "old gnu": _old_sparse([(0, 3), (1000, 2)], 2000, 5) + padded(b"abcde"),
    "old gnu, continued": _old_sparse([(0, 1), (1, 1), (2, 1), (1000, 1)], 2000, 5, more=b"\1")
    + _continued([(1001, 1)])
    + padded(b"abcde"),
    "0.0": extended(
        [
            (b"GNU.sparse.size", b"2000"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.offset", b"0"),
            (b"GNU.sparse.numbytes", b"3"),
            (b"GNU.sparse.offset", b"1000"),
            (b"GNU.sparse.numbytes", b"2"),
        ]
    )
    + file("s", b"abcde"),
    "0.1": file(
        "GNUSparseFile.1/s",
        b"abcde",
        pax={
            b"GNU.sparse.size": b"2000",
            b"GNU.sparse.map": b"0,3,1000,2",
            b"GNU.sparse.name": b"s",
        },
    ),
    "1.0": file(
        "GNUSparseFile.1/s",
        padded(MAP) + b"abcde",
        pax={
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.realsize": b"2000",
            b"GNU.sparse.name": b"s",
        },
    ),
}


@pytest.mark.parametrize("case", SPARSE)
def test_sparse_file_is_read_in_every_format(case):
    (member, data), (after, _) = read(archive(SPARSE[case], file("after")))
    spread = bytearray(member.size)
    position = 0
    for offset, length in member.extents:
        spread[offset : offset + length] = data[position : position + length]
        position += length
    expected = b"abc" + bytes(997) + b"de" + bytes(998)
    assert (member.path, bytes(spread), after.path) == (b"s", expected, b"after")


def test_attributes_are_read_with_binary_values():
    ((member, _),) = read(archive(file("f", pax={b"SCHILY.xattr.user.x": b"a=\n\0"})))
    assert member.xattrs == ((b"user.x", b"a=\n\0"),)


XATTRS = {
    "libarchive": ({b"LIBARCHIVE.xattr.user.a%3Db": b"AP8="}, ((b"user.a=b", b"\0\xff"),)),
    "both": (
        {b"LIBARCHIVE.xattr.user.x": b"AA==", b"SCHILY.xattr.user.x": b"\0"},
        ((b"user.x", b"\0"),),
    ),
    "both, the other way round": (
        {b"SCHILY.xattr.user.x": b"\0", b"LIBARCHIVE.xattr.user.x": b"AA=="},
        ((b"user.x", b"\0"),),
    ),
    "percent signs that say nothing": (
        {b"LIBARCHIVE.xattr.user.%zz%4": b"AA=="},
        ((b"user.%zz%4", b"\0"),),
    ),
    "no base64": ({b"LIBARCHIVE.xattr.user.x": b"A"}, ()),
    "flags and access lists": (
        {b"SCHILY.fflags": b"nodump", b"SCHILY.acl.access": b"user::rwx", b"hdrcharset": b"BINARY"},
        (),
    ),
}


@pytest.mark.parametrize("case", XATTRS)
def test_attributes_are_read_in_every_form(case):
    records, expected = XATTRS[case]
    ((member, _),) = read(archive(file("f", pax=records)))
    assert member.xattrs == expected


def test_attribute_of_libarchive_cannot_hide_a_nul():
    with pytest.raises(UnpackError, match="NUL"):
        read(archive(file("f", pax={b"LIBARCHIVE.xattr.user.a%00b": b"AA=="})))


def _with_ids(uid, gid):
    block = bytearray(header(b"f", b"0", 0))
    block[108:124] = uid + gid
    return tarballs.sealed(block)


OWNERS = {
    "octal": (file("f", owner=(1000, 100)), (1000, 100)),
    "spaces": (_with_ids(b"  1750 \0", b"   144 \0"), (1000, 100)),
    "binary": (_with_ids((1 << 63 | 70000).to_bytes(8, "big"), b"0000001\0"), (70000, 1)),
    "negative binary": (_with_ids(b"\xff" * 8, b"0000001\0"), (0, 1)),
    "beyond 32 bits": (_with_ids((1 << 63 | 2**40).to_bytes(8, "big"), b"0000001\0"), (0, 1)),
    "empty": (_with_ids(bytes(8), b" " * 8), (0, 0)),
    "no numbers": (_with_ids(b"root\0\0\0\0", b"0000001\0"), (0, 1)),
    "pax": (file("f", owner=(1, 2), pax={b"uid": b"70000", b"gid": b"70001"}), (70000, 70001)),
    "pax for one": (file("f", owner=(1, 2), pax={b"gid": b"70001"}), (1, 70001)),
    "empty pax": (file("f", owner=(1, 2), pax={b"gid": b""}), (1, 2)),
    "global": (extended({b"uid": b"7"}, b"g") + file("f", owner=(1, 2)), (7, 2)),
    "pax over global": (
        extended({b"uid": b"7"}, b"g") + file("f", owner=(1, 2), pax={b"uid": b"8"}),
        (8, 2),
    ),
}


@pytest.mark.parametrize("case", OWNERS)
def test_owner_is_found_in_every_dialect(case):
    stream, owner = OWNERS[case]
    assert [member.owner for member, _ in read(archive(stream))] == [owner]


def test_thousands_of_owners_are_told_apart():
    stream = archive(*(file("f", owner=(uid, uid // 2)) for uid in range(3000)))
    assert [m.owner for m, _ in read(stream)] == [(uid, uid // 2) for uid in range(3000)]


SEQUENCES = {
    "global, then another": (
        extended({b"path": b"first"}, b"g")
        + file("a")
        + extended({b"path": b"second"}, b"g")
        + file("b"),
        [b"first", b"second"],
    ),
    "global that is taken back": (
        extended({b"path": b"first"}, b"g") + extended({b"path": b""}, b"g") + file("b"),
        [b"b"],
    ),
    "pax over global, for one member": (
        extended({b"path": b"all"}, b"g") + file("a", pax={b"path": b"one"}) + file("b"),
        [b"one", b"all"],
    ),
    "two long names": (
        tarballs.gnu_long(b"L", b"first") + tarballs.gnu_long(b"L", b"second") + file("a"),
        [b"second"],
    ),
    "long name and pax": (
        tarballs.gnu_long(b"L", b"gnu") + extended({b"path": b"pax"}) + file("a"),
        [b"pax"],
    ),
    "long name with bytes after its NUL": (
        header(b"l", b"L", 10) + padded(b"name\0junk!") + file("a") + file("b"),
        [b"name", b"b"],
    ),
    "extension without a member": (file("a") + extended({b"path": b"lost"}), [b"a"]),
    "size, for all members": (
        extended({b"size": b"1"}, b"g") + header(b"a", b"0", 0) + padded(b"x") + file("b", b"y"),
        [b"a", b"b"],
    ),
    "size of a hard link": (
        header(b"a", b"1", 600, link=b"x") + file("b"),
        [b"a", b"b"],
    ),
    "second archive": (archive(file("a")) + archive(file("b")), [b"a"]),
    "one block of zeros, then more": (file("a") + bytes(512) + file("b"), [b"a"]),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_headers_in_a_row_say_what_gnu_tar_reads(case):
    stream, names = SEQUENCES[case]
    assert [member.path for member, _ in read(archive(stream))] == names


VENDORS = [bytes([letter]) for letter in b"ABCDEFGHIJMNOPQRTUVWXYZ89z"]


@pytest.mark.parametrize("kind", VENDORS)
def test_member_of_unknown_kind_is_passed_over_with_its_body(kind):
    found = read(archive(entry("v", kind, b"x" * 700), file("f", b"y")))
    assert [(member.path, data) for member, data in found] == [(b"v", b"x" * 700), (b"f", b"y")]


ENDS = {
    "nothing": (b"", []),
    "no zeros at all": (file("f", b"x"), [b"f"]),
    "no padding": (header(b"f", b"0", 1) + b"x", [b"f"]),
    "one block of zeros": (file("f") + bytes(512), [b"f"]),
    "half a block of zeros": (file("f") + bytes(100), [b"f"]),
    "garbage after the end": (archive(file("f")) + b"garbage" * 999, [b"f"]),
    "only zeros": (bytes(10240), []),
}


@pytest.mark.parametrize("case", ENDS)
def test_end_is_found_however_it_looks(case):
    stream, names = ENDS[case]
    assert [member.path for member, _ in read(stream)] == names


def test_drain_reads_what_follows_the_end():
    seen = []
    source = (seen.append(len(piece)) or piece for piece in pieces(archive() + bytes(5000), 512))
    reader = tar.Reader(source, tar.Limits())
    assert list(reader) == []
    reader.drain()
    assert sum(seen) == 1024 + 5000


SPARSE_FIELDS = {b"GNU.sparse.size": b"9", b"GNU.sparse.major": b"1"}
BROKEN = {
    "no tar": (b"<html>" * 500, "wrong checksum"),
    "cut within a header": (file("f")[:300], "cut off within a header"),
    "cut within a file": (file("name", b"x" * 2000)[:1500], "cut off within the file b'name'"),
    "cut within an extension": (extended({b"path": b"x" * 900})[:700], "cut off"),
    "number is no number": (tarballs.sealed(header(b"f", b"0", 0)[:124] + b"zz" * 194), "number"),
    "size is negative": (header(b"f", b"0", -1), "negative size"),
    "extension without length": (entry("f", b"x", b"=\n"), "extended header"),
    "extension beyond its end": (entry("f", b"x", b"99 a=b\n"), "extended header"),
    "extension shorter than its length": (entry("f", b"x", b"2 a=b\n"), "extended header"),
    "extension with a huge length": (entry("f", b"x", b"9" * 500 + b" a=b\n"), "extended header"),
    "extension without key": (entry("f", b"x", b"5 =b\n"), "extended header"),
    "extension without value": (entry("f", b"x", b"4 b\n"), "extended header"),
    "size is no number": (file("f", pax={b"size": b"-1"}), "not a number"),
    "time is no number": (file("f", pax={b"mtime": b"1e9"}), "not a number"),
    "time of a million digits": (file("f", pax={b"mtime": b"9" * 10**6}), "not a number"),
    "NUL in a name": (file("f", pax={b"path": b"a\0b"}), "NUL"),
    "NUL in a link": (tarballs.symlink("f", "x", pax={b"linkpath": b"a\0b"}), "NUL"),
    "NUL in an attribute": (file("f", pax={b"SCHILY.xattr.user.\0": b"v"}), "NUL"),
    "sparse parts overlap": (_old_sparse([(5, 5), (0, 5)], 20, 10) + bytes(512), "overlap"),
    "sparse beyond its size": (_old_sparse([(0, 5)], 4, 5) + bytes(512), "its size"),
    "sparse of other length": (_old_sparse([(0, 5)], 9, 6) + bytes(512), "its data"),
    "sparse of 2**70 bytes": (_old_sparse([(2**70, 0)], 2**71, 0), "sparse file"),
    "sparse of a pebibyte": (_old_sparse([(0, 0)], 2**50, 0), "has 1125899906842624 bytes"),
    "pax sparse of an exbibyte": (
        file("f", pax={b"GNU.sparse.size": b"%d" % 2**60, b"GNU.sparse.map": b"0,0"}),
        "has 1152921504606846976 bytes",
    ),
    "sparse of negative length": (_old_sparse([(0, -5)], 9, 0), "overlap"),
    "sparse map of odd length": (
        file("f", pax={b"GNU.sparse.size": b"9", b"GNU.sparse.map": b"1,2,3"}),
        "its size",
    ),
    "sparse map is cut off": (file("f", b"9\n1\n", pax=SPARSE_FIELDS), "cut off"),
    "sparse map without lines": (file("f", b"1" * MIB * 2, pax=SPARSE_FIELDS), "too long"),
    "sparse map of no numbers": (file("f", padded(b"x\n"), pax=SPARSE_FIELDS), "not a number"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_stream_is_refused(case):
    stream, message = BROKEN[case]
    with pytest.raises(UnpackError, match=message):
        read(stream)


BEYOND = {
    "entries": (file("f") * 11, "more than 10 entries"),
    "extensions": (extended({b"path": b"f"}) * 11, "more than 10 entries"),
    "extension": (extended({b"path": b"x" * 5000}), "extended header has"),
    "extensions of one member": (
        b"".join(extended({b"path": b"x" * 500}) for _ in range(9)) + file("f"),
        "extended header has",
    ),
    "extension of no data": (header(b"x", b"x", 2**60), "extended header has"),
    "long name of no data": (header(b"x", b"L", 2**60), "extended header has"),
    "bytes": (file("f", bytes(70000)), "more than 65536 bytes"),
    "bytes after the end": (bytes(70000), "more than 65536 bytes"),
    "map that never ends": (
        _old_sparse([(0, 1)] * 4, 9, 9, more=b"\1") + (bytes(504) + b"\1" * 8) * 300,
        "cut off|more than|overlap",
    ),
}


@pytest.mark.parametrize("case", BEYOND)
def test_stream_beyond_its_limits_is_refused(case):
    stream, message = BEYOND[case]
    limits = tar.Limits(entries=10, size_bytes=65536, header_bytes=4096)
    with pytest.raises(UnpackError, match=message):
        read(stream, limits)


def test_failure_of_the_source_is_not_taken_for_one_of_the_disk():
    def source():
        yield file("f")
        raise ConnectionResetError("gone")

    with pytest.raises(tar.SourceFailure) as caught:
        list(tar.Reader(source(), tar.Limits()))
    assert isinstance(caught.value.__cause__, ConnectionResetError)


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_noise_is_read_or_refused(noise, size):
    try:
        read(noise, size=size)
    except UnpackError as error:
        assert error.message


@given(st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=12)), max_size=4))
def test_header_with_changed_bytes_is_read_or_refused(changes):
    block = bytearray(_old_sparse([(0, 3), (10, 2)], 20, 5))
    for start, data in changes:
        block[start : start + len(data)] = data
    stream = tarballs.sealed(block[:512]) + padded(b"abcde") + tarballs.END
    try:
        read(stream, tar.Limits(size_bytes=MIB))
    except UnpackError as error:
        assert error.message


@given(st.binary(max_size=200))
def test_extended_header_of_noise_is_read_or_refused(noise):
    try:
        read(archive(entry("x", b"x", noise), file("f")))
    except UnpackError as error:
        assert error.message


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(
    st.lists(
        st.tuples(
            st.text("abü", min_size=1, max_size=90), st.binary(max_size=1500), st.integers(0, 2**32)
        ),
        max_size=4,
    )
)
def test_what_the_standard_library_writes_is_read(form, members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form, encoding="utf-8") as written:
        for name, data, mtime in members:
            info = tarfile.TarInfo(name[:40])
            info.size, info.mtime = len(data), mtime
            written.addfile(info, io.BytesIO(data))
    found = [(m.path.decode(), data, m.mtime_ns) for m, data in read(stream.getvalue())]
    assert found == [(name[:40], data, mtime * 10**9) for name, data, mtime in members]
