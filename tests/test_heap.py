"""PRoot's loaders begin with code that has the heap of programs left to the kernel."""

import os
import platform
import struct
import subprocess

import pytest
from registries import needs

from udocker.engines import heap, loaders, machinecode

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ARCH = platform.machine()
EXIT_7 = {"x86_64": "89f8050700000089c7b83c0000000f05", "aarch64": "e0008052a80b80d2010000d4"}
"""exit(7); on x86-64 only if the register that a loader gets its script in is still empty."""


@pytest.mark.parametrize("machine", sorted(heap.CODE))
def test_the_code_is_what_the_assembler_makes_of_the_source(machine, tmp_path):
    is_native = machine == ARCH or (ARCH, machine) == ("x86_64", "i386")
    prefix = "" if is_native else f"{machine}-linux-gnu-"
    bits = ["--32"] if machine == "i386" else []
    needs(f"{prefix}as", f"{prefix}objcopy")
    made, source = str(tmp_path / "made"), f"{ROOT}/engines/heap/{machine}.s"
    subprocess.run([f"{prefix}as", *bits, "-o", f"{made}.o", source], check=True)
    copy = [f"{prefix}objcopy", "-O", "binary", "-j", ".text", f"{made}.o", f"{made}.bin"]
    subprocess.run(copy, check=True)
    with open(f"{made}.bin", "rb") as file:
        assert file.read().hex() == heap.CODE[machine]


@pytest.mark.parametrize("machine", sorted(EXIT_7))
def test_a_loader_goes_on_as_it_began(machine, tmp_path):
    emulator = [] if machine == ARCH else [f"qemu-{machine}-static"]
    needs(*emulator)
    loader = machinecode.executable(machine, bytes.fromhex(EXIT_7[machine]))
    changed = heap.left_to_kernel(loader)
    assert bytes.fromhex(heap.CODE[machine]) in changed
    path = tmp_path / "loader"
    path.write_bytes(changed)
    path.chmod(0o755)
    assert subprocess.run([*emulator, str(path)], check=False).returncode == 7


def test_a_loader_without_room_stays_as_it_is():
    loader = bytearray(machinecode.executable("x86_64", bytes.fromhex(EXIT_7["x86_64"])))
    in_memory = 64 + 40  # of the first segment: what follows in memory is to be zero
    struct.pack_into("<Q", loader, in_memory, 1 << 16)
    assert heap.left_to_kernel(bytes(loader)) == loader
    cut = bytes(loader[:100])
    assert heap.left_to_kernel(cut) == cut


@pytest.mark.parametrize(
    ("version", "is_changed"), [(b"5.1.0", True), (b"v5.1.0-12-gabc", True), (b"5.4.0", False)]
)
def test_only_loaders_of_versions_with_that_fault_are_changed(version, is_changed, tmp_path):
    loader = machinecode.executable("x86_64", bytes.fromhex(EXIT_7["x86_64"]))
    table = struct.pack("<Q", len(loader))  # with no section headers, at its end
    loader = loader[:40] + table + loader[48:]
    proot = tmp_path / "proot"
    proot.write_bytes(b"\x7fELF".ljust(64, b"\0") + version + b"\0" + loader)
    loaders.make(str(proot), str(tmp_path / "cache"))
    made = loaders.made(str(proot), str(tmp_path / "cache"))
    with open(made["PROOT_LOADER"], "rb") as file:
        assert (file.read() != loader) == is_changed
