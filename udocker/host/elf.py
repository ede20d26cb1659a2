"""What ELF files say to the loader: the only user of pyelftools.

Files may be hostile. Whatever a parser makes of one, it may only read so much of it: that bounds
every count, table and string in the file at once.
"""

from __future__ import annotations

import io
import os

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection
from elftools.elf.hash import ELFHashSection, GNUHashSection
from elftools.elf.sections import Symbol, SymbolTableSection
from elftools.elf.segments import InterpSegment

from udocker.host.elffacts import ElfFacts as ElfFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_WORK = 4 << 20
"""How much may be read of one file, in bytes, each read counted as `_READ_COST` more."""
_READ_COST = 64

_VER_FLG_BASE = 1
_VER_FLG_WEAK = 2
_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64", "EM_386": "i386", "EM_ARM": "arm"}


def read(path: str) -> ElfFacts | None:
    """Return what the ELF file at host path `path` says; None when it is none, or a broken one.

    Without section headers, which loaders do not need, a file tells no versions. Raises OSError
    when it cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if file.peek(4)[:4] != b"\x7fELF":
            return None
        try:
            return _facts(ELFFile(_Bounded(file)))  # type: ignore[arg-type]
        except Exception:  # a parser fed with garbage fails in every way that Python knows
            return None


def section(path: str, name: str, limit_bytes: int) -> bytes:
    """Return a section of the ELF file at host path `path`; nothing when it has none such.

    One of more than `limit_bytes` or a compressed one counts as none. Raises OSError when the
    file cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        try:
            found = ELFFile(_Bounded(file)).get_section_by_name(name)  # type: ignore[arg-type]
            if found is None or found.compressed or found["sh_size"] > limit_bytes:
                return b""
            return found.data()
        except Exception:  # as above
            return b""


def undefined(path: str) -> frozenset[str]:
    """Return the symbols that the library at host path `path` uses and does not define.

    Those that it does without (weak ones) are left out. A broken file has none, nor has one of
    more than some thousand symbols. Raises OSError when it cannot be read.
    """
    return _symbols(path, lambda symbol: not _is_defined(symbol) and _bind(symbol) == "STB_GLOBAL")


def defined(path: str, prefix: str) -> frozenset[str]:
    """Return the symbols that begin so and that the library at host path `path` defines.

    As `undefined` has it of broken and large ones. Raises OSError when it cannot be read.
    """
    return _symbols(path, lambda symbol: _is_defined(symbol) and symbol.name.startswith(prefix))


def _symbols(path: str, is_meant: Callable[[Symbol], bool]) -> frozenset[str]:
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        try:
            elf = ELFFile(_Bounded(file))  # type: ignore[arg-type]
            sections = (s for s in elf.iter_sections() if isinstance(s, SymbolTableSection))
            table = next((s for s in sections if s["sh_type"] == "SHT_DYNSYM"), None)
            every = table.iter_symbols() if table else ()
            return frozenset(symbol.name for symbol in every if symbol.name and is_meant(symbol))
        except Exception:  # as above
            return frozenset()


def _is_defined(symbol: Symbol) -> bool:
    return str(symbol["st_shndx"]) != "SHN_UNDEF"


def _bind(symbol: Symbol) -> str:
    return str(symbol["st_info"]["bind"])


def exported(path: str, names: Iterable[str]) -> frozenset[str] | None:
    """Return which of these symbols the library at host path `path` defines, as the loader asks.

    They are looked up in its table of hashes, so one of ten thousand costs no more than one of
    ten. None: it has no such table, or is broken. Raises OSError when it cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        try:
            elf = ELFFile(_Bounded(file))  # type: ignore[arg-type]
            kinds = (GNUHashSection, ELFHashSection)
            table = next((s for s in elf.iter_sections() if isinstance(s, kinds)), None)
            if table is None:
                return None
            return frozenset(name for name in names if _defines(table, name))
        except Exception:  # as above
            return None


def _defines(table: GNUHashSection | ELFHashSection, name: str) -> bool:
    symbol = table.get_symbol(name)
    return symbol is not None and _is_defined(symbol)


class _Bounded(io.RawIOBase):
    """A file of which only so much can be read."""

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__()
        self._file = file
        self._left = MAX_WORK

    def read(self, size: int | None = -1) -> bytes:
        """Return at most `size` bytes. Raises OSError when more was read than is sensible."""
        wanted = self._left if size is None or size < 0 else size
        self._left -= wanted + _READ_COST
        if self._left < 0:
            raise OSError("not a sensible ELF file: it makes its reader read too much")
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as a file does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position as a file does."""
        return self._file.tell()


def _facts(elf: ELFFile) -> ElfFacts:
    facts: dict[str, object] = {"rpath": (), "runpath": (), "soname": None}
    needed: list[str] = []
    interpreter = None
    dynamic = False
    for segment in elf.iter_segments():
        if isinstance(segment, InterpSegment):
            interpreter = segment.get_interp_name()
        elif isinstance(segment, DynamicSegment):
            dynamic = True
            _read_tags(segment, facts, needed)
    machine = elf["e_machine"]
    return ElfFacts(
        bits=elf.elfclass,
        machine=_MACHINES.get(machine, str(machine)),
        # a static-PIE has a dynamic segment, but neither a loader nor a need
        dynamic=dynamic and bool(needed or interpreter or facts["soname"]),
        interpreter=interpreter,
        needed=tuple(needed),
        version_needs=tuple(_version_needs(elf)),
        version_definitions=tuple(_version_definitions(elf)),
        **facts,  # type: ignore[arg-type]
    )


def _read_tags(segment: DynamicSegment, facts: dict[str, object], needed: list[str]) -> None:
    for tag in segment.iter_tags():
        kind = tag.entry.d_tag
        if kind == "DT_NEEDED":
            needed.append(tag.needed)  # type: ignore[attr-defined]
        elif kind == "DT_SONAME":
            facts["soname"] = tag.soname  # type: ignore[attr-defined]
        elif kind in ("DT_RPATH", "DT_RUNPATH"):
            key = kind[3:].lower()
            facts[key] = tuple(filter(None, getattr(tag, key).split(":")))


def _version_needs(elf: ELFFile) -> Iterator[tuple[str, tuple[tuple[str, bool], ...]]]:
    for section in elf.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for need, versions in section.iter_versions():
                pairs = ((v.name, bool(v["vna_flags"] & _VER_FLG_WEAK)) for v in versions)
                yield str(need.name), tuple(pairs)


def _version_definitions(elf: ELFFile) -> Iterator[str]:
    for section in elf.iter_sections():
        if isinstance(section, GNUVerDefSection):
            for definition, names in section.iter_versions():
                if not definition["vd_flags"] & _VER_FLG_BASE:
                    yield next(iter(names)).name
