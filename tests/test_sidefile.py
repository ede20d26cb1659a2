"""Owners and modes of images on file systems without user attributes: kept in a file beside."""

import json
import os

import pytest
from images import add_image
from registries import Layout, needs
from tarballs import archive, entry, file, folder, hard_link, merged, symlink
from test_override import BOB, SAID, TREE, busybox_layer, facts

from udocker.errors import StoreError
from udocker.images import sidefile

UPPER = [
    folder("home/bob", mode=0o700, owner=(7, 8)),
    file("opt/gone", b"y"),
    file("opt/kept", b"y", mode=0o4711, owner=(5, 6)),
    file("opt/.wh.hidden"),
]
LOWER = [
    *TREE,
    file("opt/gone", b"x", mode=0o4755, owner=(5, 5)),
    file("opt/kept", b"x"),
    file("opt/hidden", b"x", owner=(5, 5)),
]
GIVEN = {
    **SAID,
    "home/bob": (0o700, (7, 8)),
    "opt/gone": (0o644, (0, 0)),
    "opt/kept": (0o4711, (5, 6)),
}
INSIDE = """
echo more >> /home/bob/f && echo new > /home/bob/new && mkdir /home/bob/dir &&
echo x >> /opt/sudoers && echo x >> /opt/su && rm /opt/kept && echo x > /opt/kept &&
chmod 711 /opt/kept && chmod 600 /home/bob/ro && rm /opt/ro && ln -s f /opt/ro
"""
CHANGED = {
    **GIVEN,
    "home/bob/ro": (0o600, BOB),
    "home/bob/new": (0o644, (0, 0)),
    "home/bob/dir": (0o755, (0, 0)),
    "opt/su": (0o755, (0, 0)),
    "opt/kept": (0o711, (5, 6)),
    "opt/ro": (0o777, (0, 0)),
}
"""What was written to is not set-id any more, as write(2) has it."""

SCRIPT = """
out=$2; export UDOCKER_DIR="$1/store"
py=$3
run() { "$py" -m udocker --allow-root -q "$@" || echo "udocker $1: $?"; }
"""
LOAD = """
mount -t ramfs r "$1" || exit 9
run load -i "$out/image.tar" > /dev/null
"""
WHOLE = """
for engine in N2 N1; do
    name=$(echo $engine | tr N n)
    run create --name=$name owned:1 > /dev/null
    run run --engine=$engine $name true
    run export $name > "$out/$engine.fresh"
    run diff $name
    run run --engine=$engine $name sh -c "$4"
    run export $name > "$out/$engine.changed"
    run clone --name=again-$name $name > /dev/null
    run export again-$name > "$out/$engine.cloned"
    run commit $name committed:$name > /dev/null
    run create --name=new-$name committed:$name > /dev/null
    run export new-$name > "$out/$engine.committed"
    run save -o "$out/$engine.saved" committed:$name
done
run verify owned:1
ls "$UDOCKER_DIR/owners" | wc -l
run rm -f n1 n2 new-n1 new-n2 again-n1 again-n2 > /dev/null
run rmi owned:1 committed:n1 committed:n2 > /dev/null
run prune -f > /dev/null
ls "$UDOCKER_DIR/owners" "$UDOCKER_DIR/trees" "$UDOCKER_DIR/records" | grep -c ...
"""
DAMAGED = """
run create --name=c owned:1 > /dev/null
run run c sh -c "$4"
for kept in "$UDOCKER_DIR/owners/"*; do :; done
cp "$kept" "$out/kept"
printf '{"0:0:04755":["../../etc/passwd"]}' > "$kept"
run verify owned:1 > "$out/verified" 2>&1
run export c 2> "$out/told" > "$out/damaged"
run verify --repair owned:1 > /dev/null 2>&1
cmp "$kept" "$out/kept"
run export c > "$out/repaired"
"""


@pytest.fixture
def on_ramfs(unprivileged, busybox_image):
    """Runs a script where an image is loaded on a ramfs; returns its directory and what it said."""
    needs("unshare", "mount")
    out, place = (f"{unprivileged.home}/{name}" for name in ("out", "place"))
    layout = Layout(f"{unprivileged.home}/layout")
    with open(f"{busybox_image.path}/index.json") as text:
        base = busybox_layer(busybox_image.path, text.read())
    add_image(layout, "owned:1", [base, archive(*LOWER), archive(*UPPER)], Cmd=["sh"])
    os.mkdir(out)
    os.mkdir(place)
    unprivileged.own(unprivileged.home)
    unprivileged.run(["tar", "-C", layout.directory, "-cf", f"{out}/image.tar", "."])

    def run(script, *words, load=LOAD):
        words = ["sh", place, out, unprivileged.python, INSIDE, *words]
        whole = ["unshare", "-Urm", "sh", "-c", SCRIPT + load + script, *words]
        return out, unprivileged.run(whole)

    return run


def said(path):
    """Return mode and owner of what an archive holds of the image."""
    with open(path, "rb") as stream:
        found = facts(stream.read())
    return {name: value[:2] for name, value in found.items() if name in GIVEN or "bob" in name}


def test_owners_and_modes_are_given_back_without_attributes(on_ramfs):
    out, done = on_ramfs(WHOLE)
    assert done.stdout.split() == ["3", "3"], (done.stdout, done.stderr)
    for engine in ("N2", "N1"):
        assert said(f"{out}/{engine}.fresh") == GIVEN
        for name in ("changed", "cloned", "committed"):
            assert said(f"{out}/{engine}.{name}") == CHANGED, (engine, name)


