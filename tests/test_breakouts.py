"""Layers that try to get out: whatever they say, nothing outside of their tree changes."""

import os
import pathlib
import tempfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tarballs import archive, fifo, file, folder, hard_link, merged, snapshot, symlink

from udocker.errors import UnpackError
from udocker.images import layers


def escapes(out, up):
    """Return lists of layers that try to reach the directory `out`, `up`/outside from the root."""
    return {
        "absolute name": [[file(f"{out}/new"), file(f"{out}/secret", b"bad")]],
        "relative name": [[file(f"{up}/outside/new"), file(f"{up}/outside/secret", b"bad")]],
        "relative name within": [
            [file(f"d/../{up}/outside/secret", b"bad"), folder(f"d/../{up}/outside")]
        ],
        "directory outside": [
            [folder(f"{out}", mode=0o777), folder(f"{up}/outside", mode=0o777, mtime=1)]
        ],
        "link, then write": [[symlink("l", f"{out}/secret"), file("l", b"bad")]],
        "link, then write below": [
            [symlink("l", f"{out}"), file("l/new", b"x"), file("l/secret", b"x")]
        ],
        "relative link, then write below": [
            [symlink("l", f"{up}/outside"), file("l/secret", b"bad")]
        ],
        "two links": [[symlink("a", f"{up}"), symlink("b", "a/outside"), file("b/secret", b"bad")]],
        "link in a directory": [
            [folder("d"), symlink("d/l", f"../{up}/outside"), file("d/l/secret")]
        ],
        "link of the layer below": [[symlink("l", f"{out}")], [file("l/secret", b"bad")]],
        "relative link of the layer below": [
            [symlink("l", f"{up}/outside")],
            [file("l/secret", b"x")],
        ],
        "link below that is replaced": [
            [folder("d")],
            [symlink("d", f"{out}")],
            [file("d/secret")],
        ],
        "link between entries": [
            [folder("d"), file("d/f"), symlink("d", f"{out}"), file("d/secret")]
        ],
        "directory over link": [
            [symlink("l", f"{out}")],
            [folder("l", mode=0o777), file("l/secret")],
        ],
        "chmod through link": [[symlink("l", f"{out}"), folder("l", mode=0o777, mtime=1)]],
        "chmod through link below": [
            [symlink("l", f"{out}/secret")],
            [file("l", mode=0o777, mtime=1)],
        ],
        "times of a link": [[symlink("l", f"{out}/secret", mtime=1)]],
        "hard link outside": [[hard_link("h", f"{out}/secret"), file("h", b"bad")]],
        "relative hard link outside": [[hard_link("h", f"{up}/outside/secret"), file("h", b"bad")]],
        "hard link through link": [
            [symlink("l", f"{out}"), hard_link("h", "l/secret"), file("h", b"x")]
        ],
        "hard link through link below": [
            [symlink("l", f"{out}")],
            [hard_link("h", "l/secret"), file("other")],
            [file("h", b"bad", mode=0o777)],
        ],
        "hard link to link, then write": [
            [symlink("l", f"{out}/secret"), hard_link("h", "l"), file("h", b"bad")]
        ],
        "hard link to link, then write below": [
            [symlink("l", f"{out}"), hard_link("h", "l"), file("h/secret", b"bad")]
        ],
        "hard link to link below": [
            [symlink("l", f"{out}")],
            [hard_link("h", "l"), file("h/secret")],
        ],
        "name of a hard link outside": [[file("f"), hard_link(f"{out}/new", "f")]],
        "name of a link outside": [[symlink(f"{up}/outside/new", "x")]],
        "whiteout outside": [[file(f"{up}/outside/.wh.secret"), file(f"{out}/.wh.secret")]],
        "whiteout through link": [[symlink("l", f"{out}")], [file("l/.wh.secret")]],
        "whiteout through relative link": [[symlink("l", f"{up}/outside")], [file("l/.wh.secret")]],
        "whiteout of a link": [[symlink("l", f"{out}")], [file(".wh.l")]],
        "opaque through link": [[symlink("l", f"{out}")], [file("l/.wh..wh..opq")]],
        "opaque through link of its layer": [[symlink("l", f"{out}"), file("l/.wh..wh..opq")]],
        "opaque outside": [[file(f"{up}/outside/.wh..wh..opq")]],
        "whiteout of ..": [[folder("d")], [file("d/.wh...")]],
        "whiteout of .": [[folder("d")], [file("d/.wh..")]],
        "link to the layer's own secrets": [[symlink("l", ".wh..wh.aside/0"), file("l/f")]],
        "pipe outside": [[fifo(f"{out}/new"), fifo(f"{up}/outside/new")]],
        "removal of a directory with a link": [
            [folder("d"), symlink("d/l", f"{out}"), symlink("d/m", f"{up}/outside")],
            [file("d")],
        ],
        "opaque directory with a link": [
            [folder("d"), symlink("d/l", f"{out}")],
            [folder("d"), file("d/.wh..wh..opq")],
        ],
        "sparse file through link": [
            [
                symlink("l", f"{out}/secret"),
                file("l", b"x", pax={b"GNU.sparse.size": b"9", b"GNU.sparse.map": b"0,1"}),
            ]
        ],
    }


