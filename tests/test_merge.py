"""Layers to one root file system: what hides, what replaces, what is merged."""

import os
import shutil
import stat
import subprocess
import tempfile

import pytest
import tarballs
from hypothesis import given, settings
from hypothesis import strategies as st
from tarballs import archive, contents, device, file, folder, hard_link, merged, snapshot, symlink

from udocker import trees
from udocker.errors import StoreError, UnpackError
from udocker.images import layers, tree

BASE = [folder("d"), file("d/x", b"1"), file("d/y", b"1"), folder("d/s"), file("d/s/z", b"1")]
BASE_TREE = {"d": None, "d/x": "1", "d/y": "1", "d/s": None, "d/s/z": "1"}
USR = [folder("usr"), folder("usr/lib"), file("usr/lib/old", b"1"), symlink("lib", "usr/lib")]
USR_TREE = {"usr": None, "usr/lib": None, "usr/lib/old": "1", "lib": "-> usr/lib"}


def without(expected, *paths):
    """Return `expected` without `paths` and what is below them."""
    return {
        name: value
        for name, value in expected.items()
        if not any(name == path or name.startswith(path + "/") for path in paths)
    }


STACKS = {
    "nothing": ([[], []], {}),
    "files of both": ([[file("a")], [file("b")]], {"a": "", "b": ""}),
    "file over file": ([BASE, [file("d/x", b"2")]], {**BASE_TREE, "d/x": "2"}),
    "the same layer twice": ([BASE, BASE], BASE_TREE),
    "file over directory": ([BASE, [file("d", b"2")]], {"d": "2"}),
    "directory over file": ([[file("d")], [folder("d"), file("d/f")]], {"d": None, "d/f": ""}),
    "parent over file": ([[file("d")], [file("d/f")]], {"d": None, "d/f": ""}),
    "link over directory": ([BASE, [symlink("d", "e")]], {"d": "-> e"}),
    "directory over link": (
        [USR, [folder("lib"), file("lib/f")]],
        {**USR_TREE, "lib": None, "lib/f": ""},
    ),
    "link over link": ([USR, [symlink("lib", "usr")]], {**USR_TREE, "lib": "-> usr"}),
    "link over its own target": (
        [[file("f", b"1"), symlink("l", "f")], [file("l", b"2")]],
        {"f": "1", "l": "2"},
    ),
    # Whiteouts.
    "whiteout of a file": ([BASE, [file("d/.wh.x")]], without(BASE_TREE, "d/x")),
    "whiteout of a directory": ([BASE, [file("d/.wh.s")]], without(BASE_TREE, "d/s")),
    "whiteout at the root": ([BASE, [file(".wh.d")]], {}),
    "whiteout at the root with a dot": ([BASE, [file("./.wh.d")]], {}),
    "whiteout of nothing that is there": ([BASE, [file("e/.wh.x"), file(".wh.y")]], BASE_TREE),
    "whiteout before the new file": (
        [BASE, [file("d/.wh.x"), file("d/x", b"2")]],
        {
            **BASE_TREE,
            "d/x": "2",
        },
    ),
    "whiteout after the new file": (
        [BASE, [file("d/x", b"2"), file("d/.wh.x")]],
        {
            **BASE_TREE,
            "d/x": "2",
        },
    ),
    "whiteout and new directory": (
        [BASE, [folder("d"), file("d/n"), file(".wh.d")]],
        {"d": None, "d/n": ""},
    ),
    "whiteout of a whiteout": ([[file("a")], [file(".wh.a")], [file(".wh.a")]], {}),
    "file that comes back": ([[file("a", b"1")], [file(".wh.a")], [file("a", b"3")]], {"a": "3"}),
    "whiteout of a link": ([USR, [file(".wh.lib")]], without(USR_TREE, "lib")),
    "whiteout below a link": ([USR, [file("lib/.wh.old")]], without(USR_TREE, "usr/lib/old")),
    "whiteout below a link that is hidden": (
        [USR, [file(".wh.lib"), file("lib/.wh.old")]],
        without(USR_TREE, "lib", "usr/lib/old"),
    ),
    "whiteout in a directory that replaces a link": (
        [USR, [folder("lib"), file("lib/.wh.old")]],
        {**USR_TREE, "lib": None},
    ),
    "whiteout below a file": ([[file("f", b"1")], [file("f/.wh.x")]], {"f": "1"}),
    "opaque directory": (
        [BASE, [folder("d"), file("d/.wh..wh..opq"), file("d/n")]],
        {"d": None, "d/n": ""},
    ),
    "opaque directory, mark at the end": (
        [BASE, [folder("d"), file("d/n"), file("d/.wh..wh..opq")]],
        {"d": None, "d/n": ""},
    ),
    "opaque directory without entry": ([BASE, [file("d/.wh..wh..opq")]], {"d": None}),
    "opaque root": ([BASE, [file(".wh..wh..opq"), file("n")]], {"n": ""}),
    "opaque directory within": (
        [BASE, [file("d/s/.wh..wh..opq")]],
        without(BASE_TREE, "d/s/z"),
    ),
    "opaque directory that replaces a link": (
        [USR, [folder("lib"), file("lib/.wh..wh..opq"), file("lib/f")]],
        {**USR_TREE, "lib": None, "lib/f": ""},
    ),
    "opaque file": ([[file("f", b"1")], [file("f/.wh..wh..opq")]], {"f": "1"}),
    "device over file": ([BASE, [device("d/x")]], without(BASE_TREE, "d/x")),
    "device over directory": ([BASE, [device("d")]], without(BASE_TREE, "d")),
    "device below a link": ([USR, [device("lib/old")]], without(USR_TREE, "usr/lib/old")),
    "file over device, then over file": (
        [BASE, [device("d/x"), file("d/x", b"2")]],
        {**BASE_TREE, "d/x": "2"},
    ),
    # Parents that the layer does not have.
    "parent below is a link": ([USR, [file("lib/f")]], {**USR_TREE, "usr/lib/f": ""}),
    "parent below is an absolute link": (
        [[folder("b"), symlink("a", "/b")], [file("a/f")]],
        {"a": "-> /b", "b": None, "b/f": ""},
    ),
    "parent below is a link out of the root": (
        [[folder("b"), symlink("a", "../../b")], [file("a/f")]],
        {"a": "-> ../../b", "b": None, "b/f": ""},
    ),
    "parent below is a link to nothing": (
        [[symlink("a", "b/c")], [file("a/f")]],
        {"a": "-> b/c", "b": None, "b/c": None, "b/c/f": ""},
    ),
    "parent below is a link to a file": (
        [[file("b", b"1"), symlink("a", "b")], [file("a/f")]],
        {"b": None, "b/f": "", "a": "-> b"},
    ),
    "link of the layer, directory below": (
        [
            [folder("usr"), folder("usr/lib"), file("usr/lib/x", b"1")],
            [symlink("lib", "usr/lib"), file("lib/f")],
        ],
        {"usr": None, "usr/lib": None, "usr/lib/x": "1", "usr/lib/f": "", "lib": "-> usr/lib"},
    ),
    "link of the layer, another link below": (
        [[folder("r"), symlink("usr", "r")], [symlink("lib", "usr/lib"), file("lib/f")]],
        {"r": None, "usr": "-> r", "r/lib": None, "r/lib/f": "", "lib": "-> usr/lib"},
    ),
    "parent that becomes a link": (
        [USR, [file("lib/f", b"2"), symlink("lib", "usr/lib64")]],
        {**USR_TREE, "usr/lib/f": "2", "lib": "-> usr/lib64"},
    ),
    "parent that becomes a file": (
        [USR, [file("lib/s/f", b"2"), file("lib", b"3")]],
        {**USR_TREE, "usr/lib/s": None, "usr/lib/s/f": "2", "lib": "3"},
    ),
    "parent in a directory that becomes a file": (
        [
            [folder("b"), folder("d"), symlink("d/l", "../b")],
            [folder("d"), file("d/l/f", b"2"), file("d", b"3")],
        ],
        {"b": None, "b/f": "2", "d": "3"},
    ),
    "parent in a new directory becomes a file": (
        [[folder("b"), symlink("d", "b")], [folder("d"), file("d/l/f"), file("d/l", b"3")]],
        {"b": None, "d": None, "d/l": "3"},
    ),
    "directory after a file": (
        [BASE, [file("d"), folder("d"), file("d/n")]],
        {
            "d": None,
            "d/n": "",
        },
    ),
    "parent after a link": (
        [BASE, [symlink("d", "."), file("d", b"x"), file("d/n")]],
        {
            "d": None,
            "d/n": "",
        },
    ),
    "directory after a hard link": (
        [BASE, [hard_link("d/s", "d/x"), folder("d/s")]],
        {
            **without(BASE_TREE, "d/s"),
            "d/s": None,
        },
    ),
    "directory, file, directory": (
        [USR, [file("lib/f"), file("lib"), folder("lib")]],
        {
            **USR_TREE,
            "usr/lib/f": "",
            "lib": None,
        },
    ),
    "directory, file, directory, file": (
        [USR, [file("lib"), file("lib/f"), file("lib")]],
        {**USR_TREE, "lib": ""},
    ),
    "parent in a directory after a file becomes a file": (
        [[folder("b"), symlink("d", "b")], [file("d"), file("d/l/f"), file("d/l", b"3")]],
        {"b": None, "d": None, "d/l": "3"},
    ),
    # Hard links.
    "hard link to the layer below": ([BASE, [hard_link("h", "d/x")]], {**BASE_TREE, "h": "1"}),
    "hard link to a link below": (
        [USR, [hard_link("h", "lib")]],
        {**USR_TREE, "h": "-> usr/lib"},
    ),
    "hard link through a link below": ([USR, [hard_link("h", "/lib/old")]], {**USR_TREE, "h": "1"}),
    "hard link through a link of the layer": (
        [USR, [symlink("l", "usr"), hard_link("h", "l/lib/old")]],
        {**USR_TREE, "l": "-> usr", "h": "1"},
    ),
    "hard link to what is hidden": (
        [BASE, [file("d/.wh.x"), hard_link("h", "./d/x")]],
        {**without(BASE_TREE, "d/x"), "h": "1"},
    ),
    "hard link to what is replaced": (
        [BASE, [hard_link("h", "d/x"), file("d/x", b"2")]],
        {**BASE_TREE, "d/x": "2", "h": "1"},
    ),
    "hard link to a hard link": (
        [BASE, [hard_link("g", "d/x"), hard_link("h", "g")]],
        {**BASE_TREE, "g": "1", "h": "1"},
    ),
    "hard link that is replaced": (
        [BASE, [hard_link("g", "d/x"), file("g", b"2")]],
        {**BASE_TREE, "g": "2"},
    ),
    "hard link that becomes a directory": (
        [BASE, [hard_link("g", "d/x"), file("g/f", b"2")]],
        {**BASE_TREE, "g": None, "g/f": "2"},
    ),
    "hard link over a file of its layer": (
        [BASE, [file("g", b"2"), hard_link("g", "d/x")]],
        {**BASE_TREE, "g": "1"},
    ),
    "hard link to itself": ([BASE, [hard_link("d/x", "d/x")]], BASE_TREE),
    "hard link over a directory": (
        [BASE, [hard_link("d/s", "d/x")]],
        {
            **without(BASE_TREE, "d/s"),
            "d/s": "1",
        },
    ),
    "hard link in a new directory": (
        [BASE, [folder("n"), hard_link("n/h", "d/x")]],
        {**BASE_TREE, "n": None, "n/h": "1"},
    ),
    "hard link in a directory set aside": (
        [USR, [hard_link("lib/h", "usr/lib/old"), symlink("lib", "x")]],
        {**USR_TREE, "usr/lib/h": "1", "lib": "-> x"},
    ),
}


