"""Owners and modes of images, which this user cannot give to files: remembered, and given back."""

import gzip
import io
import json
import os
import stat
import tarfile

import pytest
from images import add_image
from registries import Layout
from tarballs import archive, entry, fifo, file, folder, hard_link, merged, pieces, symlink
from unprivileged import Unprivileged, remove_tree

from udocker.containers.archive import Archiver
from udocker.containers.copying import copy_files
from udocker.containers.files import Files
from udocker.containers.layer import open_layer
from udocker.images import layers, override, tree
from udocker.images.archives.tarwriter import TarWriter
from udocker.images.treestore import open_to_readers
from udocker.registry.loopback import LoopbackRegistry

BOB = (1000, 100)


@pytest.fixture
def place(tmp_path):
    """A directory on a file system that has user attributes."""
    try:
        os.setxattr(tmp_path, "user.probe", b"x")
    except OSError:
        pytest.skip(f"needs a file system with user attributes at {tmp_path}")
    os.removexattr(tmp_path, "user.probe")
    return str(tmp_path)


def written(directory):
    """Return what an archive of `directory` says: name to mode, owner and other facts."""
    stream = io.BytesIO()
    writer = TarWriter(stream.write)
    archiver = Archiver(writer, sparse=False)
    with Files(open_layer(directory)) as files:
        for found in files.walk(files.root()):
            archiver.add(found)
    writer.finish()
    return facts(stream.getvalue())


def facts(stream):
    """Return name to mode, owner, type and PAX records but those of names."""
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        return {
            member.name: (
                member.mode,
                (member.uid, member.gid),
                member.type,
                {k: v for k, v in member.pax_headers.items() if k not in ("path", "linkpath")},
            )
            for member in tar
        }


