"""Reading below a root: every link is read inside it, whoever wrote it."""

from __future__ import annotations

import os

import pytest

from udocker.host.root import MAX_LINKS, Root, Stack

SECRET = b"secret of the host"


@pytest.fixture
def tree(tmp_path):
    """A root with `etc/passwd` and `usr/lib`, beside a host file that must stay out of reach."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "usr/lib").mkdir(parents=True)
    (root / "etc/passwd").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(SECRET)
    return root


def test_an_absolute_link_is_read_inside_the_root(tree):
    (tree / "link").symlink_to("/etc/passwd")
    assert Root(str(tree)).read("/link", 100) == b"inside"
    assert Root(str(tree)).resolve("/link") == str(tree / "etc/passwd")


@pytest.mark.parametrize(
    ("link", "target", "asked"),
    [
        ("leaf", "{host}/secret", "/leaf"),
        ("leaf", "../secret", "/leaf"),
        ("etc/leaf", "../../../../../../../../{host}/secret", "/etc/leaf"),
        ("out", "{host}", "/out/secret"),
        ("out", "..", "/out/secret"),
    ],
)
def test_no_link_leads_out_of_the_root(tree, link, target, asked):
    (tree / link).symlink_to(target.format(host=tree.parent))
    assert Root(str(tree)).resolve(asked) is None
    with pytest.raises(FileNotFoundError):
        Root(str(tree)).read(asked, 100)


@pytest.mark.parametrize("path", ["/../secret", "/etc/../../secret", "/../../../../../../secret"])
def test_dots_stop_at_the_root(tree, path):
    assert not Root(str(tree)).exists(path)


def test_a_directory_link_inside_the_root_is_followed(tree):
    (tree / "lib").symlink_to("usr/lib")
    (tree / "usr/lib/libc.so.6").write_bytes(b"libc")
    root = Root(str(tree))
    assert root.resolve("/lib/libc.so.6") == str(tree / "usr/lib/libc.so.6")
    assert root.listdir("/lib") == ("libc.so.6",)


def test_loops_and_chains_longer_than_the_kernels_lead_nowhere(tree):
    (tree / "loop").symlink_to("loop")
    previous = "etc/passwd"
    for number in range(MAX_LINKS + 1):
        (tree / f"chain{number}").symlink_to(previous)
        previous = f"chain{number}"
    root = Root(str(tree))
    assert root.resolve("/loop") is None
    assert root.resolve(f"/chain{MAX_LINKS}") is None
    assert root.resolve(f"/chain{MAX_LINKS - 1}") == str(tree / "etc/passwd")


@pytest.mark.parametrize(
    "path", ["/etc/none", "/etc/passwd/x", "/etc/passwd/..", "/a\0b", "/\ud800"]
)
def test_what_is_not_there_resolves_to_nothing(tree, path):
    root = Root(str(tree))
    assert root.resolve(path) is None
    assert not root.exists(path)
    assert root.listdir(path) == ()
    with pytest.raises(FileNotFoundError):
        root.read(path, 100)


def test_a_file_larger_than_the_limit_is_an_error_and_not_cut(tree):
    root = Root(str(tree))
    assert root.read("/etc/passwd", 6) == b"inside"
    with pytest.raises(OSError, match="more than 5 bytes"):
        root.read("/etc/passwd", 5)


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_only_regular_files_are_read_and_nothing_is_waited_for(tree, kind):
    make = {"fifo": os.mkfifo, "directory": os.mkdir}[kind]
    make(tree / "thing")
    with pytest.raises(OSError):
        Root(str(tree)).read("/thing", 100)


def test_a_link_put_in_place_after_the_walk_is_not_followed(tree):
    root = Root(str(tree))
    parts = root._walk("/etc/passwd")
    (tree / "etc/passwd").unlink()
    (tree / "etc").rmdir()
    (tree / "etc").symlink_to(tree.parent)
    (tree.parent / "passwd").write_bytes(SECRET)
    with pytest.raises(OSError):
        root._open(parts)


def test_of_trees_over_each_other_the_first_that_has_a_file_counts(tree, tmp_path):
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/new").write_bytes(b"new")
    (upper / "etc/out").symlink_to("/../outside")
    stack = Stack(str(upper), str(tree))
    assert stack.read("/etc/passwd", 100) == b"inside"
    (upper / "etc/passwd").write_bytes(b"above")
    assert stack.read("/etc/passwd", 100) == b"above"
    assert stack.resolve("/etc/new") == f"{upper}/etc/new"
    assert set(stack.listdir("/etc")) >= {"new", "passwd"}
    assert not stack.exists("/etc/out")
    with pytest.raises(FileNotFoundError):
        stack.read("/nowhere", 100)


def test_a_path_is_told_as_the_tree_has_it(tree, tmp_path):
    (tree / "lib").symlink_to("/usr/lib")
    (tree / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "upper/usr/lib").mkdir(parents=True)
    root = Root(str(tree))
    assert root.locate("/lib/.") == "/usr/lib"
    assert root.locate("/out") is None
    assert root.resolve_all("/lib") == (str(tree / "usr/lib"),)
    both = Stack(str(tmp_path / "upper"), str(tree))
    assert both.locate("/lib") == "/usr/lib"
    assert both.resolve_all("/usr/lib") == (f"{tmp_path}/upper/usr/lib", str(tree / "usr/lib"))
    assert (root.origin, both.origin) == (str(tree), str(tree))
    assert Root(str(tree), origin="/image").origin == "/image"


def test_the_real_root_is_a_root_too():
    assert Root("/").resolve("/") == "/"
    assert Root("/").resolve("/../proc/version") == "/proc/version"
    assert Root("/").listdir("/proc/self/fd/none") == ()
    assert b"Linux" in Root("/").read("/proc/version", 4096)
