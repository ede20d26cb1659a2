"""Random stacks of layers give the trees of a model, of GNU tar and of umoci."""

import os
import subprocess
import tempfile

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from images import add_image
from layermodel import Entry, Model, Refused, clean
from registries import Layout, needs
from tarballs import archive, device, file, folder, hard_link, merged, snapshot, symlink

NAMES = st.sampled_from(["a", "b", "c"])
ODD = st.sampled_from(["a", "b", "c", "..", ".", ""])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ODD_PATHS = PATHS | st.lists(ODD, min_size=1, max_size=4).map("/".join)
TARGETS = st.sampled_from(
    ["a", "b", "/a", "../b", "a/b", "..", "/", "c/../a", "missing/x", "../../.."]
)
TEXTS = st.sampled_from(["", "1", "22"])
MARK = st.one_of(
    st.builds(Entry, st.just("whiteout"), PATHS | st.just(""), NAMES),
    st.builds(Entry, st.just("opaque"), PATHS),
)
ENTRIES = st.one_of(
    st.builds(Entry, st.just("file"), ODD_PATHS, TEXTS, st.sampled_from([0o644, 0o444, 0o755])),
    st.builds(Entry, st.just("folder"), ODD_PATHS, st.just(""), st.sampled_from([0o755, 0o700])),
    st.builds(Entry, st.just("symlink"), ODD_PATHS, TARGETS, st.just(0o777)),
    st.builds(Entry, st.just("hard link"), ODD_PATHS, ODD_PATHS, st.just(0o644)),
    st.builds(Entry, st.just("device"), ODD_PATHS, st.just(""), st.just(0o644)),
    MARK,
)
LAYERS = st.lists(ENTRIES, max_size=6)


def member(entry):
    """Return the bytes of an entry."""
    if entry.kind == "file":
        return file(entry.path, entry.value.encode(), entry.mode)
    if entry.kind == "folder":
        return folder(entry.path, entry.mode)
    if entry.kind == "symlink":
        return symlink(entry.path, entry.value)
    if entry.kind == "hard link":
        return hard_link(entry.path, entry.value)
    if entry.kind == "device":
        return device(entry.path)
    mark = ".wh..wh..opq" if entry.kind == "opaque" else f".wh.{entry.value}"
    return file(f"{entry.path}/{mark}")


def shared(directory):
    """Return the sets of names that one file has, those of one name left out."""
    names = {}
    for path, folders, files in os.walk(directory):
        for name in files + [f for f in folders if os.path.islink(os.path.join(path, f))]:
            full = os.path.join(path, name)
            names.setdefault(os.lstat(full).st_ino, set()).add(os.path.relpath(full, directory))
    return sorted(sorted(group) for group in names.values() if len(group) > 1)


def is_plain(layer):
    """Tell whether the order of a layer's entries means what it means to every reader.

    Ours takes the entry of a directory, and marks in it, to be said of all of the layer, wherever
    they stand in it; who reads one entry after the other cannot. And of what a device takes the
    place of, in its own layer, nothing is left where links of layers below lead to.
    """
    places = [clean(entry.path) for entry in layer]
    others = set()
    for number, (entry, place) in enumerate(zip(layer, places)):
        again = any(p[: len(place)] == place for p in places[:number])
        if entry.kind in ("folder", "device") and again:
            return False
        if entry.kind == "hard link" and place[: len(target := clean(entry.value))] == target:
            return False
        if entry.kind not in ("whiteout", "opaque", "folder"):
            others.add(place)
    marked = [p for e, p in zip(layer, places) if e.kind in ("whiteout", "opaque")]
    return not any(path[:n] in others for path in marked for n in range(len(path) + 1))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(LAYERS.filter(is_plain), min_size=1, max_size=3))
def test_stack_gives_the_tree_of_the_model(stack):
    model = Model()
    try:
        for layer in stack:
            model.apply(layer)
    except Refused:
        event("refused")
        return
    assume(not model.aliased)
    with tempfile.TemporaryDirectory() as directory:
        rootfs = merged(directory, *(archive(*map(member, layer)) for layer in stack))
        assert snapshot(rootfs) == model.snapshot()
        assert shared(rootfs) == model.shared()


def honest(layer):
    """Return the entries that a layer of a real tree has: each place once, parents first."""
    found = {}
    for entry in layer:
        path = clean(entry.path)
        if entry.kind in ("whiteout", "opaque", "device") or not path or path in found:
            continue
        above = [found[path[:n]] for n in range(1, len(path)) if path[:n] in found]
        below = any(other[: len(path)] == path for other in found)
        if any(kind.kind != "folder" for kind in above) or (entry.kind != "folder" and below):
            continue
        if entry.kind == "hard link":
            target = found.get(clean(entry.value))
            if target is None or target.kind not in ("file", "hard link"):
                continue
        found[path] = entry._replace(path="/".join(path))
    for path in list(found):
        for n in range(1, len(path)):
            found.setdefault(path[:n], Entry("folder", "/".join(path[:n])))
    links = [entry for entry in found.values() if entry.kind == "hard link"]
    others = sorted(entry for entry in found.values() if entry.kind != "hard link")
    return sorted(others, key=lambda entry: entry.path.count("/")) + [
        entry._replace(value="/".join(clean(entry.value))) for entry in links
    ]


@settings(max_examples=40, deadline=None)
@given(LAYERS.map(honest))
def test_one_layer_gives_the_tree_that_gnu_tar_makes(layer):
    stream = archive(*map(member, layer))
    with tempfile.TemporaryDirectory() as directory:
        theirs = f"{directory}/theirs"
        os.mkdir(theirs)
        subprocess.run(
            ["tar", "--delay-directory-restore", "-C", theirs, "-px"], input=stream, check=True
        )
        rootfs = merged(directory, stream)
        assert snapshot(rootfs, times=True) == snapshot(theirs, times=True)
        assert shared(rootfs) == shared(theirs)


MARKS = st.lists(MARK, max_size=2)


def beside(layer, marks):
    """Return a layer with the marks that stand in directories which it has, or nobody has."""
    kinds = {clean(entry.path): entry.kind for entry in layer}
    chosen = []
    for mark in marks:
        path = clean(mark.path)
        if all(kinds.get(path[:n], "folder") == "folder" for n in range(1, len(path) + 1)):
            above = [Entry("folder", "/".join(path[:n])) for n in range(1, len(path) + 1)]
            chosen += [entry for entry in above if clean(entry.path) not in kinds]
            kinds.update((clean(entry.path), "folder") for entry in above)
            chosen.append(mark)
    return (
        [entry for entry in layer if entry.kind == "folder"]
        + chosen
        + [entry for entry in layer if entry.kind != "folder"]
    )


STACKS = st.lists(st.builds(beside, LAYERS.map(honest), MARKS), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None)
@given(STACKS)
def test_stack_gives_the_tree_that_umoci_makes(stack):
    needs("umoci")
    streams = [archive(*map(member, layer)) for layer in stack]
    with tempfile.TemporaryDirectory() as directory:
        layout = Layout(f"{directory}/layout")
        add_image(layout, "test", streams, compression="")
        bundle = f"{directory}/bundle"
        command = ["umoci", "unpack", "--rootless", "--image", f"{layout.directory}:test", bundle]
        subprocess.run(command, check=True, capture_output=True)
        assert snapshot(merged(directory, *streams)) == snapshot(f"{bundle}/rootfs")
