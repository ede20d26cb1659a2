"""What an image has where the driver goes decides nothing, by every engine that makes a root.

Each image is busybox with one oddity; the driver's files must show as in any other, and neither
the host nor the image may change. The C library is there for its versions only.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile

import pytest
from images import add_image
from registries import Layout
from unprivileged import Unprivileged, remove_tree, scratch_directory

from gpu import drivertree
from gpu.dressed import Node
from udocker.registry.loopback import LoopbackRegistry

MODES = ("N2", "N1", "runc", "B1", "P1")
LIBRARIES = f"usr/lib/{drivertree.MACHINE}-linux-gnu"
OLD = b"an old driver of the image's own"
OUTSIDE = "/var/tmp/udocker-gpu-outside"
"""Host path to which links of images lead; nothing may be made there."""
ODDITIES = {
    "nothing odd": {},
    "a driver of its own": {
        "usr/local/nvidia/lib64/libcuda.so.1": OLD,
        "usr/local/nvidia/bin/nvidia-smi": OLD,
        f"{LIBRARIES}/libcuda.so.1": OLD,
        "usr/bin/nvidia-smi": OLD,
    },
    "usr local nvidia is a link": {"usr/local/nvidia": "/opt/nvidia", "opt/nvidia": OUTSIDE},
    "cache is a link to nothing": {"etc/ld.so.cache": "/var/cache/ld.so.cache"},
    "cache is a link to the outside": {"etc/ld.so.cache": f"../../../../../..{OUTSIDE}"},
    "no etc": {"etc": None},
    "etc is a link": {"etc": "usr/etc", "usr/etc/passwd": b"root:x:0:0::/:/bin/sh\n"},
    "libraries are elsewhere": {LIBRARIES: "/opt/libraries", "opt/libraries/libc.so.6": "libc"},
    "lib64 is a link": {"lib64": "usr/lib64", "usr/lib64/libcuda.so.1": OLD},
    "run is a link": {"run": "var/run", "var/run/x": b""},
    "run is a link to nothing": {"run": OUTSIDE},
    "nobody may write to run": {"run": 0o555},
    "udocker's place is a link": {"run/udocker": OUTSIDE},
    "something is in udocker's place": {"run/udocker/gpu/lib/libcuda.so.1": OLD},
    "nvidia-smi is a link to the outside": {"usr/bin/nvidia-smi": OUTSIDE},
    "bin is a link": {"usr/bin": "../bin"},
    "a node is a file": {"dev/nvidia0": OLD, "dev/nvidiactl": "/etc/passwd"},
}
SCRIPT = """
sha256sum </run/udocker/gpu/lib/libcuda.so.1
sha256sum <$(command -v nvidia-smi)
grep -c udocker/gpu/lib/libcuda.so.1 /etc/ld.so.cache
for node in nvidiactl nvidia0 nvidia-uvm; do [ -c /dev/$node ] && echo $node; done
"""
pytestmark = [pytest.mark.slow, pytest.mark.root]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return drivertree.build(str(tmp_path_factory.mktemp("node") / "tree"))


@pytest.fixture(scope="module")
def node(tree):
    node = Node(tree)
    yield node
    node.close()


@pytest.fixture(scope="module")
def user(account):
    user = Unprivileged(account)
    yield user
    user.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory, libc_bytes):
    """A registry that has an image for each oddity."""
    place = scratch_directory()
    layout = Layout(place)
    for number, oddity in enumerate(ODDITIES.values()):
        add_image(layout, f"odd{number}:1", [layer(oddity, libc_bytes)], Env=["PATH=/bin:/usr/bin"])
    with LoopbackRegistry(place) as address:
        yield address
    remove_tree(place)


@pytest.fixture(scope="module")
def libc_bytes(libc):
    return libc("GLIBC_2.2.5", "GLIBC_2.36")


def layer(oddity, libc):
    """Return a tar archive with busybox, and what is odd over it."""
    files = {"etc/passwd": b"root:x:0:0::/:/bin/sh\n", f"{LIBRARIES}/libc.so.6": libc}
    files.update({"proc": 0o755, "sys": 0o755, "tmp": 0o755, "run": 0o755, "usr/bin/x": b""})
    above = [path for path, value in oddity.items() if value is None or isinstance(value, str)]
    kept = {p: v for p, v in files.items() if not any((p + "/").startswith(f"{a}/") for a in above)}
    kept.update({path: value for path, value in oddity.items() if value is not None})
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        with open(shutil.which("busybox"), "rb") as busybox:
            add(tar, "bin/busybox", busybox.read())
        for name in ("sh", "cat", "sha256sum", "grep", "true", "ls", "find", "sleep"):
            add(tar, f"bin/{name}", "busybox")
        for path, value in kept.items():
            add(tar, path, libc if value == "libc" else value)
    return stream.getvalue()


def add(tar, path, value):
    """Add a file (bytes), a link (its text) or a directory (its mode)."""
    member = tarfile.TarInfo(path)
    member.mode = value if isinstance(value, int) else 0o755
    member.type = {bytes: tarfile.REGTYPE, str: tarfile.SYMTYPE, int: tarfile.DIRTYPE}[type(value)]
    member.linkname = value if isinstance(value, str) else ""
    member.size = len(value) if isinstance(value, bytes) else 0
    tar.addfile(member, io.BytesIO(value if isinstance(value, bytes) else b""))


def digest_of(tree, path):
    import hashlib

    with open(f"{tree}/{path}", "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("oddity", ODDITIES)
def test_the_driver_shows_whatever_the_image_has(node, user, tree, host, oddity, mode):
    image = f"{host}/library/odd{list(ODDITIES).index(oddity)}:1"
    words = ("run", "--rm", f"--engine={mode}", "--gpu=all", image, "sh", "-c", SCRIPT)
    done = node.udocker(user, *words, check=False)
    assert done.stdout.split() == [
        digest_of(tree, f"{LIBRARIES}/libcuda.so.{drivertree.VERSION}"),
        "-",
        digest_of(tree, "usr/bin/nvidia-smi"),
        "-",
        "1",
        *("nvidiactl", "nvidia0", "nvidia-uvm"),
    ], done.stderr
    assert not os.path.lexists(OUTSIDE)


@pytest.mark.parametrize("mode", ["N2", "N1", "runc", "B1"])
def test_a_root_that_cannot_be_written_to_has_the_driver(node, user, tree, host, mode):
    options = (f"--engine={mode}", "--read-only", "--gpu=all")
    script = f"{SCRIPT}\necho x >/etc/x || echo unwritable"
    done = node.udocker(user, "run", "--rm", *options, f"{host}/library/odd0:1", "sh", "-c", script)
    library = digest_of(tree, f"{LIBRARIES}/libcuda.so.{drivertree.VERSION}")
    assert done.stdout.startswith(library)
    assert done.stdout.endswith("unwritable\n")


def test_the_trees_of_images_do_not_change(node, user, host):
    def listed(path):
        found = {}
        for top, folders, names in os.walk(path):
            for name in (*folders, *names):
                status = os.lstat(f"{top}/{name}")
                found[f"{top}/{name}"] = (status.st_mode, status.st_size, status.st_mtime_ns)
        return found

    image = f"{host}/library/odd0:1"
    node.udocker(user, "run", "--rm", image, "true")
    before = listed(f"{user.udocker_dir}/trees")
    for mode in MODES:
        node.udocker(user, "run", "--rm", f"--engine={mode}", "--gpu=all", image, "true")
    assert listed(f"{user.udocker_dir}/trees") == before


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another node, whose driver is newer and lies elsewhere."""
    tree = drivertree.build(
        str(tmp_path_factory.mktemp("other") / "tree"), "rhel", version="590.48.1"
    )
    node = Node(tree)
    yield node
    node.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_container_has_the_driver_of_the_node_where_it_runs(node, other, user, host, mode):
    name = f"kept-{mode}".lower()
    user.udocker("create", f"--name={name}", f"{host}/library/odd0:1")
    script = "sha256sum </run/udocker/gpu/lib/libnvidia-ml.so.1; find /usr/lib /etc -name '*cuda*'"
    run = ("run", f"--engine={mode}", "--gpu=all", name, "sh", "-c", script)
    first, second, third = (where.udocker(user, *run).stdout for where in (node, other, node))
    assert first == third != second
    assert len(first.splitlines()) == 1  # nothing of a driver lies anywhere else
    look = ("find", "/run/udocker", "-type", "f", "-o", "-type", "l")
    assert node.udocker(user, "run", f"--engine={mode}", name, *look).stdout == ""
    user.udocker("rm", name)


