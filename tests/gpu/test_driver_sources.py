"""What the kernel module and the driver's lists say, and who is believed."""

from __future__ import annotations

import json
import os

import pytest

from gpu import cdispecs, drivertree, drivervariants
from udocker.host.probe import Host
from udocker.nvidia import absence, driver
from udocker.nvidia.driver import filelist, kernelmodule, libraries

V, OLD = drivertree.VERSION, drivervariants.OLD
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (x@y)"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021"


@pytest.mark.parametrize(
    ("sys", "proc", "expected"),
    [
        ("580.95.05\n", OPEN, ("580.95.05", "open", "")),
        ("", OPEN, ("580.95.05", "open", "")),
        ("470.57.02", CLOSED, ("470.57.02", "proprietary", "")),
        ("", CLOSED, ("470.57.02", "proprietary", "")),
        ("390.157", "", ("390.157", "", "")),
        ("580.95.05", CLOSED, ("580.95.05", "proprietary", "470.57.02")),
        ("580.95.05", "something else 1.2.3", ("580.95.05", "", "")),
        ("", "GCC version:  gcc version 13.3.0", None),
        ("../../etc", "NVRM version: ../x.y.z", None),
        ("1.2.3.4.5 99999999999.1", "", None),
        ("", "", None),
    ],
)
def test_the_kernel_module_tells_its_version_in_two_places(tmp_path, sys, proc, expected):
    for path, text in ((kernelmodule.SYS, sys), (kernelmodule.PROC, proc)):
        if text:
            drivertree.write(str(tmp_path), path[1:], f"{text}\nGCC version:  gcc version 9.9.9\n")
    found = kernelmodule.read(Host(str(tmp_path)))
    told = found and (found.version, found.flavour, found.other_version)
    assert told == expected


def test_two_versions_of_one_module_are_a_doubt(machine):
    host = machine()
    drivertree.write(host.root, kernelmodule.PROC[1:], CLOSED)
    found = driver.find(host)
    assert (found.version, found.flavour, found.obstacle) == (V, "proprietary", None)
    (doubt,) = found.doubts
    assert f"says driver {V}, but /proc/driver/nvidia says 470.57.02: taking {V}" in doubt


def test_a_list_joins_the_words_of_a_name_and_sorts_by_kind():
    known = filelist.parse(
        json.dumps(
            [
                {"name": "libcuda.so.1.2", "type": "LIB", "category": ["cuda"]},
                {"name": "usr/lib64/libcuda.so.1.2", "type": "LIB", "category": ["opencl", "cuda"]},
                {"name": "libcuda.so", "type": "SYMLINK", "category": "cuda"},
                {"name": "nvidia.icd", "type": "ICD"},
                {"name": "10_nvidia.json", "type": "JSON", "category": ["egl", 3]},
                {"name": "gsp.bin", "type": "FIRMWARE", "category": ["firmware"]},
                {"name": "x", "type": "A_KIND_OF_THE_FUTURE", "novelty": {}},
            ]
        ).encode()
    )
    assert known.libraries == {"libcuda.so.1.2": ("cuda", "opencl")}
    assert known.configurations == {"10_nvidia.json": ("egl",), "nvidia.icd": ()}
    assert known.links == {"libcuda.so"}


BROKEN_LISTS = [
    "",
    "{}",
    "[1]",
    "null",
    '[{"name": 3}]',
    "[" * 9999,
    '[{"type":"LIB"}]',
    '[{"name": "", "type": "LIB"}]',
    '[{"name": "a/", "type": "LIB"}]',
    '[{"name": "a", "type": "LIB", "category": {}}]',
    '[{"name": "a", "name": "b", "type": "LIB"}]',
    json.dumps([{"name": "x" * 256, "type": "LIB"}]),
    json.dumps([{"name": "a\0b", "type": "LIB"}]),
    json.dumps([{"name": "a", "type": "LIB"}] * 5000),
    " " * (filelist.MAX_BYTES + 1),
    "\xff",
]


@pytest.mark.parametrize("number", range(len(BROKEN_LISTS)))
def test_a_broken_list_is_no_obstacle(machine, number):
    host = machine("rhel")
    drivertree.write(
        host.root, f"usr/share/{libraries.FILE_LIST}", BROKEN_LISTS[number].encode("latin1")
    )
    found = driver.find(host)
    assert (found.obstacle, found.source) == (None, "names")


