"""The device nodes of a container, and the files of the driver's that it sees changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

from gpu import kerneltree
from gpu.conftest import FAKENODE
from gpu.kerneltree import ci_minor, gi_minor, pci
from udocker.commands.withgpus import beside
from udocker.containers.spec import Bind, ContainerEdits, DeviceNode
from udocker.errors import GpuError
from udocker.nvidia.devices import procfiles
from udocker.nvidia.devices.gpus import find_gpus
from udocker.nvidia.devices.nodes import find_nodes, make_missing
from udocker.nvidia.wishes import Wish

VIDEO = 44
"""The group's number in Debian."""
COMPUTE = Wish("all", ("compute",))
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can dress a machine")


def names(edits):
    return [node.destination for node in edits.device_nodes]


def found(host, wish, **words):
    return find_nodes(host, words.get("gpus", find_gpus(host)[:1]), wish)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (("utility",), ["nvidiactl", "nvidia3"]),
        (("compute",), ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia3"]),
        (("graphics",), ["nvidiactl", "nvidia-modeset", "nvidia3"]),
    ],
)
def test_nodes_are_those_of_the_capabilities(kernel, capabilities, expected):
    host = kernel(gpus=4)
    edits, notes = found(host, Wish("0", capabilities))
    assert names(edits) == [f"/dev/{name}" for name in expected]
    assert [node.source for node in edits.device_nodes] == [host.path(n) for n in names(edits)]
    assert notes == ()


def test_a_missing_memory_manager_is_told(kernel):
    host = kernel(uvm=False)
    with pytest.raises(GpuError, match="/dev/nvidia-uvm missing"):
        found(host, COMPUTE)
    assert names(found(host, Wish("0", ("utility",)))[0])


def test_a_part_brings_its_two_nodes_and_its_gpus(kernel):
    host = kernel(gpus=2, mig={1: {3: 2}})
    (gpu, _) = find_gpus(host)
    assert names(found(host, Wish("0", ("utility",)), gpus=(gpu,))[0]) == [
        "/dev/nvidiactl",
        "/dev/nvidia1",
        f"/dev/nvidia-caps/nvidia-cap{gi_minor(1, 3)}",
        f"/dev/nvidia-caps/nvidia-cap{ci_minor(1, 3, 0)}",
        f"/dev/nvidia-caps/nvidia-cap{ci_minor(1, 3, 1)}",
    ]


def test_who_draws_gets_the_drawing_nodes_of_its_gpus_alone(kernel):
    host = kernel(gpus=2)
    kerneltree.add_graphics(host.root, gpus=2)
    edits, _ = found(host, Wish("0", ("graphics",)))
    assert [name for name in names(edits) if "/dri/" in name] == [
        "/dev/dri/card2",
        f"/dev/dri/by-path/pci-{pci(1)}-card",
        "/dev/dri/renderD129",
        f"/dev/dri/by-path/pci-{pci(1)}-render",
    ]
    # engines that show the host's /dev cannot show another node there
    assert all(node.source == host.path(node.destination) for node in edits.device_nodes)
    os.unlink(host.path(f"/dev/dri/by-path/pci-{pci(1)}-card"))
    os.unlink(host.path("/dev/dri/renderD129"))
    edits, _ = found(host, Wish("0", ("graphics",)))
    assert [name for name in names(edits) if "/dri/" in name] == ["/dev/dri/card2"]
    assert not [name for name in names(found(host, COMPUTE)[0]) if "/dri/" in name]


def test_single_nodes_take_the_place_of_all_that_draw():
    def given(*paths):
        return ContainerEdits(device_nodes=tuple(DeviceNode(path, path) for path in paths))

    shown = given("/dev/dri", "/dev/fuse", "/dev/infiniband")
    added = given("/dev/nvidia0", "/dev/dri/card1", "/dev/infiniband/uverbs0")
    before, after = beside(shown, added)
    assert names(before) == ["/dev/fuse", "/dev/infiniband"]
    assert names(after) == ["/dev/nvidia0", "/dev/dri/card1"]
    assert beside(shown, given("/dev/nvidia0")) == (shown, given("/dev/nvidia0"))


