"""What the loader of a tree finds for the names that programs need, without running it.

The tree may be an image's, and hostile: no link leads out of it and every list is bounded.
Source: ld.so(8), ldconfig(8); glibc elf/dl-load.c.
"""

from __future__ import annotations

import os

from udocker.errors import UdockerError
from udocker.host import elffacts, ldcache, ldconf
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from udocker.host.elffacts import ElfFacts
    from udocker.host.root import Root

MAX_FILES = 512
"""Files that one closure may have."""
STORES = ("/nix/store", "/gnu/store")
"""Where Nix and Guix keep everything; their loaders look beside themselves, and in no cache."""
_MAX_DIRECTORIES = 32
_MAX_NAMES = 1 << 17
_BITS = {"i386": 32, "arm": 32}


@dataclass(frozen=True)
class Library:
    """A file as a loader finds it."""

    path: str
    """In the tree, as the loader opens it."""
    host_path: str
    """Where it lies, free of links."""
    facts: ElfFacts


class Loader:
    """The loader of a tree for one machine; `LD_LIBRARY_PATH` is not looked at."""

    def __init__(self, root: Root, machine: str, cache: ldcache.LdCache | None = None) -> None:
        """`machine` as `uname -m` says it; `cache` is the tree's, if it has been read."""
        self.root = root
        self.machine = machine
        self.cache = read_cache(root) if cache is None else cache
        self._named = _by_name(self.cache, ldcache.FLAGS.get(machine, -1))
        self._directories = ldcache.default_directories(machine)
        self._stored: tuple[str, ...] | None = None
        self._facts: dict[str, ElfFacts | None] = {}

    def find(self, name: str, first: tuple[str, ...] = ()) -> Library | None:
        """Return the library that the name gives, looked for in the directories `first` first."""
        for place in self._places(name, first):
            found = self.open(place)
            if found:
                return found
        return None

    def open(self, path: str) -> Library | None:
        """Return the file at `path` in the tree; None unless it is for this machine."""
        host_path = self.root.resolve(path)
        facts = self.facts(host_path) if host_path else None
        return Library(path, host_path, facts) if host_path and facts else None

    def facts(self, host_path: str) -> ElfFacts | None:
        """Return what a file says, read once; None unless it is for this machine."""
        if host_path not in self._facts:
            self._facts[host_path] = self._read(host_path)
        return self._facts[host_path]

    def _places(self, name: str, first: tuple[str, ...]) -> Iterator[str]:
        if "/" in name:
            yield name
            return
        for directory in first:
            yield f"{directory}/{name}"
        yield from self._named.get(name, ())
        for directory in self._directories:
            yield f"{directory}/{name}"
        if self._stored is None:
            self._stored = _stored(self.root)
        for directory in self._stored:
            yield f"{directory}/{name}"

    def _read(self, host_path: str) -> ElfFacts | None:
        try:
            facts = elffacts.scan(host_path) if os.path.isfile(host_path) else None
        except OSError:
            return None
        right = (_BITS.get(self.machine, 64), self.machine)
        return facts if facts and (facts.bits, facts.machine) == right else None


def _stored(root: Root) -> tuple[str, ...]:
    """Return the directories of the glibcs in a store, the oldest first: programs may need any."""
    found = {}
    for store in STORES:
        for name in root.listdir(store)[:_MAX_NAMES]:
            version = name.partition("-glibc-")[2].split("-")[0].split(".")
            if all(number.isdecimal() for number in version):
                found[f"{store}/{name}/lib"] = tuple(map(int, version))
    return tuple(sorted(found, key=found.__getitem__))[:_MAX_DIRECTORIES]


def search_path(
    facts: ElfFacts, origin: str, inherited: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the directories where a file's needs are looked for first, and what they inherit.

    `origin` is its directory, `inherited` the RPATH of those that have loaded it.
    """
    runpath = _expanded(facts.runpath, origin)
    rpath = inherited if runpath else _expanded(facts.rpath, origin) + inherited
    return runpath or rpath, rpath


def library_path(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the directories that `LD_LIBRARY_PATH` names, the first of many."""
    named = ldconf.elements(environment.get("LD_LIBRARY_PATH", ""))
    return tuple(name for name in named if name.startswith("/"))[:_MAX_DIRECTORIES]


def read_cache(root: Root) -> ldcache.LdCache:
    """Return the tree's cache; an empty one where there is none, or one without sense."""
    try:
        return ldcache.parse(root.read(ldcache.PATH, ldcache.MAX_BYTES))
    except (OSError, ValueError):
        return ldcache.LdCache()  # the loader goes on without a cache that it cannot use


def closure(programs: Iterable[str], root: Root) -> dict[str, str]:
    """Return every file that `programs` need to start, themselves included.

    Maps the path by which the kernel or the loader finds a file to the host path where it lies.
    `programs` are absolute paths in `root`. Libraries opened later by name (`dlopen`) are not
    known. Raises UdockerError naming the file that is not there, not ELF, or needs what is not
    there.
    """
    search = _Closure(root)
    for program in programs:
        host_path = root.resolve(program)
        place = "/" + os.path.relpath(host_path, root.path or "/") if host_path else program
        search.add(program, os.path.dirname(place), ())
    return search.files


class _Closure:
    """Files that are needed, as they are found."""

    def __init__(self, root: Root) -> None:
        self.files: dict[str, str] = {}
        self._root = root
        self._loaders: dict[str, Loader] = {}

    def add(self, path: str, origin: str, inherited: tuple[str, ...]) -> None:
        """Add the file at `path` and what it needs; `inherited` is the RPATH of its users."""
        if path in self.files:
            return
        if len(self.files) >= MAX_FILES:
            raise UdockerError(f"{path}: more than {MAX_FILES} files are needed")
        host_path = self._root.resolve(path)
        facts = elffacts.scan(host_path) if host_path and os.path.isfile(host_path) else None
        if host_path is None or facts is None:
            what = "is not there" if host_path is None else "is not an ELF file"
            raise UdockerError(f"{path} {what}")
        self.files[path] = host_path
        if facts.interpreter:
            self.add(facts.interpreter, os.path.dirname(facts.interpreter), ())
        first, passed_on = search_path(facts, origin, inherited)
        for name in facts.needed:
            found = self._loader(facts.machine).find(_expanded((name,), origin)[0], first)
            if found is None:
                raise UdockerError(f"{path} needs {name}, which is not there")
            self.add(found.path, os.path.dirname(found.path), passed_on)

    def _loader(self, machine: str) -> Loader:
        if machine not in self._loaders:
            self._loaders[machine] = Loader(self._root, machine)
        return self._loaders[machine]


def _by_name(cache: ldcache.LdCache, flags: int) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for entry in cache.entries:
        if entry.flags == flags:
            named.setdefault(entry.name, []).append(entry.path)
    return named


def _expanded(directories: tuple[str, ...], origin: str) -> tuple[str, ...]:
    return tuple(d.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for d in directories)