def test_a_list_cannot_name_what_stays_on_the_host(machine):
    host = machine("rhel")
    others = ("libc.so.6", "libssl.so.3", "nvidia_drv.so")
    names = [f"libcuda.so.{V}", *others, "libGL.so.1", "../../etc/passwd"]
    entries = [{"name": name, "type": "LIB", "category": ["cuda"]} for name in names]
    for name in others:
        drivertree.write(host.root, f"usr/lib64/{name}", drivertree.stub_library(name))
    drivertree.write(host.root, f"usr/share/{libraries.FILE_LIST}", json.dumps(entries))
    found = {a.soname for a in driver.find(host).libraries}
    assert "libcuda.so.1" in found
    assert not found & {*others, "libGL.so.1", "passwd"}


def test_a_list_of_another_driver_is_not_believed(machine):
    host = machine("rhel")
    text = json.dumps([{"name": f"libcuda.so.{OLD}", "type": "LIB", "category": ["video"]}])
    drivertree.write(host.root, f"usr/share/{libraries.FILE_LIST}", text)
    assert driver.find(host).source == "names"


def write_specification(host, version, directory):
    """Write what NVIDIA's generator would."""
    text = json.dumps(cdispecs.nvidia(version, directory))
    drivertree.write(host.root, "etc/cdi/nvidia.json", text)


def test_a_specification_of_the_loaded_driver_comes_first(machine):
    host = machine("rhel")
    plain = driver.find(host)
    write_specification(host, V, "/usr/lib64")
    found = driver.find(host)
    assert found.source == "cdi /etc/cdi/nvidia.json"
    assert found.libraries == plain.libraries, "what the specification misses is found beside"
    assert found.binaries == plain.binaries
    assert found.key != plain.key


def test_a_specification_tells_a_place_that_nobody_else_knows(machine):
    host = machine("rhel")
    os.rename(host.path("/usr/lib64"), host.path("/srv"))
    os.rename(host.path("/usr/bin"), host.path("/programs"))
    assert driver.find(host).obstacle
    specification = cdispecs.nvidia(V, "/srv")
    program = {"hostPath": "/programs/nvidia-smi", "containerPath": "/usr/bin/nvidia-smi"}
    specification["containerEdits"]["mounts"][-1] = program
    drivertree.write(host.root, "etc/cdi/nvidia.json", json.dumps(specification))
    found = driver.find(host)
    assert (found.obstacle, found.layout) == (None, "cdi")
    (smi,) = found.binaries
    assert smi.source == host.path("/programs/nvidia-smi")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": 1}', "stale", "elsewhere"])
def test_a_specification_that_does_not_hold_is_passed_over(machine, text):
    host = machine("rhel")
    if text in ("stale", "elsewhere"):
        version, where = (OLD, "/usr/lib64") if text == "stale" else (V, "/nowhere")
        write_specification(host, version, where)
    else:
        drivertree.write(host.root, "etc/cdi/nvidia.json", text)
    assert driver.find(host).source == "filelist"


def test_a_specification_that_is_rewritten_is_noticed(machine, tmp_path):
    host = machine("rhel")
    write_specification(host, OLD, "/usr/lib64")
    assert driver.load(host, str(tmp_path / "kept")).source == "filelist"
    write_specification(host, V, "/usr/lib64")
    assert driver.load(host, str(tmp_path / "kept")).source.startswith("cdi ")


def board(root):
    drivertree.write(root, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    drivertree.write(root, "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")


def board_of_nouveau(root):
    board(root)
    drivertree.write(root, "sys/module/nouveau/initstate", "live\n")


@pytest.mark.parametrize(
    ("build", "message", "hint"),
    [
        (drivervariants.build_wsl, "Windows Subsystem for Linux", "--device=/dev/dxg"),
        (drivervariants.build_tegra, "Jetson (Tegra)", "--device=nvidia.com/gpu=all"),
        (board, "has an NVIDIA GPU, but no NVIDIA driver", "modprobe nvidia"),
        (board_of_nouveau, "nouveau drives", "blacklisted"),
        (lambda root: drivertree.write(root, "dev/kfd"), "its GPUs are AMD's", "--rocm"),
        (lambda root: None, "kernel module not loaded", "login node"),
    ],
)
def test_a_host_without_a_usable_driver_is_told_why(tmp_path, build, message, hint):
    build(str(tmp_path))
    host = Host(str(tmp_path))
    assert driver.find(host) is None
    error = absence.why(host, in_job=False)
    assert message in error.message
    assert hint in error.hint
    assert "\n" not in error.message


def test_a_job_without_a_gpu_is_told_how_to_ask_for_one(tmp_path):
    assert "--gres=gpu:1" in absence.why(Host(str(tmp_path)), in_job=True).hint


def test_a_jetson_with_a_servers_driver_is_served(machine):
    host = machine()
    drivertree.write(host.root, "etc/nv_tegra_release", "# R38\n")
    assert driver.find(host).obstacle is None
