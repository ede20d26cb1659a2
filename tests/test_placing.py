"""Files put into a container's writable layer from outside, as the kernel would do it."""

import os
import stat

import pytest
from stored import fill, make_container

from udocker.containers.files import Files, open_files
from udocker.containers.layer import open_layer
from udocker.containers.placing import Placer, put_tree


@pytest.fixture
def container(tmp_path):
    made = make_container(tmp_path)
    fill(made.tree, {"etc/a": "a", "etc/sub/b": "b", "usr/x": "x"})
    return made


@pytest.fixture
def source(tmp_path):
    fill(tmp_path / "source", {"new": "new", "folder/inside": "1", "link": "-> new"})
    return str(tmp_path / "source")


def put(container, source, path):
    with open_files(container) as files, Files(open_layer(source)) as new:
        put_tree(Placer(files), new, new.root(), path)


def seen(container):
    with open_files(container) as files:
        return sorted(os.fsdecode(found.path) for found in files.walk(files.root()))


def test_directories_above_are_copied_up_as_they_were(container, source):
    os.chmod(f"{container.tree}/etc/sub", 0o2750)
    os.utime(f"{container.tree}/etc/sub", (1, 2))
    os.setxattr(f"{container.tree}/etc/sub", "user.note", b"1")
    os.utime(f"{container.upper}", (3, 4))
    put(container, source, b"etc/sub/deep")
    copied = os.stat(f"{container.upper}/etc/sub")
    assert stat.S_IMODE(copied.st_mode) == 0o2750
    assert os.getxattr(f"{container.upper}/etc/sub", "user.note") == b"1"
    assert os.stat(container.upper).st_mtime == 4
    assert "etc/sub/deep/folder/inside" in seen(container) and "etc/sub/b" in seen(container)
    assert sorted(os.listdir(f"{container.tree}/etc")) == ["a", "sub"]


def test_what_was_removed_below_stays_so_when_its_directory_is_made_anew(container, source):
    fill(container.upper, {"etc": None})
    put(container, source, b"etc")
    assert seen(container) == ["etc", "etc/folder", "etc/folder/inside", "etc/link", "etc/new"] + [
        "usr",
        "usr/x",
    ]
    assert os.getxattr(f"{container.upper}/etc", "user.overlay.opaque") == b"y"


def test_a_whiteout_gives_way_to_a_file(container, tmp_path):
    fill(container.upper, {"etc/a": None})
    fill(tmp_path / "one", {"a": "another"})
    with open_files(container) as files, Files(open_layer(str(tmp_path / "one"))) as new:
        put_tree(Placer(files), new, new.child(new.root(), b"a"), b"etc/a")
    with open(f"{container.upper}/etc/a") as file:
        assert file.read() == "another"


def test_files_with_several_names_have_them_in_the_container(container, tmp_path):
    fill(tmp_path / "two", {"a": "text"})
    os.link(tmp_path / "two/a", tmp_path / "two/b")
    put(container, str(tmp_path / "two"), b"usr/two")
    a, b = (os.stat(f"{container.upper}/usr/two/{name}") for name in "ab")
    assert (a.st_ino, a.st_nlink) == (b.st_ino, 2)


@pytest.mark.parametrize(
    ("path", "source_is_directory", "contents", "expected"),
    [
        (b"/etc", True, False, b"etc/src"),
        (b"/etc", True, True, b"etc"),
        (b"/etc/none", True, False, b"etc/none"),
        (b"/etc/a", False, False, b"etc/a"),
        (b"/etc/none", False, False, b"etc/none"),
        (b"/", False, False, b"src"),
    ],
)
def test_destinations_are_dockers(container, path, source_is_directory, contents, expected):
    with open_files(container) as files:
        found = Placer(files).destination(
            path, b"src", is_directory=source_is_directory, contents=contents
        )
    assert found == expected
