"""A whole machine dressed as a GPU node: programs, real device nodes, and the plan for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gpu import drivertree
from gpu.drivertree import VERSION, uuid

FAKENODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fakenode.sh")
PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can dress a machine"),
]


@pytest.fixture
def node(tmp_path):
    """A function that runs a command on a node of three GPUs and returns its answer."""
    tree = drivertree.build(str(tmp_path / "tree"), gpus=3)

    def run(*command, options=()):
        words = [FAKENODE, *options, tree, *command]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    return run


def test_the_drivers_own_program_sees_the_gpus(node):
    answer = node("nvidia-smi", "-L", options=["--null-nodes"])
    assert answer.stdout.splitlines() == [
        f"GPU {index}: NVIDIA Fake GPU (UUID: {uuid(minor)})"
        for index, minor in enumerate((2, 1, 0))
    ], answer.stderr
    assert VERSION in node("nvidia-smi").stdout


def test_another_jobs_gpu_cannot_be_opened_by_users(node):
    answer = node("nvidia-smi", "-L", options=["--deny", "1", "--user", "nobody"])
    assert uuid(1) not in answer.stdout
    assert len(answer.stdout.splitlines()) == 2, answer.stderr


def test_the_machine_is_unchanged_and_the_status_is_the_commands(node):
    def look():
        with open("/proc/self/mounts", encoding="utf-8") as file:
            return file.read(), sorted(os.listdir("/run")), sorted(os.listdir("/dev"))

    before = look()
    assert node("sh", "-c", "touch /usr/bin/trace /etc/trace /run/trace; exit 7").returncode == 7
    assert look() == before
    assert not os.path.exists("/usr/bin/trace")
    assert not os.path.exists("/etc/trace")


def test_a_tree_of_nothing_but_devices_leaves_the_machines_library_cache_alone(tmp_path):
    """Writing it in place kills whatever program the machine starts meanwhile."""

    def look():
        state = os.stat("/etc/ld.so.cache")
        return state.st_ino, state.st_size, state.st_ctime_ns, os.path.exists("/run/trace")

    tree = tmp_path / "tree"
    (tree / "dev").mkdir(parents=True)
    before = look()
    subprocess.run([FAKENODE, str(tree), "touch", "/run/trace"], check=True)
    assert look() == before


# Plans for the machine's own root as the image, binds what the plan says, and becomes a program.
PLAN_AND_RUN = """
import os, stat, subprocess, sys
from udocker.host.probe import Host
from udocker.host.root import Root
from udocker.nvidia.edits import GpuRequest, gpu_edits

made = gpu_edits(Host(), GpuRequest(sys.argv[1]), Root("/"), sys.argv[2], {})
assert all(stat.S_ISCHR(os.stat(node.source).st_mode) for node in made.edits.device_nodes)
for bind in made.edits.binds:
    os.makedirs(os.path.dirname(bind.destination), exist_ok=True)
    if not os.path.exists(bind.destination):
        open(bind.destination, "w").close()
    subprocess.run(["mount", "--bind", bind.source, bind.destination], check=True)
print(made.edits.device_nodes[-1].source, dict(made.edits.env).get("CUDA_VISIBLE_DEVICES"))
sys.stdout.flush()
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_a_program_loads_the_driver_from_where_the_plan_puts_it(node, tmp_path):
    words = [sys.executable, "-c", PLAN_AND_RUN, "1", str(tmp_path / "kept"), "/usr/bin/nvidia-smi"]
    answer = node("env", f"PYTHONPATH={PROJECT}", *words)
    assert answer.stdout.splitlines() == [
        f"/dev/nvidia1 {uuid(1)}",
        f"NVIDIA-SMI {VERSION} NVML /run/udocker/gpu/lib/libnvidia-ml.so.1",
    ], answer.stderr
