"""ELF files that ask for another loader, or for libraries elsewhere: what to write, and where.

The kernel reads a loader's name by its offset in the file, so a new name is appended and two
fields of a header point to it. The dynamic loader reads its strings from memory: a grown copy of
their table is appended, and a note, which nothing needs to run, becomes the segment that maps it.
Nothing that was in the file moves, and what is overwritten is known before anything is written:
a file can be brought back byte for byte. Source: Linux fs/binfmt_elf.c; glibc elf/rtld.c.
"""

from __future__ import annotations

import os

from udocker.engines.rebase.elffile import (
    DT_DEBUG,
    DT_NEEDED,
    DT_RPATH,
    DT_RUNPATH,
    DT_STRSZ,
    DT_STRTAB,
    MAX_STRING,
    PT_DYNAMIC,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    ElfFile,
    Segment,
)
from udocker.errors import UdockerError
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PAGE = 4096
_MAX_ALIGN = 2 << 20
_READABLE = 4
_SHT_STRTAB = 3
_PATHS = (DT_RPATH, DT_RUNPATH)
_CHUNK = 1 << 20
MAX_INTERPRETER = 4095
"""Longest name of a loader that the kernel takes, in bytes."""


@dataclass(frozen=True)
class Edit:
    """Bytes at an offset that are overwritten."""

    offset: int
    old: bytes
    new: bytes


@dataclass(frozen=True)
class Change:
    """What is done to one file: edits within its old size, and what is appended behind it."""

    size: int
    """The file's size before."""
    edits: tuple[Edit, ...] = ()
    copied: tuple[int, int] = (0, 0)
    """Offset and size of a part of the file itself that is appended first, after `padding`."""
    padding: int = 0
    appended: bytes = b""

    @property
    def grown(self) -> int:
        """The file's size afterwards."""
        return self.size + self.padding + self.copied[1] + len(self.appended)

    def apply(self, file: int) -> None:
        """Write it: first what is appended, then what refers to that. Raises OSError."""
        start, left = self.copied
        where = self.size + self.padding
        while left:
            data = os.pread(file, min(left, _CHUNK), start)
            if not data:
                raise OSError("the file is shorter than it says")
            _write(file, data, where)
            start, where, left = start + len(data), where + len(data), left - len(data)
        _write(file, self.appended, where)
        for edit in self.edits:
            _write(file, edit.new, edit.offset)