@pytest.mark.parametrize("case", STACKS)
def test_layers_become_the_tree_that_they_describe(case, tmp_path):
    stack, expected = STACKS[case]
    assert contents(merged(tmp_path, *(archive(*layer) for layer in stack))) == expected
    assert os.listdir(tmp_path) == ["rootfs"]


def test_hard_link_to_a_layer_below_is_the_same_file(tmp_path):
    rootfs = merged(tmp_path, archive(file("f", b"x")), archive(hard_link("g", "f")))
    assert os.path.samefile(f"{rootfs}/f", f"{rootfs}/g")


def test_file_that_replaces_a_hard_link_leaves_the_other_name_alone(tmp_path):
    lower = archive(file("f", b"1"), hard_link("g", "f"))
    rootfs = merged(tmp_path, lower, archive(file("g", b"2")))
    assert contents(rootfs) == {"f": "1", "g": "2"}


ATTRIBUTES = {
    "replaced": ([folder("d", mode=0o700, mtime=1)], [folder("d", mode=0o755, mtime=2)], 0o755, 2),
    "replaced, with content": (
        [folder("d", mode=0o755, mtime=1), file("d/f")],
        [folder("d", mode=0o1777, mtime=2), file("d/g"), file("d/.wh.f")],
        0o1777,
        2,
    ),
    "replaced, with a link from below": (
        [folder("d", mtime=1), file("f")],
        [folder("d", mode=0o711, mtime=2), hard_link("d/g", "f")],
        0o711,
        2,
    ),
    "kept without an entry": ([folder("d", mode=0o711)], [file("d/g")], 0o711, None),
    "kept without an entry, empty": ([folder("d", mode=0o2711)], [file("d/g")], 0o2711, None),
    "of the last entry": (
        [folder("d")],
        [folder("d", mode=0o700), folder("d", mode=0o711, mtime=3)],
        0o711,
        3,
    ),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_only_an_entry_changes_the_attributes_of_a_directory(case, tmp_path):
    lower, upper, mode, mtime = ATTRIBUTES[case]
    found = os.stat(merged(tmp_path, archive(*lower), archive(*upper)) + "/d")
    assert stat.S_IMODE(found.st_mode) == mode
    assert mtime is None or found.st_mtime == mtime


TOUCHED = {
    "a new file": [file("d/s/n")],
    "a whiteout": [file("d/s/.wh.f")],
    "an opaque mark": [file("d/s/.wh..wh..opq")],
    "a hard link": [hard_link("d/s/h", "d/s/f")],
    "a file through a link": [file("l/n")],
    "what was set aside": [file("d/s/n/x"), file("d/s/n")],
}


@pytest.mark.parametrize("case", TOUCHED)
def test_directory_without_an_entry_keeps_its_time(case, tmp_path):
    lower = [folder("d", mtime=1), folder("d/s", mtime=2), file("d/s/f"), symlink("l", "d/s")]
    rootfs = merged(tmp_path, archive(folder("./", mtime=3), *lower), archive(*TOUCHED[case]))
    found = [os.stat(f"{rootfs}/{name}").st_mtime for name in (".", "d", "d/s")]
    assert found == [3, 1, 2]


def test_directory_in_the_place_of_a_hidden_one_has_its_own_time(tmp_path):
    lower = [folder("d", mtime=1), folder("d/s", mtime=2), file("d/s/f")]
    upper = [file("d/s/.wh.f"), file(".wh.d"), folder("d", mtime=5), folder("d/s", mtime=6)]
    rootfs = merged(tmp_path, archive(*lower), archive(*upper))
    assert [os.stat(f"{rootfs}/{name}").st_mtime for name in ("d", "d/s")] == [5, 6]


def test_root_has_the_attributes_of_its_last_entry(tmp_path):
    first, second = archive(folder("./", mode=0o511, mtime=4), file("f")), archive(file("g"))
    found = os.stat(merged(tmp_path, first, second))
    assert stat.S_IMODE(found.st_mode) == 0o711


MISSING = {
    "in one layer": [[hard_link("new", "lost")]],
    "in two layers": [[file("f")], [hard_link("new", "lost")]],
    "in a later layer": [[hard_link("new", "lost")], [file("lost")]],
    "a directory below": [[folder("lost")], [hard_link("new", "lost")]],
}


@pytest.mark.parametrize("case", MISSING)
def test_hard_link_without_target_is_refused_naming_both(case, tmp_path):
    with pytest.raises(UnpackError, match=r"b'new' is a hard link to b'lost'"):
        merged(tmp_path, *(archive(*layer) for layer in MISSING[case]))


def test_links_below_that_go_in_circles_are_refused(tmp_path):
    lower = archive(symlink("a", "b"), symlink("b", "a"))
    with pytest.raises(UnpackError, match="too many levels"):
        merged(tmp_path, lower, archive(file("a/f")))


def test_missing_layer_is_a_fault_of_the_store(tmp_path):
    (tmp_path / "layer").mkdir()
    account = layers.unpack([], str(tmp_path / "layer"))
    with pytest.raises(StoreError, match="cannot merge"):
        layers.merge([(str(tmp_path / "gone"), account)], str(tmp_path / "rootfs"))


def test_two_hundred_layers_are_merged(tmp_path):
    stack = [archive(folder("d"), file(f"d/{n}"), file(f"d/.wh.{n - 1}")) for n in range(200)]
    assert contents(merged(tmp_path, *stack)) == {"d": None, "d/199": ""}


# A reference model: a directory is (mode, children), a file bytes, a link str.
NAMES = st.sampled_from("abc")
LEAVES = st.one_of(st.binary(max_size=2), st.sampled_from(["a", "b/c", "/", ".."]))


def directories(children):
    """Return layers' directories: mode, children, hidden names, whether it is opaque."""
    return st.tuples(
        st.sampled_from([0o755, 0o700, 0o1777]),
        st.dictionaries(NAMES, children, max_size=3),
        st.sets(NAMES, max_size=2),
        st.booleans(),
    )


LAYERS = directories(st.recursive(LEAVES, directories, max_leaves=6))


def members_of(directory, path=""):
    """Return the members that describe a layer's directory."""
    _, children, hidden, opaque = directory
    marks = [file(f"{path}.wh.{name}") for name in sorted(hidden)]
    marks += [file(f"{path}.wh..wh..opq")] if opaque else []
    found = []
    for name, child in children.items():
        if isinstance(child, bytes):
            found.append(file(path + name, child))
        elif isinstance(child, str):
            found.append(symlink(path + name, child))
        else:
            found.append(folder(path + name, mode=child[0]))
            found += members_of(child, f"{path}{name}/")
    return found + marks if len(children) % 2 else marks + found


def applied(layer, below):
    """Return the children of a merged directory, by the words of the image specification."""
    _, children, hidden, opaque = layer
    result = {} if opaque else {k: v for k, v in below.items() if k not in hidden}
    for name, child in children.items():
        if not isinstance(child, tuple):
            result[name] = child
            continue
        existing = result.get(name)
        result[name] = (child[0], applied(child, existing[1] if _is_dir(existing) else {}))
    return result


def _is_dir(value):
    return isinstance(value, tuple)


def flat(children, path=b""):
    """Return the model as `snapshot` returns a tree."""
    found = {}
    for name, child in children.items():
        below = path + name.encode()
        if isinstance(child, bytes):
            found[below] = ("file", 0o644, child)
        elif isinstance(child, str):
            found[below] = ("link", child.encode())
        else:
            found[below] = ("directory", child[0])
            found.update(flat(child[1], below + b"/"))
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(LAYERS, min_size=1, max_size=3))
def test_merged_tree_is_that_of_the_model(stack):
    expected = {}
    for layer in stack:
        expected = applied(layer, expected)
    with tempfile.TemporaryDirectory() as directory:
        rootfs = merged(directory, *(archive(*members_of(layer)) for layer in stack))
        assert snapshot(rootfs) == flat(expected)


