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
from elftools.elf.segments import InterpSegment

from udocker.errors import UdockerError
from udocker.host import ldcache
from udocker.host.elffacts import ElfFacts as ElfFacts
from udocker.host.root import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_WORK = 4 << 20
"""How much may be read of one file, in bytes, each read counted as `_READ_COST` more."""
_READ_COST = 64

_VER_FLG_BASE = 1
_VER_FLG_WEAK = 2
_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64", "EM_386": "i386", "EM_ARM": "arm"}
MAX_FILES = 512
"""Files that one closure may have."""


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


def closure(programs: Iterable[str], root: Root) -> dict[str, str]:
    """Return every file that `programs` need to start, themselves included.

    Maps the path by which the kernel or the loader finds a file to the host path where it lies.
    `programs` are absolute paths in `root`. Libraries opened later by name (`dlopen`) are not
    known. Raises UdockerError naming the file that is not there, not ELF, or needs what is not
    there.
    """
    search = _Search(root)
    for program in programs:
        search.add(program, ())
    return search.files


class _Search:
    """The loader's search for libraries, without the environment. Source: ld.so(8)."""

    def __init__(self, root: Root) -> None:
        self.files: dict[str, str] = {}
        self._root = root
        self._cache = _read_cache(root)
        self._facts: dict[str, ElfFacts] = {}

    def add(self, path: str, inherited: tuple[str, ...]) -> None:
        """Add the file at `path` and what it needs; `inherited` is the RPATH of its users."""
        if path in self.files:
            return
        if len(self.files) >= MAX_FILES:
            raise UdockerError(f"{path}: more than {MAX_FILES} files are needed")
        host_path = self._root.resolve(path)
        facts = self._read(host_path) if host_path else None
        if host_path is None or facts is None:
            what = "is not there" if host_path is None else "is not an ELF file"
            raise UdockerError(f"{path} {what}")
        self.files[path] = host_path
        if facts.interpreter:
            self.add(facts.interpreter, ())
        origin = os.path.dirname("/" + os.path.relpath(host_path, self._root.path or "/"))
        runpath = _expanded(facts.runpath, origin)
        rpath = inherited if runpath else _expanded(facts.rpath, origin) + inherited
        for name in facts.needed:
            found = self._find(_expanded((name,), origin)[0], path, facts, runpath or rpath)
            self.add(found, rpath)

    def _find(self, name: str, user: str, facts: ElfFacts, first: tuple[str, ...]) -> str:
        if "/" in name:
            return name
        places = [f"{directory}/{name}" for directory in first]
        places += self._cache.paths(name, ldcache.FLAGS.get(facts.machine, 0))
        places += [
            f"{directory}/{name}" for directory in ldcache.default_directories(facts.machine)
        ]
        for place in places:
            if self._fits(place, facts):
                return place
        raise UdockerError(f"{user} needs {name}, which is not there")

    def _fits(self, path: str, user: ElfFacts) -> bool:
        host_path = self._root.resolve(path)
        facts = self._read(host_path) if host_path else None
        return facts is not None and (facts.bits, facts.machine) == (user.bits, user.machine)

    def _read(self, host_path: str) -> ElfFacts | None:
        if host_path not in self._facts:
            facts = read(host_path) if os.path.isfile(host_path) else None
            if facts is None:
                return None
            self._facts[host_path] = facts
        return self._facts[host_path]


def _read_cache(root: Root) -> ldcache.LdCache:
    try:
        return ldcache.parse(root.read(ldcache.PATH, ldcache.MAX_BYTES))
    except (OSError, ValueError):
        return ldcache.LdCache()  # the loader goes on without a cache that it cannot use


def _expanded(directories: tuple[str, ...], origin: str) -> tuple[str, ...]:
    return tuple(d.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for d in directories)
