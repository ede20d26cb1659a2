"""ELF executables of a few instructions, made where no compiler is.

Source: elf(5); System V ABI, chapters 4 and 5; what glibc and musl ask of a program's dynamic
section.
"""

from __future__ import annotations

import struct

from udocker.values import dataclass

MACHINES = {"x86_64": 62, "aarch64": 183}
"""Machines for which there is code, and their numbers in ELF. Source: EM_* of elf.h."""
_BASE, _PAGE = 0x400000, 0x10000
"""Where a program lies in memory; no machine has larger pages than 64 KiB."""
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_STACK = 1, 2, 3, 0x6474E551
_READ, _WRITE, _EXECUTE = 4, 2, 1
_DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT = 1, 4, 5, 6, 10, 11
_HEADER_BYTES, _SEGMENT_BYTES, _SYMBOL_BYTES = 64, 56, 24
_SEGMENTS = 5
_CODE = _HEADER_BYTES + _SEGMENTS * _SEGMENT_BYTES
DATA_ADDRESS = _BASE + _PAGE
"""Where the data of a program lies in memory, for pointers in it."""


@dataclass(frozen=True)
class Loader:
    """What makes a program a dynamic one."""

    interpreter: str
    """Absolute path of ld.so."""
    needed: tuple[str, ...]
    """Sonames of the libraries that it loads; none of their functions is called."""


def executable(machine: str, code: bytes, data: bytes = b"", loader: Loader | None = None) -> bytes:
    """Return an ELF executable that begins at the first byte of `code`; static without `loader`.

    `data` lies at DATA_ADDRESS and can be written to. The machine is one of MACHINES, the code
    is shorter than 32 KiB.
    """
    text = _aligned(code)
    dynamic = _Dynamic(loader, _CODE + len(text)) if loader else None
    tail = dynamic.data if dynamic else b""
    segments = [
        _segment(_PT_LOAD, _READ | _EXECUTE, 0, _CODE + len(text) + len(tail)),
        _segment(_PT_STACK, _READ | _WRITE, 0, 0),
    ]
    if data:
        segments.insert(1, _segment(_PT_LOAD, _READ | _WRITE, _PAGE, len(data)))
    if dynamic:
        segments.insert(0, _segment(_PT_INTERP, _READ, _CODE + len(text), dynamic.name_bytes))
        segments.append(_segment(_PT_DYNAMIC, _READ, dynamic.offset, dynamic.size))
    table = b"".join(segments).ljust(_SEGMENTS * _SEGMENT_BYTES, b"\0")
    front = _header(machine, len(segments)) + table + text + tail
    return front.ljust(_PAGE, b"\0") + data if data else front


class _Dynamic:
    """The interpreter's name and the dynamic section, as they lie in the file from `start`."""

    def __init__(self, loader: Loader, start: int) -> None:
        name = loader.interpreter.encode() + b"\0"
        strings = b"\0" + b"".join(library.encode() + b"\0" for library in loader.needed)
        table = _aligned(name)
        symbols = _BASE + start + len(table)
        table += b"\0" * _SYMBOL_BYTES
        hashes = _BASE + start + len(table)
        table += struct.pack("<4I", 1, 1, 0, 0)  # one bucket, one symbol: the one that is none
        texts = _BASE + start + len(table)
        table = _aligned(table + strings)
        entries = [(_DT_NEEDED, strings.index(library.encode())) for library in loader.needed]
        entries += [(_DT_HASH, hashes), (_DT_STRTAB, texts), (_DT_SYMTAB, symbols)]
        entries += [(_DT_STRSZ, len(strings)), (_DT_SYMENT, _SYMBOL_BYTES), (0, 0)]
        self.data = table + b"".join(struct.pack("<2Q", *entry) for entry in entries)
        self.name_bytes = len(name)
        self.offset = start + len(table)
        self.size = 16 * len(entries)


def _aligned(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 16) * 16, b"\0")


def _header(machine: str, segments: int) -> bytes:
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little-endian
    kind = struct.pack("<2HI", 2, MACHINES[machine], 1)
    places = struct.pack("<3QI", _BASE + _CODE, _HEADER_BYTES, 0, 0)
    return identity + kind + places + struct.pack("<6H", 64, _SEGMENT_BYTES, segments, 64, 0, 0)


def _segment(kind: int, flags: int, offset: int, size: int) -> bytes:
    """Return the entry of a part of the file that lies in memory in the same order."""
    alignment = _PAGE if kind == _PT_LOAD else 16
    where = (offset, _BASE + offset, _BASE + offset)
    return struct.pack("<2I6Q", kind, flags, *where, size, size, alignment)
