"""NVML is asked through the driver that was found, and its failures are sentences."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gpu.drivertree import MACHINE, VERSION, pci, uuid

SCRIPT = """
import sys
from udocker.errors import GpuError
from udocker.host.probe import Host
from udocker.nvidia import driver
from udocker.nvidia.devices import nvml
try:
    for gpu in nvml.list_gpus(driver.find(Host(sys.argv[1]))):
        print(gpu.index, gpu.uuid, gpu.name, gpu.minor, gpu.pci, gpu.memory_bytes >> 30, end=" ")
        print(gpu.arch, gpu.brand)
except GpuError as error:
    print("error:", error.message)
"""


@pytest.fixture
def ask(machine):
    """A function that asks NVML in a process of its own, as a library stays loaded in one."""

    def run(host=None, **environment):
        host = host or machine(gpus=2)
        project = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        environment.update(PYTHONPATH=project, FAKE_DRIVER_ROOT=host.root)
        command = [sys.executable, "-c", SCRIPT, host.root]
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        return answer.stdout.splitlines()

    return run


def test_gpus_are_listed_in_nvmls_order(ask):
    assert ask() == [
        f"0 {uuid(1)} NVIDIA Fake GPU 1 {pci(1)} 80 9.0 nvidia",
        f"1 {uuid(0)} NVIDIA Fake GPU 0 {pci(0)} 80 9.0 nvidia",
    ]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("9", "the kernel module is not loaded (error 9)"),
        ("18", "updated without reboot (error 18)"),
        ("4", "may not open the device nodes (error 4)"),
        ("999", "(error 999)"),
    ],
)
def test_failures_of_initialisation_are_sentences(ask, number, words):
    (line,) = ask(FAKE_NVML_INIT=number)
    assert line.startswith("error: gpu: NVML failed: ")
    assert words in line


def test_a_library_that_cannot_be_loaded_is_told(ask, machine):
    host = machine()
    path = host.path(f"/usr/lib/{MACHINE}-linux-gnu/libnvidia-ml.so.{VERSION}")
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:  # a library that needs one which no machine has
        file.write(content.replace(b"libc.so.6\0", b"lib?.so.6\0"))
    (line,) = ask(host)
    assert "error: gpu: NVML failed: lib?.so.6" in line


def test_a_driver_without_nvml_is_told(ask, machine):
    host = machine()
    os.unlink(host.path(f"/usr/lib/{MACHINE}-linux-gnu/libnvidia-ml.so.{VERSION}"))
    assert ask(host) == [f"error: gpu: driver {VERSION} has no libnvidia-ml.so.1 on disk"]
