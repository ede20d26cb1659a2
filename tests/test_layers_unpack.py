"""One layer to a tree: what members become, what is refused, and that nothing leaves the tree."""

import os
import shutil
import stat
import subprocess
import sys

import pytest
import tarballs
from tarballs import (
    archive,
    contents,
    entry,
    fifo,
    file,
    folder,
    hard_link,
    merged,
    pieces,
    snapshot,
    symlink,
)

from udocker.errors import StoreError, UnpackError
from udocker.images import layers
from udocker.images.layers import LayerTree, Limits
from udocker.images.layers.layertree import Stratum


@pytest.fixture
def place(tmp_path):
    """An empty directory for a layer."""
    path = tmp_path / "layer"
    path.mkdir()
    return str(path)


def unpack(place, *members, **limits):
    return layers.unpack(pieces(archive(*members)), place, Limits(**limits))


TREES = {
    "files and directories": (
        [folder("d"), file("d/f", b"x"), symlink("l", "d/f")],
        {"d": None, "d/f": "x", "l": "-> d/f"},
    ),
    "dots and slashes": (
        [folder("./"), folder("./d/"), file("./d//f"), file("d/./g"), file("/d/h")],
        {"d": None, "d/f": "", "d/g": "", "d/h": ""},
    ),
    "parents without entries": ([file("a/b/c", b"x")], {"a": None, "a/b": None, "a/b/c": "x"}),
    "the last of equal names": ([file("f", b"1"), file("f", b"2")], {"f": "2"}),
    "file over link": ([symlink("f", "g"), file("g", b"1"), file("f", b"2")], {"f": "2", "g": "1"}),
    "directory over link": (
        [folder("d"), symlink("l", "d"), folder("l"), file("l/f")],
        {"d": None, "l": None, "l/f": ""},
    ),
    "directory over file": ([file("d", b"x"), folder("d")], {"d": None}),
    "parent over file": ([file("d", b"x"), file("d/f", b"y")], {"d": None, "d/f": "y"}),
    "file over directory": ([folder("d"), file("d/f"), file("d", b"x")], {"d": "x"}),
    "file over parent": ([file("d/e/f"), file("d", b"x")], {"d": "x"}),
    "directory again": ([folder("d"), file("d/f"), folder("d")], {"d": None, "d/f": ""}),
    "file replaces a second name": (
        [file("f", b"1"), hard_link("g", "f"), file("g", b"2")],
        {"f": "1", "g": "2"},
    ),
    "hard links": (
        [file("d/f", b"x"), hard_link("g", "/d/f"), hard_link("h", "./g"), hard_link("g", "g")],
        {"d": None, "d/f": "x", "g": "x", "h": "x"},
    ),
    "hard link to a link": (
        [file("f"), symlink("l", "f"), hard_link("m", "l")],
        {"f": "", "l": "-> f", "m": "-> f"},
    ),
    "hard link over file": (
        [file("f", b"1"), file("g", b"2"), hard_link("g", "f")],
        {
            "f": "1",
            "g": "1",
        },
    ),
    "hard link below a link": (
        [file("d/f", b"x"), symlink("l", "d"), hard_link("g", "l/f")],
        {"d": None, "d/f": "x", "l": "-> d", "g": "x"},
    ),
    "below a link": (
        [folder("usr/lib"), symlink("lib", "usr/lib"), file("lib/f", b"x")],
        {"usr": None, "usr/lib": None, "usr/lib/f": "x", "lib": "-> usr/lib"},
    ),
    "below a link to what is missing": (
        [symlink("lib", "/usr/lib"), file("lib/f", b"x")],
        {"usr": None, "usr/lib": None, "usr/lib/f": "x", "lib": "-> /usr/lib"},
    ),
    "below a link to itself and on": (
        [symlink("a", "."), file("a/a/a/f")],
        {"a": "-> .", "f": ""},
    ),
    "link changes its target": (
        [folder("a"), folder("b"), symlink("l", "a"), file("l/1"), symlink("l", "b"), file("l/2")],
        {"a": None, "a/1": "", "b": None, "b/2": "", "l": "-> b"},
    ),
    "directory becomes a link": (
        [folder("a"), file("d/f"), folder("d"), symlink("d", "a"), file("d/g")],
        {"a": None, "a/g": "", "d": "-> a"},
    ),
    "device over file": ([file("d/f", b"x"), tarballs.device("d/f")], {"d": None}),
    "device over directory": ([file("d/f", b"x"), tarballs.device("d"), file("e")], {"e": ""}),
    "device over what replaced a directory": (
        [file("d/f", b"x"), file("d"), tarballs.device("d", tarballs.BLOCK), file("e")],
        {"e": ""},
    ),
    "hard link to a device": (
        [tarballs.device("dev/a"), hard_link("dev/b", "dev/a"), hard_link("c", "/dev/b")],
        {"dev": None},
    ),
    "file over device": (
        [tarballs.device("f"), file("f", b"x"), hard_link("g", "f")],
        {"f": "x", "g": "x"},
    ),
    "contiguous file": ([entry("f", b"7", b"x")], {"f": "x"}),
    "whiteouts of aufs": (
        [folder(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", b"x"), file(".wh..wh.aufs"), file("f")],
        {"f": ""},
    ),
    "hard links of aufs": (
        [
            folder(".wh..wh.plnk"),
            *[file(".wh..wh.plnk/7.2", data) for data in (b"1", b"2", b"x")],
            file(".wh..wh.plnk/8.2", b"y"),
            hard_link("a", ".wh..wh.plnk/7.2"),
            file("d/f"),
            file("d", b"z"),
            hard_link("e/b", "/.wh..wh.plnk/7.2"),
        ],
        {"a": "x", "d": "z", "e": None, "e/b": "x"},
    ),
    "whiteouts": ([file(".wh.x"), file("./.wh.y"), file(".wh..wh..opq"), folder(".wh.z")], {}),
    "empty layer": ([], {}),
}


@pytest.mark.parametrize("case", TREES)
def test_layer_becomes_the_tree_that_it_describes(case, tmp_path):
    members, expected = TREES[case]
    assert contents(merged(tmp_path, archive(*members))) == expected


def test_stream_without_a_byte_is_an_empty_layer(place):
    assert layers.unpack([], place).entries == 0


MODES = {
    "plain": (file("f", mode=0o751), 0o751),
    "none": (file("f", mode=0), 0o400),
    "read-only": (file("f", mode=0o444), 0o444),
    "of a group": (file("f", mode=0o040), 0o440),
    "read-only, of another": (file("f", mode=0o444, owner=(1000, 100)), 0o444),
    "closed, of another": (file("f", mode=0o000, owner=(1000, 100)), 0o400),
    "set-id": (file("f", mode=0o6755), 0o755),
    "sticky": (file("f", mode=0o1644), 0o644),
    "open to all": (file("f", mode=0o777), 0o777),
    "directory": (folder("f", mode=0o751), 0o751),
    "closed directory": (folder("f", mode=0), 0o700),
    "directory of a group": (folder("f", mode=0o2775), 0o2775),
    "sticky directory": (folder("f", mode=0o1777), 0o1777),
    "directory again": (folder("f", mode=0o700) + folder("f", mode=0o755), 0o755),
    "directory after its content": (file("f/g") + folder("f", mode=0o711), 0o711),
    "parent without entry": (file("f/g"), 0o755),
    "pipe": (fifo("f", mode=0o644), 0o644),
}


@pytest.mark.parametrize("case", MODES)
def test_mode_leaves_the_owner_in_power_and_no_set_id_file(case, place):
    member, mode = MODES[case]
    before = os.umask(0o077)
    try:
        unpack(place, member)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(f"{place}/f").st_mode) == mode


def test_umask_is_what_it_was_afterwards(place):
    before = os.umask(0o027)
    try:
        unpack(place, file("f"))
        with pytest.raises(UnpackError):
            layers.unpack([b"x" * 512], place)
        assert os.umask(before) == 0o027
    finally:
        os.umask(before)


def test_times_are_those_of_the_archive(place):
    unpack(
        place,
        folder("./", mtime=5),
        folder("d", mtime=1),
        file("d/f", b"x", pax={b"mtime": b"2.000000003"}),
        symlink("d/l", "f", mtime=3),
        entry("d/p", tarballs.FIFO, mtime=4),
        file("d/old", mtime=-7),
    )
    times = {name: os.lstat(f"{place}/{name}").st_mtime_ns for name in ("d", ".", "d/f", "d/l")}
    assert times == {"d": 10**9, ".": 5 * 10**9, "d/f": 2 * 10**9 + 3, "d/l": 3 * 10**9}
    assert os.stat(f"{place}/d/p").st_mtime_ns == 4 * 10**9
    assert os.stat(f"{place}/d/old").st_mtime_ns == 0


def test_hard_links_share_one_file(place):
    unpack(place, file("f", b"x"), hard_link("g", "f"))
    assert os.path.samefile(f"{place}/f", f"{place}/g")


def test_names_may_be_any_bytes(place):
    names = [b"\xff\xfe", b"a\nb", b" ", b"-rf", b"\\", b"..."]
    unpack(place, *(file(name) for name in names))
    assert sorted(os.listdir(os.fsencode(place))) == sorted(names)


def test_devices_and_unknown_entries_are_left_out_and_counted(place):
    tree = unpack(
        place,
        tarballs.device("dev/null"),
        tarballs.device("dev/sda", tarballs.BLOCK),
        entry("label", b"V"),
        entry("dump", b"D", b"x" * 600),
        file("f"),
    )
    assert contents(place) == {"dev": None, "f": ""}
    assert dict(tree.skipped) == {"device node": 2, "entry of unknown type": 2}
    assert tree.entries == 5


def test_root_that_is_no_directory_is_left_out(place):
    links = [symlink(name, "/etc") for name in ("/", "a/..", "")]
    roots = [file("./", b"x" * 600), *links]
    tree = unpack(place, file("f"), *roots, hard_link(".", "f"), file("g"))
    assert contents(place) == {"f": "", "g": ""}
    assert dict(tree.skipped) == {"entry in the place of the root": 5}


def test_pipe_is_made(place):
    unpack(place, fifo("p"))
    assert stat.S_ISFIFO(os.stat(f"{place}/p").st_mode)


def test_privileged_attributes_are_left_out_and_counted(place):
    records = {
        b"SCHILY.xattr." + name: b"x"
        for name in (
            b"security.capability",
            b"trusted.overlay.opaque",
            b"system.posix_acl_access",
            b"odd",
        )
    }
    tree = unpack(place, file("f", pax=records), symlink("l", "f", pax=records))
    assert os.listxattr(f"{place}/f") == []
    assert dict(tree.skipped) == {
        "security attribute": 2,
        "trusted attribute": 2,
        "system attribute": 2,
        "unknown attribute": 2,
    }


def test_user_attributes_are_kept_where_the_file_system_takes_them(place):
    try:
        os.setxattr(place, "user.probe", b"x")
    except OSError:
        pytest.skip(f"needs a file system with user attributes at {place}")
    records = {b"SCHILY.xattr.user.x": b"a\0b", b"SCHILY.xattr.user." + b"n" * 999: b""}
    tree = unpack(place, file("f", pax=records), folder("d", pax=records))
    assert os.getxattr(f"{place}/f", "user.x") == os.getxattr(f"{place}/d", "user.x") == b"a\0b"
    assert dict(tree.skipped) == {"user attribute": 2}


def test_sparse_file_has_its_holes(place):
    size = 1 << 30
    records = {b"GNU.sparse.size": b"%d" % size, b"GNU.sparse.map": b"0,1,1048576,1"}
    unpack(place, file("s", b"ab", pax=records))
    info = os.stat(f"{place}/s")
    assert (info.st_size, info.st_blocks < 1000) == (size, True)
    with open(f"{place}/s", "rb") as content:
        assert content.read(1 << 20 | 1) == b"a" + bytes((1 << 20) - 1) + b"b"


def test_account_survives_its_text():
    tree = LayerTree(
        strata=(Stratum(b"", (b"", b"a\n"), (b"r",), ((b"x", b"y/\xfe"),)),),
        whiteouts=(b"\xff", b"a/b"),
        opaque=(b"", b"d"),
        skipped=(("device node", 3),),
        entries=7,
        size_bytes=1 << 40,
        noted=((b"1:2:0644", (3, 1 << 60)),),
    )
    assert LayerTree.from_json(tree.to_json()) == tree


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"strata": 1}']
    + [
        f'{{"strata":[],"whiteouts":["{path}"],"opaque":[],"skipped":[],"entries":0,"size_bytes":0,"noted":[]}}'
        for path in ("..", "a/../b", "/a", "a//b", "a/.")
    ],
)
def test_broken_account_is_refused(text):
    with pytest.raises(StoreError):
        LayerTree.from_json(text)


