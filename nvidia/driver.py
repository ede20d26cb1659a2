"""The NVIDIA driver of this host: its version and the files that programs need of it.

Nothing of it is run. Finding takes some 0.1 s, most of it reading ELF headers, so the answer is
kept under a name made of everything that can change it.
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.errors import StoreError
from udocker.host import ldcache
from udocker.host.root import Root
from udocker.nvidia import cache, libraries
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from udocker.host.elf import ElfFacts
    from udocker.host.probe import Host

_FORMAT = 1
_LIBRARY_DIRECTORIES = (
    "/usr/lib/{machine}-linux-gnu",
    "/lib/{machine}-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/usr/lib/{machine}-linux-gnu/nvidia/current",
    "/usr/lib64/nvidia",
    "/usr/lib/nvidia",
    "/usr/lib/nvidia-{major}",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/local/lib64",
    "/usr/lib64-nvidia",
    "/run/opengl-driver/lib",
)
"""Debian, Red Hat, container hosts, hosted notebooks (`lib64-nvidia`), NixOS."""
_PLUGIN_DIRECTORIES = ("", "vdpau", "gbm")
_BINARY_DIRECTORIES = (
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/nvidia/bin",
    "/usr/local/bin",
    "/opt/bin",
    "/run/current-system/sw/bin",
)
_SHARE_DIRECTORIES = (
    "/etc",
    "/usr/share",
    "/usr/local/share",
    "/usr/local/nvidia/share",
    "/run/opengl-driver/share",
)
_FILE_LIST = "nvidia/files.d/sandboxutils-filelist.json"
_FILE_LIST_BYTES = 1 << 20
_LIBC_FAMILY = ("libc.so.", "libm.so.", "libpthread.so.", "libdl.so.", "librt.so.", "ld-linux")


@dataclass(frozen=True)
class DriverLibrary:
    """A 64-bit library of the driver. Host paths are free of links."""

    path: str
    """Host path."""
    soname: str
    """The name that programs open: its SONAME, or the file name of a plug-in."""
    extra_names: tuple[str, ...]
    """Other names that programs open (`libcuda.so`)."""
    capabilities: tuple[str, ...]
    plugin_directory: str = ""
    """`vdpau` or `gbm` when it is looked for in a directory of that name."""
    glibc_needs: tuple[str, ...] = ()
    """The newest `GLIBC_` version and every `GLIBC_ABI_` one that the C library must define."""


@dataclass(frozen=True)
class DriverFile:
    """A program or configuration file of the driver, and where it goes in a container."""

    source: str
    destination: str
    capability: str


@dataclass(frozen=True)
class Driver:
    """A loaded driver and what of it is on disk."""

    version: str
    """Of the kernel module."""
    key: str
    """Another one whenever anything below may be different."""
    libraries: tuple[DriverLibrary, ...]
    binaries: tuple[DriverFile, ...] = ()
    files: tuple[DriverFile, ...] = ()
    sockets: tuple[DriverFile, ...] = ()
    """Directories of sockets."""
    other_versions: tuple[str, ...] = ()
    """Versions of libcuda on disk other than the kernel module's."""

    @property
    def obstacle(self) -> str | None:
        """Why programs cannot use this driver, in one sentence; None when they can."""
        found = {library.soname.partition(".so")[0] for library in self.libraries}
        missing = [name for name in libraries.CORE if name not in found]
        if not missing:
            return None
        if self.other_versions:
            return (
                f"kernel driver is {self.version} but libcuda on disk is {self.other_versions[-1]}:"
                " the node was updated without reboot"
            )
        return f"kernel driver is {self.version} but no {missing[0]}.so.{self.version} is on disk"


def load(host: Host, cache_directory: str) -> Driver | None:
    """Return `find(host)`, from `cache_directory` when nothing has changed since it was kept."""
    version = _kernel_version(host)
    if not version:
        return None
    name = f"driver-{_key(host, version)}.json"
    driver = _from_json(cache.load(cache_directory, name))
    if driver is None:
        driver = find(host)
        try:
            cache.save(cache_directory, name, fastjson.dumps(_to_json(driver)).encode())
        except StoreError:
            return driver  # only the next start is slower
    return driver


def find(host: Host) -> Driver | None:
    """Return the driver of `host`; None when no kernel module is loaded."""
    version = _kernel_version(host)
    if not version:
        return None
    root = Root(host.root)
    directories = _library_directories(host, root, version)
    return Driver(
        version=version,
        key=_key(host, version),
        libraries=tuple(_libraries(host, root, version, directories)),
        binaries=tuple(_binaries(root)),
        files=tuple(_config_files(root)),
        sockets=tuple(_sockets(root)),
        other_versions=_other_versions(directories, version),
    )


