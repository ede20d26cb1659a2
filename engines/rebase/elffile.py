"""Reading ELF files in pieces with `struct` alone: segments, dynamic strings, versions, symbols.

`udocker.host.elf` tells more, by pyelftools, which costs 36 ms to import and says nothing of
where in a file a thing lies. Files may be hostile: every count and size is bounded. Only
little-endian files are known, of 32 and 64 bits. Source: elf(5); System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import os
import struct

from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MACHINES = {"x86_64": 62, "aarch64": 183}
"""`e_machine` by `uname -m`."""
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
ET_EXEC, ET_DYN = 2, 3
DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ = 1, 4, 5, 6, 10
DT_RPATH, DT_DEBUG, DT_RUNPATH = 15, 21, 29
DT_GNU_HASH, DT_VERDEF, DT_VERDEFNUM = 0x6FFFFEF5, 0x6FFFFFFC, 0x6FFFFFFD
DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF

MAX_STRING = 65536
MAX_TABLE = 64 << 20
"""Largest table of strings or symbols that is read or copied, in bytes."""
_MAX_SEGMENTS = 256
_MAX_DYNAMIC = 1 << 16
_MAX_NOTES = 1 << 16
_MAX_VERSIONS = 4096
_MAX_SYMBOLS = 1 << 20


@dataclass(frozen=True)
class Shape:
    """How the structures of one class lie in the file."""

    bits: int
    header: struct.Struct
    segment: struct.Struct
    dynamic: struct.Struct
    symbol: struct.Struct
    section: struct.Struct


_64 = Shape(
    64,
    struct.Struct("<16sHHIQQQIHHHHHH"),
    struct.Struct("<IIQQQQQQ"),
    struct.Struct("<QQ"),
    struct.Struct("<IBBHQQ"),
    struct.Struct("<IIQQQQIIQQ"),
)
_32 = Shape(
    32,
    struct.Struct("<16sHHIIIIIHHHHHH"),
    struct.Struct("<IIIIIIII"),
    struct.Struct("<II"),
    struct.Struct("<IIIBBH"),
    struct.Struct("<IIIIIIIIII"),
)


@dataclass(frozen=True)
class Segment:
    """A program header."""

    kind: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int
    align: int

    def pack(self, shape: Shape) -> bytes:
        """Return the header as it stands in a file."""
        place = (self.offset, self.address, self.address, self.file_size, self.memory_size)
        if shape.bits == 64:
            return shape.segment.pack(self.kind, self.flags, *place, self.align)
        return shape.segment.pack(self.kind, *place, self.flags, self.align)


@dataclass(frozen=True)
class Dynamic:
    """An entry of the dynamic section, and where it stands in the file."""

    offset: int
    tag: int
    value: int


class ElfFile:
    """An ELF file open for reading. Raises ValueError where the file contradicts itself."""

    def __init__(self, file: int) -> None:
        """`file` is a descriptor, which stays the caller's. Raises ValueError: not such a file."""
        self.file = file
        identity = os.pread(file, 64, 0)
        if identity[:4] != b"\x7fELF" or len(identity) < 52 or identity[5] != 1:
            raise ValueError("not a little-endian ELF file")
        if identity[4] not in (1, 2):
            raise ValueError("an ELF file of no known class")
        self.shape = _64 if identity[4] == 2 else _32
        if len(identity) < self.shape.header.size:
            raise ValueError("the ELF header is cut off")
        fields = self.shape.header.unpack_from(identity)
        self.kind, self.machine = fields[1], fields[2]
        self.table, entry_size, count = fields[5], fields[9], fields[10]
        self._sections = (fields[6], fields[11], fields[12])
        self._dynamic: tuple[Dynamic, ...] | None = None
        if count > _MAX_SEGMENTS or (count and entry_size != self.shape.segment.size):
            raise ValueError("absurd program headers")
        self.segments = tuple(map(self._segment, self._rows(self.table, count)))

    @property
    def interpreter(self) -> str | None:
        """The loader that the program asks the kernel for."""
        found = self.first(PT_INTERP)
        if found is None:
            return None
        data = self.read(found.offset, min(found.file_size, MAX_STRING))
        return os.fsdecode(data.partition(b"\0")[0])

    def first(self, kind: int) -> Segment | None:
        """Return the first segment of a kind."""
        return next((segment for segment in self.segments if segment.kind == kind), None)

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the file; fewer at its end."""
        try:
            return os.pread(self.file, min(size, MAX_TABLE), offset)
        except OverflowError as error:
            raise ValueError("an offset that no file has") from error

    def place(self, address: int) -> int:
        """Return the offset in the file of what lies at `address` in memory."""
        for segment in self.segments:
            if segment.kind == PT_LOAD and 0 <= address - segment.address < segment.file_size:
                return segment.offset + address - segment.address
        raise ValueError(f"address {address:#x} is in no segment")

    def dynamic(self) -> tuple[Dynamic, ...]:
        """Return the entries of the dynamic section, in order; none for static programs."""
        if self._dynamic is None:
            self._dynamic = tuple(self._entries())
        return self._dynamic

    def _entries(self) -> Iterator[Dynamic]:
        found = self.first(PT_DYNAMIC)
        if found is None:
            return
        size = self.shape.dynamic.size
        data = self.read(found.offset, min(found.file_size, _MAX_DYNAMIC))
        for offset in range(0, len(data) - size + 1, size):
            tag, value = self.shape.dynamic.unpack_from(data, offset)
            if tag == 0:
                return
            yield Dynamic(found.offset + offset, tag, value)

    def tags(self) -> dict[int, int]:
        """Return the values of the dynamic section by tag; of repeated ones the first."""
        return {entry.tag: entry.value for entry in reversed(self.dynamic())}

    def strings(self) -> tuple[int, int]:
        """Return offset and size of the table of dynamic strings. Raises ValueError."""
        tags = self.tags()
        if DT_STRTAB not in tags or not 0 < tags.get(DT_STRSZ, 0) <= MAX_TABLE:
            raise ValueError("no table of dynamic strings")
        return self.place(tags[DT_STRTAB]), tags[DT_STRSZ]

    def string(self, index: int) -> str:
        """Return a dynamic string."""
        start, size = self.strings()
        if not 0 <= index < size:
            raise ValueError(f"dynamic string {index} lies outside of its table")
        data = self.read(start + index, min(size - index, MAX_STRING))
        return os.fsdecode(data.partition(b"\0")[0])

    def needed(self) -> tuple[str, ...]:
        """Return the libraries that the file names as needed."""
        return tuple(self.string(e.value) for e in self.dynamic() if e.tag == DT_NEEDED)

    def version_needs(self) -> dict[str, frozenset[str]]:
        """Return for each needed library the versions that it must define."""
        return {file: frozenset(names) for file, names in self._version_needs()}

    def version_definitions(self) -> frozenset[str]:
        """Return the versions that this library defines, its own name among them."""
        return frozenset(self._version_definitions())

    def symbols(self) -> frozenset[str]:
        """Return the names of the dynamic symbols that the file defines."""
        tags = self.tags()
        start, size = self.strings()
        text = self.read(start, size)
        shape = self.shape.symbol
        table = self.read(self.place(tags[DT_SYMTAB]), self._symbol_count(tags) * shape.size)
        section = 3 if self.shape.bits == 64 else 5
        whole = len(table) - len(table) % shape.size
        rows = (row for row in shape.iter_unpack(table[:whole]) if row[section])
        ends = ((row[0], text.find(b"\0", row[0], row[0] + MAX_STRING)) for row in rows)
        return frozenset(os.fsdecode(text[begin:end]) for begin, end in ends if end > begin)

    def notes(self) -> Iterator[bytes]:
        """Yield the owners of the notes that are loaded with the program (`GNU`, `Go`)."""
        for segment in self.segments:
            if segment.kind == PT_NOTE:
                data = self.read(segment.offset, min(segment.file_size, _MAX_NOTES))
                yield from _owners(data, 8 if segment.align == 8 else 4)

    def sections(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield offset and fields of each section header; none where there are none, as may be."""
        start, entry_size, count = self._sections
        shape = self.shape.section
        data = self.read(start, count * shape.size) if entry_size == shape.size else b""
        for number in range(len(data) // shape.size):
            yield start + number * shape.size, shape.unpack_from(data, number * shape.size)

    def _rows(self, offset: int, count: int) -> Iterator[tuple[int, ...]]:
        data = self.read(offset, count * self.shape.segment.size)
        if len(data) < count * self.shape.segment.size:
            raise ValueError("the program headers are cut off")
        return self.shape.segment.iter_unpack(data)

    def _segment(self, row: tuple[int, ...]) -> Segment:
        if self.shape.bits == 64:
            kind, flags, offset, address, _, file_size, memory_size, align = row
        else:
            kind, offset, address, _, file_size, memory_size, flags, align = row
        return Segment(kind, flags, offset, address, file_size, memory_size, align)

    def _version_needs(self) -> Iterator[tuple[str, list[str]]]:
        tags = self.tags()
        if DT_VERNEED not in tags:
            return
        data = self.read(self.place(tags[DT_VERNEED]), 1 << 20)
        entry = struct.Struct("<HHIII")
        for where, fields in _chain(data, 0, entry, 4, tags.get(DT_VERNEEDNUM, 0)):
            auxiliary = _chain(data, where + fields[3], struct.Struct("<IHHII"), 4, fields[1])
            yield self.string(fields[2]), [self.string(row[3]) for _, row in auxiliary]

    def _version_definitions(self) -> Iterator[str]:
        tags = self.tags()
        if DT_VERDEF not in tags:
            return
        data = self.read(self.place(tags[DT_VERDEF]), 1 << 20)
        entry = struct.Struct("<HHHHIII")
        for where, fields in _chain(data, 0, entry, 6, tags.get(DT_VERDEFNUM, 0)):
            for _, row in _chain(data, where + fields[5], struct.Struct("<II"), 1, 1):
                yield self.string(row[0])

    def _symbol_count(self, tags: dict[int, int]) -> int:
        if DT_HASH in tags:
            return min(self._words(self.place(tags[DT_HASH]), 2)[1], _MAX_SYMBOLS)
        if DT_GNU_HASH not in tags:
            raise ValueError("no hash table says how many symbols there are")
        return self._gnu_count(self.place(tags[DT_GNU_HASH]))

    def _gnu_count(self, start: int) -> int:
        """Return the number of symbols by the hash table: the end of its last chain."""
        buckets, first, words, _ = self._words(start, 4)
        place = start + 16 + words * self.shape.bits // 8
        if buckets > _MAX_SYMBOLS:
            raise ValueError("an absurd hash table")
        last = max(self._words(place, buckets), default=0)
        if last < first:
            return first
        chain = self.read(place + 4 * buckets + 4 * (last - first), 4 * _MAX_SYMBOLS)
        for number in range(len(chain) // 4):
            if chain[4 * number] & 1:
                return last + number + 1
        raise ValueError("a chain of the hash table has no end")

    def _words(self, offset: int, count: int) -> tuple[int, ...]:
        data = self.read(offset, 4 * count)
        if len(data) < 4 * count:
            raise ValueError("a table is cut off")
        return struct.unpack(f"<{count}I", data)


def _chain(
    data: bytes, start: int, entry: struct.Struct, following: int, count: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield offset and fields of linked entries; field `following` is the distance to the next."""
    where = start
    for _ in range(min(count, _MAX_VERSIONS)):
        if where + entry.size > len(data):
            raise ValueError("the versions are cut off")
        fields = entry.unpack_from(data, where)
        yield where, fields
        if not fields[following]:
            return
        where += fields[following]


def _owners(data: bytes, align: int) -> Iterator[bytes]:
    where = 0
    while where + 12 <= len(data):
        name_size, content_size, _ = struct.unpack_from("<III", data, where)
        where += 12
        yield data[where : where + min(name_size, 64)].rstrip(b"\0")
        where += -(-name_size // 4) * 4
        where += -(-content_size // align) * align
