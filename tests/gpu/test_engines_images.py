"""A GPU's driver in real systems of three generations of glibc, by every engine.

What runs in a container is the system's own Python, by which libraries are opened as programs
open them: by name, by development link, through another library's RUNPATH, without any
environment. The machine is dressed as a node of three GPUs, one of which is another job's.
"""

from __future__ import annotations

import json
import os
import subprocess

import pynvml
import pytest
from behaviours.systems import RELEASES, derived, install_libraries, layout_of
from unprivileged import Unprivileged, remove_tree, scratch_directory

from gpu import drivertree
from gpu.dressed import Node
from gpu.drivertree import uuid
from gpu.kerneltree import SEVEN_SMALL, mig_uuid
from udocker.registry.loopback import LoopbackRegistry

MODES = ("N2", "N1", "runc", "B1", "P1", "F3")
SUBJECTS = [*((name, mode) for name in RELEASES for mode in MODES), ("bookworm", "F1")]
OTHER_JOBS = 1
PLACE = "/run/udocker/gpu/lib"
SYSTEM = f"usr/lib/{drivertree.MACHINE}-linux-gnu"
PROBE = """
import ctypes, ctypes.util, json, subprocess, sys

def opened(name):
    library = ctypes.CDLL(name)  # a handle is a link_map, whose second field is the name
    return ctypes.cast(library._handle + 8, ctypes.POINTER(ctypes.c_char_p))[0].decode()

def elsewhere(program, **how):
    head = "import ctypes\\n" + "def" + source.split("def", 2)[1]
    words = [sys.executable, "-c", head + program]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)
    return done.stdout.decode().strip()

subprocess._USE_POSIX_SPAWN = False  # PRoot 5.1 loses the heap of who spawns processes
sys.path.insert(0, "/opt/nvml")
import pynvml
pynvml.nvmlInit()
handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
visible = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
source = open(sys.argv[1]).read()
names = ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-ml.so")
found = {name: elsewhere(f"print(opened({name!r}))") for name in names}
found["clean"] = elsewhere("print(opened('libcuda.so.1'))", env={})
found["app"] = elsewhere("ctypes.CDLL('/opt/app/libapp.so'); print(opened('libcuda.so.1'))")
found["baked"] = elsewhere(
    "ctypes.CDLL('/opt/app/libother.so'); print(hasattr(ctypes.CDLL('libcuda.so.1'), 'cuInit'))"
)
found["cuInit"] = elsewhere("print(ctypes.CDLL('libcuda.so.1').cuInit(0))")
found["find_library"] = ctypes.util.find_library("cuda")
found.update(visible=visible, version=pynvml.nvmlSystemGetDriverVersion())
# as the installation of a package with a library does
found["ldconfig"] = subprocess.run(["ldconfig"], stdout=subprocess.DEVNULL).returncode
found["afterwards"] = elsewhere("print(opened('libcuda.so.1'))")
print(json.dumps(found))
"""
pytestmark = [pytest.mark.slow, pytest.mark.root]


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    tree = drivertree.build(str(tmp_path_factory.mktemp("node") / "tree"), gpus=3)
    node = Node(tree, "--deny", str(OTHER_JOBS))
    yield node
    node.close()


@pytest.fixture(scope="module")
def parts_node(tmp_path_factory):
    """A node whose first GPU is in seven parts (MIG), and whose second one is whole."""
    place = str(tmp_path_factory.mktemp("parts") / "tree")
    node = Node(drivertree.build(place, gpus=2, mig={1: SEVEN_SMALL}))
    yield node
    node.close()


@pytest.fixture(scope="module")
def user(account):
    user = Unprivileged(account)
    install_libraries(user)
    yield user
    user.close()


@pytest.fixture(scope="module")
def images(user, layouts):
    """A function that returns the name of a release's image, pulled once."""
    pulled = {}
    place = scratch_directory()

    def image(release):
        if release not in pulled:
            name = f"{release}-gpu:1"
            directory = f"{place}/{release}"
            derived(layout_of(release, layouts), directory, name, trapped_files(), [])
            with LoopbackRegistry(directory) as host:
                user.udocker("pull", f"{host}/library/{name}")
            user.udocker("tag", f"{host}/library/{name}", name)
            pulled[release] = name
        return pulled[release]

    yield image
    remove_tree(place)


def trapped_files():
    """Return files of an image with an old driver, and an application with its own copy of it."""
    with open(pynvml.__file__, "rb") as file:
        nvml = file.read()
    old = drivertree.stub_library("libcuda.so.1")
    return {
        "opt/app/libapp.so": application(old, "/opt/app/lib"),
        "opt/app/libother.so": application(old, f"/{SYSTEM}"),
        f"{SYSTEM}/libcuda.so.535.54.03": old,
        f"{SYSTEM}/libcuda.so.1": "libcuda.so.535.54.03",
        "opt/app/lib/libcuda.so.1": old,
        "opt/nvml/pynvml.py": nvml,
        "opt/probe.py": PROBE.encode(),
    }