GATES = {
    "gds": ["nvidia-fs0", "nvidia-fs1"],
    "mofed": ["infiniband/uverbs0", "infiniband/rdma_cm"],
    "gdrcopy": ["gdrdrv"],
    "nvswitch": ["nvidia-nvswitch0", "nvidia-nvswitch1", "nvidia-nvswitchctl", "nvidia-nvlink"],
    "mig-config": ["nvidia-caps/nvidia-cap1"],
    "mig-monitor": ["nvidia-caps/nvidia-cap2"],
}


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_opens_its_nodes_and_no_other(kernel, gate):
    host = kernel()
    kerneltree.add_fabric(host.root, switches=2)
    plain = names(found(host, COMPUTE)[0])
    edits, notes = found(host, Wish("all", ("compute",), opened=(gate,)))
    assert sorted(set(names(edits)).difference(plain)) == sorted(f"/dev/{n}" for n in GATES[gate])
    assert notes == ()


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_to_nothing_is_told(kernel, gate):
    host = kernel(nodes=False)
    for name in ("nvidiactl", "nvidia0"):
        kerneltree.node(host.root, name, "1:3")
    edits, (note,) = found(host, Wish("all", ("utility",), opened=(gate,)))
    assert names(edits) == ["/dev/nvidiactl", "/dev/nvidia0"]
    assert note.startswith("gpu: ") and (gate in note or gate.upper() in note)


def test_channels_are_given_by_number_and_missing_ones_told(kernel):
    host = kernel()
    kerneltree.add_fabric(host.root, channels=(0, 7))
    edits, (note,) = found(host, Wish("all", ("utility",), channels=(7, 8)))
    assert names(edits)[-1] == "/dev/nvidia-caps-imex-channels/channel7"
    assert "channel8" in note


def test_the_drivers_libraries_are_told_to_leave_nodes_alone(kernel, tmp_path):
    (bind,) = procfiles.parameters(kernel(), str(tmp_path / "kept"))
    assert (bind.destination, bind.readonly) == ("/proc/driver/nvidia/params", True)
    with open(bind.source, encoding="utf-8") as file:
        text = file.read()
    assert text == kerneltree.PARAMS.replace("ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0")


def test_where_they_do_already_nothing_is_bound(kernel, tmp_path):
    host = kernel()
    kerneltree.write(host.root, "proc/driver/nvidia/params", "ModifyDeviceFiles: 0\n")
    assert procfiles.parameters(host, str(tmp_path / "kept")) == ()
    assert procfiles.parameters(kernel(), "/proc/none") == ()


def test_who_draws_sees_its_gpus_alone(kernel, tmp_path):
    gpus = find_gpus(kernel(gpus=4))
    (bind,) = procfiles.profile((gpus[0], gpus[3]), ("graphics",), str(tmp_path / "kept"))
    with open(bind.source, encoding="utf-8") as file:
        text = file.read()
    assert re.search(r'"EGLVisibleDGPUDevices",0x9\]', text), text
    assert bind.destination.startswith("/etc/nvidia/nvidia-application-profiles-rc.d/")
    assert procfiles.profile(gpus, ("compute",), str(tmp_path / "kept")) == ()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "/tmp/nvidia-mps"),
        ({"CUDA_MPS_PIPE_DIRECTORY": "/scratch/mps"}, "/scratch/mps"),
        ({"CUDA_MPS_PIPE_DIRECTORY": "mps"}, None),
        ({"CUDA_MPS_PIPE_DIRECTORY": "/none"}, None),
    ],
)
def test_the_daemon_that_shares_gpus_is_reachable_by_its_directory(kernel, environment, expected):
    host = kernel()
    for directory in ("tmp/nvidia-mps", "scratch/mps"):
        kerneltree.write(host.root, f"{directory}/control")
    made = procfiles.services(host, ("compute",), environment)
    binds = (Bind(host.path(expected), expected),) if expected else ()
    assert made.binds == binds
    assert dict(made.env) == (environment if expected else {})
    assert procfiles.services(host, ("utility",), environment).binds == ()


