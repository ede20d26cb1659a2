"""The scanner says of ELF files what the full parser says, and garbage does not break it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from gpu import elffile
from hypothesis import given, settings
from hypothesis import strategies as st

from udocker.host import elf, elffacts

MACHINE = os.uname().machine


def of_this_system(directory, limit):
    """Return ELF files of this system, the smallest first."""
    names = (f"{directory}/{name}" for name in os.listdir(directory))
    paths = [path for path in names if os.path.isfile(path) and not os.path.islink(path)]
    found = []
    for path in sorted(paths, key=os.path.getsize):
        with open(path, "rb") as file:
            if file.read(4) == b"\x7fELF":
                found.append(path)
    return found[:limit]


@pytest.mark.parametrize("directory", [f"/usr/lib/{MACHINE}-linux-gnu", "/usr/lib64", "/usr/bin"])
def test_the_scanner_and_the_parser_agree_about_this_system(directory):
    if not os.path.isdir(directory):
        pytest.skip(f"this system has no {directory}")
    for path in of_this_system(directory, 60):
        assert elffacts.scan(path) == elf.read(path), path


def scan(directory, content):
    path = os.path.join(str(directory), "file")
    with open(path, "wb") as file:
        file.write(content)
    return elffacts.scan(path)


@pytest.mark.parametrize(
    ("bits", "machine"), [(64, "x86_64"), (64, "aarch64"), (32, "i386"), (32, "arm")]
)
def test_a_library_of_either_size_tells_everything(tmp_path, bits, machine):
    content = elffile.library(
        "libx.so.1",
        bits=bits,
        machine=machine,
        needed=["libc.so.6", "libm.so.6"],
        needs=[("libc.so.6", ("GLIBC_2.17", ("GLIBC_2.99", True))), ("libm.so.6", ("GLIBC_2.29",))],
        definitions=["X_1", "X_2"],
        runpath="/opt/lib:$ORIGIN/..",
        rpath="/old",
    )
    assert scan(tmp_path, content) == elffacts.ElfFacts(
        bits=bits,
        machine=machine,
        dynamic=True,
        soname="libx.so.1",
        needed=("libc.so.6", "libm.so.6"),
        rpath=("/old",),
        runpath=("/opt/lib", "$ORIGIN/.."),
        version_needs=(
            ("libc.so.6", (("GLIBC_2.17", False), ("GLIBC_2.99", True))),
            ("libm.so.6", (("GLIBC_2.29", False),)),
        ),
        version_definitions=("X_1", "X_2"),
    )


def test_a_long_name_is_read_to_its_end_and_an_endless_one_is_not(tmp_path):
    long = "x" * 5000
    assert scan(tmp_path, elffile.library(long)).soname == long
    assert scan(tmp_path, elffile.library("x" * 100_000)) is None


@pytest.mark.parametrize("content", [b"", b"\x7fEL", b"\x7fELF", b"\x7fELF\2\1" * 9, b"#!/bin/sh"])
def test_what_is_no_elf_file_says_nothing(tmp_path, content):
    assert scan(tmp_path, content) is None


def test_a_file_that_is_not_there_or_no_file_is_an_error(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(OSError, match=r"\["):
            elffacts.scan(str(path))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="seek"):
        elffacts.scan(str(tmp_path / "pipe"))


WHOLE = elffile.library(
    "libx.so.1",
    needed=["libc.so.6"] * 3,
    needs=[("libc.so.6", ("A", "B")), ("libm.so.6", ("C",))],
    definitions=["X_1", "X_2", "X_3"],
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8)), max_size=6
    ),
    st.integers(0, len(WHOLE)),
)
def test_no_patch_and_no_cut_breaks_the_scanner(tmp_path_factory, patches, cut):
    content = bytearray(WHOLE)
    for offset, data in patches:
        content[offset : offset + len(data)] = data
    found = scan(tmp_path_factory.getbasetemp(), bytes(content[: cut or len(content)]))
    assert found is None or found.bits in (32, 64)


def test_a_file_cannot_make_its_reader_read_on_and_on(tmp_path):
    """Every one of a million needs leads to the same name, each of which would be read."""
    count = elffacts.MAX_WORK // 64
    tags = 64 + 2 * 56
    content = bytearray(elffile.library("libx.so.1"))
    content[64 + 56 + 32 : 64 + 56 + 40] = (16 * count).to_bytes(8, "little")
    many = (1).to_bytes(8, "little") + (1).to_bytes(8, "little")
    strings = content[tags:]
    content[tags:] = bytes(strings[:64]) + many * count
    found = scan(tmp_path, bytes(content))
    assert found is None or len(found.needed) < count


def test_the_scanner_is_cheap_to_load():
    names = ("elftools", "re", "typing", "dataclasses", "ctypes", "mmap")
    code = (
        "import sys; import udocker.host.elffacts;"
        f"print([m for m in {names!r} if m in sys.modules])"
    )
    project = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-S", "-c", code]
    answer = subprocess.run(
        command, env={"PYTHONPATH": project}, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
