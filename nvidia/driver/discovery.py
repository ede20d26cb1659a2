"""Finding the files of the loaded driver on this host.

Sources are asked in order, and the first whose answer holds libcuda and NVML of the kernel
module's version counts: a CDI specification, the driver's own list of its files, and the names of
files. Whichever it is, what carries the version in its name beside is taken as well: lists made
by an older tool, and parts in packages of their own (nscq), would be missing otherwise.
"""

from __future__ import annotations

import os

from udocker.host import elffacts, ldcache
from udocker.host.root import Root
from udocker.nvidia.driver import hostlayout, libraries, sources
from udocker.nvidia.driver.hostlayout import Place
from udocker.nvidia.driver.installation import Driver, DriverFile, DriverLibrary
from udocker.nvidia.driver.kernelmodule import is_version
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.elffacts import ElfFacts
    from udocker.host.probe import Host
    from udocker.nvidia.driver.kernelmodule import KernelModule
    from udocker.nvidia.driver.sources import Claim


@dataclass(frozen=True)
class _Shelf:
    """A directory that is there."""

    place: Place
    root: Root
    directory: str
    """Absolute path in `root`."""
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Library:
    """A library that was found, and where."""

    library: DriverLibrary
    place: Place


def find(host: Host, module: KernelModule, key: str, environment: Mapping[str, str]) -> Driver:
    """Return what of the driver of `module` is on `host`, for a result that `key` names."""
    search = _Search(host, module.version, environment)
    found: list[_Library] = []
    claim = sources.from_names(host, module.version, ())
    for source in sources.ALL:
        asked = source(host, module.version, search.shares)
        if asked is None:
            continue
        claim, found = asked, list(search.locked(asked))
        if not _missing(found):
            break
    of_size = {bits: tuple(a.library for a in found if a.library.bits == bits) for bits in (64, 32)}
    return Driver(
        version=module.version,
        key=key,
        libraries=of_size[64],
        libraries32=of_size[32],
        vendor_neutral=tuple(search.neutral()),
        binaries=tuple(search.binaries(claim)),
        files=tuple(search.configurations(claim)),
        sockets=tuple(_sockets(Root(host.root))),
        other_versions=search.other_versions(),
        source=claim.source,
        layout=_layout(found),
        flavour=module.flavour,
        doubts=tuple(search.doubts(module)),
        unreadable=tuple(search.unreadable),
    )


def _missing(found: list[_Library]) -> list[str]:
    there = {a.library.soname.partition(".so")[0] for a in found if a.library.bits == 64}
    return [name for name in libraries.CORE if name not in there]


def _layout(found: list[_Library]) -> str:
    words = {
        a.place.layout: None
        for a in found
        if a.library.bits == 64 and a.library.soname.partition(".so")[0] in libraries.CORE
    }
    return "+".join(words)


