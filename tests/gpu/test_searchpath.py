"""LD_LIBRARY_PATH and LD_PRELOAD of a program, where they lead past the host's driver."""

from __future__ import annotations

import pytest

from gpu import drivertree
from udocker.nvidia.placement import searchpath

FIRST = ("/run/udocker/gpu/lib",)
SONAMES = {"libcuda": "libcuda.so.1", "libnvidia-ml": "libnvidia-ml.so.1"}
OLD = drivertree.stub_library("libcuda.so.1")
FILES = {"opt/old/libcuda.so.1": OLD, "opt/app/libcuda.so.1": OLD, "opt/app/libapp.so": OLD}


def cleaned(image, kept=(), **program):
    files = {**FILES, "opt/other/libother.so": OLD}
    return searchpath.cleaned(program, image(files=files), FIRST, SONAMES, kept)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("/opt/old:/opt/other", "/opt/other"),
        ("/opt/old;/opt/other", "/opt/other"),
        ("/opt/other;/opt/app:/x", "/opt/other:/run/udocker/gpu/lib:/opt/app:/x"),
        ("/opt/../opt/old/", ""),
    ],
)
def test_directories_of_another_driver_are_left_out_or_come_later(image, given, value):
    search = cleaned(image, LD_LIBRARY_PATH=given)
    assert search.variables == (("LD_LIBRARY_PATH", value),)
    assert len(search.notes) == 1 and "libcuda.so.1" in search.notes[0]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("/opt/old/libcuda.so.1", "libcuda.so.1"),
        ("/usr/lib64/libnvidia-ml.so /opt/libmine.so", "libnvidia-ml.so.1:/opt/libmine.so"),
        ("/opt/libmine.so:/x/libcuda.so.535.54.03", "/opt/libmine.so:libcuda.so.1"),
    ],
)
def test_a_library_of_the_driver_that_is_preloaded_is_the_hosts(image, given, value):
    """By its name, whether the image has a file at the path that it is named by or not."""
    search = cleaned(image, LD_PRELOAD=given)
    assert search.variables == (("LD_PRELOAD", value),)
    assert search.notes[0].startswith("gpu: LD_PRELOAD: the host's lib")


@pytest.mark.parametrize(
    "program",
    [
        {},
        {"LD_LIBRARY_PATH": "", "LD_PRELOAD": ""},
        {"LD_LIBRARY_PATH": "/opt/other;:/nowhere:.", "LD_PRELOAD": "libcuda.so.1 /a/libcuda"},
    ],
)
def test_what_misleads_nobody_stays_as_it_is(image, program):
    assert cleaned(image, **program) == searchpath.Search()


def test_what_is_meant_to_win_over_the_driver_does(image):
    program = {"LD_LIBRARY_PATH": "/opt/old", "LD_PRELOAD": "/opt/old/libcuda.so.1"}
    assert cleaned(image, ("/opt/old",), **program) == searchpath.Search()