def test_storage_brings_what_its_library_reads(kernel):
    host = kernel()
    kerneltree.write(host.root, "run/udev/data/b259:0", "E:ID_FS_TYPE=ext4")
    kerneltree.write(host.root, "etc/cufile.json", "{}")
    assert procfiles.storage(host, ("gds",)) == (), "without its nodes it is of no use"
    kerneltree.add_fabric(host.root)
    paths = ("/etc/cufile.json", "/run/udev")
    expected = tuple(Bind(host.path(path), path, readonly=True) for path in paths)
    assert procfiles.storage(host, ("mofed", "gds")) == expected
    assert procfiles.storage(host, ("mofed",)) == ()
    os.unlink(host.path("/etc/cufile.json"))
    assert procfiles.storage(host, ("gds",)) == expected[1:]


@pytest.fixture(scope="module")
def modprobe(tmp_path_factory):
    """The bytes of a nvidia-modprobe that makes nodes, once it is root's and setuid."""
    path = str(tmp_path_factory.mktemp("modprobe") / "nvidia-modprobe")
    source = os.path.join(os.path.dirname(FAKENODE), "fake", "modprobe.c")
    subprocess.run(["gcc", "-O1", source, "-o", path], check=True)
    with open(path, "rb") as file:
        return file.read()


ASK = """
import sys
from udocker.errors import GpuError
from udocker.host.probe import Host
from udocker.nvidia.devices.gpus import find_gpus
from udocker.nvidia.devices.nodes import find_nodes, make_missing
from udocker.nvidia.wishes import Wish
host = Host()
print(make_missing(host, find_gpus(host)), [gpu.denial for gpu in find_gpus(host)])
assert all(part.accessible for gpu in find_gpus(host) for part in gpu.mig)
try:
    edits, notes = find_nodes(host, find_gpus(host), Wish("all", ("compute",)))
    print(*(node.destination for node in edits.device_nodes))
    print(*notes)
except GpuError as error:
    print(error)
"""


@pytest.fixture
def answers(kernel, unprivileged):
    """A function that asks for nodes as a user of a machine dressed as the tree; its lines."""

    def ask(program=None, mode=0o4755, **words):
        host = kernel(**words)
        if program:
            kerneltree.write(host.root, "usr/bin/nvidia-modprobe", program, mode)
        environment = unprivileged.environment()
        path = f"PYTHONPATH={unprivileged.checkout}:{environment['PYTHONPATH']}"
        user = f"{unprivileged.uid}:{unprivileged.gid}"
        command = [FAKENODE, "--null-nodes", "--ids", user, host.root]
        command += ["env", path, unprivileged.python, "-B", "-c", ASK]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.splitlines()

    return ask


@needs_root
@pytest.mark.root
class TestMakingNodes:
    """As a user without rights, by the host's setuid program."""

    def test_a_missing_memory_manager_is_made(self, answers, modprobe):
        made, nodes, notes = answers(modprobe, gpus=2, uvm=False)
        assert made == "False ['', '']"
        assert "/dev/nvidia-uvm /dev/nvidia-uvm-tools" in nodes
        assert notes == "gpu: /dev/nvidia-uvm missing; ran nvidia-modprobe -u -c0 on the host: ok"

    def test_a_node_that_nobody_has_used_gets_all_its_nodes(self, answers, modprobe):
        made, nodes, _ = answers(modprobe, gpus=2, nodes=False)
        assert made == "True ['', '']"
        assert nodes.split()[-2:] == ["/dev/nvidia1", "/dev/nvidia0"]

    def test_parts_that_nobody_has_used_get_their_nodes(self, answers, modprobe):
        made, nodes, _ = answers(modprobe, nodes=False, mig={0: {3: 1}})
        assert made == "True ['']"
        assert nodes.split()[-3:] == [
            "/dev/nvidia0",
            f"/dev/nvidia-caps/nvidia-cap{gi_minor(0, 3)}",
            f"/dev/nvidia-caps/nvidia-cap{ci_minor(0, 3)}",
        ]

    def test_a_program_without_rights_is_told_on(self, answers, modprobe):
        _, said = answers(modprobe, mode=0o755, uvm=False)
        assert "nvidia-modprobe -u -c0 did not make it: cannot make" in said

    def test_without_the_program_the_way_out_is_told(self, answers):
        _, said = answers(uvm=False)
        assert "and no /usr/bin/nvidia-modprobe to make it" in said


