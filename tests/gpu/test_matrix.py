"""Layouts, MIG, jobs, other jobs' nodes and missing nodes, each with each, as an ordinary user.

The user plans for a machine that is a tree of files; nodes of mode 000 are those of other jobs.
"""

from __future__ import annotations

import itertools
import json
import os

import pytest

from gpu import drivertree, kerneltree
from gpu.kerneltree import ci_minor, gi_minor, uuid

GPUS = 3
PARTS = {0: {1: 1, 2: 1}}
DENIED = 1
"""The minor of another job's GPU; with MIG, also the GPU instance of minor 0 that is another's."""
VISIBLE = (None, "", "NoDevFiles", "0", "GPU-f0000002")
SELECTIONS = ("all", "0", "none")
PLAN = """
import json, sys
from udocker.errors import GpuError
from udocker.host.probe import Host
from udocker.host.root import Root
from udocker.nvidia.edits import gpu_edits
from udocker.nvidia.wishes import GpuRequest

tree, image, kept, cases = sys.argv[1:]
for selection, visible in json.loads(cases):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    request = GpuRequest("auto" if selection == "none" else selection, program_env=(
        ("NVIDIA_VISIBLE_DEVICES", selection),))
    try:
        plan = gpu_edits(Host(tree), request, Root(image), kept, environment)
        nodes = [node.destination for node in plan.edits.device_nodes]
        libraries = [b.destination for b in plan.edits.binds if "/libcuda.so.1" in b.destination]
        print(json.dumps([sorted(nodes), dict(plan.edits.env), libraries, plan.notes]))
    except GpuError as error:
        print(json.dumps(error.message))
"""


@pytest.fixture(scope="module")
def nodes_of_users(public_directory):
    """Trees by layout and MIG, in a place that every user can read, each built once."""
    made = {}

    def tree(layout, mig):
        if (layout, mig) not in made:
            root = os.path.join(public_directory, f"matrix-{layout}-{mig}")
            made[layout, mig] = drivertree.build(root, layout, gpus=GPUS, mig=PARTS if mig else {})
        return made[layout, mig]

    return tree


@pytest.fixture
def answers(nodes_of_users, unprivileged, libc):
    """A function that plans every case on such a tree as a user; its answers by case."""
    image = f"{unprivileged.home}/image"
    place = f"usr/lib/{drivertree.MACHINE}-linux-gnu/libc.so.6"
    drivertree.write(image, place, libc("GLIBC_2.2.5", "GLIBC_2.99"))
    cases = list(itertools.product(SELECTIONS, VISIBLE))

    def ask(layout, mig, denied, uvm):
        tree = nodes_of_users(layout, mig)
        kerneltree.build_kernel(
            tree, gpus=GPUS, mig=PARTS if mig else {}, denied=(DENIED,) if denied else ()
        )
        if mig and denied:
            os.chmod(f"{tree}/dev/nvidia-caps/nvidia-cap{gi_minor(0, 2)}", 0)
        if not uvm:
            os.unlink(f"{tree}/dev/nvidia-uvm")
        words = [tree, image, f"{unprivileged.home}/kept", json.dumps(cases)]
        path = f"{unprivileged.checkout}:{unprivileged.environment()['PYTHONPATH']}"
        env = {"PYTHONPATH": path, "FAKE_DRIVER_ROOT": tree}
        said = unprivileged.run([unprivileged.python, "-B", "-c", PLAN, *words], env=env).stdout
        return dict(zip(cases, map(json.loads, said.splitlines())))

    return ask


def expected_gpus(mig, denied):
    """Return minor -> nodes of the job's GPUs, in PCI order."""
    found = {}
    for minor in (2, 1, 0):
        if denied and minor == DENIED:
            continue
        caps = []
        for gi in PARTS[0] if mig and minor == 0 else ():
            if not (denied and gi == 2):
                minors = (gi_minor(0, gi), ci_minor(0, gi))
                caps += [f"/dev/nvidia-caps/nvidia-cap{number}" for number in minors]
        found[minor] = [f"/dev/nvidia{minor}", *caps]
    return found


def expected(selection, visible, mig, denied, uvm):
    """Return what a person would say of the case: the error's words, or nodes and variable."""
    has_none = visible in ("", "NoDevFiles")
    if selection != "none" and has_none:
        return f"CUDA_VISIBLE_DEVICES is {visible or 'empty'}"
    if not uvm:
        return "/dev/nvidia-uvm missing"
    gpus = expected_gpus(mig, denied)
    chosen = {"none": [], "all": list(gpus), "0": [2]}[selection]
    names = {"none": "", "0": uuid(2)}.get(selection, visible)
    control = ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl"]
    return sorted([*control, *(node for minor in chosen for node in gpus[minor])]), names


@pytest.mark.parametrize(
    ("layout", "mig", "denied", "uvm"),
    list(itertools.product(("deb", "rhel", "usrlocal"), *[(False, True)] * 3)),
)
def test_every_node_gives_the_job_what_is_its_own(answers, layout, mig, denied, uvm):
    for (selection, visible), answer in answers(layout, mig, denied, uvm).items():
        case = f"--gpu={selection}, CUDA_VISIBLE_DEVICES={visible!r}: {answer}"
        wanted = expected(selection, visible, mig, denied, uvm)
        if isinstance(wanted, str):
            said = answer if isinstance(answer, str) else " ".join(answer[3])
            assert wanted in said, case
            continue
        nodes, env, libraries, notes = answer
        assert (nodes, env.get("CUDA_VISIBLE_DEVICES")) == wanted, case
        assert libraries == ["/run/udocker/gpu/lib/libcuda.so.1"], case
        assert notes == [], case