def attribute_of(path):
    """Return what is remembered of a file; None: nothing."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return dict(tree.attributes(descriptor)).get(override.ATTRIBUTE)
    finally:
        os.close(descriptor)


MEMBERS = {
    "plain": (file("f"), 0o644, None),
    "read-only": (file("f", mode=0o444), 0o444, None),
    "of another": (file("f", owner=BOB), 0o644, b"1000:100:0644"),
    "read-only, of another": (file("f", mode=0o440, owner=BOB), 0o440, b"1000:100:0440"),
    "unreadable": (file("f", mode=0), 0o400, b"0:0:00"),
    "set-id": (file("f", mode=0o6755), 0o755, b"0:0:06755"),
    "sticky": (file("f", mode=0o1644), 0o644, b"0:0:01644"),
    "directory": (folder("f"), 0o755, None),
    "directory of another": (folder("f", mode=0o2775, owner=BOB), 0o2775, b"1000:100:02775"),
    "closed directory": (folder("f", mode=0o555), 0o755, b"0:0:0555"),
    "directory again, of another": (
        folder("f") + folder("f", owner=BOB),
        0o755,
        b"1000:100:0755",
    ),
    "directory again, of root": (folder("f", owner=BOB) + folder("f"), 0o755, None),
    "file again": (file("f", owner=BOB) + file("f"), 0o644, None),
    "largest id": (file("f", owner=(8**7 - 1, 7)), 0o644, b"2097151:7:0644"),
    "pax id": (
        file("f", pax={b"uid": b"4294967294", b"gid": b"70000"}),
        0o644,
        b"4294967294:70000:0644",
    ),
    "ids that Linux has not": (
        file("f", pax={b"uid": b"4294967295", b"gid": b"9" * 30}),
        0o644,
        None,
    ),
    "ids that are no numbers": (
        file("f", owner=BOB, pax={b"uid": b"-1", b"gid": b"x"}),
        0o644,
        b"1000:100:0644",
    ),
    "names of users, which say nothing": (file("f", pax={b"uname": b"bob"}), 0o644, None),
    "attribute of the layer": (
        file("f", pax={b"SCHILY.xattr.user.containers.override_stat": b"7:7:0777"}),
        0o644,
        None,
    ),
    "attribute of the layer's directory": (
        folder("f", pax={b"SCHILY.xattr.user.containers.override_stat": b"7:7:0777"}, owner=BOB),
        0o755,
        b"1000:100:0755",
    ),
    "attributes of an overlay": (
        folder("f", pax={b"LIBARCHIVE.xattr.user.overlay.opaque": b"eQ=="}),
        0o755,
        None,
    ),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_what_differs_on_the_disk_is_remembered(case, place):
    members, mode, value = MEMBERS[case]
    layers.unpack(pieces(archive(members)), place)
    assert stat.S_IMODE(os.stat(f"{place}/f").st_mode) == mode
    assert attribute_of(f"{place}/f") == value
    assert not [n for n in os.listxattr(f"{place}/f") if n.startswith("user.overlay")]


def test_what_cannot_be_remembered_is_counted(place):
    members = [symlink("l", "f", owner=BOB), fifo("p"), entry("q", b"6", owner=BOB)]
    spoofed = file("f", pax={b"SCHILY.xattr.user.overlay.whiteout": b"y"})
    counted = layers.unpack(pieces(archive(*members, spoofed)), place).skipped
    assert dict(counted) == {
        "owner of a symbolic link": 1,
        "owner of a named pipe": 1,
        "overlay attribute": 1,
    }


TREE = [
    folder("home/bob", mode=0o750, owner=BOB),
    file("home/bob/f", b"x", mode=0o640, owner=BOB),
    hard_link("home/bob/g", "home/bob/f", mode=0o640, owner=BOB),
    file("home/bob/ro", b"x", mode=0o444, owner=BOB),
    folder("opt", mode=0o555),
    file("opt/su", b"x", mode=0o4755),
    file("opt/shadow", b"x", mode=0),
    file("opt/sudoers", b"x", mode=0o440, owner=(0, 42)),
    file("opt/ro", b"x", mode=0o444),
]
SAID = {
    "home": (0o755, (0, 0)),
    "home/bob": (0o750, BOB),
    "home/bob/f": (0o640, BOB),
    "home/bob/g": (0o640, BOB),
    "home/bob/ro": (0o444, BOB),
    "opt": (0o555, (0, 0)),
    "opt/su": (0o4755, (0, 0)),
    "opt/shadow": (0, (0, 0)),
    "opt/sudoers": (0o440, (0, 42)),
    "opt/ro": (0o444, (0, 0)),
}


def test_an_archive_of_a_tree_says_what_its_layers_say(place):
    rootfs = merged(place, archive(*TREE))
    found = written(rootfs)
    assert {name: value[:2] for name, value in found.items()} == SAID
    assert {str(value[3]) for value in found.values()} == {"{}"}
    assert found["home/bob/g"][2] == tarfile.LNKTYPE


def test_directory_of_an_upper_layer_replaces_all_attributes(place):
    lower = [folder("d", owner=BOB, pax={b"SCHILY.xattr.user.x": b"1"}), file("d/f")]
    upper = [folder("d", mode=0o500, pax={b"SCHILY.xattr.user.y": b"2"}), file("d/g")]
    rootfs = merged(place, archive(*lower), archive(*upper))
    assert sorted(os.listxattr(f"{rootfs}/d")) == ["user.containers.override_stat", "user.y"]
    assert attribute_of(f"{rootfs}/d") == b"0:0:0500"
    assert (
        written(merged(f"{place}/rootfs/d", archive(*lower), archive(file("d/h"))))["d"][1] == BOB
    )


def test_mode_that_was_changed_since_counts_and_the_owner_stays(place):
    rootfs = merged(place, archive(*TREE))
    os.chmod(f"{rootfs}/opt/su", 0o711)
    os.chmod(f"{rootfs}/home/bob/ro", 0o600)
    os.chmod(f"{rootfs}/opt", 0o700)
    found = written(rootfs)
    assert found["opt/su"][:2] == (0o711, (0, 0))
    assert found["home/bob/ro"][:2] == (0o600, BOB)
    assert found["opt"][:2] == (0o700, (0, 0))


@pytest.mark.parametrize("own", [True, False])
def test_copy_that_its_owner_may_write_says_what_the_image_says(own, place):
    rootfs = merged(place, archive(*TREE))
    with Files(open_layer(rootfs, own=own)) as files:
        copy_files(files, f"{place}/copy", writable=True)
    modes = [os.stat(f"{place}/copy/opt/{name}").st_mode & 0o777 for name in ("ro", "shadow")]
    assert modes == ([0o444, 0o400] if own else [0o644, 0o600])
    assert {name: value[:2] for name, value in written(f"{place}/copy").items()} == SAID


def test_writable_copy_of_a_tree_for_all_to_read_says_what_the_image_says(place):
    rootfs = merged(place, archive(*TREE))
    open_to_readers(rootfs)
    with Files(open_layer(rootfs, own=False)) as files:
        copy_files(files, f"{place}/copy", writable=True)
    assert {name: value[:2] for name, value in written(f"{place}/copy").items()} == SAID


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"1",
        b"1:2",
        b"a:b:c",
        b"-1:0:0644",
        b"1:2:0888",
        b"1:2:",
        b"9" * 70,
        b"4294967295:0:0644",
    ],
)
def test_attribute_that_makes_no_sense_says_nothing(value, place):
    assert override.decode(value) is None
    with open(f"{place}/f", "w") as made:
        os.setxattr(made.fileno(), override.ATTRIBUTE, value)
    os.chmod(f"{place}/f", 0o640)
    assert written(place)["f"][:2] == (0o640, (0, 0))


def test_attribute_of_others_is_read():
    # containers/storage appends the type, virtiofs has it in the mode.
    assert override.decode(b"1:2:0755:dir") == ((1, 2), 0o755)
    assert override.decode(b"0:0:0100755") == ((0, 0), 0o755)


INSIDE = """
set -e
echo more >> /home/bob/f; chmod 600 /home/bob/ro; echo new > /home/bob/new
mkdir /home/bob/dir; echo x >> /opt/sudoers
"""


@pytest.fixture(scope="module")
def user(account, busybox_image, tmp_path_factory):
    """A user with an image whose files belong to many."""
    user = Unprivileged(account)
    layout = Layout(str(tmp_path_factory.mktemp("owned")))
    with open(f"{busybox_image.path}/index.json") as text:
        base = busybox_layer(busybox_image.path, text.read())
    add_image(layout, "owned:1", [base, archive(*TREE)], Cmd=["sh"])
    with LoopbackRegistry(layout.directory) as address:
        user.image = f"{address}/library/owned:1"
        user.udocker("pull", user.image)
        yield user
    user.close()


def busybox_layer(directory, index):
    """Return the tar stream of the first layer of the first image in a layout."""

    def blob(descriptor):
        with open(f"{directory}/blobs/{descriptor['digest'].replace(':', '/')}", "rb") as data:
            return data.read()

    manifest = json.loads(blob(json.loads(index)["manifests"][0]))
    return gzip.decompress(blob(manifest["layers"][0]))


@pytest.fixture(params=["N2", "N1"])
def container(user, request):
    """The name of a container that wrote something, through an overlay or into a copy."""
    name = f"of-{request.param}"
    user.udocker("create", f"--name={name}", user.image)
    engine = f"--engine={request.param}"
    user.udocker("run", engine, name, "true")
    yield name
    user.udocker("rm", "-f", name)


def exported(user, name):
    found = facts(user.udocker("export", name, text=False).stdout)
    return {path: value[:2] for path, value in found.items() if path in SAID or "bob" in path}


def test_export_gives_owners_and_modes_back(user, container):
    assert exported(user, container) == SAID
    assert user.udocker("diff", container).stdout == ""


def test_modes_inside_are_those_of_the_image(user, container):
    show = "stat -c '%a %u %n' /home/bob/ro /opt/sudoers; ls /opt"
    seen = user.udocker("run", container, "sh", "-c", show).stdout
    first = 6 if container == "of-N1" else 4
    files = [f"{first}44 0 /home/bob/ro", f"{first}40 0 /opt/sudoers"]
    assert seen.split("\n") == [*files, "ro", "shadow", "su", "sudoers", ""]


def test_changes_inside_leave_owners_as_they_are(user, container):
    user.udocker("run", container, "sh", "-c", INSIDE)
    expected = {
        **SAID,
        "home/bob/ro": (0o600, BOB),
        "home/bob/new": (0o644, (0, 0)),
        "home/bob/dir": (0o755, (0, 0)),
    }
    assert exported(user, container) == expected
    user.udocker("clone", "--name=cloned", container)
    assert exported(user, "cloned") == expected
    user.udocker("setup", "--fixperm", "cloned")
    assert exported(user, "cloned") == expected
    user.udocker("rm", "-f", "cloned")
    user.udocker("commit", container, "committed:1")
    user.udocker("create", "--name=again", "committed:1")
    assert exported(user, "again") == expected
    user.udocker("rm", "-f", "again")


def test_copies_to_the_host_have_modes_and_no_attribute(user, container):
    out = f"{user.home}/out"
    user.udocker("cp", f"{container}:/opt", out)
    modes = {name: os.stat(f"{out}/{name}").st_mode & 0o7777 for name in os.listdir(out)}
    assert modes == {"su": 0o755, "shadow": 0, "sudoers": 0o440, "ro": 0o444}
    assert [name for name in os.listdir(out) if os.listxattr(f"{out}/{name}")] == []
    stream = user.udocker("cp", f"{container}:/home/bob", "-", text=False).stdout
    assert facts(stream)["bob/f"][:2] == (0o640, BOB)
    remove_tree(out)