def _kernel_version(host: Host) -> str:
    words = host.text("/sys/module/nvidia/version").split()
    words += host.text("/proc/driver/nvidia/version").partition("\n")[0].split()
    return next((word for word in words if _is_version(word)), "")


def _is_version(word: str) -> bool:
    parts = word.split(".")
    return len(parts) in (2, 3) and all(p.isascii() and p.isdigit() and len(p) < 8 for p in parts)


def _key(host: Host, version: str) -> str:
    """Return a name for everything that the driver's files depend on.

    The boot is part of it: systems that keep no times of files change only by booting anew.
    """
    watched = _library_paths(host, version)
    watched += [ldcache.PATH, *_BINARY_DIRECTORIES, *libraries.SOCKET_DIRECTORIES]
    below = {os.path.dirname(name) for name in (*libraries.CONFIG_FILES, _FILE_LIST)}
    watched += [f"{share}/{name}" for share in _SHARE_DIRECTORIES for name in sorted(below)]
    times = [_changed(host.path(path)) for path in watched]
    return cache.digest([_FORMAT, version, host.machine, host.boot_id, host.root, times])


def _changed(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_dev, status.st_ino, status.st_mtime_ns]


def _library_directories(host: Host, root: Root, version: str) -> dict[str, tuple[str, ...]]:
    """Return the directories, as host paths, that may hold the driver, with the names in them."""
    found: dict[str, tuple[str, ...]] = {}
    for candidate in _library_paths(host, version) + _cached_directories(host, root):
        directory = root.resolve(candidate)
        if directory is not None and directory not in found:
            found[directory] = root.listdir(candidate)
    return found


def _library_paths(host: Host, version: str) -> list[str]:
    major = version.partition(".")[0]
    return [d.format(machine=host.machine, major=major) for d in _LIBRARY_DIRECTORIES]


def _cached_directories(host: Host, root: Root) -> list[str]:
    try:
        known = ldcache.parse(root.read(ldcache.PATH, ldcache.MAX_BYTES))
    except (OSError, ValueError):
        return []
    flags = ldcache.FLAGS.get(host.machine, 0)
    names = [f"{name}.so.1" for name in libraries.CORE]
    return [os.path.dirname(path) for name in names for path in known.paths(name, flags)]


def _other_versions(directories: dict[str, tuple[str, ...]], version: str) -> tuple[str, ...]:
    prefix = "libcuda.so."
    names = {
        name[len(prefix) :]
        for held in directories.values()
        for name in held
        if name.startswith(prefix)
    }
    versions = [name for name in names if _is_version(name) and name != version]
    return tuple(sorted(versions, key=lambda text: [int(part) for part in text.split(".")]))


def _libraries(
    host: Host, root: Root, version: str, directories: dict[str, tuple[str, ...]]
) -> Iterator[DriverLibrary]:
    listed = _listed_categories(root)
    for other in _other_versions(directories, version):  # the list may be newer than the kernel
        listed = {name: words for name, words in listed.items() if not name.endswith(f".{other}")}
    seen = set()
    for directory, plugin_directory, name in _candidates(directories, version, listed):
        path = _real_path(root, f"{directory}/{plugin_directory}/{name}")
        facts = _facts(host, path) if path else None
        if path is None or facts is None:
            continue
        plugin = plugin_directory == "gbm"
        soname = name if plugin or not facts.soname or "/" in facts.soname else facts.soname
        if (plugin_directory, soname) in seen:
            continue
        seen.add((plugin_directory, soname))
        base = name.partition(".so")[0]
        yield DriverLibrary(
            path=path,
            soname=soname,
            extra_names=() if plugin else _extra_names(base, soname, directories[directory]),
            capabilities=libraries.library_capabilities(base, listed.get(name, ())),
            plugin_directory=plugin_directory,
            glibc_needs=_glibc_needs(facts),
        )


def _candidates(
    directories: dict[str, tuple[str, ...]], version: str, listed: dict[str, tuple[str, ...]]
) -> Iterator[tuple[str, str, str]]:
    """Yield (directory, plug-in directory, name) of files that are the driver's by their name."""
    for directory, names in directories.items():
        for plugin_directory in _PLUGIN_DIRECTORIES:
            held = names
            if plugin_directory:
                held = (
                    Root(directory).listdir(plugin_directory) if plugin_directory in names else ()
                )
            for name in held:
                if _is_driver_library(name, version, listed):
                    yield directory, plugin_directory, name