def test_a_tree_is_never_given_nodes(kernel):
    host = kernel(nodes=False)
    assert not make_missing(host, find_gpus(host))


@needs_root
@pytest.mark.root
@pytest.mark.parametrize("engine", ["N2", "P1", "R1", "B1"])
def test_a_node_for_a_group_opens_in_a_container_for_its_members_alone(
    machine, unprivileged, engine
):
    """No engine drops the groups of its caller, though none can map them in a user namespace."""
    host = machine()
    kerneltree.node(host.root, "nvidia0", "195:0", 0o660)
    os.chown(host.path("/dev/nvidia0"), 0, VIDEO)
    image = f"{unprivileged.home}/image"
    with open(shutil.which("busybox"), "rb") as file:
        kerneltree.write(image, "bin/sh", file.read(), 0o755)
    for name in ("dev", "etc", "proc", "sys", "tmp", "run"):
        os.makedirs(f"{image}/{name}", exist_ok=True)
    unprivileged.own(image)

    def run(groups):
        ids = f"{unprivileged.uid}:{unprivileged.gid}{groups}"
        command = [FAKENODE, "--null-nodes", "--ids", ids, host.root, unprivileged.python, "-m"]
        words = ["udocker", "run", f"--engine={engine}", "--gpu", f"--location={image}"]
        return subprocess.run(
            [*command, *words, "/bin/sh", "-c", "exec 3<>/dev/nvidia0 && echo opened"],
            env=unprivileged.environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )

    member = run(f",{VIDEO}")
    assert member.stdout == "opened\n", member.stderr
    other = run("")
    assert other.returncode == 125
    assert "/dev/nvidia0 for group video only, of which this user is not" in other.stderr


WARM = """
import sys
from udocker.host.probe import Host
from udocker.host.root import Root
from udocker.nvidia.edits import gpu_edits
from udocker.nvidia.wishes import GpuRequest

env = (("NVIDIA_VISIBLE_DEVICES", "all"), ("NVIDIA_REQUIRE_CUDA", "cuda>=12.4 brand=x"))
request = GpuRequest("all", ("all",), env)
plan = gpu_edits(Host(sys.argv[1]), request, Root(sys.argv[2]), sys.argv[3], {})
assert plan.gpus and plan.edits.binds
slow = ("dataclasses", "elftools", "grp", "hashlib", "json", "pathlib", "pynvml", "re", "select")
slow += ("signal", "subprocess", "typing", "yaml")
print([name for name in slow if name in sys.modules])
"""


def test_a_start_with_all_remembered_imports_nothing_slow(machine, image, tmp_path):
    host, tree = machine(gpus=2, mig={1: {1: 1}}), image()
    words = [host.root, tree.path, str(tmp_path / "kept")]
    project = os.path.dirname(os.path.dirname(os.path.dirname(FAKENODE)))
    for _ in range(2):
        answer = subprocess.run(
            [sys.executable, "-S", "-c", WARM, *words],
            env={"PYTHONPATH": project + os.pathsep + sysconfig.get_path("purelib")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert answer.stdout.strip() == "[]", answer.stderr
