"""File systems that are full, of bytes or of files: told with the way out, and no store is lost."""

import errno
import os
import random

import pytest
from images import add_image
from registries import Layout, needs
from tarballs import archive, file

from udocker import disk, filesystems
from udocker.errors import DiskFull
from udocker.registry.loopback import LoopbackRegistry

WORDS = [random.Random(9).randbytes(400) for _ in range(64)]
TEXT = b"".join(random.Random(5).choices(WORDS, k=9000))
"""3.6 MB that are an eighth of it as a layer comes."""
SWELLING = archive(*(file(f"f{n}", TEXT[n * 90_000 : (n + 1) * 90_000]) for n in range(40)))
NOISE = archive(file("noise", random.Random(1).randbytes(5 << 20)))
MANY = archive(*(file(f"n{n}", b"") for n in range(600)))

SCRIPT = """
mount -t tmpfs -o size=40m,nr_inodes=3000 t "$1" || exit 9
export UDOCKER_DIR="$1/store"
py=$3
run() {{ "$py" -m udocker --allow-root "$@"; }}
mkdir "$1/fill"
head -c $((41943040 - {bytes})) /dev/zero > "$1/fill/large" 2>/dev/null
(cd "$1/fill" && seq $((3000 - {files} - 4)) | xargs touch)
run pull -q "$2"; echo "pull $?"
run images >/dev/null; echo "images $?"
run du >/dev/null 2>&1; echo "du $?"
run prune -f >/dev/null; echo "prune $?"
rm -r "$1/fill"
run pull -q "$2" >/dev/null; echo "again $?"
run verify -q; echo "verify $?"
head -c 41943040 /dev/zero > "$1/fill" 2>/dev/null
run rmi "$2" > /dev/null; echo "rmi $?"
rm "$1/fill"
run prune -f > /dev/null
ls "$UDOCKER_DIR/partial" "$UDOCKER_DIR/trees" "$UDOCKER_DIR/images/blobs/sha256" | grep -c ...
"""
WORKED = ["images 0", "du 0", "prune 0", "again 0", "verify 0", "rmi 0", "3"]
"""The last one counts the three titles of `ls`."""


@pytest.fixture
def registry(tmp_path):
    layout = Layout(str(tmp_path / "layout"))
    known = {"swelling": SWELLING, "noise": NOISE, "many": MANY, "empty": archive()}
    for name, layer in known.items():
        add_image(layout, name, [layer])
    with LoopbackRegistry(layout.directory) as host:
        yield host


@pytest.mark.parametrize(
    ("image", "room", "told"),
    [
        ("noise", (1_000_000, 2900), ("too much for tmpfs on", "layers of 5.24 MB")),
        ("noise", (8_000_000, 2900), ("No space left on device (tmpfs on", "udocker prune")),
        ("swelling", (2_000_000, 2900), ("No space left on device (tmpfs on", "mostly 2 to 4")),
        ("many", (9_000_000, 300), ("No space left on device (tmpfs on", "room for 0 files")),
        ("many", (9_000_000, 30), ("tmpfs on", "room for")),
    ],
)
def test_a_full_disk_is_told_and_the_store_goes_on(unprivileged, registry, image, room, told):
    needs("unshare")
    place = f"{unprivileged.home}/small"
    os.mkdir(place)
    unprivileged.own(place)
    script = SCRIPT.format(bytes=room[0], files=room[1])
    words = ["sh", "-c", script, "sh", place, f"{registry}/img:{image}", unprivileged.python]
    done = unprivileged.run(["unshare", "-Urm", *words], check=False)
    lines = done.stdout.splitlines()
    assert lines[0] == "pull 1", done.stderr
    assert lines[1:] == WORKED, done.stderr
    assert place in done.stderr
    for text in told:
        assert text in done.stderr


def test_a_quota_is_told_with_the_program_that_shows_it():
    error = disk.store_error(OSError(errno.EDQUOT, "Disk quota exceeded"), "/tmp/x/y")
    assert isinstance(error, DiskFull)
    assert "quota -s" in error.hint and "of files" in error.hint
    point, kind = filesystems.mount_of("/tmp")
    assert f"({kind} on {point}, " in error.message


def test_what_certainly_does_not_fit_is_refused(tmp_path):
    with pytest.raises(DiskFull, match="image: too much for"):
        filesystems.check_room(str(tmp_path / "not" / "there"), 1 << 60, "image")
    filesystems.check_room(str(tmp_path), 1, "image")


def test_the_file_system_of_a_path_is_the_innermost_mount():
    assert filesystems.mount_of("/proc/self") == ("/proc", "proc")
    assert filesystems.mount_of("/")[0] == "/"
    assert not filesystems.is_shared("/proc")


RUN = """
mount -t tmpfs -o size=4m t "$1" || exit 9
export UDOCKER_DIR="$1/store"
py=$3
run() { "$py" -m udocker --allow-root "$@"; }
run pull -q "$2"
run run "$2" /none; echo "run $?"
head -c 4194304 /dev/zero > "$1/fill" 2>/dev/null
truncate -s -8192 "$1/fill"
run run "$2" /none; echo "full $?"
"""


NO_FILES = """
mount -t tmpfs -o size=8m,nr_inodes=400 t "$1" || exit 9
export UDOCKER_DIR="$1/store"
py=$3
run() { "$py" -m udocker --allow-root "$@"; }
fill() {
    mkdir -p "$1/fill"
    seq $(($(stat -f -c %d "$1") - $2)) | (cd "$1/fill"; xargs -I N touch N.$2)
}
{ run pull -q "$2"; run create --name=c "$2"; run create --name=never-ran "$2"; } >/dev/null
fill "$1" 2
run clone --name=d c; echo "clone $?"
run ps -aq | wc -l
fill "$1" 0
run rm never-ran; echo "rm $?"
"""


def test_where_no_file_can_be_made_a_clone_leaves_none_and_containers_are_removed(
    unprivileged, registry
):
    needs("unshare")
    place = f"{unprivileged.home}/small"
    os.mkdir(place)
    unprivileged.own(place)
    words = ["sh", "-c", NO_FILES, "sh", place, f"{registry}/img:empty", unprivileged.python]
    done = unprivileged.run(["unshare", "-Urm", *words])
    assert done.stdout.splitlines() == ["clone 1", "2", "never-ran", "rm 0"], done.stderr
    assert "room for 0 files" in done.stderr


def test_a_container_that_cannot_be_written_to_says_where_its_files_lie(unprivileged, registry):
    needs("unshare")
    place = f"{unprivileged.home}/small"
    os.mkdir(place)
    unprivileged.own(place)
    words = ["sh", "-c", RUN, "sh", place, f"{registry}/img:empty", unprivileged.python]
    done = unprivileged.run(["unshare", "-Urm", *words])
    assert done.stdout.splitlines() == [done.stdout.splitlines()[0], "run 127", "full 125"]
    assert f"what the container writes lies in {place}/store/containers/" in done.stderr