def _is_driver_library(name: str, version: str, listed: dict[str, tuple[str, ...]]) -> bool:
    base, dot_so, _ = name.partition(".so")
    if not dot_so or not libraries.is_injectable(base):
        return False
    return name in listed or name.endswith(f".so.{version}") or base in libraries.UNVERSIONED


def _listed_categories(root: Root) -> dict[str, tuple[str, ...]]:
    """Return the libraries in the driver's own list of its files, with their categories."""
    for share in _SHARE_DIRECTORIES:
        try:
            entries = fastjson.loads(root.read(f"{share}/{_FILE_LIST}", _FILE_LIST_BYTES))
            pairs = [(e["name"], e["category"]) for e in entries if e["type"] == "LIB"]
            return {os.path.basename(name): tuple(map(str, words)) for name, words in pairs}
        except (OSError, ValueError, LookupError, TypeError):
            continue  # absent, or not of the form that is known: names tell enough
    return {}


def _real_path(root: Root, host_path: str) -> str | None:
    path = root.resolve(host_path[len(root.path) :])
    return path if path and os.path.isfile(path) else None


def _facts(host: Host, path: str) -> ElfFacts | None:
    """Return the ELF facts of a 64-bit library for this machine; None for anything else."""
    from udocker.host import elf

    try:
        facts = elf.read(path)
    except OSError:
        return None
    fits = facts is not None and (facts.bits, facts.machine) == (64, host.machine)
    return facts if fits else None


def _extra_names(base: str, soname: str, names: tuple[str, ...]) -> tuple[str, ...]:
    link = f"{base}.so"
    wanted = link != soname and (link in names or base in libraries.DEVELOPMENT_LINKS)
    return (link,) if wanted else ()


def _glibc_needs(facts: ElfFacts) -> tuple[str, ...]:
    names = {
        name
        for file, versions in facts.version_needs
        if file.startswith(_LIBC_FAMILY)
        for name, weak in versions
        if name.startswith("GLIBC_") and not weak
    }
    numbered = [name for name in names if glibc_version(name)]
    kinds = sorted(name for name in names if name.startswith("GLIBC_ABI_"))
    return (*([max(numbered, key=glibc_version)] if numbered else []), *kinds)


def glibc_version(name: str) -> tuple[int, ...]:
    """Return (2, 34) for `GLIBC_2.34`; nothing for names without a number."""
    parts = name[len("GLIBC_") :].split(".")
    numeric = name.startswith("GLIBC_") and all(p.isdigit() and len(p) < 8 for p in parts)
    return tuple(map(int, parts)) if numeric else ()


def _binaries(root: Root) -> Iterator[DriverFile]:
    for name, capability in libraries.BINARIES.items():
        paths = (root.resolve(f"{directory}/{name}") for directory in _BINARY_DIRECTORIES)
        path = next(filter(None, paths), None)
        if path:
            yield DriverFile(path, f"/usr/bin/{name}", capability)


def _config_files(root: Root) -> Iterator[DriverFile]:
    for name, (parent, capability) in libraries.CONFIG_FILES.items():
        paths = (root.resolve(f"{share}/{name}") for share in _SHARE_DIRECTORIES)
        path = next(filter(None, paths), None)
        if path:
            yield DriverFile(path, f"{parent}/{name}", capability)


def _sockets(root: Root) -> Iterator[DriverFile]:
    for directory, capability in libraries.SOCKET_DIRECTORIES.items():
        path = root.resolve(directory)
        if path and os.path.isdir(path):
            yield DriverFile(path, directory, capability)


def _to_json(driver: Driver | None) -> list[Any]:
    if driver is None:
        return []
    return [
        driver.version,
        driver.key,
        [
            [a.path, a.soname, a.extra_names, a.capabilities, a.plugin_directory, a.glibc_needs]
            for a in driver.libraries
        ],
        [[f.source, f.destination, f.capability] for f in driver.binaries],
        [[f.source, f.destination, f.capability] for f in driver.files],
        [[f.source, f.destination, f.capability] for f in driver.sockets],
        driver.other_versions,
    ]


def _from_json(value: Any) -> Driver | None:
    """Return the driver that `_to_json` wrote; None for anything else."""
    try:
        version, key, held, binaries, files, sockets, others = value
        return Driver(
            version=version,
            key=key,
            libraries=tuple(
                DriverLibrary(path, soname, tuple(extra), tuple(words), plugin, tuple(needs))
                for path, soname, extra, words, plugin, needs in held
            ),
            binaries=tuple(DriverFile(*file) for file in binaries),
            files=tuple(DriverFile(*file) for file in files),
            sockets=tuple(DriverFile(*file) for file in sockets),
            other_versions=tuple(others),
        )
    except (TypeError, ValueError):
        return None