DEEP_NAMES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
MEMBERS = st.one_of(
    st.builds(file, DEEP_NAMES, st.binary(max_size=2)),
    st.builds(folder, DEEP_NAMES),
    st.builds(hard_link, DEEP_NAMES, DEEP_NAMES),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(MEMBERS, max_size=5), st.lists(MEMBERS, max_size=6))
def test_two_layers_are_as_good_as_one_with_the_members_of_both(lower, upper):
    trees = []
    for stack in ([archive(*lower), archive(*upper)], [archive(*lower, *upper)]):
        with tempfile.TemporaryDirectory() as directory:
            try:
                trees.append(snapshot(merged(directory, *stack)))
            except UnpackError:
                # Not always in both: one layer knows which of its entries came first.
                trees.append(None)
    assert None in trees or trees[0] == trees[1]


@pytest.fixture
def umoci(tmp_path):
    """A function that unpacks layers with umoci and returns the root file system."""
    if not shutil.which("umoci"):
        pytest.skip("needs umoci")
    layout = tmp_path / "layout"

    def run(*words):
        subprocess.run(["umoci", *words], check=True, capture_output=True)

    def unpacked(*streams):
        run("init", "--layout", layout)
        run("new", "--image", f"{layout}:test")
        for index, stream in enumerate(streams):
            path = tmp_path / f"{index}.tar"
            path.write_bytes(stream)
            run("raw", "add-layer", "--image", f"{layout}:test", path)
        run("unpack", "--rootless", "--image", f"{layout}:test", tmp_path / "bundle")
        return tmp_path / "bundle/rootfs"

    return unpacked