ESCAPES = sorted(escapes("", ""))


class Outside:
    """A directory beside the layers that nothing may change."""

    def __init__(self, directory):
        self.directory = directory
        self.path = directory / "outside"
        self.work = directory / "work"
        self.work.mkdir()
        (self.path / "sub").mkdir(parents=True)
        (self.path / "secret").write_text("secret")
        (self.path / "secret").chmod(0o600)
        self.before = self._now()

    def _now(self):
        own = os.stat(self.path)
        links = os.stat(self.path / "secret").st_nlink
        return snapshot(self.path, times=True), links, own.st_mode, own.st_mtime_ns

    def assert_untouched(self):
        assert self._now() == self.before
        assert sorted(os.listdir(self.directory)) == ["outside", "work"]
        assert {name.rstrip("0123456789") for name in os.listdir(self.work)} <= {"layer", "rootfs"}


@pytest.mark.parametrize("case", ESCAPES)
def test_nothing_outside_is_touched(case, tmp_path):
    outside = Outside(tmp_path)
    streams = [archive(*layer) for layer in escapes(str(outside.path), "../..")[case]]
    try:
        rootfs = merged(outside.work, *streams)
    except UnpackError:
        pass
    else:
        # What a hard link or a copy from outside would have brought in.
        assert b"secret" not in [facts[-1] for facts in snapshot(rootfs).values()]
    outside.assert_untouched()


PARTS = st.sampled_from(["a", "b", "..", ".", "", "outside", ".wh.a", ".wh..wh..opq"])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
TARGETS = PATHS | st.sampled_from(
    ["../../outside", "/", "../..", "../../outside/secret", "/b/..", ".wh..wh.aside/0/a"]
)
MEMBERS = st.one_of(
    st.builds(file, PATHS, st.binary(max_size=2), st.sampled_from([0, 0o644, 0o4777])),
    st.builds(folder, PATHS, st.sampled_from([0, 0o755, 0o2777])),
    st.builds(symlink, PATHS, TARGETS),
    st.builds(hard_link, PATHS, TARGETS),
    st.builds(fifo, PATHS),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(MEMBERS, max_size=8), min_size=1, max_size=3))
@example([[file("a"), symlink("b", "a")], [folder("b/a"), symlink("a", ".wh.a")]])
def test_nothing_outside_is_touched_whatever_the_layers_say(stack):
    with tempfile.TemporaryDirectory() as directory:
        outside = Outside(pathlib.Path(directory))
        try:
            rootfs = merged(outside.work, *(archive(*layer) for layer in stack))
            assert not [name for name in snapshot(rootfs) if b".wh." in name]
            assert os.listdir(outside.work) == ["rootfs"]
        except UnpackError as error:
            assert error.message
        outside.assert_untouched()


@settings(max_examples=100, deadline=None)
@given(st.lists(MEMBERS, max_size=5), st.integers(0, 2**32), st.integers(1, 255))
def test_damaged_stream_is_unpacked_or_refused(members, where, change):
    stream = bytearray(archive(*members))
    stream[where % len(stream)] ^= change
    with tempfile.TemporaryDirectory() as directory:
        try:
            layers.unpack([bytes(stream)], directory)
        except UnpackError as error:
            assert error.message
