"""What a container has and what it changed, from its layers as an overlay leaves them."""

import os
import socket

import pytest
from stored import fill, make_container

from udocker.containers.changes import changes
from udocker.containers.copying import copy_files
from udocker.containers.files import Files, open_files
from udocker.containers.layer import open_layer
from udocker.containers.rootfs import own_copy

TREE = {
    "etc/a": "a",
    "etc/b": "b",
    "etc/sub/c": "c",
    "usr/lib/x": "x",
    "usr/lib/y": "y",
    "lib": "-> usr/lib",
    "file": "was a file",
    "folder/inside": "1",
    "same": "same",
    "empty/": "",
}
UPPER = {
    "etc/a": "changed",
    "etc/b": None,
    "etc/new": "new",
    "usr/lib/": "y",
    "usr/lib/y": "yy",
    "file/now": "a folder",
    "folder": "-> usr",
    "same": "same",
    "empty/": "",
    "more/deep/": "",
}
EXPECTED = [
    "C etc",
    "C etc/a",
    "D etc/b",
    "A etc/new",
    "C file",
    "A file/now",
    "C folder",
    "A more",
    "A more/deep",
    "C usr",
    "C usr/lib",
    "D usr/lib/x",
    "C usr/lib/y",
]


@pytest.fixture
def container(tmp_path):
    made = make_container(tmp_path)
    fill(made.tree, TREE)
    fill(made.upper, UPPER)
    return made


def listed(container):
    with open_files(container) as files:
        return [f"{c.kind} {os.fsdecode(c.path)}" for c in changes(container, files)]


def seen(files):
    return {os.fsdecode(found.path): found for found in files.walk(files.root())}


def test_the_merged_files_are_those_that_an_overlay_shows(container):
    with open_files(container) as files:
        found = seen(files)
    assert sorted(found) == sorted(
        [
            *("empty", "etc", "etc/a", "etc/new", "etc/sub", "etc/sub/c", "file", "file/now"),
            *("folder", "lib", "more", "more/deep", "same", "usr", "usr/lib", "usr/lib/y"),
        ]
    )
    assert found["folder"].is_link and found["file"].is_directory


def test_changes_are_told_in_dockers_letters(container):
    assert listed(container) == EXPECTED


def test_an_own_copy_has_the_same_changes_as_the_layer_had(container):
    own_copy(container)
    assert not os.path.exists(container.upper)
    assert listed(container) == EXPECTED


def test_whiteouts_by_attribute_hide_too(tmp_path):
    container = make_container(tmp_path)
    fill(container.tree, {"d/a": "1", "d/b": "2"})
    fill(container.upper, {"d/": "x", "d/a": ""})
    os.setxattr(f"{container.upper}/d/a", "user.overlay.whiteout", b"y")
    assert listed(container) == ["C d", "D d/a"]


def test_a_directory_whose_mode_alone_is_another_is_changed(tmp_path):
    container = make_container(tmp_path)
    fill(container.tree, {"d/a": "1", "e/a": "1"})
    fill(container.upper, {"d/": "", "e/": ""})
    os.chmod(f"{container.upper}/d", 0o700)
    assert listed(container) == ["C d"]


def test_a_file_with_the_same_facts_counts_as_changed_when_its_content_is(tmp_path):
    container = make_container(tmp_path)
    fill(container.tree, {"a": "12", "b": "12"})
    fill(container.upper, {"a": "34", "b": "12"})
    assert listed(container) == ["C a"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/lib/y", "usr/lib/y"),
        ("/folder/lib/../lib/y", "usr/lib/y"),
        ("/../../etc/./a", "etc/a"),
        ("/more/link", "etc/a"),
    ],
)
def test_links_and_dots_lead_nowhere_but_into_the_container(container, path, expected):
    os.symlink("../../../../../../../../etc/a", f"{container.upper}/more/link")
    with open_files(container) as files:
        place = files.reach(path.encode(), follow=True)
        assert (place.path.decode(), place.found is not None) == (expected, True)


def test_links_in_a_circle_are_an_error(container):
    os.symlink("circle", f"{container.upper}/circle")
    with open_files(container) as files, pytest.raises(OSError, match="symbolic links"):
        files.reach(b"/circle", follow=True)


def test_a_copy_has_modes_times_links_attributes_and_holes(tmp_path):
    source = tmp_path / "source"
    fill(source, {"d/a": "a", "l": "-> d"})
    os.link(source / "d/a", source / "hard")
    os.mkfifo(source / "pipe", 0o640)
    os.setxattr(source / "d", "user.note", b"1")
    with open(source / "holes", "wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(source / "socket"))
    os.chmod(source / "d", 0o2755)
    os.utime(source / "d", (5, 6))
    with Files(open_layer(str(source))) as files:
        copy_files(files, str(tmp_path / "copy"))
    copy = tmp_path / "copy"
    assert sorted(os.listdir(copy)) == ["d", "hard", "holes", "l", "pipe"]
    assert os.stat(copy / "hard").st_ino == os.stat(copy / "d/a").st_ino
    assert os.getxattr(copy / "d", "user.note") == b"1"
    assert (os.stat(copy / "d").st_mode & 0o7777, os.stat(copy / "d").st_mtime) == (0o2755, 6)
    assert os.stat(copy / "holes").st_blocks < 1000
    assert os.readlink(copy / "l") == "d"


def test_a_tree_too_deep_to_be_spelled_is_copied(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    here = os.open(source, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with Files(open_layer(str(source))) as files:
        copy_files(files, str(tmp_path / "copy"))
    with Files(open_layer(str(tmp_path / "copy"))) as files:
        assert len(seen(files)) == 60
