"""What the loader reads of an ELF file, and no more.

Everything is found by way of the program headers, as the loader finds it, so files without
section headers tell their versions too. Scanning 36 libraries so takes 3 ms where a full parser
takes 70, and 45 more to be imported; `udocker.host.elf` has that one.

Files may be hostile: each is read by `pread` (a file that is cut short meanwhile kills who has
mapped it), and only so much of it. That bounds every count, table and string at once.
"""

from __future__ import annotations

import os
import struct

from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_WORK = 4 << 20
"""How much may be read of one file, in bytes, each read counted as `_READ_COST` more."""
_READ_COST = 64
_STRING_BYTES = 256
_MAX_STRING = 1 << 16
_MAX_PROGRAM_HEADERS = 1024
_MAX_DYNAMIC_BYTES = 1 << 18
_MAX_VERSION_BYTES = 1 << 16
_MAX_VERSIONS = 1 << 14

_MACHINES = {62: "x86_64", 183: "aarch64", 3: "i386", 40: "arm"}
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = range(0x6FFFFFFC, 0x70000000)
_VER_FLG_BASE = 1
_VER_FLG_WEAK = 2


@dataclass(frozen=True)
class ElfFacts:
    """What a program or library says about itself and about what it needs."""

    bits: int
    """64 or 32."""
    machine: str
    """As `uname -m` says it; `EM_...` or the number for machines that are not known here."""
    dynamic: bool
    """False: it is linked statically and needs nothing."""
    interpreter: str | None = None
    """The loader that a program asks the kernel for."""
    soname: str | None = None
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    """Directories, `$ORIGIN` as written. Without effect beside a `runpath`."""
    runpath: tuple[str, ...] = ()
    version_needs: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...] = ()
    """For each needed file: the versions it must define, and whether it may do without (weak)."""
    version_definitions: tuple[str, ...] = ()
    """Versions that this library defines, its own name not among them."""