REFUSED = {
    "bare whiteout": ([file("d/.wh.")], "whiteout of nothing"),
    "whiteout of .": ([file("d/.wh..")], "whiteout of nothing"),
    "whiteout of ..": ([file("d/.wh...")], "whiteout of nothing"),
    "below a whiteout": ([file(".wh.d/f")], "below the name of a whiteout"),
    "hard link to what aufs does not have": (
        [file(".wh..wh.plnk/7.2"), hard_link("h", ".wh..wh.plnk/8.2")],
        "name of a whiteout",
    ),
    "below a link to a whiteout": ([symlink("l", ".wh.d"), file("l/f")], "name of a whiteout"),
    "below a link to what was set aside": (
        [file("d/f"), file("d"), symlink("l", ".wh..wh.aside/0"), file("l/f")],
        "name of a whiteout",
    ),
    "hard link to what was set aside": (
        [file("d/f"), file("d"), hard_link("l", ".wh..wh.aside/0/d/f")],
        "name of a whiteout",
    ),
    "link that leads to itself": ([symlink("l", "l"), file("l/f")], "too many levels"),
    "links in a circle": ([symlink("a", "b"), symlink("b", "a"), file("a/f")], "too many levels"),
    "links that grow": (
        [symlink("a", "a/" * 2000), file("a/f")],
        "too many levels|directories deep",
    ),
    "link without target": ([symlink("l", "")], "has no target"),
    "hard link to a directory": ([folder("d"), hard_link("h", "d")], "to the directory"),
    "hard link to the root": ([hard_link("h", "/")], "to the directory"),
    "name of 256 bytes": ([file("n" * 256)], "name too long|File name too long"),
    "directory of 256 bytes": ([file("n" * 256 + "/f")], "File name too long"),
    "target of 5000 bytes": ([symlink("l", "t" * 5000)], "File name too long"),
    "path of 5000 bytes": ([file("d/" * 2500 + "f")], "has 5001 bytes"),
    "path of 100000 directories": ([folder("d/" * 100_000)], "has 199999 bytes"),
    "path of 300 directories": ([file("d/" * 300 + "f")], "256 directories deep"),
    "deep by way of links": (
        [folder("d/" * 200), symlink("l", "d/" * 200), file("l/" + "d/" * 200 + "f")],
        "256 directories deep",
    ),
    "directories replaced again and again": (
        [folder("d") + file("d")] * 100,
        "replaces more than 64",
    ),
    "sparse file beyond the file system": (
        [file("s", pax={b"GNU.sparse.size": b"%d" % (2**63 - 1)})],
        "the sparse file b's' has 9223372036854775807 bytes",
    ),
    "links that lead long ways": (
        [
            folder("d/" * 200),
            symlink("l0", "d/" * 200 + "../" * 200),
            *(symlink(f"l{n}", "d/" * 200 + "../" * 200 + f"l{n - 1}") for n in range(1, 39)),
            file("f"),
            *[file("l38/f"), file("l38/g")] * 200,
        ],
        "links lead too long ways",
    ),
    "cut off": ([file("f", b"x" * 9999)[:2000]], "cut off within the file b'f'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layer_is_refused_with_the_reason(case, place):
    members, message = REFUSED[case]
    stream = b"".join(members) if case == "cut off" else archive(*members)
    with pytest.raises(UnpackError, match=message):
        layers.unpack(pieces(stream), place)


def test_layer_beyond_its_limits_is_refused(place):
    with pytest.raises(UnpackError, match="more than 3 entries"):
        unpack(place, *[file("f")] * 4, entries=3)
    for kept in (folder("d{}"), folder("e{}/f"), file(".wh.{}"), hard_link("h{}", "x")):
        several = [kept.replace(b"{}", b"%02d" % n) for n in range(9)]
        members = [tarballs.sealed(member) for member in several]
        with pytest.raises(UnpackError, match="more than 5 directories, whiteouts"):
            unpack(place, *members, kept=5)
    paths = [folder(f"{'d' * 100}{n}") for n in range(9)]
    with pytest.raises(UnpackError, match="or their paths more than"):
        unpack(place, *paths, kept_bytes=500)
    with pytest.raises(UnpackError, match="more than 5000 bytes"):
        unpack(place, file("f", bytes(6000)), size_bytes=5000)


def test_failure_of_the_source_comes_through_as_it_is(place):
    def source():
        yield file("f", b"x" * 5000)[:2000]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        layers.unpack(source(), place)


FULL = """
mount -t tmpfs -o size=64k tmpfs "$1" && exec "$2" -c '
import sys
sys.path.insert(0, "tests")
from tarballs import archive, file
from udocker.errors import StoreError
from udocker.images import layers
try:
    layers.unpack([archive(file("f", bytes(1 << 20)))], sys.argv[1])
except StoreError as error:
    print(error, error.hint)
' "$1"
"""


def in_namespace(script, place):
    """Return what a script says that mounts a file system at `place`."""
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("needs root or user namespaces (unshare)")
    command = [*namespace, "sh", "-c", script, "sh", place, sys.executable]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_full_disk_is_named_with_the_way_out(place):
    said = in_namespace(FULL, place)
    assert f"{place}: No space left on device" in said
    assert "UDOCKER_DIR" in said


ROOM = """
mount -t tmpfs -o size=100m tmpfs "$1" && exec "$2" -c '
import os, sys
sys.path.insert(0, "tests")
from tarballs import header
from udocker.errors import StoreError
from udocker.images import layers
zeros = bytes(1 << 20)
def stream():
    yield header(b"f", b"0", 1 << 33)
    yield from (zeros for _ in range(1000))
directory = sys.argv[1]
least = []
def watched():
    for chunk in stream():
        yield chunk
        found = os.statvfs(directory)
        least.append(found.f_bavail * found.f_frsize)
try:
    layers.unpack(watched(), directory)
except StoreError as error:
    print(min(least), error, error.hint)
' "$1"
"""


def test_layer_is_stopped_before_the_disk_is_full(place):
    said = in_namespace(ROOM, place)
    assert int(said.split()[0]) >= 1 << 20
    assert "unpacking stopped before the disk is full" in said and "UDOCKER_DIR" in said


FEW = """
import resource, sys
sys.path.insert(0, "tests")
from tarballs import archive, file, folder, merged
few = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
wide = [file(f"w{n}/{k}/f") for k in range(3) for n in range(200)]
deep = "d/" * 200
print(len(merged(sys.argv[1], archive(*wide, file(deep + "f")), archive(*wide, file(deep + "g")))))
"""


@pytest.mark.parametrize("few", ["40", "64"])
def test_few_descriptors_are_enough(few, tmp_path):
    subprocess.run([sys.executable, "-c", FEW, str(tmp_path), few], check=True)
    assert len(snapshot(tmp_path / "rootfs")) == 200 * 7 + 202


def test_descriptors_are_all_closed(tmp_path):
    before = os.listdir("/proc/self/fd")
    merged(tmp_path, *[archive(*(file(f"{n}/f") for n in range(100)))] * 2)
    (tmp_path / "other").mkdir()
    with pytest.raises(UnpackError):
        layers.unpack([archive(file("a/b", b"x" * 999))[:1024]], str(tmp_path / "other"))
    assert os.listdir("/proc/self/fd") == before


FORMATS = ["v7", "oldgnu", "gnu", "ustar", "posix"]


@pytest.fixture(scope="module")
def debian_files(tmp_path_factory):
    """A part of this machine's own files with links, many directories and a sparse file."""
    source = "/usr/share/zoneinfo"
    if not (os.path.isdir(source) and shutil.which("tar")):
        pytest.skip("needs tar and /usr/share/zoneinfo")
    tree = tmp_path_factory.mktemp("debian") / "tree"
    shutil.copytree(source, tree, symlinks=True)
    os.link(tree / "Europe/Berlin", tree / "hard")
    with open(tree / "sparse", "wb") as sparse:
        sparse.seek(1 << 20)
        sparse.write(b"x" * 5000)
        sparse.truncate(3 << 20)
    return tree


@pytest.mark.parametrize("form", FORMATS)
def test_tree_is_the_one_that_gnu_tar_unpacks(form, debian_files, tmp_path):
    stream = tmp_path / "layer.tar"
    sparse = [] if form in ("v7", "ustar") else ["--sparse"]
    command = ["tar", f"--format={form}", *sparse, "-C", debian_files, "-cf", stream, "."]
    subprocess.run(command, check=True)
    (tmp_path / "theirs").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "theirs", "-pxf", stream], check=True)
    rootfs = merged(tmp_path, stream.read_bytes())
    assert snapshot(rootfs, times=True) == snapshot(tmp_path / "theirs", times=True)
    assert os.stat(f"{rootfs}/hard").st_nlink == os.stat(tmp_path / "theirs/hard").st_nlink