def _write(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def redirected(
    elf: ElfFile, interpreter: str | None, path: Callable[[str], str], *, shrink: bool = False
) -> Change | None:
    """Return the change by which the file asks for `interpreter` and for libraries in `path(d)`.

    `interpreter` None keeps the one that is there, and a file that asks for none gets none.
    `path` maps absolute directories of RPATH and RUNPATH, and needed libraries with absolute
    names. With `shrink` new strings, which may not be longer, take the place of the old ones:
    for files that this module wrote. None: nothing to change. Raises ValueError when the file
    has no room for what is wanted, or is broken.
    """
    size = os.fstat(elf.file).st_size
    strings = [*_new_strings(elf, path)]
    change = Change(size)
    if strings:
        change = _shrunk(elf, change, strings) if shrink else _grown(elf, change, strings)
    old = elf.interpreter
    if interpreter is not None and old is not None and old != interpreter:
        change = _with_interpreter(elf, change, interpreter)
    return _sound(change) if change.edits else None


def _sound(change: Change) -> Change:
    """Return the change if its edits lie apart from each other and in the file."""
    end = 0
    for edit in sorted(change.edits, key=lambda edit: edit.offset):
        if edit.offset < end or len(edit.old) != len(edit.new):
            raise ValueError("parts of it lie over each other")
        end = edit.offset + len(edit.old)
    if end > change.size or sum(change.copied) > change.size:
        raise ValueError("it is cut off")
    return change


def library_paths(elf: ElfFile) -> tuple[str, ...]:
    """Return what the file says of where its libraries lie: RPATH, RUNPATH, absolute names."""
    tags = (*_PATHS, DT_NEEDED)
    texts = (elf.string(entry.value) for entry in elf.dynamic() if entry.tag in tags)
    return tuple(text for text in texts if "/" in text)


@dataclass(frozen=True)
class _Text:
    """A dynamic string that changes: where its entry stands, and what it says."""

    offset: int
    tag: int
    index: int
    old: str
    new: str


def set_runpath(path: str, runpath: str) -> None:
    """The ELF file at host path `path` looks for its libraries in `runpath` first.

    A RUNPATH or RPATH that it has is replaced. For files that nobody uses yet: a reader may see
    a part of the change. Raises UdockerError when it is no such file, has no room, or cannot be
    written.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            elf = ElfFile(file)
            text = _runpath_text(elf, runpath)
            if text.old != runpath or text.tag != DT_RUNPATH:
                _sound(_grown(elf, Change(os.fstat(file).st_size), [text])).apply(file)
        finally:
            os.close(file)
    except (OSError, ValueError) as error:
        raise UdockerError(f"{path}: its RUNPATH cannot be set: {error}") from error


def _runpath_text(elf: ElfFile, runpath: str) -> _Text:
    for entry in elf.dynamic():
        if entry.tag in _PATHS:
            old = elf.string(entry.value) if entry.tag == DT_RUNPATH else ""
            return _Text(entry.offset, DT_RUNPATH, entry.value, old, runpath)
    return _Text(_free_entry(elf), DT_RUNPATH, 0, "", runpath)


def _free_entry(elf: ElfFile) -> int:
    """Return the offset of a dynamic entry that can be had: a spare one, or the debugger's."""
    found, entries = elf.first(PT_DYNAMIC), elf.dynamic()
    size = elf.shape.dynamic.size
    if found is None or not entries:
        raise ValueError("it is linked statically")
    end = entries[-1].offset + size
    if end + 2 * size <= found.offset + found.file_size and not any(elf.read(end, 2 * size)):
        return end
    for entry in entries:
        if entry.tag == DT_DEBUG:
            return entry.offset
    raise ValueError("its dynamic section has no room for another entry")


def _new_strings(elf: ElfFile, path: Callable[[str], str]) -> Iterator[_Text]:
    """Yield what changes of the dynamic strings."""
    for entry in elf.dynamic():
        if entry.tag in (*_PATHS, DT_NEEDED):
            old = elf.string(entry.value)
            new = _mapped(old, path) if entry.tag in _PATHS else _mapped_name(old, path)
            if new != old:
                yield _Text(entry.offset, entry.tag, entry.value, old, new)


def _mapped(directories: str, path: Callable[[str], str]) -> str:
    return ":".join(path(d) if d.startswith("/") else d for d in directories.split(":"))


def _mapped_name(name: str, path: Callable[[str], str]) -> str:
    return path(name) if name.startswith("/") else name


def _grown(elf: ElfFile, change: Change, texts: list[_Text]) -> Change:
    """Add a copy of the string table that has the new strings behind the old ones."""
    start, old_size = elf.strings()
    tail = b""
    edits = []
    for text in texts:
        edits.append(_entry_edit(elf, text.offset, text.tag, old_size + len(tail)))
        tail += os.fsencode(text.new) + b"\0"
        if len(tail) > 16 * MAX_STRING:
            raise ValueError("its paths are absurdly long")
    segment, index = _segment_for(elf, change.size, old_size + len(tail))
    edits.append(_table_edit(elf, segment, index))
    for entry in elf.dynamic():
        if entry.tag == DT_STRTAB:
            edits.append(_entry_edit(elf, entry.offset, DT_STRTAB, segment.address))
            edits += _section_edits(elf, entry.value, segment)
        elif entry.tag == DT_STRSZ:
            edits.append(_entry_edit(elf, entry.offset, DT_STRSZ, segment.file_size))
    return Change(
        change.size,
        tuple(edits),
        copied=(start, old_size),
        padding=segment.offset - change.size,
        appended=tail,
    )


def _section_edits(elf: ElfFile, address: int, segment: Segment) -> Iterator[Edit]:
    """Yield the edit of the section that lies at `address`, for readers that go by sections."""
    shape = elf.shape.section
    for offset, fields in elf.sections():
        if fields[1] == _SHT_STRTAB and fields[3] == address:
            place = (segment.address, segment.offset, segment.file_size)
            new = shape.pack(*fields[:3], *place, *fields[6:])
            yield Edit(offset, shape.pack(*fields), new)
            return


def _entry_edit(elf: ElfFile, offset: int, tag: int, value: int) -> Edit:
    shape = elf.shape.dynamic
    return Edit(offset, elf.read(offset, shape.size), shape.pack(tag, value))


def _segment_for(elf: ElfFile, end: int, size: int) -> tuple[Segment, int]:
    """Return a segment behind all others for `size` bytes at the end of the file.

    With it comes the index of the note whose header it takes.
    """
    notes = [i for i, segment in enumerate(elf.segments) if segment.kind == PT_NOTE]
    loads = [segment for segment in elf.segments if segment.kind == PT_LOAD]
    if not notes or not loads:
        raise ValueError("its headers have no room for another segment")
    align = max(_PAGE, *(load.align for load in loads))
    if align > _MAX_ALIGN or align & (align - 1):
        raise ValueError("its segments are strangely aligned")
    offset = -(-end // 8) * 8
    top = max(load.address + load.memory_size for load in loads)
    address = -(-top // align) * align + offset % align
    if (address + size) >> (elf.shape.bits - 1):
        raise ValueError("its addresses have no room for another segment")
    return Segment(PT_LOAD, _READABLE, offset, address, size, size, align), notes[-1]


def _table_edit(elf: ElfFile, segment: Segment, note: int) -> Edit:
    """Return the edit of the headers in which `segment` follows the last one that is loaded."""
    old = list(elf.segments)
    rest = old[:note] + old[note + 1 :]
    last = max(i for i, other in enumerate(rest) if other.kind == PT_LOAD)
    new = [*rest[: last + 1], segment, *rest[last + 1 :]]
    size = elf.shape.segment.size
    first = min(note, last + 1)
    after = max(note, last + 1) + 1
    data = elf.read(elf.table + first * size, (after - first) * size)
    packed = [elf.read(elf.table + i * size, size) for i in range(len(old))]
    known = dict(zip(old, packed))  # a header that stays keeps all its bytes
    written = b"".join(known.get(s) or s.pack(elf.shape) for s in new[first:after])
    return Edit(elf.table + first * size, data, written)


def _shrunk(elf: ElfFile, change: Change, texts: list[_Text]) -> Change:
    start, _ = elf.strings()
    edits = list(change.edits)
    for text in texts:
        before, after = os.fsencode(text.old), os.fsencode(text.new)
        if len(after) > len(before):
            raise ValueError("a new path is longer than the old one")
        edits.append(Edit(start + text.index, before, after.ljust(len(before), b"\0")))
    return replace(change, edits=tuple(edits))


def _with_interpreter(elf: ElfFile, change: Change, interpreter: str) -> Change:
    """Add the name of the loader: in the old one's place where it fits, else at the end."""
    index = next(i for i, segment in enumerate(elf.segments) if segment.kind == PT_INTERP)
    old = elf.segments[index]
    name = os.fsencode(interpreter) + b"\0"
    if len(name) > MAX_INTERPRETER + 1:
        raise ValueError(f"the path of the loader is longer than {MAX_INTERPRETER} bytes")
    fits = len(name) <= old.file_size
    place = old.offset if fits else change.grown
    size = elf.shape.segment.size
    where = elf.table + index * size
    header = elf.read(where, size)
    new = replace(old, offset=place, file_size=len(name)).pack(elf.shape)
    edits = [*change.edits]
    if new != header:
        edits.append(Edit(where, header, new))
    if fits:
        before = elf.read(place, len(name))
        return replace(change, edits=(*edits, Edit(place, before, name)))
    return replace(change, edits=tuple(edits), appended=change.appended + name)