class _Search:
    """The directories of a host that may hold the driver `version`, and what lies in them."""

    def __init__(self, host: Host, version: str, environment: Mapping[str, str]) -> None:
        trees = hostlayout.trees(host)
        self.shares = hostlayout.share_directories(trees, environment)
        self._host = host
        self._version = version
        self._roots = {tree: Root(host.root + tree) for tree in trees}
        self._binary_places = hostlayout.binary_directories(trees)
        self._others: tuple[str, ...] = ()
        self.unreadable: dict[str, None] = {}
        self._facts: dict[str, ElfFacts | None] = {}
        self._shelves: dict[str, _Shelf] = {}
        for place in hostlayout.library_places(host, version, trees):
            self._add(place)
        for shelf in tuple(self._shelves.values()):
            if "nvidia" in shelf.names:
                for place in hostlayout.alternatives(shelf.root, shelf.place):
                    self._add(place)
        for place in hostlayout.cached_places(host, self._roots[""]):
            self._add(place)
        for place in hostlayout.variable_places(environment):
            # a toolkit's own libcuda in such a directory must not pass for one that is installed
            if self._roots[""].exists(f"{place.directory}/libcuda.so.{version}"):
                self._add(place)

    def _add(self, place: Place) -> _Shelf | None:
        root = self._roots[place.tree]
        path = root.resolve(place.directory)
        if path is None:
            return None
        if path not in self._shelves:
            names = tuple(name for name in root.listdir(place.directory) if _is_of_interest(name))
            self._shelves[path] = _Shelf(place, root, place.directory, names)
        return self._shelves[path]

    def other_versions(self) -> tuple[str, ...]:
        """Return the versions of libcuda on disk other than the loaded one, oldest first."""
        prefix = "libcuda.so."
        held = (name for shelf in self._shelves.values() for name in shelf.names)
        versions = {name[len(prefix) :] for name in held if name.startswith(prefix)}
        others = [name for name in versions if is_version(name) and name != self._version]
        return tuple(sorted(others, key=lambda text: [int(part) for part in text.split(".")]))

    def locked(self, claim: Claim) -> Iterator[_Library]:
        """Yield the driver's libraries of both sizes, the first of each name."""
        first = tuple(filter(None, map(self._add, claim.places)))
        self._others = self.other_versions()
        endings = tuple(f".{other}" for other in self._others)
        # the list may be newer than the kernel
        listed = {n: words for n, words in claim.libraries.items() if not n.endswith(endings)}
        seen = set()
        for shelf in dict.fromkeys((*first, *self._shelves.values())):
            for part in (shelf, *_plugins(shelf)):
                for library in self._on_shelf(part, claim, listed):
                    known = (library.bits, library.plugin_directory, library.soname)
                    if known not in seen:
                        seen.add(known)
                        yield _Library(library, shelf.place)

    def _on_shelf(
        self, shelf: _Shelf, claim: Claim, listed: dict[str, tuple[str, ...]]
    ) -> Iterator[DriverLibrary]:
        names = frozenset(shelf.names) | claim.links
        for name in shelf.names:
            if not self._is_locked(shelf, name, listed):
                continue
            path = shelf.root.resolve(f"{shelf.directory}/{name}")
            if path is None or self._is_of_other_version(path):
                continue
            facts = self._read(path)
            if facts is None:
                self._note_unreadable(shelf, name)
                continue
            base = name.partition(".so")[0]
            plugin = libraries.PLUGINS.get(base, "")  # Debian has them among the others
            is_alias = plugin == "gbm"
            soname = name if is_alias else _file_name(facts.soname, name)
            extra = () if is_alias else _extra_names(base, soname, names)
            capabilities = libraries.library_capabilities(base, listed.get(name, ()))
            yield _library_of(path, facts, soname, extra, capabilities, plugin)

    def _note_unreadable(self, shelf: _Shelf, name: str) -> None:
        if name in [f"{base}.so.{self._version}" for base in libraries.CORE]:
            self.unreadable[f"{shelf.directory}/{name}"] = None

    def _is_locked(self, shelf: _Shelf, name: str, listed: dict[str, tuple[str, ...]]) -> bool:
        base, dot_so, _ = name.partition(".so")
        if not dot_so or not libraries.is_injectable(base):
            return False
        if name.endswith(f".so.{self._version}") or base in libraries.UNVERSIONED:
            return True
        if shelf.place.by_soname and base in libraries.LIBRARIES:
            return True
        return name in listed and libraries.is_vendors(base)

    def _is_of_other_version(self, path: str) -> bool:
        """Tell whether a link with the right version leads to a file of another."""
        version = os.path.basename(path).partition(".so.")[2]
        return version in self._others

    def _read(self, path: str | None) -> ElfFacts | None:
        """Return the facts of a library for this machine, of either size; None for the rest."""
        if path is None or not os.path.isfile(path):
            return None
        if path not in self._facts:
            try:
                facts = elffacts.scan(path)
            except OSError:
                facts = None
            machine = self._host.machine
            fits = facts and (facts.bits, facts.machine) in (
                (64, machine),
                (32, hostlayout.SMALLER.get(machine)),
            )
            self._facts[path] = facts if fits else None
        return self._facts[path]

    def neutral(self) -> Iterator[DriverLibrary]:
        """Yield the host's dispatchers of both sizes, the first of each name."""
        seen = set()
        for shelf in self._shelves.values():
            for name in shelf.names:
                base, _, suffix = name.partition(".so.")
                if base not in libraries.VENDOR_NEUTRAL or not suffix:
                    continue
                path = shelf.root.resolve(f"{shelf.directory}/{name}")
                facts = self._read(path)
                if path is None or facts is None or facts.soname != name:
                    continue  # the file behind the link: programs ask for the link's name
                if (facts.bits, name) not in seen:
                    seen.add((facts.bits, name))
                    yield _library_of(path, facts, name, (), libraries.VENDOR_NEUTRAL[base])

    def binaries(self, claim: Claim) -> Iterator[DriverFile]:
        """Yield the driver's programs."""
        for name, capability in libraries.BINARIES.items():
            path = self._first(name, claim, self._binary_places)
            if path:
                yield DriverFile(path, f"/usr/bin/{name}", capability)

    def configurations(self, claim: Claim) -> Iterator[DriverFile]:
        """Yield the files by which loaders of several vendors find the driver."""
        wanted = dict(libraries.CONFIG_FILES)
        for name, words in claim.configurations.items():
            for directory, (parent, capability) in libraries.CONFIG_DIRECTORIES.items():
                known = libraries.library_capabilities("", words)
                if capability in known:
                    wanted.setdefault(f"{directory}/{name}", (parent, capability))
        for name, (parent, capability) in wanted.items():
            path = self._first(name, claim, self.shares)
            if path:
                yield DriverFile(path, f"{parent}/{name}", capability)

    def _first(self, name: str, claim: Claim, places: tuple[tuple[str, str], ...]) -> str | None:
        """Return the first file of that name below `places`, one that is claimed before these."""
        named = [("", path) for path in claim.files if path.endswith(f"/{name}")]
        for tree, path in (*named, *((tree, f"{place}/{name}") for tree, place in places)):
            found = self._roots[tree].resolve(path)
            if found and os.path.isfile(found):
                return found
        return None

    def doubts(self, module: KernelModule) -> Iterator[str]:
        """Yield what does not fit together, in sentences."""
        if module.other_version:
            yield (
                f"/sys/module/nvidia says driver {module.version}, but /proc/driver/nvidia"
                f" says {module.other_version}: taking {module.version}"
            )
        cuda = f"libcuda.so.{module.version}"
        if not any(cuda in shelf.names for shelf in self._shelves.values()):
            return  # nobody gets the right one, as the driver's obstacle says
        searched = ldcache.default_directories(self._host.machine)
        for shelf in self._shelves.values():
            path = shelf.root.resolve(f"{shelf.directory}/libcuda.so.1")
            version = os.path.basename(path or "").partition(".so.")[2]
            is_used = cuda in shelf.names or shelf.directory in searched
            if is_used and is_version(version) and version != module.version:
                yield (
                    f"{shelf.directory}/libcuda.so.1 leads to version {version}, not to that of"
                    f" the kernel driver, {module.version}: programs on the host fail, those in"
                    " containers get the right one"
                )


