"""Which libfakechroot fits a container: what the library needs and what the container's libc has.

The library is loaded into every program of the container, so the container's glibc must define
the versions of symbols that it needs. And it only sees those calls that it has functions for:
programs for glibc before 2.33 call `__xstat`, later ones `stat`. One that lacks these would
start, and show the host's files.
"""

from __future__ import annotations

import os

from udocker.engines import programs
from udocker.engines.rebase import elffile
from udocker.engines.rebase.elffile import ElfFile
from udocker.errors import UdockerError
from udocker.host import ldcache, ldconf
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.root import Root

NAME = "libfakechroot"
HINT = "udocker install libfakechroot"
LOADERS = {
    "x86_64": ("/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
    "aarch64": ("/lib/ld-linux-aarch64.so.1", "/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1"),
}
"""Where glibc's loader lies, by `uname -m`; programs name the first."""
LIBC = "libc.so.6"
_MUSL = "/lib/ld-musl-{machine}.so.1"
_STAT_FUNCTIONS = (
    ((2, 0), (2, 33), ("__xstat", "__lxstat", "__fxstatat")),
    ((2, 33), (99,), ("stat", "lstat", "fstatat")),
    ((2, 28), (99,), ("statx",)),
)
"""By which functions programs ask of files, from a version of glibc to another one."""
_ARGV0_OPTION = (2, 33)
MAX_DIRECTORIES = 64
"""Directories of libraries that a container may have."""


@dataclass(frozen=True)
class Library:
    """A libfakechroot on this host."""

    path: str
    needs: tuple[tuple[str, tuple[str, ...]], ...]
    """For each library that it uses: the versions that must be defined there."""
    functions: frozenset[str]

    @property
    def glibc(self) -> tuple[int, ...]:
        """The oldest glibc that defines all that it needs."""
        return max((_number(v) for _, names in self.needs for v in names), default=())


@dataclass(frozen=True)
class Glibc:
    """The C library of a container."""

    loader: str
    """Path of the dynamic loader in the container, as programs name it."""
    directories: tuple[str, ...]
    """Directories of the container where its loader looks for libraries."""
    versions: frozenset[str]
    """The versions that its libc defines."""

    @property
    def number(self) -> tuple[int, ...]:
        """The version of glibc: the newest that it defines."""
        return max(map(_number, self.versions), default=())

    @property
    def knows_argv0(self) -> bool:
        """The loader can give a program another name than its path (`--argv0`)."""
        return self.number >= _ARGV0_OPTION


def libraries(directory: str) -> Iterator[Library]:
    """Yield the libfakechroots that are at hand, the preferred one first; broken ones are not."""
    for installed in programs.candidates(directory, NAME):
        library = read(installed.path)
        if library:
            yield library


def read(path: str) -> Library | None:
    """Return what the shared library at host path `path` needs and has; None: not for us."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            elf = ElfFile(file)
            if elf.machine != elffile.MACHINES.get(os.uname().machine):
                return None
            needs = ((name, tuple(sorted(v))) for name, v in elf.version_needs().items())
            return Library(path, tuple(needs), elf.symbols())
        finally:
            os.close(file)
    except (OSError, ValueError):
        return None


def glibc_of(root: Root, machine: str) -> Glibc | None:
    """Return the C library of the container in `root`; None when it has no glibc for `machine`."""
    loader = next((path for path in LOADERS.get(machine, ()) if root.exists(path)), None)
    if loader is None:
        return None
    directories = library_directories(root, machine)
    for directory in directories:
        versions = _definitions(root, f"{directory}/{LIBC}", machine)
        if any(name.startswith("GLIBC_2.") for name in versions):
            return Glibc(loader, directories, versions)
    return None


def library_directories(root: Root, machine: str) -> tuple[str, ...]:
    """Return the directories where the container's loader looks, each once, existing ones only.

    Those of ld.so.conf come first, as ldconfig puts them, then what else the cache names, then
    those of the loader itself. Source: ld.so(8), ldconfig(8).
    """
    named = [*ldconf.directories(root), *_cached(root, machine)]
    seen: dict[str, str] = {}
    for directory in (*named, *ldcache.default_directories(machine)):
        host_path = root.resolve(directory)
        if host_path and os.path.isdir(host_path) and len(seen) < MAX_DIRECTORIES:
            seen.setdefault(host_path, directory)
    return tuple(seen.values())


def choose(available: tuple[Library, ...], root: Root, glibc: Glibc) -> Library:
    """Return the first library that fits. Raises UdockerError that says what is lacking."""
    faults = []
    for library in available:
        fault = misfit(library, root, glibc)
        if fault is None:
            return library
        faults.append(f"{library.path} {fault}")
    has = ".".join(map(str, glibc.number))
    at_hand = "; ".join(faults) or "none is at hand"
    raise UdockerError(
        f"no libfakechroot fits the container's glibc {has}: {at_hand} ({HINT})", hint=HINT
    )


def misfit(library: Library, root: Root, glibc: Glibc) -> str | None:
    """Return why a library cannot serve programs of that glibc; None when it can."""
    lacking = set()
    machine = os.uname().machine
    for file, versions in library.needs:
        defined = glibc.versions
        if file != LIBC and not defined.issuperset(versions):
            places = (f"{directory}/{file}" for directory in glibc.directories)
            defined = defined.union(*(_definitions(root, place, machine) for place in places))
        lacking.update(set(versions) - defined)
    if lacking:
        newest = ".".join(map(str, library.glibc))
        return f"needs glibc {newest}"
    unseen = [
        name
        for since, until, names in _STAT_FUNCTIONS
        for name in names
        if since <= glibc.number < until and name not in library.functions
    ]
    return f"does not see the calls of {' and '.join(unseen)}" if unseen else None


def is_musl(root: Root, machine: str) -> bool:
    """Tell whether the container's C library is musl."""
    return root.exists(_MUSL.format(machine=machine))


def _definitions(root: Root, path: str, machine: str) -> frozenset[str]:
    host_path = root.resolve(path)
    if host_path is None:
        return frozenset()
    try:
        file = os.open(host_path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            elf = ElfFile(file)
            right = elf.machine == elffile.MACHINES[machine] and elf.shape.bits == 64
            return elf.version_definitions() if right else frozenset()
        finally:
            os.close(file)
    except (OSError, ValueError):
        return frozenset()


def _cached(root: Root, machine: str) -> tuple[str, ...]:
    try:
        cache = ldcache.parse(root.read(ldcache.PATH, ldcache.MAX_BYTES))
    except (OSError, ValueError):
        return ()
    paths = (e.path for e in cache.entries if e.flags == ldcache.FLAGS[machine] and not e.hwcap)
    return tuple(dict.fromkeys(os.path.dirname(path) for path in paths))


def _number(version: str) -> tuple[int, ...]:
    """Return the numbers of `GLIBC_2.34`; nothing for names of another form."""
    prefix, _, number = version.partition("GLIBC_")
    parts = number.split(".")
    if prefix or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        return ()
    return tuple(map(int, parts))
