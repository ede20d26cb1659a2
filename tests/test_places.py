"""Where files of a container lie on the host when names are changed and nothing is mounted."""

import os

import pytest

from udocker.containers.spec import Bind, DeviceNode, Symlink
from udocker.engines.places import Places
from udocker.errors import StartError


@pytest.fixture
def tree(tmp_path):
    """A root with a directory, a file and links of all kinds, beside secrets of the host."""
    root = tmp_path / "root"
    for name in ("real", "etc"):
        (root / name).mkdir(parents=True)
    (root / "etc/file").write_text("")
    (tmp_path / "secret").mkdir()
    links = {
        "absolute": "/real",
        "relative": "real/../etc",
        "above": "../../../real",
        "host": str(tmp_path / "secret"),
        "first": "second",
        "second": "first",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    return str(root)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/", "/"),
        ("/etc/file", "/etc/file"),
        ("//etc/./file/", "/etc/file"),
        ("/absolute/new", "/real/new"),
        ("/relative/file", "/etc/file"),
        ("/above/x", "/real/x"),
        ("/etc/../../..", "/"),
        ("/nowhere/../etc", "/etc"),
    ],
)
def test_links_lead_to_places_of_the_container(tree, path, place):
    places = Places(tree)
    assert places.follow(path) == place
    assert places.host(place) == (tree + place).rstrip("/")


def test_a_link_to_a_path_of_the_host_stays_in_the_container(tree, tmp_path):
    assert Places(tree).follow("/host/x") == f"{tmp_path}/secret/x"
    assert Places(tree).host(f"{tmp_path}/secret/x") == f"{tree}{tmp_path}/secret/x"


def test_links_in_a_circle_are_an_error(tree):
    with pytest.raises(StartError, match="/first"):
        Places(tree).follow("/first")


def test_binds_lie_over_the_tree_and_over_binds_above_them(tree, tmp_path):
    places = Places(tree)
    inner, outer = str(tmp_path / "inner"), str(tmp_path / "outer")
    os.mkdir(outer)
    os.symlink("/etc", f"{outer}/link")
    places.bind([Bind(inner, "/absolute/in"), Bind(outer, "/real"), DeviceNode("/dev/zero", "/z")])
    assert places.binds == {"/real": outer, "/real/in": inner, "/z": "/dev/zero"}
    assert places.host("/real/in/x") == f"{inner}/x"
    assert places.host("/real/other") == f"{outer}/other"
    assert places.follow("/real/link/file") == "/etc/file"  # as the container sees it


def test_of_two_binds_for_one_path_the_last_holds(tree):
    places = Places(tree)
    places.bind([Bind("/a", "/etc"), Bind("/b", "/etc")])
    assert places.binds == {"/etc": "/b"}


def test_a_link_of_the_host_that_a_bind_above_shows_needs_none(tree, tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/card1").write_text("")
    (tmp_path / "dev/by:path").symlink_to("card1")
    places = Places(tree)
    device = DeviceNode(f"{tmp_path}/dev/by:path", "/dev/by:path")
    places.bind([Bind(f"{tmp_path}/dev", "/dev"), device])
    assert places.binds == {"/dev": f"{tmp_path}/dev"}


def test_what_a_bind_above_shows_already_needs_none(tree):
    places = Places(tree)
    places.bind([DeviceNode("/dev/null", "/dev/null"), Bind("/dev", "/dev")])
    assert places.binds == {"/dev": "/dev"}


def test_a_link_shows_what_it_leads_to_through_other_links(tree):
    places = Places(tree)
    places.bind([Bind("/host/libx.so.1.2", "/lib/libx.so.1.2"), Bind("/proc", "/lib/gone")])
    os.makedirs(f"{tree}/lib")
    links = [
        Symlink("/lib/libx.so", "libx.so.1"),
        Symlink("/lib/libx.so.1", "/etc/file"),
        Symlink("/lib/nowhere", "/not/there"),
        Symlink("/absolute/x", "../etc"),
    ]
    places.link(links)
    assert places.binds["/lib/libx.so"] == places.binds["/lib/libx.so.1"] == f"{tree}/etc/file"
    assert places.binds["/real/x"] == f"{tree}/etc"
    assert "/lib/nowhere" not in places.binds


def test_mount_points_are_made_in_the_tree_and_not_on_the_host(tree, tmp_path):
    places = Places(tree)
    file = f"{tree}/etc/file"
    outer = str(tmp_path / "secret")
    places.bind([Bind(outer, "/real"), Bind(outer, "/real/in"), Bind(file, "/a/b/file")])
    places.bind([Bind(outer, "/host/below"), Bind(file, "/etc/file")])
    directories, files = places.missing()
    assert set(directories) == {f"{tree}/a/b", f"{tree}{outer}/below"}
    assert files == (f"{tree}/a/b/file",)