def scan(path: str) -> ElfFacts | None:
    """Return what the ELF file at host path `path` says; None when it is none, or a broken one.

    Raises OSError when it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        identity = os.pread(descriptor, 6, 0)
        if identity[:4] != b"\x7fELF" or identity[4:] not in (b"\1\1", b"\2\1", b"\1\2", b"\2\2"):
            return None
        return _File(descriptor, 32 * identity[4], "<" if identity[5] == 1 else ">").facts()
    except (ValueError, struct.error):
        return None
    finally:
        os.close(descriptor)


class _File:
    """An open ELF file. Its methods raise ValueError or struct.error where it is broken."""

    def __init__(self, descriptor: int, bits: int, order: str) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._left = MAX_WORK
        self._bits = bits
        wide = bits == 64
        self._header = struct.Struct(order + ("HHIQQQIHHH" if wide else "HHIIIIIHHH"))
        self._segment = struct.Struct(order + ("I4xQQ8xQ16x" if wide else "III4xI12x"))
        self._tag = struct.Struct(order + ("QQ" if wide else "II"))
        self._need = struct.Struct(order + "HHIII")
        self._need_version = struct.Struct(order + "4xHHII")
        self._definition = struct.Struct(order + "2xHHH4xII")
        self._definition_name = struct.Struct(order + "I")
        self._loaded: list[tuple[int, int, int]] = []
        self._strings = 0

    def facts(self) -> ElfFacts:
        head = self._read(16, self._header.size)
        _, machine, _, _, start, _, _, _, size, count = self._header.unpack(head)
        interpreter, tags = None, []
        for kind, offset, address, length in self._segments(start, size, count):
            if kind == _PT_LOAD:
                self._loaded.append((address, length, offset))
            elif kind == _PT_DYNAMIC:
                tags = list(self._tags(offset, length))
            elif kind == _PT_INTERP:
                interpreter = self._string(offset)
        last = dict(tags)
        if tags:
            self._strings = self._offset(last.get(_DT_STRTAB, 0))
        needed = tuple(self._name(value) for kind, value in tags if kind == _DT_NEEDED)
        soname = self._name(last[_DT_SONAME]) if _DT_SONAME in last else None
        return ElfFacts(
            bits=self._bits,
            machine=_MACHINES.get(machine, str(machine)),
            # a static-PIE has a dynamic segment, but neither a loader nor a need
            dynamic=bool(tags and (needed or interpreter or soname)),
            interpreter=interpreter,
            soname=soname,
            needed=needed,
            rpath=self._directories(last.get(_DT_RPATH)),
            runpath=self._directories(last.get(_DT_RUNPATH)),
            version_needs=tuple(self._needs(last)),
            version_definitions=tuple(self._definitions(last)),
        )

    def _segments(self, start: int, size: int, count: int) -> Iterator[tuple[int, int, int, int]]:
        if not count:
            return iter(())
        if size != self._segment.size or count > _MAX_PROGRAM_HEADERS:
            raise ValueError("program headers of another size or number than any loader takes")
        table = self._read(start, size * count)
        return self._segment.iter_unpack(table)

    def _tags(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        length = min(length, _MAX_DYNAMIC_BYTES)
        table = self._read(offset, length - length % self._tag.size)
        for kind, value in self._tag.iter_unpack(table):
            if not kind:
                return
            yield kind, value

    def _needs(self, tags: dict[int, int]) -> Iterator[tuple[str, tuple[tuple[str, bool], ...]]]:
        if _DT_VERNEED not in tags:
            return
        data = self._table(tags[_DT_VERNEED])
        position = 0
        for _ in range(min(tags.get(_DT_VERNEEDNUM, 0), _MAX_VERSIONS)):
            _, count, file, first, step = self._need.unpack_from(data, position)
            yield self._name(file), tuple(self._need_versions(data, position + first, count))
            if not step:
                return
            position += step

    def _need_versions(self, data: bytes, position: int, count: int) -> Iterator[tuple[str, bool]]:
        for _ in range(count):
            flags, _, name, step = self._need_version.unpack_from(data, position)
            yield self._name(name), bool(flags & _VER_FLG_WEAK)
            if not step:
                return
            position += step

    def _definitions(self, tags: dict[int, int]) -> Iterator[str]:
        if _DT_VERDEF not in tags:
            return
        data = self._table(tags[_DT_VERDEF])
        position = 0
        for _ in range(min(tags.get(_DT_VERDEFNUM, 0), _MAX_VERSIONS)):
            flags, _, count, first, step = self._definition.unpack_from(data, position)
            if count and not flags & _VER_FLG_BASE:
                (name,) = self._definition_name.unpack_from(data, position + first)
                yield self._name(name)
            if not step:
                return
            position += step

    def _table(self, address: int) -> bytes:
        offset = self._offset(address)
        return self._read(offset, min(_MAX_VERSION_BYTES, self._size - offset))

    def _directories(self, position: int | None) -> tuple[str, ...]:
        return () if position is None else tuple(filter(None, self._name(position).split(":")))

    def _name(self, position: int) -> str:
        return self._string(self._strings + position)

    def _string(self, offset: int) -> str:
        data, length = b"", _STRING_BYTES
        while b"\0" not in data:
            if length > _MAX_STRING:
                raise ValueError("a name without an end")
            data = self._read(offset, min(length, self._size - offset))
            length = length * 16 if offset + length < self._size else _MAX_STRING + 1
        return data[: data.index(b"\0")].decode("utf-8", "replace")

    def _offset(self, address: int) -> int:
        """Return where in the file lies what the loader has at `address`."""
        for start, length, offset in self._loaded:
            if start <= address < start + length:
                return offset + address - start
        raise ValueError(f"nothing is loaded at {address:#x}")

    def _read(self, offset: int, length: int) -> bytes:
        self._left -= length + _READ_COST
        if self._left < 0:
            raise ValueError("it makes its reader read too much")
        if length < 0 or offset + length > self._size:
            raise ValueError("it points behind its end")
        return os.pread(self._descriptor, length, offset)
