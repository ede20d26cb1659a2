"""The heap of programs under PRoot 5.1, which is left to the kernel.

PRoot makes a heap of its own for each program, and keeps its place in a record that a child with
the parent's memory (clone(2) with CLONE_VM, as posix_spawn(3) and musl make them) shares. When
that child executes a program the record is emptied and becomes the new program's: the parent is
told of an end of its heap where it has no memory, and is killed by SIGSEGV. Version 5.2.0 gives
the child a record of its own.

A program whose first call of brk(2) names an end that the kernel grants has its heap left alone.
So what PRoot's loader, which stands before each program, does first is to ask for the end that
the heap has anyway. A record that is emptied later does no harm: to name an end is then again
the first call.

Source: proot-me/proot, src/tracee/tracee.c (new_child), src/syscall/heap.c, src/execve/exit.c,
pull request 119, CHANGELOG.rst (5.2.0).

`CODE` is what the assembler makes of the files beside this one; tests/test_heap.py compares.
"""

from __future__ import annotations

import struct

CODE = {
    "x86_64": "57bf01000000b80c0000000f054889c7b80c0000000f055f",
    "i386": "5053bb01000000b82d000000cd8089c3b82d000000cd805b58",
    "aarch64": "e90300aa200080d2c81a80d2010000d4010000d4e00309aa",
}
_AFFECTED = (b"\0005.0.", b"\000v5.0.", b"\0005.1.", b"\000v5.1.")
"""How the text of the version begins in binaries with loaders and a shared record."""
_MACHINES = {62: "x86_64", 3: "i386", 183: "aarch64"}
"""By their numbers in ELF. Source: EM_* of elf.h."""
_FORMATS = {2: ("<2HIQQQI6H", "<2I6Q"), 1: ("<2HIIIII6H", "<8I")}
"""By the class of the ELF file: the header behind its first 16 bytes, and that of a segment."""
_IDENTITY_BYTES = 16
_ENTRY = 24
"""Where the first address is named, in both classes."""
_PT_LOAD, _EXECUTE = 1, 1


class _Segment:
    """A part of the file that is loaded: where it lies in the file, and in memory."""

    def __init__(self, loader: bytes, at: int, bits: int) -> None:
        values = struct.unpack_from(_FORMATS[bits][1], loader, at)
        if bits == 2:
            self.kind, self.flags, self.offset, self.address, _, *sizes = values
        else:
            self.kind, self.offset, self.address, _, *sizes = values
            self.flags = values[6]
        self.file_bytes, self.bytes = sizes[:2]
        self.sizes_at = at + (32 if bits == 2 else 16)

    def leaves_free(self, offset: int, address: int, size: int) -> bool:
        """Tell whether `size` bytes of the file, and of memory, are no part of it."""
        in_file = offset < self.offset + self.file_bytes and self.offset < offset + size
        in_memory = address < self.address + self.bytes and self.address < address + size
        return not in_file and not in_memory


def is_needed(proot: bytes) -> bool:
    """Tell whether a binary of PRoot is one that has programs share a record."""
    return any(version in proot for version in _AFFECTED)


def left_to_kernel(loader: bytes) -> bytes:
    """Return a loader of PRoot that has heaps left to the kernel.

    `loader` is an ELF executable. The code is put behind that of the segment which can be
    executed; a loader that has no room there is returned as it is.
    """
    try:
        return _changed(loader, loader[4])
    except struct.error:  # its tables lie outside of it
        return loader


def _changed(loader: bytes, bits: int) -> bytes:
    header = struct.unpack_from(_FORMATS[bits][0], loader, _IDENTITY_BYTES)
    machine, entry, table, size, count = _MACHINES.get(header[1]), *header[3:5], *header[8:10]
    segments = [_Segment(loader, table + size * number, bits) for number in range(count)]
    segments = [segment for segment in segments if segment.kind == _PT_LOAD]
    target = next((segment for segment in segments if segment.flags & _EXECUTE), None)
    if machine is None or target is None or target.file_bytes != target.bytes:
        return loader
    offset, address = target.offset + target.bytes, target.address + target.bytes
    code = _before(machine, address, entry)
    if not all(segment.leaves_free(offset, address, len(code)) for segment in segments):
        return loader
    made = bytearray(loader)
    made[offset : offset + len(code)] = code
    word = "Q" if bits == 2 else "I"
    struct.pack_into(f"<2{word}", made, target.sizes_at, *(target.bytes + len(code),) * 2)
    struct.pack_into(f"<{word}", made, _ENTRY, address)
    return bytes(made)


def _before(machine: str, start: int, entry: int) -> bytes:
    """Return the code as it is to lie at the address `start`; it goes on at `entry`."""
    code = bytes.fromhex(CODE[machine])
    end = start + len(code)
    if machine == "aarch64":  # B, counted in words from itself
        return code + struct.pack("<I", 0x14000000 | ((entry - end) // 4 & 0x3FFFFFF))
    return code + b"\xe9" + struct.pack("<i", entry - end - 5)  # JMP, counted from its end