def test_a_damaged_file_is_told_and_mended(on_ramfs):
    out, done = on_ramfs(DAMAGED)
    with open(f"{out}/told") as told, open(f"{out}/verified") as verified:
        assert told.read().count("is no path in a tree") == 1
        assert "is no path in a tree" in verified.read()
    assert said(f"{out}/damaged")["home/bob/f"] == (0o640, (0, 0))
    assert said(f"{out}/repaired") == CHANGED, done.stderr


SITE = """
mkdir "$1/site" "$1/own"
for ram in $5; do mount -t ramfs r "$1/$ram" || exit 9; done
export UDOCKER_DIR="$1/site"
run images > /dev/null
mkdir -p "$UDOCKER_DIR"
touch "$UDOCKER_DIR/public"
run load -i "$out/image.tar" > /dev/null
export UDOCKER_SITE_STORES="$UDOCKER_DIR" UDOCKER_DIR="$1/own/store"
for engine in N2 N1; do
    name=$(echo $engine | tr N n)
    run create --name=$name owned:1 > /dev/null
    run run --engine=$engine $name sh -c "echo new > /home/bob/new"
    run export $name > "$out/$engine.fresh"
    run commit $name committed:$name > /dev/null
    run create --name=new-$name committed:$name > /dev/null
    run export new-$name > "$out/$engine.committed"
done
"""


@pytest.mark.parametrize("ram", ["site", "own", "site own"])
def test_owners_pass_between_a_site_store_and_ones_own(ram, on_ramfs):
    out, done = on_ramfs(SITE, ram, load="")
    assert (done.stdout, done.stderr) == ("", "")
    expected = {**GIVEN, "home/bob/new": (0o644, (0, 0))}
    for engine in ("N2", "N1"):
        for name in ("fresh", "committed"):
            assert said(f"{out}/{engine}.{name}") == expected, (engine, name)


@pytest.fixture
def without_attributes(monkeypatch):
    """A file system that refuses attributes."""

    def refuse(*_):
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(os, "setxattr", refuse)


LAYERS = {
    "replaced in its layer": ([file("f", owner=BOB) + file("f")], {}),
    "given again": ([folder("d", owner=BOB) + folder("d") + file("f", owner=BOB)], {b"f"}),
    "replaced by a directory": ([file("f", owner=BOB)], [folder("f") + file("f/g")], {}),
    "one of two names replaced": (
        [file("f", owner=BOB) + hard_link("g", "f") + file("f")],
        {b"g"},
    ),
    "hidden": ([file("f", owner=BOB) + file("g", owner=BOB)], [file(".wh.f")], {b"g"}),
    "another directory's": ([folder("d", owner=BOB)], [folder("d", owner=(0, 0))], {}),
    "a directory that stays": ([folder("d", owner=BOB)], [file("d/f")], {b"d"}),
    "through a link": (
        [folder("usr/lib") + symlink("lib", "usr/lib")],
        [file("lib/f", owner=BOB)],
        {b"usr/lib/f"},
    ),
    "the root": ([folder(".", owner=BOB)], {b""}),
    "a link below": ([file("f", owner=BOB)], [hard_link("g", "f")], {b"f", b"g"}),
    "set aside": ([folder("d", owner=BOB) + file("d/f", owner=BOB) + file("d")], {}),
    "a device in the place of all": (
        [folder("d", owner=BOB) + file("d/f", owner=BOB) + hard_link("g", "d/f")]
        + [folder("d/e", owner=BOB) + entry("d", b"3") + file("h") + folder("i")],
        {b"g"},
    ),
    "no text": ([file(b"\xff\n", owner=BOB)], {b"\xff\n"}),
}


@pytest.mark.parametrize("case", LAYERS)
def test_the_file_names_what_is_left_of_all_layers(case, tmp_path, without_attributes):
    *layers, expected = LAYERS[case]
    rootfs = merged(str(tmp_path), *(archive(*members) for members in layers))
    found = sidefile.load(sidefile.beside(rootfs))
    assert found.keys() == set(expected)
    assert set(found.values()) <= {b"1000:100:0644", b"1000:100:0755"}


def test_where_attributes_are_there_is_no_file(tmp_path):
    try:
        os.setxattr(tmp_path, "user.probe", b"x")
    except OSError:
        pytest.skip(f"needs a file system with user attributes at {tmp_path}")
    rootfs = merged(str(tmp_path), archive(*LOWER), archive(*UPPER))
    assert not os.path.exists(sidefile.beside(rootfs))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "garbage",
        '{"0:0:0644": 1}',
        '{"0:0:0644": "abc"}',
        '{"0:0:0644": [1]}',
        '{"x": ["f"]}',
        '{"0:0:0644": ["/etc/passwd"]}',
        '{"0:0:0644": ["a/../b"]}',
        '{"0:0:0644": ["a\\u0000"]}',
        '{"0:0:0644": ["\\ud800"]}',
    ],
)
def test_a_file_that_is_broken_is_refused(text, tmp_path):
    (tmp_path / "f").write_text(text)
    with pytest.raises(StoreError, match="is damaged"):
        sidefile.load(str(tmp_path / "f"))


def test_what_would_be_too_much_to_read_again_is_left_out(tmp_path):
    values = ((b"%d/" % n + b"\xff" * 4000, b"0:0:04755") for n in range(3000))
    sidefile.save(str(tmp_path / "f"), values)
    assert 1000 < len(sidefile.load(str(tmp_path / "f"))) < 3000
    with open(tmp_path / "f") as text:
        assert list(json.load(text)) == ["0:0:04755"]