def _file_name(soname: str | None, name: str) -> str:
    """Return the SONAME where it can be a library's name, else the name that the file has."""
    return soname if soname and ".so" in soname and "/" not in soname else name


def _is_of_interest(name: str) -> bool:
    return ".so" in name or name in ("nvidia", *libraries.PLUGIN_DIRECTORIES)


def _plugins(shelf: _Shelf) -> Iterator[_Shelf]:
    for name in libraries.PLUGIN_DIRECTORIES:
        if name in shelf.names:
            directory = f"{shelf.directory}/{name}"
            yield _Shelf(shelf.place, shelf.root, directory, shelf.root.listdir(directory))


def _library_of(
    path: str,
    facts: ElfFacts,
    soname: str,
    extra_names: tuple[str, ...],
    capabilities: tuple[str, ...],
    plugin_directory: str = "",
) -> DriverLibrary:
    strong = (
        (file, tuple(n for n, weak in names if not weak)) for file, names in facts.version_needs
    )
    return DriverLibrary(
        path=path,
        soname=soname,
        extra_names=extra_names,
        capabilities=capabilities,
        plugin_directory=plugin_directory,
        bits=facts.bits,
        needed=facts.needed,
        version_needs=tuple((file, names) for file, names in strong if names),
        version_definitions=facts.version_definitions,
        runpath=facts.runpath or facts.rpath,
    )


def _extra_names(base: str, soname: str, names: frozenset[str]) -> tuple[str, ...]:
    link = f"{base}.so"
    wanted = link != soname and (link in names or base in libraries.DEVELOPMENT_LINKS)
    further = libraries.FURTHER_NAMES.get(base, ())
    return (*((link,) if wanted else ()), *further)


def _sockets(root: Root) -> Iterator[DriverFile]:
    for directory, capability in libraries.SOCKET_DIRECTORIES.items():
        path = root.resolve(directory)
        if path and os.path.isdir(path):
            yield DriverFile(path, directory, capability)
