"""What a container on a dressed machine sees of nodes and of the driver's own files."""

from __future__ import annotations

import os
import shutil

import pytest

from gpu import kerneltree
from gpu.kerneltree import ci_minor, gi_minor, mig_uuid, pci

NODES = "nvidia* nvidia-caps/* dri/* dri/by-path/*"
LIST = f'cd /dev && for n in {NODES}; do [ -c "$n" ] && echo $n; done'
ENGINES = ("N2", "P1", "R1", "B1")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can dress a machine"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox"),
]


@pytest.fixture
def location(unprivileged):
    """The user's directory with nothing but a shell, as a word for `udocker run`."""
    root = f"{unprivileged.home}/image"
    with open(shutil.which("busybox"), "rb") as file:
        kerneltree.write(root, "bin/sh", file.read(), 0o755)
    for name in ("dev", "etc", "proc", "sys", "tmp", "run"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    unprivileged.own(root)
    return f"--location={root}"


def drawing(root):
    kerneltree.add_graphics(root, gpus=2)


@pytest.mark.parametrize("engine", ENGINES)
def test_who_draws_sees_the_drawing_nodes_of_one_gpu(dressed, location, engine):
    node = dressed(gpus=2, change=drawing)
    words = ("run", f"--engine={engine}", "--gpu=0", "--gpu-caps=graphics", location)
    done = node(*words, "/bin/sh", "-c", LIST)
    seen = done.stdout.split()
    assert "nvidia1" in seen and "nvidia-modeset" in seen, done.stderr
    assert "nvidia0" not in seen or engine == "P1", "PRoot shows the host's /dev"
    if engine != "P1":
        assert [name for name in seen if name.startswith("dri/")] == [
            "dri/card2",
            "dri/renderD129",
            f"dri/by-path/pci-{pci(1)}-card",
            f"dri/by-path/pci-{pci(1)}-render",
        ]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_of_a_gpu_is_all_that_is_seen_of_it(dressed, location, engine):
    node = dressed(gpus=2, mig={1: {3: 1, 4: 1}})
    name = mig_uuid(1, 4)
    words = ("run", f"--engine={engine}", f"--gpu={name}", location)
    done = node(*words, "/bin/sh", "-c", f"{LIST}; echo $CUDA_VISIBLE_DEVICES")
    *seen, visible = done.stdout.split()
    assert visible == name, done.stderr
    caps = {f"nvidia-caps/nvidia-cap{gi_minor(1, 4)}", f"nvidia-caps/nvidia-cap{ci_minor(1, 4)}"}
    assert caps.issubset(seen)
    if engine != "P1":
        assert {name for name in seen if "caps/" in name} == caps
        assert "nvidia0" not in seen


@pytest.mark.parametrize(
    ("engine", "modifies"), [("N2", "0"), ("N1", "0"), ("B1", "0"), ("R1", "1")]
)
def test_the_drivers_libraries_leave_nodes_alone(dressed, location, engine, modifies):
    node = dressed()
    script = "while read -r line; do echo $line; done </proc/driver/nvidia/params"
    done = node("run", f"--engine={engine}", "--gpu", location, "/bin/sh", "-c", script)
    assert f"ModifyDeviceFiles: {modifies}" in done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), []),
        (("-e", "NVIDIA_VISIBLE_DEVICES=all"), ["nvidia0", "nvidia1"]),
        (("-e", "NVIDIA_VISIBLE_DEVICES=0"), ["nvidia1"]),
        (("-e", "NVIDIA_VISIBLE_DEVICES=void"), []),
        (("--gpu=1", "-e", "NVIDIA_VISIBLE_DEVICES=void"), ["nvidia0"]),
        (("--gpu=none", "-e", "NVIDIA_VISIBLE_DEVICES=all"), []),
    ],
)
def test_the_variable_asks_for_gpus_as_in_docker(dressed, location, words, expected):
    node = dressed(gpus=2)
    script = 'for n in /dev/nvidia[0-9]; do [ -c "$n" ] && echo ${n##*/}; done; true'
    done = node("run", *words, location, "/bin/sh", "-c", script)
    assert done.stdout.split() == expected, done.stderr


def test_gpus_that_the_users_variable_names_must_be_there(dressed, location):
    node = dressed(gpus=2)
    words = ("-e", "NVIDIA_VISIBLE_DEVICES", location, "/bin/sh", "-c", "echo runs")
    missing = node("run", *words, env={"NVIDIA_VISIBLE_DEVICES": "7"})
    assert (missing.returncode, missing.stdout) == (125, "")
    assert missing.stderr.startswith("udocker: gpu: '7' is not one GPU of this job\n")
    for value, options, status in (("1", (), 0), ("all", (), 0), ("7", ("--gpu=try",), 0)):
        done = node("run", *options, *words, env={"NVIDIA_VISIBLE_DEVICES": value})
        assert (done.returncode, done.stdout) == (status, "runs\n"), done.stderr