@pytest.mark.parametrize("mode", ["N2", "N1", "P1"])
def test_two_runs_of_one_container_have_the_gpu(node, user, tree, host, mode):
    name = f"twice-{mode}".lower()
    user.udocker("create", f"--name={name}", f"{host}/library/odd0:1")
    run = ("run", f"--engine={mode}", "--gpu=all", name, "sh", "-c")
    words = node.command(user, [user.python, "-m", "udocker", *run, "echo on; sleep 30"])
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as going_on:
        try:
            assert going_on.stdout.readline() == "on\n"
            beside = node.udocker(user, *run, SCRIPT).stdout
            executed = node.udocker(user, "exec", name, "sh", "-c", SCRIPT).stdout
        finally:
            going_on.kill()
    library = digest_of(tree, f"{LIBRARIES}/libcuda.so.{drivertree.VERSION}")
    assert beside.startswith(library)
    assert executed.startswith(library) or mode == "P1"
    user.udocker("rm", "-f", name)


@pytest.mark.parametrize("mode", MODES)
def test_a_volume_over_run_is_refused_where_the_driver_has_no_place_then(node, user, host, mode):
    place = scratch_directory()  # of root's, as /run is
    words = ("run", "--rm", f"--engine={mode}", "--gpu=all", f"--volume={place}:/run")
    done = node.udocker(user, *words, f"{host}/library/odd0:1", "sh", "-c", SCRIPT, check=False)
    remove_tree(place)
    if mode == "P1":  # it makes no mount points
        assert done.returncode == 0
    else:
        assert done.returncode == 125
        assert f"gpu: {place} shows at /run, and no directory" in done.stderr


@pytest.mark.parametrize("mode", MODES)
def test_a_node_for_a_group_opens_for_its_members(node, user, host, mode):
    """Nobody gives a user without rights more groups, but none that the user has may be lost."""
    script = "true </dev/nvidia0 && echo opened"
    words = ("run", "--rm", f"--engine={mode}", "--gpu=all", f"{host}/library/odd0:1")
    with node.only_for_group("nvidia0", 61500):
        done = node.udocker(user, *words, "sh", "-c", script, groups=[61500])
        assert done.stdout == "opened\n"