def application(library, directory):
    """Return a library that needs libcuda.so.1 and names a directory for it (RUNPATH)."""
    place = scratch_directory()
    try:
        drivertree.write(place, "libcuda.so.1", library)
        words = ["-Wl,--no-as-needed", "-Wl,--enable-new-dtags", f"-Wl,-rpath,{directory}"]
        source = os.path.join(os.path.dirname(drivertree.__file__), "fake", "stub.c")
        command = ["gcc", "-shared", "-fPIC", "-nostdlib", source, *words, f"-L{place}"]
        subprocess.run([*command, "-l:libcuda.so.1", "-o", f"{place}/app"], check=True)
        with open(f"{place}/app", "rb") as file:
            return file.read()
    finally:
        remove_tree(place)


def run(node, user, mode, image, *words, options=(), **how):
    given = ("run", "--rm", f"--engine={mode}", "--gpu=all", *options, image, *words)
    return node.udocker(user, *given, **how)


@pytest.mark.parametrize(("release", "mode"), SUBJECTS)
def test_the_driver_is_the_hosts_however_a_program_opens_it(node, user, images, release, mode):
    image = images(release)
    found = json.loads(
        run(node, user, mode, image, "python3", "/opt/probe.py", "/opt/probe.py").stdout
    )
    places = {name: path for name, path in found.items() if name.startswith("lib")}
    if mode.startswith("F"):  # the loader is told directories of the host
        assert all(".links/lib/" in path for path in places.values()), places
        assert found["app"].endswith(".links/lib/libcuda.so.1")  # before a RUNPATH
    else:
        assert {os.path.dirname(path) for path in places.values()} == {PLACE}, places
        assert found["clean"] == f"{PLACE}/libcuda.so.1"
        assert found["find_library"] == "libcuda.so.1"
        assert found["app"] == "/opt/app/lib/libcuda.so.1"
        # where binds are cheap they hide the image's old driver also from who names its directory
        assert found["baked"] == str(mode != "P1")
        assert found["afterwards"] == f"{PLACE}/libcuda.so.1"
    assert found["ldconfig"] == 0 or mode == "F1"  # there it would write the host's cache
    assert found["cuInit"] == "0"
    assert found["visible"] == [uuid(2), uuid(0)]
    assert found["version"] == drivertree.VERSION


@pytest.mark.parametrize("mode", ["N2", "runc", "B1", "P1", "F3"])
def test_a_choice_of_gpus_is_what_the_program_sees(node, user, images, mode):
    """Engines with mounts show only the chosen nodes; the others tell CUDA by a variable."""
    script = (
        "import sys; sys.path.insert(0, '/opt/nvml'); import os, pynvml; pynvml.nvmlInit(); "
        "print(os.environ.get('CUDA_VISIBLE_DEVICES'), pynvml.nvmlDeviceGetCount())"
    )
    words = ("python3", "-c", script)
    shown = 1 if mode in ("N2", "runc", "B1") else 2  # all but the other job's
    image = images("bookworm")
    done = run(node, user, mode, image, *words, options=[f"--gpu={uuid(0)}"])
    assert done.stdout.split() == [uuid(0), str(shown)]
    assert ("hides no device nodes" in done.stderr) == (shown != 1)
    job = {"CUDA_VISIBLE_DEVICES": uuid(2)}
    first = run(node, user, mode, image, *words, options=["--gpu=0"], env=job).stdout.split()
    assert first == [uuid(2), str(shown)]


@pytest.mark.parametrize("mode", ["N2", "P1"])
def test_another_jobs_gpu_cannot_be_had(node, user, images, mode):
    options = [f"--gpu={uuid(OTHER_JOBS)}"]
    done = run(node, user, mode, images("bookworm"), "true", options=options, check=False)
    assert done.returncode == 125
    assert uuid(OTHER_JOBS) in done.stderr


@pytest.mark.parametrize("mode", ["N2", "N1", "runc", "B1", "P1", "F3"])
def test_what_a_dry_run_prints_works_when_pasted(node, user, images, mode):
    name = f"pasted-{mode}".lower()
    user.udocker("create", f"--name={name}", images("bookworm"))
    user.udocker("run", f"--engine={mode}", name, "true")
    words = ("run", f"--engine={mode}", "--gpu=all", "--dry-run", name, "nvidia-smi")
    printed = node.udocker(user, *words).stdout
    said = node.run(user, "sh", "-c", printed).stdout
    assert said.startswith(f"NVIDIA-SMI {drivertree.VERSION} NVML ")
    user.udocker("rm", name)


PARTS = """
import sys; sys.path.insert(0, "/opt/nvml")
import os
import pynvml as nvml

nvml.nvmlInit()
print(os.environ.get("CUDA_VISIBLE_DEVICES"))
for number in range(nvml.nvmlDeviceGetCount()):
    gpu = nvml.nvmlDeviceGetHandleByIndex(number)
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place)
        except nvml.NVMLError_NotFound:
            continue
        print(nvml.nvmlDeviceGetUUID(part))
"""


@pytest.mark.parametrize("mode", ["N2", "runc", "B1", "P1", "F3"])
def test_a_part_of_a_gpu_is_all_that_the_program_sees(parts_node, user, images, mode):
    """Engines without mounts show the nodes of all parts, and tell CUDA which one is meant."""
    part = mig_uuid(1, 9)
    words = ("python3", "-c", PARTS)
    found = run(parts_node, user, mode, images("bookworm"), *words, options=[f"--gpu={part}"])
    told, *visible = found.stdout.split()
    assert told == part
    assert part in visible
    assert len(visible) == (1 if mode in ("N2", "runc", "B1") else len(SEVEN_SMALL))
