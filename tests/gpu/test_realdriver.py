"""The files of a real driver are found whole, and their facts are read as the full parser does.

Of this machine, where one is loaded, or below `UDOCKER_TEST_DRIVER` (see `debiandriver.sh`).
"""

from __future__ import annotations

import os

import pytest

from gpu import drivertree
from udocker.host import elf, elffacts
from udocker.host.probe import Host
from udocker.host.root import Root
from udocker.nvidia import driver
from udocker.nvidia.driver import kernelmodule, libraries
from udocker.nvidia.placement import policy

TREE = os.environ.get("UDOCKER_TEST_DRIVER", "")
pytestmark = [] if TREE else [pytest.mark.realgpu]


@pytest.fixture(scope="module")
def found():
    """The driver; packages are given the kernel module that they are made for."""
    if TREE:
        names = (name for _, _, files in os.walk(TREE) for name in files)
        cuda = (name[len("libcuda.so.") :] for name in names if name.startswith("libcuda.so."))
        version = next(filter(kernelmodule.is_version, cuda))
        drivertree.build_kernel(TREE, version=version)
    return driver.find(Host(TREE or "/"))


def test_the_driver_is_found_without_a_doubt(found):
    assert (found.obstacle, found.doubts, found.other_versions) == (None, (), ())
    assert found.source
    assert found.layout
    needed = {"libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"}
    assert needed <= {library.soname for library in found.libraries}
    assert "/usr/bin/nvidia-smi" in {file.destination for file in found.binaries}


def test_the_scanner_reads_what_the_parser_reads(found):
    every = found.libraries + found.libraries32 + found.vendor_neutral
    for library in every:
        parsed = elf.read(library.path)
        if parsed is not None:  # the largest libraries are too much for the parser's bounds
            assert elffacts.scan(library.path) == parsed, library.path


def test_nothing_that_carries_the_version_is_left_beside(found):
    taken = {library.path for library in found.libraries + found.libraries32}
    for directory in {os.path.dirname(path) for path in taken}:
        for name in os.listdir(directory):
            base = name.partition(".so")[0]
            path = os.path.realpath(os.path.join(directory, name))
            if name.endswith(f".so.{found.version}") and path not in taken:
                assert base in (*libraries.NEVER, *libraries.VENDOR_NEUTRAL), path


def test_what_a_library_needs_of_the_driver_is_among_it(found):
    there = {library.soname for library in found.libraries}
    for library in found.libraries:
        own = {name for name in library.needed if name.endswith(f".{found.version}")}
        assert own <= there, library.path


def test_this_machine_as_an_image_takes_all_that_it_has_company_for(found):
    capabilities = tuple(c for c in libraries.CAPABILITIES if c != libraries.COMPAT32)
    made = policy.judge(found, capabilities, Root(""), drivertree.MACHINE, host_root=TREE)
    locked = [v for v in made if v.kind == policy.LOCKED]
    left_out = [v.reason for v in locked if v.decision != policy.OK]
    assert {"libcuda.so.1", "libnvidia-ml.so.1"} <= {v.soname for v in locked}
    assert [reason for reason in left_out if " needs " not in reason] == []
    assert len(left_out) < len(locked) / 4, left_out