def test_tree_is_the_one_that_umoci_unpacks(umoci, tmp_path):
    stack = (
        archive(folder("etc"), folder("etc/d", mode=0o700, mtime=5), *USR, file("etc/d/x", b"1")),
        archive(file("etc/f", b"2", mtime=6), file("etc/d/.wh.x"), hard_link("etc/g", "etc/f")),
        archive(folder("etc"), file("etc/d/n", b"3"), file("lib/new"), folder("empty", mode=0o555)),
        archive(folder("etc"), file("etc/.wh..wh..opq"), file("etc/last"), file(".wh.empty")),
    )
    (tmp_path / "ours").mkdir()
    assert snapshot(merged(tmp_path / "ours", *stack)) == snapshot(umoci(*stack))


def test_tree_is_removed_however_deep_it_is(tmp_path):
    top = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("deep", dir_fd=top)
    here = os.open("deep", os.O_RDONLY, dir_fd=top)
    for name in ("d" * 200, ".lifted.1", ".lifted.2") * 400:
        os.mkdir(name, dir_fd=here)
        os.close(os.open("file", os.O_CREAT, dir_fd=here))
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    trees.remove_directory("deep", top)
    os.close(top)
    assert os.listdir(tmp_path) == []


def test_link_is_a_copy_where_the_file_system_refuses(tmp_path):
    # Two file systems refuse links between them, whatever they are.
    other = "/dev/shm"
    if not os.path.isdir(other) or os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip(f"needs {other} on another file system than {tmp_path}")
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    os.chmod(tmp_path / "f", 0o640)
    os.utime(tmp_path / "f", (1, 1))
    os.symlink("f", tmp_path / "l")
    os.mkfifo(tmp_path / "p")
    with tempfile.TemporaryDirectory(dir=other) as path:
        source, destination = os.open(tmp_path, os.O_RDONLY), os.open(path, os.O_RDONLY)
        for name in (b"f", b"l", b"p"):
            tree.link(name, source, name, destination)
        os.close(source)
        os.close(destination)
        assert snapshot(path) == snapshot(tmp_path)
        assert os.stat(f"{path}/f").st_mtime == 1


def test_path_with_dots_is_never_entered(tmp_path):
    with tree.Tree(str(tmp_path), max_depth=10) as entered:
        for path in (b"..", b"a/../..", b"./a", b"a//b"):
            with pytest.raises((ValueError, OSError)):
                entered.descriptor(path)


def test_builder_makes_records_of_the_right_length():
    assert tarballs.record(b"k", b"v" * 93) == b"99 k=" + b"v" * 93 + b"\n"
